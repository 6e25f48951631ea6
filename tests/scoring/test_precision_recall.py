"""Precision and recall against a direct restatement, hand-made sets and the golden files."""

from pathlib import Path

import numpy as np
import pytest

from drifting.scoring.metrics.precision_recall import f1, precision_recall
from tests.support.golden_files import group, load


def directly(real: np.ndarray, fake: np.ndarray, k: int) -> tuple[float, float]:
    """Row by row, from differences."""

    def radius(x: np.ndarray, i: int) -> float:
        return np.sort(np.linalg.norm(np.delete(x, i, axis=0) - x[i], axis=1))[k - 1]

    def covered(centres: np.ndarray, points: np.ndarray) -> float:
        radii = np.array([radius(centres, i) for i in range(len(centres))])
        return float(np.mean([np.any(np.linalg.norm(centres - p, axis=1) <= radii) for p in points]))

    return covered(real, fake), covered(fake, real)


@pytest.mark.parametrize("case", range(4))
@pytest.mark.parametrize("k", [3, 5])
@pytest.mark.parametrize("tile", [17, 1024])
def test_golden(golden: Path, case: int, k: int, tile: int) -> None:
    z = group(load(golden / "fid_pr_is.npz"), f"case{case}")
    precision, recall = precision_recall(z["feat_real"], z["feat_fake"], k, tile)
    assert (precision, recall) == (z[f"precision_k{k}"], z[f"recall_k{k}"])


@pytest.mark.parametrize(("n", "m", "dim", "k"), [(40, 25, 3, 1), (25, 40, 8, 3), (60, 60, 4, 5)])
def test_equals_the_definition_whatever_the_tile(n: int, m: int, dim: int, k: int) -> None:
    rng = np.random.default_rng(n)
    real, fake = rng.normal(size=(n, dim)), rng.normal(size=(m, dim)) * 1.3 + 0.4
    expected = directly(real, fake, k)
    assert 0 < expected[0] < 1 and 0 < expected[1] < 1
    for tile in (1, 7, n, 1000):
        assert precision_recall(real, fake, k, tile) == expected
    assert precision_recall(fake, real, k) == expected[::-1]


def test_hand_made_sets() -> None:
    line = np.arange(10.0)[:, None]
    assert precision_recall(line, line, 1) == (1, 1)
    assert precision_recall(line, line + 100, 1) == (0, 0)
    # Every ball of the line has radius 1, boundary included; -1 and 10 lie on it, -1.01 beyond it.
    fake = np.array([[-1.0], [10.0], [-1.01], [30.0], [31.0]])
    assert precision_recall(line, fake, 1)[0] == 2 / 5
    assert precision_recall(fake, line, 1)[1] == 2 / 5
    # One half of two clusters: everything made is real, half of what is real is made.
    clusters = np.concatenate([line, line + 1000])
    assert precision_recall(clusters, line + 0.25, 1) == (1, 0.5)


def test_f1() -> None:
    assert f1(0.5, 0.5) == 0.5 and f1(0, 0) == 0 and f1(1, 0) == 0
    assert f1(0.8, 0.4) == pytest.approx(2 / (1 / 0.8 + 1 / 0.4))


@pytest.mark.parametrize(
    ("real", "fake", "options", "message"),
    [
        ((5, 2), (5, 3), {}, "give"),
        ((5,), (5, 3), {}, "give"),
        ((5, 2), (3, 2), {"k": 3}, r"k=3 must be in 1\.\.2"),
        ((5, 2), (5, 2), {"k": 0}, "k=0"),
        ((5, 2), (5, 2), {"tile": 0}, "tile=0"),
    ],
)
def test_refuses_bad_input(real: tuple, fake: tuple, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        precision_recall(np.zeros(real), np.zeros(fake), **options)
