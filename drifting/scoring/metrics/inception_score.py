"""The inception score (Salimans et al. 2016, arXiv:1606.03498, section 4), as the reference evaluators compute it."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from drifting.scoring.metrics.metric import ImageSet, Metric, OneByOne, Score

SCORE_SPLITS = 10

PERMUTATION_SEED = 2020

LOG_FLOOR = 1e-10


def inception_score(logits: ArrayLike) -> tuple[float, float]:
    """Mean and population standard deviation, over 10 splits, of exp(mean_x KL(p(y|x) || p(y))).

    The splits, of N // 10 rows each, are cut after a fixed permutation, because images usually come sorted by class;
    what is left over is dropped. The permutation and the 1e-10 inside the logarithms are torch-fidelity's, and are kept
    so that numbers compare.

    Args:
        logits: classifier logits `[N, classes]`, N at least 10.

    Raises:
        ValueError: `logits` is not `[N, classes]` or has fewer than 10 rows.
    """
    x = np.asarray(logits, np.float64)
    if x.ndim != 2 or len(x) < SCORE_SPLITS:
        raise ValueError(
            f"logits have shape {x.shape}: give [N, classes] with N >= {SCORE_SPLITS}, one row for each split"
        )
    x = x[np.random.RandomState(PERMUTATION_SEED).permutation(len(x))]
    exponential = np.exp(x - x.max(axis=1, keepdims=True))
    p = exponential / exponential.sum(axis=1, keepdims=True)
    size = len(p) // SCORE_SPLITS
    p = p[: SCORE_SPLITS * size].reshape(SCORE_SPLITS, size, -1)
    marginal = p.mean(axis=1, keepdims=True)
    divergence = (p * (np.log(p + LOG_FLOOR) - np.log(marginal + LOG_FLOOR))).sum(axis=2)
    scores = np.exp(divergence.mean(axis=1))
    return float(scores.mean()), float(scores.std())


def _compute(_: ImageSet, fake: ImageSet, __: int) -> Mapping[str, float]:
    mean, deviation = inception_score(fake.array("logits"))
    return {"inception_score": mean, "inception_score_std": deviation}


INCEPTION_SCORE = Metric(
    "Inception Score",
    {
        "inception_score": Score("Inception Score", "higher"),
        "inception_score_std": Score("Inception Score, deviation", "neither"),
    },
    _compute,
    kinds=("logits",),
    real="nothing",
    images=SCORE_SPLITS,
    resample=OneByOne(_compute),
)
