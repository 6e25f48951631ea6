"""Density and coverage against a direct restatement, hand-made sets and the expectation of the paper's Lemma 2."""

import numpy as np
import pytest

from drifting.scoring.metrics.density_coverage import density_coverage, resampled_density_coverage
from drifting.scoring.metrics.precision_recall import precision_recall


def directly(real: np.ndarray, fake: np.ndarray, k: int) -> tuple[float, float]:
    """Ball by ball, from differences."""
    balls, covered = 0, 0
    for i, centre in enumerate(real):
        radius = np.sort(np.linalg.norm(np.delete(real, i, axis=0) - centre, axis=1))[k - 1]
        inside = int((np.linalg.norm(fake - centre, axis=1) <= radius).sum())
        balls, covered = balls + inside, covered + (inside > 0)
    return balls / (k * len(fake)), covered / len(real)


@pytest.mark.parametrize(("n", "m", "dim", "k"), [(40, 25, 3, 1), (25, 40, 8, 3), (60, 60, 4, 5)])
def test_equals_the_definition_whatever_the_tile(n: int, m: int, dim: int, k: int) -> None:
    rng = np.random.default_rng(n)
    real, fake = rng.normal(size=(n, dim)), rng.normal(size=(m, dim)) * 1.3 + 0.4
    expected = directly(real, fake, k)
    assert expected[0] > 0 and 0 < expected[1] < 1
    for tile in (1, 7, n, 1000):
        assert density_coverage(real, fake, k, tile) == pytest.approx(expected, rel=1e-12)


def test_copies_lie_in_one_anothers_balls_whatever_the_rounding() -> None:
    """Every real image has as many copies as neighbours: all balls have radius 0, and hold the copies."""
    for seed in range(60):
        rng = np.random.default_rng(seed)
        images = (rng.normal(size=(6, int(rng.integers(3, 600)))) + rng.choice([0, 10, 1000])).astype(np.float32)
        real = np.repeat(images, [5, 9, 8, 6, 7, 5], axis=0)
        fake = np.repeat(images, 4, axis=0)[rng.permutation(24)]
        assert precision_recall(real, fake, 3, tile=7) == (1, 1)
        assert density_coverage(real, fake, 3, tile=7)[1] == 1


def test_hand_made_sets() -> None:
    line = np.arange(10.0)[:, None]
    # Every point lies in its own ball and in those of its neighbours, at the ends in one less: 28 of 10.
    assert density_coverage(line, line, 1) == (2.8, 1)
    assert density_coverage(line, line + 100, 1) == (0, 0)
    # An outlier among the real ones has a large ball, into which all images fall: it is one covered image of eleven.
    assert density_coverage(np.append(line, [[1000.0]], axis=0), line[:5] + 500, 1) == (1, 1 / 11)
    # Half of two clusters.
    clusters = np.concatenate([line, line + 1000])
    assert density_coverage(clusters, line + 0.25, 1) == (19 / 10, 0.5)


@pytest.mark.parametrize("k", [3, 5])
def test_equal_distributions_have_the_expected_coverage(k: int) -> None:
    """Lemma 2: `1 - (N - 1) ... (N - k) / ((2 N - 1) ... (2 N - k))`, about `1 - 2^-k`; density is 1."""
    rng, n = np.random.default_rng(k), 200
    found = np.array([density_coverage(*rng.normal(size=(2, n, 4)), k) for _ in range(30)])
    expected = 1 - np.prod([(n - i) / (2 * n - i) for i in range(1, k + 1)])
    assert expected == pytest.approx(1 - 2.0**-k, abs=0.002)
    error = found.std(axis=0) / np.sqrt(30)
    assert found.mean(axis=0) == pytest.approx([1, expected], abs=4 * float(error.max()))


def test_resamples() -> None:
    rng = np.random.default_rng(1)
    real, fake = rng.normal(size=(30, 3)), rng.normal(size=(20, 3))
    counts = np.stack([np.ones(20, int), *rng.multinomial(20, np.full(20, 1 / 20), 3)])
    density, coverage = resampled_density_coverage(real, fake, counts, k=2, tile=7)
    for row, *found in zip(counts, density, coverage, strict=True):
        assert found == pytest.approx(density_coverage(real, np.repeat(fake, row, axis=0), 2), rel=1e-12)
    with pytest.raises(ValueError, match=r"counts have shape \(2, 3\): give \[S, 20\]"):
        resampled_density_coverage(real, fake, np.ones((2, 3)))


@pytest.mark.parametrize(
    ("real", "fake", "options", "message"),
    [
        ((5, 2), (5, 3), {}, "give"),
        ((5, 2), (3, 2), {"k": 3}, r"k=3 must be in 1\.\.2"),
        ((5, 2), (5, 2), {"tile": 0}, "tile=0"),
    ],
)
def test_refuses_bad_input(real: tuple, fake: tuple, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        density_coverage(np.zeros(real), np.zeros(fake), **options)
