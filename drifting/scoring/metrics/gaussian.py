"""Mean and covariance of a stream of features, in float64."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

Gaussian = tuple[FloatArray, FloatArray]
"""Mean `[D]` and covariance `[D, D]`."""

PRODUCT_ROWS = 512
"""Rows that are widened to float64 at a time."""


class GaussianStatistics:
    """Count, mean and scatter of a stream of features, gathered batch by batch; start from `empty(dim)`.

    Batches are combined by the pairwise update of Chan, Golub & LeVeque (1983), which subtracts means before it squares
    and so keeps float64 accuracy where the mean is large against the spread. Three public fields hold everything, so
    that a partial result can be sent to another process and merged there.

    Args:
        count: rows seen so far.
        mean: `[D]`.
        scatter: `[D, D]`, the sum of (x - mean)(x - mean)^T over the rows.
    """

    def __init__(self, count: int, mean: ArrayLike, scatter: ArrayLike) -> None:
        self.count = count
        self.mean: NDArray[np.float64] = np.array(mean, np.float64)
        self.scatter: NDArray[np.float64] = np.array(scatter, np.float64)

    @classmethod
    def empty(cls, dim: int) -> "GaussianStatistics":
        """Statistics of no rows of `dim` features."""
        return cls(0, np.zeros(dim), np.zeros((dim, dim)))

    def update(self, features: ArrayLike) -> None:
        """Add the rows of `features`, `[N, D]` of any real dtype; N may be 0.

        Raises:
            ValueError: `features` is not `[N, D]` with the D of these statistics.
        """
        rows = np.asarray(features, np.float64)
        if rows.ndim != 2 or rows.shape[1] != len(self.mean):
            raise ValueError(f"features have shape {rows.shape}: give [N, {len(self.mean)}]")
        if len(rows):
            mean = rows.mean(axis=0)
            centred = rows - mean
            self.merge(GaussianStatistics(len(rows), mean, centred.T @ centred))

    def merge(self, other: "GaussianStatistics") -> None:
        """Add everything that `other` has seen."""
        if other.count == 0:
            return
        count = self.count + other.count
        shift = other.mean - self.mean
        self.scatter += other.scatter + np.outer(shift, shift) * (self.count * other.count / count)
        self.mean += shift * (other.count / count)
        self.count = count

    @property
    def covariance(self) -> NDArray[np.float64]:
        """Unbiased covariance `[D, D]`: the scatter over count - 1, as in the reference implementations of FID.

        Raises:
            ValueError: fewer than two rows have been seen.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 rows of features, not {self.count}")
        return self.scatter / (self.count - 1)


def moments(rows: NDArray[np.floating], counts: NDArray[np.integer] | None = None) -> Gaussian:
    """Mean and unbiased covariance of `rows` `[N, D]`; memory beside the rows does not grow with N.

    Args:
        rows: features of any real dtype.
        counts: `[N]`, how often each row is there; None: once.

    Raises:
        ValueError: there are fewer than two rows.
    """
    statistics = GaussianStatistics.empty(rows.shape[1])
    for start in range(0, len(rows), PRODUCT_ROWS):
        chunk = slice(start, start + PRODUCT_ROWS)
        statistics.update(rows[chunk] if counts is None else np.repeat(rows[chunk], counts[chunk], axis=0))
    return statistics.mean, statistics.covariance
