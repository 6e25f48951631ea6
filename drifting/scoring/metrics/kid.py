"""The kernel Inception distance (Bińkowski et al. 2018, arXiv:1801.01401, section 4), in float64 and in blocks.

It is the squared maximum mean discrepancy under a cubic kernel, estimated without bias: unlike the FID it does not fall
with the number of images, and it may be negative. The paper takes Inception features; here they are those of whichever
score encoder there is.
"""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from drifting.scoring.metrics.gaussian import FloatArray
from drifting.scoring.metrics.metric import ImageSet, Metric, Score, undrawn

SUBSETS, SUBSET_ROWS = 100, 1000
"""The reference implementations' number of subsets, and images in each."""

SUBSET_SEED = 2020

BLOCK_ROWS = 1024
"""Rows of a kernel matrix that are held at once."""


def kid(real: ArrayLike, fake: ArrayLike) -> tuple[float, float]:
    """Mean and population standard deviation of the squared discrepancy over subsets; see `resampled_kid`.

    Args:
        real: features `[N, D]`, N at least 2.
        fake: features `[M, D]`, M at least 2.

    Raises:
        ValueError: the shapes do not fit.
    """
    found = resampled_kid(real, fake, np.ones((1, len(np.asarray(fake)))))[:, 0]
    return float(found.mean()), float(found.std())


def resampled_kid(
    real: ArrayLike, fake: ArrayLike, counts: ArrayLike, subsets: int = SUBSETS, size: int = SUBSET_ROWS
) -> FloatArray:
    """The squared discrepancy of each subset, for resamples of the fake rows, `[subsets, S]`.

    A subset is `size` rows of either set without replacement, the same ones at every call. Where either set has no more
    rows than a subset, there is one subset, which holds all rows of both.

    Args:
        real, fake: see `kid`.
        counts: how often each fake row is drawn in each resample, `[S, M]`; ones give the sets as they are.
        subsets, size: how many subsets, and how many rows in each.

    Raises:
        ValueError: the shapes do not fit.
    """
    x, y, drawn = np.asarray(real), np.asarray(fake), np.asarray(counts, np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(f"features have shapes {x.shape} and {y.shape}: give [N, D] and [M, D], two rows or more")
    if drawn.ndim != 2 or drawn.shape[1] != len(y):
        raise ValueError(f"counts have shape {drawn.shape}: give [S, {len(y)}]")
    if min(len(x), len(y)) <= size:
        return squared_mmd(x, y, drawn)[None]
    rng, found = np.random.default_rng(SUBSET_SEED), []
    for _ in range(subsets):
        reals, fakes = (np.sort(rng.choice(len(rows), size, replace=False)) for rows in (x, y))
        found.append(squared_mmd(x[reals], y[fakes], drawn[:, fakes]))
    return np.stack(found)


def squared_mmd(real: NDArray[np.floating], fake: NDArray[np.floating], drawn: FloatArray) -> FloatArray:
    """The unbiased squared discrepancy `[S]` of `real` `[N, D]` and resamples `drawn` `[S, M]` of `fake` `[M, D]`.

    Means over pairs of one set leave out pairs of a row with itself, and with another draw of itself. A resample that
    is one row alone has no such pair, and gives NaN.
    """
    x, y = np.asarray(real, np.float64), np.asarray(fake, np.float64)
    within_x, within_y, between = 0.0, np.zeros(len(drawn)), np.zeros(len(drawn))
    for rows, values in _kernel_blocks(x, x):
        within_x += float(_without_self(rows, values).sum())
    for rows, values in _kernel_blocks(y, y):
        within_y += (drawn[:, rows] * (drawn @ _without_self(rows, values).T)).sum(axis=1)
    for rows, values in _kernel_blocks(y, x):
        between += drawn[:, rows] @ values.sum(axis=1)
    total = drawn.sum(axis=1)
    pairs = total**2 - (drawn**2).sum(axis=1)
    within_y = np.divide(within_y, pairs, out=np.full(len(drawn), np.nan), where=pairs > 0)
    return within_x / (len(x) * (len(x) - 1)) + within_y - 2 * between / (len(x) * total)


def _kernel_blocks(x: FloatArray, y: FloatArray) -> Iterator[tuple[slice, FloatArray]]:
    """The kernel `(x . y / D + 1)^3` between some rows of x and all of y, `[<= BLOCK_ROWS, M]`, with those rows."""
    for start in range(0, len(x), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        base = x[rows] @ y.T / x.shape[1] + 1
        yield rows, base * base * base


def _without_self(rows: slice, values: FloatArray) -> FloatArray:
    """A block of the kernel of a set with itself, zero where a row meets itself."""
    own = np.arange(len(values))
    values[own, rows.start + own] = 0
    return values


def _resample(real: ImageSet, fake: ImageSet, counts: NDArray[np.integer], _: int) -> Mapping[str, FloatArray]:
    found = resampled_kid(real.array("features"), fake.array("features"), counts)
    return {"kid": found.mean(axis=0), "kid_std": found.std(axis=0)}


KID = Metric(
    "KID",
    {"kid": Score("KID", "lower", places=6), "kid_std": Score("KID, deviation", "neither", places=6)},
    undrawn(_resample),
    resample=_resample,
)
