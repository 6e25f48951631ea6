"""The kernel distance against a restatement with loops, and its expectation by enumeration."""

import itertools

import numpy as np
import pytest

from drifting.scoring.metrics import kid as kid_module
from drifting.scoring.metrics.kid import kid, resampled_kid, squared_mmd

RNG = np.random.default_rng(7)


def kernel(x: np.ndarray, y: np.ndarray) -> float:
    return float((np.dot(x, y) / len(x) + 1) ** 3)


def pair_by_pair(real: np.ndarray, fake: np.ndarray) -> float:
    """The unbiased estimate of Gretton et al. 2012, eq. 3, a pair at a time."""
    within = [np.mean([kernel(a, b) for a, b in itertools.permutations(z, 2)]) for z in (real, fake)]
    return float(sum(within) - 2 * np.mean([kernel(a, b) for a in real for b in fake]))


@pytest.mark.parametrize("block", [1, 4, 1024])
@pytest.mark.parametrize(("n", "m", "dim"), [(9, 14, 3), (14, 9, 5), (2, 2, 1)])
def test_equals_the_definition_whatever_the_block(
    n: int, m: int, dim: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kid_module, "BLOCK_ROWS", block)
    real, fake = RNG.normal(size=(n, dim)), RNG.normal(size=(m, dim)) * 1.4 + 0.3
    assert kid(real, fake) == pytest.approx((pair_by_pair(real, fake), 0), rel=1e-12)
    assert kid(fake, real)[0] == pytest.approx(kid(real, fake)[0], rel=1e-12)


def test_it_is_unbiased() -> None:
    """Its mean over every pair of samples that two distributions of three points can give is their discrepancy."""
    p, q = RNG.normal(size=(3, 2)), RNG.normal(size=(3, 2)) + 1
    between = np.mean([[kernel(a, b) for b in q] for a in p])
    exact = np.mean([[kernel(a, b) for b in p] for a in p]) + np.mean([[kernel(a, b) for b in q] for a in q])
    exact -= 2 * between
    for n, m in ((2, 2), (3, 2)):
        every = [
            kid(p[list(x)], q[list(y)])[0]
            for x in itertools.product(range(3), repeat=n)
            for y in itertools.product(range(3), repeat=m)
        ]
        assert np.mean(every) == pytest.approx(exact, rel=1e-12)
    # Equal distributions: 0 on average, and below it now and then.
    pairs = list(itertools.product(range(3), repeat=2))
    same = [kid(p[list(x)], p[list(y)])[0] for x, y in itertools.product(pairs, repeat=2)]
    assert np.mean(same) == pytest.approx(0, abs=1e-12) and min(same) < 0 < max(same)


def test_subsets() -> None:
    real, fake = RNG.normal(size=(60, 4)), RNG.normal(size=(50, 4)) + 0.5
    found = resampled_kid(real, fake, np.ones((1, 50)), subsets=400, size=20)[:, 0]
    assert found.shape == (400,) and found.std() > 0
    # Each is an unbiased estimate of the distance of the whole sets.
    assert found.mean() == pytest.approx(pair_by_pair(real, fake), abs=4 * found.std() / np.sqrt(400))
    np.testing.assert_array_equal(found, resampled_kid(real, fake, np.ones((1, 50)), subsets=400, size=20)[:, 0])
    assert resampled_kid(real, fake, np.ones((1, 50)), size=50).shape == (1, 1)  # of all
    assert resampled_kid(real, fake, np.ones((1, 50)), subsets=3, size=49).shape == (3, 1)


def test_resamples_leave_out_pairs_of_one_image() -> None:
    real, fake = RNG.normal(size=(12, 3)), RNG.normal(size=(9, 3)) + 0.4
    counts = RNG.multinomial(9, np.full(9, 1 / 9), 4)
    found = squared_mmd(real, fake, np.stack([np.ones(9), *counts]))
    assert found[0] == pytest.approx(kid(real, fake)[0], rel=1e-12)
    for row, value in zip(counts, found[1:], strict=True):
        drawn = np.repeat(np.arange(9), row)
        pairs = [kernel(fake[a], fake[b]) for a, b in itertools.permutations(drawn, 2) if a != b]
        within = np.mean([kernel(a, b) for a, b in itertools.permutations(real, 2)])
        between = np.mean([kernel(a, b) for a in real for b in fake[drawn]])
        assert value == pytest.approx(np.mean(pairs) + within - 2 * between, rel=1e-12)
    assert np.isnan(squared_mmd(real, fake, np.eye(9)[:1] * 9)).all()  # one image alone


def test_identical_and_distant_sets() -> None:
    x = RNG.normal(size=(300, 6))
    near, far = kid(x, RNG.normal(size=(300, 6)))[0], kid(x, RNG.normal(size=(300, 6)) + 3)[0]
    assert kid(x, x)[0] < 0 and abs(near) < 0.1 < far  # the pairs that are left out are those with the largest kernel
    assert kid(x.astype(np.float32), x + 1)[0] == pytest.approx(kid(x, x + 1)[0], rel=1e-5)


@pytest.mark.parametrize(("real", "fake"), [((5, 2), (5, 3)), ((5,), (5, 3)), ((1, 2), (5, 2)), ((5, 2), (1, 2))])
def test_refuses_bad_input(real: tuple, fake: tuple) -> None:
    with pytest.raises(ValueError, match="give"):
        kid(np.zeros(real), np.zeros(fake))
    with pytest.raises(ValueError, match=r"counts have shape \(2, 3\): give \[S, 4\]"):
        resampled_kid(np.zeros((4, 2)), np.zeros((4, 2)), np.ones((2, 3)))
