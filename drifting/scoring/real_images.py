"""What real images must be for scores against them to mean anything."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from drifting.errors import InputError
from drifting.scoring.metrics.gaussian import Gaussian

LEAST_IMAGES = 2
"""Images that a covariance needs."""

LEAST_SPREAD = 1e-10
"""The least total variance of features, as a share of their mean squared norm. Features are float32: rounding leaves of
equal ones some 100 units in the last place, 1e-5 of their size, and 1e-10 once squared. Real images differ by percents
of their features, a share of 1e-4 or more."""


def check_count(count: int, name: str) -> None:
    """Checks that there are enough images for statistics, before features are taken of them.

    Args:
        count: how many there are.
        name: what they are called.

    Raises:
        InputError: there are too few.
    """
    if count < LEAST_IMAGES:
        word = "image" if count == 1 else "images"
        raise InputError(f"{name}: {count} {word} cannot be scored against: give at least {LEAST_IMAGES} images")


def check_variance(gaussians: Mapping[str, Gaussian], name: str, encoder: str) -> None:
    """Checks that features differ from image to image: where they do not, every generator would score as perfect.

    Args:
        gaussians: mean `[D]` and covariance `[D, D]` of each kind of features, float64.
        name: what the images are called.
        encoder: what the features were taken with.

    Raises:
        InputError: a kind of features has no spread.
    """
    for kind, (mean, covariance) in gaussians.items():
        _check_spread(mean, float(np.trace(covariance)), name, encoder, kind)


def check_rows(features: NDArray[np.floating], name: str, encoder: str) -> None:
    """Checks the same of features `[N, D]` of some images, and that there are enough of them."""
    check_count(len(features), name)
    rows = np.asarray(features, np.float64)
    _check_spread(rows.mean(axis=0), float(rows.var(axis=0, ddof=1).sum()), name, encoder, "features")


def _check_spread(mean: NDArray[np.float64], variance: float, name: str, encoder: str, kind: str) -> None:
    squared_norm = float(mean @ mean) + variance
    if variance <= LEAST_SPREAD * squared_norm + np.finfo(np.float32).tiny:  # features may all be 0, too
        found = f"all images look alike to the encoder {encoder} ({kind}: total variance {variance:.3g})"
        raise InputError(f"{name}: {found}: give another encoder, or more diverse images")
