"""Improved precision and recall (Kynkäänniemi et al. 2019, arXiv:1904.06991), in float64 and in tiles."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from drifting.scoring.metrics.metric import ImageSet, Metric, Score, undrawn
from drifting.scoring.metrics.neighbours import TILE_ROWS, checked, present, squared_distances, squared_radii


def precision_recall(real: ArrayLike, fake: ArrayLike, k: int = 3, tile: int = TILE_ROWS) -> tuple[float, float]:
    """Precision: the fraction of fake rows inside some real ball. Recall: of real rows inside some fake ball.

    The ball of a row reaches to its k-th nearest neighbour within its own set, itself excluded, boundary included
    (eq. 1 and 2 of the paper).

    Args:
        real: features `[N, D]`.
        fake: features `[M, D]`.
        k: which neighbour sets the radius.
        tile: rows of the distance matrix that are held at once.

    Raises:
        ValueError: the shapes do not fit, `k` is not in 1 .. min(N, M) - 1, or `tile` is not positive.
    """
    precision, recall = resampled_precision_recall(real, fake, np.ones((1, len(np.asarray(fake)))), k, tile)
    return float(precision[0]), float(recall[0])


def resampled_precision_recall(
    real: ArrayLike, fake: ArrayLike, counts: ArrayLike, k: int = 3, tile: int = TILE_ROWS
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`precision_recall` of resamples of the fake rows, `[S]` each.

    Balls keep the radii that they have in the whole set: among rows drawn twice, the nearest neighbour is oneself.

    Args:
        real, fake, k, tile: see `precision_recall`.
        counts: how often each fake row is drawn in each resample, `[S, M]`; ones give `precision_recall`.

    Raises:
        ValueError: the shapes do not fit, or as `precision_recall` does.
    """
    x, y, drawn = checked(real, fake, counts, k, tile)
    real_radii, fake_radii = squared_radii(x, k, tile), squared_radii(y, k, tile)
    there, inside, covered = present(drawn), np.zeros(len(y), bool), np.zeros(len(drawn))
    for rows, squared in squared_distances(x, y, tile):
        inside |= (squared <= real_radii[rows, None]).any(axis=0)
        covered += ((squared <= fake_radii).astype(np.float32) @ there > 0).sum(axis=0)
    return drawn @ inside / drawn.sum(axis=1), covered / len(x)


def f1(precision: float, recall: float) -> float:
    """Harmonic mean of precision and recall; 0 where both are 0."""
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def _resample(real: ImageSet, fake: ImageSet, counts: NDArray[np.integer], k: int) -> Mapping[str, NDArray[np.float64]]:
    precision, recall = resampled_precision_recall(real.array("features"), fake.array("features"), counts, k)
    both = np.asarray([f1(p, r) for p, r in zip(precision, recall, strict=True)])
    return {"precision": precision, "recall": recall, "f1": both}


PRECISION_RECALL = Metric(
    "precision and recall",
    {
        "precision": Score("Precision", "higher"),
        "recall": Score("Recall", "higher"),
        "f1": Score("F1", "higher", headline=True),
    },
    undrawn(_resample),
    neighbours=True,
    resample=_resample,
)
