"""Improved precision and recall (Kynkäänniemi et al. 2019, arXiv:1904.06991), in float64 and in tiles."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray


def precision_recall(real: ArrayLike, fake: ArrayLike, k: int = 3, tile: int = 1024) -> tuple[float, float]:
    """Precision: the fraction of fake rows inside some real ball. Recall: of real rows inside some fake ball.

    The ball of a row reaches to its k-th nearest neighbour within its own set, itself excluded, boundary included
    (eq. 1 and 2 of the paper).

    Args:
        real: Features `[N, D]`.
        fake: Features `[M, D]`.
        k: Which neighbour sets the radius.
        tile: Rows of the distance matrix that are held at once; memory is about 16 * tile * max(N, M) bytes.

    Raises:
        ValueError: The shapes do not fit, `k` is not in 1 .. min(N, M) - 1, or `tile` is not positive.
    """
    x, y = np.asarray(real, np.float64), np.asarray(fake, np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"features have shapes {x.shape} and {y.shape}: give [N, D] and [M, D]")
    if not 1 <= k < min(len(x), len(y)):
        raise ValueError(f"k={k} must be in 1..{min(len(x), len(y)) - 1}, with {len(x)} real and {len(y)} fake rows")
    if tile <= 0:
        raise ValueError(f"tile={tile} must be positive")
    real_radii, fake_radii = _squared_radii(x, k, tile), _squared_radii(y, k, tile)
    covered_fake = np.zeros(len(y), bool)
    covered_real = np.zeros(len(x), bool)
    for rows, squared in _squared_distances(x, y, tile):
        covered_fake |= (squared <= real_radii[rows, None]).any(axis=0)
        covered_real[rows] = (squared <= fake_radii).any(axis=1)
    return float(covered_fake.mean()), float(covered_real.mean())


def resampled_precision_recall(
    real: ArrayLike, fake: ArrayLike, counts: ArrayLike, k: int = 3, tile: int = 1024
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`precision_recall` of resamples of the fake rows, `[S]` each.

    Balls keep the radii that they have in the whole set: among rows drawn twice, the nearest neighbour is oneself.

    Args:
        real, fake, k, tile: see `precision_recall`.
        counts: how often each fake row is drawn in each resample, `[S, M]`; ones give `precision_recall`.

    Raises:
        ValueError: the shapes do not fit.
    """
    x, y, drawn = np.asarray(real, np.float64), np.asarray(fake, np.float64), np.asarray(counts, np.float64)
    if drawn.ndim != 2 or drawn.shape[1] != len(y):
        raise ValueError(f"counts have shape {drawn.shape}: give [S, {len(y)}]")
    real_radii, fake_radii = _squared_radii(x, k, tile), _squared_radii(y, k, tile)
    present = (drawn > 0).T.astype(np.float32)
    inside, covered = np.zeros(len(y), bool), np.zeros(len(drawn))
    for rows, squared in _squared_distances(x, y, tile):
        inside |= (squared <= real_radii[rows, None]).any(axis=0)
        hits = (squared <= fake_radii).astype(np.float32) @ present
        covered += (hits > 0).sum(axis=0)
    return drawn @ inside / drawn.sum(axis=1), covered / len(x)


def f1(precision: float, recall: float) -> float:
    """Harmonic mean of precision and recall; 0 where both are 0."""
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def _squared_radii(x: NDArray[np.float64], k: int, tile: int) -> NDArray[np.float64]:
    """Squared distance `[N]` of each row to its k-th nearest other row."""
    radii = np.empty(len(x))
    for rows, squared in _squared_distances(x, x, tile):
        squared[np.arange(len(squared)), np.arange(len(x))[rows]] = np.inf  # not its own neighbour
        radii[rows] = np.partition(squared, k - 1, axis=1)[:, k - 1]
    return radii


def _squared_distances(
    x: NDArray[np.float64], y: NDArray[np.float64], tile: int
) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Squared distances `[<= tile, M]` of `tile` rows of x at a time to all of y, with the slice of those rows."""
    x_norms, y_norms = (x**2).sum(axis=1), (y**2).sum(axis=1)
    for start in range(0, len(x), tile):
        rows = slice(start, start + tile)
        squared = x[rows] @ y.T
        squared *= -2
        squared += x_norms[rows, None]
        squared += y_norms
        yield rows, np.maximum(squared, 0, out=squared)
