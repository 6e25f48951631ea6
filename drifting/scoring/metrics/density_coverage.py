"""Density and coverage (Naeem et al. 2020, arXiv:2002.09797), in float64 and in tiles.

Both look at the balls of real images alone, which one outlier among the generated ones does not change. Density counts
the balls that hold a generated image, and may exceed 1; coverage is the share of real images whose ball holds one.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from drifting.scoring.metrics.metric import ImageSet, Metric, Score, undrawn
from drifting.scoring.metrics.neighbours import TILE_ROWS, checked, present, squared_distances, squared_radii


def density_coverage(real: ArrayLike, fake: ArrayLike, k: int = 3, tile: int = TILE_ROWS) -> tuple[float, float]:
    """Density: real balls around each fake row, over k. Coverage: the fraction of real balls with a fake row inside.

    The ball of a real row reaches to its k-th nearest neighbour among the real rows, itself excluded. Its boundary is
    included, as in precision and recall; the authors' code excludes it. The paper uses k = 5, for which equal
    distributions are expected to have a coverage of 1 - 2^-5 = 0.97 (Lemma 2); the default here is that of
    `eval.neighbours`, whose 3 is the one of precision and recall, for which it is 0.88.

    Args:
        real: features `[N, D]`.
        fake: features `[M, D]`.
        k: which neighbour sets the radius.
        tile: rows of the distance matrix that are held at once.

    Raises:
        ValueError: the shapes do not fit, `k` is not in 1 .. min(N, M) - 1, or `tile` is not positive.
    """
    density, coverage = resampled_density_coverage(real, fake, np.ones((1, len(np.asarray(fake)))), k, tile)
    return float(density[0]), float(coverage[0])


def resampled_density_coverage(
    real: ArrayLike, fake: ArrayLike, counts: ArrayLike, k: int = 3, tile: int = TILE_ROWS
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`density_coverage` of resamples of the fake rows, `[S]` each.

    Args:
        real, fake, k, tile: see `density_coverage`.
        counts: how often each fake row is drawn in each resample, `[S, M]`; ones give `density_coverage`.

    Raises:
        ValueError: the shapes do not fit, or as `density_coverage` does.
    """
    x, y, drawn = checked(real, fake, counts, k, tile)
    radii = squared_radii(x, k, tile)
    there, balls, covered = present(drawn), np.zeros(len(y)), np.zeros(len(drawn))
    for rows, squared in squared_distances(x, y, tile):
        inside = squared <= radii[rows, None]
        balls += inside.sum(axis=0)
        covered += (inside.astype(np.float32) @ there > 0).sum(axis=0)
    return drawn @ balls / (k * drawn.sum(axis=1)), covered / len(x)


def _resample(real: ImageSet, fake: ImageSet, counts: NDArray[np.integer], k: int) -> Mapping[str, NDArray[np.float64]]:
    density, coverage = resampled_density_coverage(real.array("features"), fake.array("features"), counts, k)
    return {"density": density, "coverage": coverage}


DENSITY_COVERAGE = Metric(
    "density and coverage",
    {"density": Score("Density", "higher"), "coverage": Score("Coverage", "higher")},
    undrawn(_resample),
    neighbours=True,
    resample=_resample,
)
