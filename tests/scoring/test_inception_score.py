"""The inception score against its golden values, its bounds and its definition."""

from pathlib import Path

import numpy as np
import pytest
from scipy.special import rel_entr, softmax

from drifting.scoring.metrics.inception_score import inception_score
from tests.support.golden_files import group, load


@pytest.mark.parametrize("case", range(3))
def test_golden(golden: Path, case: int) -> None:
    z = group(load(golden / "fid_pr_is.npz"), f"is{case}")
    np.testing.assert_allclose(inception_score(z["logits"]), (z["mean"], z["std"]), rtol=1e-5)


def test_equals_the_definition() -> None:
    logits = np.random.default_rng(0).normal(size=(47, 6)) * 2
    p = softmax(logits[np.random.RandomState(2020).permutation(47)], axis=1)[:40].reshape(10, 4, 6)
    scores = [np.exp(rel_entr(split, split.mean(axis=0)).sum(axis=1).mean()) for split in p]
    np.testing.assert_allclose(inception_score(logits), (np.mean(scores), np.std(scores)), rtol=1e-7)


def test_bounds() -> None:
    assert inception_score(np.zeros((50, 8))) == pytest.approx((1, 0), abs=1e-9)  # no class is told from another
    assert inception_score(np.tile([1e4, 0, 0], (30, 1))) == pytest.approx((1, 0), abs=1e-8)  # one class only
    logits = np.zeros((10 * 4, 4))
    order = np.random.RandomState(2020).permutation(40)
    logits[order, np.arange(40) % 4] = 1e4  # sure of itself, all classes equally often in each split
    assert inception_score(logits) == pytest.approx((4, 0), abs=1e-6)


def test_logits_may_be_shifted_and_the_global_generator_is_left_alone() -> None:
    logits = np.random.default_rng(1).normal(size=(60, 5))
    before = np.random.get_state()[1].copy()  # noqa: NPY002 (the global state is what is tested)
    np.testing.assert_allclose(inception_score(logits + 1e4), inception_score(logits), rtol=1e-9)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


@pytest.mark.parametrize("shape", [(9, 4), (20,), (4, 20, 2)])
def test_refuses_bad_input(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="N >= 10"):
        inception_score(np.zeros(shape))
