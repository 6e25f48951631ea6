"""Nearest neighbours among rows of features: squared distances in tiles, and the radii of balls, in float64."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from drifting.scoring.metrics.gaussian import FloatArray

TILE_ROWS = 1024
"""Rows of a distance matrix that are held at once; memory is about 16 * TILE_ROWS * columns bytes."""


def checked(
    real: ArrayLike, fake: ArrayLike, counts: ArrayLike, k: int, tile: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Both sets of features `[N, D]` and `[M, D]` and the counts `[S, M]` of the second's resamples, as float64.

    Raises:
        ValueError: the shapes do not fit, `k` is not in 1 .. min(N, M) - 1, or `tile` is not positive.
    """
    x, y, drawn = np.asarray(real, np.float64), np.asarray(fake, np.float64), np.asarray(counts, np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"features have shapes {x.shape} and {y.shape}: give [N, D] and [M, D]")
    if not 1 <= k < min(len(x), len(y)):
        raise ValueError(f"k={k} must be in 1..{min(len(x), len(y)) - 1}, with {len(x)} real and {len(y)} fake rows")
    if tile <= 0:
        raise ValueError(f"tile={tile} must be positive")
    if drawn.ndim != 2 or drawn.shape[1] != len(y):
        raise ValueError(f"counts have shape {drawn.shape}: give [S, {len(y)}]")
    return x, y, drawn


def squared_radii(x: FloatArray, k: int, tile: int = TILE_ROWS) -> FloatArray:
    """Squared distance `[N]` of each row to its k-th nearest other row."""
    radii = np.empty(len(x))
    for rows, squared in squared_distances(x, x, tile):
        squared[np.arange(len(squared)), np.arange(len(x))[rows]] = np.inf  # not its own neighbour
        radii[rows] = np.partition(squared, k - 1, axis=1)[:, k - 1]
    return radii


def squared_distances(x: FloatArray, y: FloatArray, tile: int = TILE_ROWS) -> Iterator[tuple[slice, FloatArray]]:
    """Squared distances `[<= tile, M]` of `tile` rows of x at a time to all of y, with the slice of those rows.

    Equal rows are at distance 0, and so are those whose distance cannot be told from the rounding of the product:
    otherwise noise would decide whether copies of an image lie within one another's balls.
    """
    noise = x.shape[1] * np.finfo(np.float64).eps
    x_norms, y_norms = (x**2).sum(axis=1), (y**2).sum(axis=1)
    for start in range(0, len(x), tile):
        rows = slice(start, start + tile)
        squared = x[rows] @ y.T
        squared *= -2
        squared += x_norms[rows, None]
        squared += y_norms
        squared[squared <= noise * (x_norms[rows, None] + y_norms)] = 0
        yield rows, squared


def present(drawn: FloatArray) -> NDArray[np.float32]:
    """Which rows are there in each resample, `[M, S]`; a matrix product with it counts them."""
    return (drawn > 0).T.astype(np.float32)
