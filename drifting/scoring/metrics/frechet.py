"""The Fréchet distance between two Gaussians, and the mean and covariance it needs, in float64.

With Inception pool features it is the FID (Heusel et al. 2017, arXiv:1706.08500, eq. 6).
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray


class GaussianStatistics:
    """Count, mean and scatter of a stream of features, gathered batch by batch; start from `empty(dim)`.

    Batches are combined by the pairwise update of Chan, Golub & LeVeque (1983), which subtracts means before it squares
    and so keeps float64 accuracy where the mean is large against the spread. Three public fields hold everything, so
    that a partial result can be sent to another process and merged there.

    Args:
        count: Rows seen so far.
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
            ValueError: Fewer than two rows have been seen.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 rows of features, not {self.count}")
        return self.scatter / (self.count - 1)


def frechet_distance(mu1: ArrayLike, sigma1: ArrayLike, mu2: ArrayLike, sigma2: ArrayLike) -> float:
    """|mu1 - mu2|^2 + tr sigma1 + tr sigma2 - 2 tr (sigma1 sigma2)^(1/2): the *squared* Fréchet distance, which FID is.

    The last trace is the sum of the singular values of L1^T L2 for any factors with sigma = L L^T. Taking L from a
    symmetric eigen-decomposition needs no square root of a general matrix, and stays accurate for singular covariances
    (fewer samples than features), where rounding noise of size e in an eigenvalue would otherwise weigh e^(1/2).

    Args:
        mu1, mu2: Means `[D]`.
        sigma1, sigma2: Covariances `[D, D]`, symmetric.

    Raises:
        ValueError: The shapes do not fit, or a value is not finite.
    """
    m1, s1, m2, s2 = (np.asarray(x, np.float64) for x in (mu1, sigma1, mu2, sigma2))
    dim = m1.shape[0] if m1.ndim == 1 else 0
    if m2.shape != (dim,) or s1.shape != (dim, dim) or s2.shape != (dim, dim):
        raise ValueError(f"shapes {m1.shape} {s1.shape} {m2.shape} {s2.shape} do not fit: give [D] [D, D] [D] [D, D]")
    if not all(np.isfinite(x).all() for x in (m1, s1, m2, s2)):
        raise ValueError("a mean or covariance is not finite: check the features for NaN")
    overlap = np.linalg.svd(_factor(s1).T @ _factor(s2), compute_uv=False).sum()
    distance = float(((m1 - m2) ** 2).sum() + np.trace(s1) + np.trace(s2) - 2 * overlap)
    return max(distance, 0.0)  # below zero is rounding


def _factor(sigma: NDArray[np.float64]) -> NDArray[np.float64]:
    """L with L L^T = sigma, dropping eigenvalues that cannot be told from rounding noise (cf. `matrix_rank`)."""
    values, vectors = np.linalg.eigh(sigma)
    kept = values > max(values[-1], 0.0) * len(values) * np.finfo(np.float64).eps
    return vectors[:, kept] * np.sqrt(values[kept])
