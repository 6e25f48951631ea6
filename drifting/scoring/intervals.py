"""Scores of two generators with intervals over the images.

Uncertainty is that of the samples alone, not of another training. Images are drawn again with replacement (Efron 1979);
both generators are given the same draws, because image `i` of both has the same seed and class, so that the interval of
the difference profits from what they have in common. A resample has fewer distinct images, which shifts a Fréchet
distance: intervals are therefore the value plus or minus 1.96 times the resamples' standard deviation.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drifting.runs.progress import Progress
from drifting.scoring.metrics import ImageSet, Metric
from drifting.scoring.metrics.gaussian import FloatArray
from drifting.scoring.metrics.metric import OneByOne
from drifting.scoring.scores import defined_metrics

NORMAL_95 = 1.96

RESAMPLES = 200

WIDE_RESAMPLES, WIDE_FEATURES = 20, 512
"""There are so many resamples where there are more features than these: each takes a covariance and decomposes it."""


@dataclass(frozen=True)
class Interval:
    """A value and the half width of its 95 % interval, NaN where the metric has none; shown with so many `places`."""

    value: float
    half: float
    places: int = 4

    def __str__(self) -> str:
        value = f"{self.value:.{self.places}f}"
        return value if math.isnan(self.half) else f"{value} ± {self.half:.{self.places}f}"

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside."""
        return abs(self.value) > self.half


@dataclass(frozen=True)
class Comparison:
    """Scores by name, each of the first, of the second, and of the first minus the second."""

    scores: dict[str, tuple[Interval, Interval, Interval]]
    num: int
    resamples: int


def intervals(
    sides: Sequence[ImageSet], real: ImageSet, *, neighbours: int, seed: int, name: str, resamples: int | None = None
) -> Comparison:
    """Scores of two sets of images, image by image of the same seeds, with intervals.

    Args:
        sides: the two sets, which have as many images each.
        real: what they are scored against.
        neighbours: see `Metric`.
        seed: the seed of the resamples.
        name: what warnings call the real images.
        resamples: how many. None: 200, or 20 where there are more than 512 features.
    """
    num = len(sides[0])
    if resamples is None:
        widest = max(array.shape[1] for array in sides[0].rows.values())
        resamples = RESAMPLES if widest <= WIDE_FEATURES else WIDE_RESAMPLES
    rng = np.random.default_rng([seed, num])
    counts = np.stack([np.ones(num, np.int64), *rng.multinomial(num, np.full(num, 1 / num), resamples)])
    scores = {}
    metrics = list(defined_metrics(real, sides[0], neighbours, name))
    with Progress(len(metrics) * len(sides) * len(counts), label="intervals", unit="resamples") as progress:
        progress.update(0)
        values = [[_values(metric, real, side, counts, neighbours, progress) for side in sides] for metric in metrics]
    for metric, (first, second) in zip(metrics, values, strict=True):
        for key in (key for key, score in metric.scores.items() if score.better != "neither" and key in first):
            places = metric.scores[key].places
            found = (first[key], second[key], first[key] - second[key])
            scores[key] = (_interval(found[0], places), _interval(found[1], places), _interval(found[2], places))
    return Comparison(scores, num, resamples)


def _values(
    metric: Metric, real: ImageSet, side: ImageSet, counts: NDArray[np.int64], k: int, progress: Progress
) -> dict[str, FloatArray]:
    """Each score of the images as they are, and where it can be had of every resample of them."""
    if metric.resample is None:
        found = [{name: np.asarray([value]) for name, value in metric.compute(real, side, k).items()}]
        progress.advance(len(counts))
    else:
        found, size = [], 1 if isinstance(metric.resample, OneByOne) else len(counts)
        for first in range(0, len(counts), size):
            found.append(dict(metric.resample(real, side, counts[first : first + size], k)))
            progress.advance(size)
    return {name: np.concatenate([part[name] for part in found]) for name in found[0]}


def _interval(values: FloatArray, places: int) -> Interval:
    half = NORMAL_95 * float(np.nanstd(values[1:], ddof=1)) if len(values) > 1 else math.nan
    return Interval(float(values[0]), half, places)
