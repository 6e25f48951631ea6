"""The Fréchet distance between two Gaussians, in float64.

With Inception pool features it is the FID (Heusel et al. 2017, arXiv:1706.08500, eq. 6), with the first channels of a
map of the Inception network the sFID (Nash et al. 2021, arXiv:2103.03841).
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from drifting.scoring.metrics.metric import ImageSet, Metric, OneByOne, Score

ENCODER_DISTANCES = {
    "inception": ("fid", Score("FID", "lower", headline=True)),
    "dinov2": ("fd_dinov2", Score("FD-DINOv2", "lower", headline=True)),
}
"""Name and score of the distance in the features of some encoders; in those of any other it is `frechet_distance`."""


def frechet_distance(mu1: ArrayLike, sigma1: ArrayLike, mu2: ArrayLike, sigma2: ArrayLike) -> float:
    """|mu1 - mu2|^2 + tr sigma1 + tr sigma2 - 2 tr (sigma1 sigma2)^(1/2): the *squared* Fréchet distance, which FID is.

    The last trace is the sum of the singular values of L1^T L2 for any factors with sigma = L L^T. Taking L from a
    symmetric eigen-decomposition needs no square root of a general matrix, and stays accurate for singular covariances
    (fewer samples than features), where rounding noise of size e in an eigenvalue would otherwise weigh e^(1/2).

    Args:
        mu1, mu2: means `[D]`.
        sigma1, sigma2: covariances `[D, D]`, symmetric.

    Raises:
        ValueError: the shapes do not fit, or a value is not finite.
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


def _frechet(real: ImageSet, fake: ImageSet, _: int) -> Mapping[str, float]:
    name = ENCODER_DISTANCES[fake.encoder][0] if fake.encoder in ENCODER_DISTANCES else "frechet_distance"
    return {name: frechet_distance(*real.gaussian("features"), *fake.gaussian("features"))}


def _spatial(real: ImageSet, fake: ImageSet, _: int) -> Mapping[str, float]:
    return {"sfid": frechet_distance(*real.gaussian("spatial"), *fake.gaussian("spatial"))}


FRECHET = Metric(
    "Fréchet distance",
    {
        **dict(ENCODER_DISTANCES.values()),
        "frechet_distance": Score("Fréchet distance", "lower", headline=True, ratio="frechet_ratio"),
        "frechet_ratio": Score("times held-out", "neither", places=2),
    },
    _frechet,
    real="statistics",
    resample=OneByOne(_frechet),
)

SPATIAL_FRECHET = Metric(
    "sFID",
    {"sfid": Score("sFID", "lower")},
    _spatial,
    kinds=("spatial",),
    real="statistics",
    resample=OneByOne(_spatial),
)
