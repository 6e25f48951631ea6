"""What an entry of `METRICS` says: how scores are computed, what they need, and how they are shown."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from drifting.errors import counted
from drifting.scoring.metrics.gaussian import Gaussian, moments

HELDOUT_SUFFIX = "_heldout"
"""What is appended to the name of a score of held-out real images."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images as metrics see them: the real ones, or the generated ones.

    Attributes:
        rows: arrays `[N, D]` by kind, a row for each image: `features`, and of the Inception network also `spatial` and
            `logits`. Real images may have some rows or none.
        statistics: mean `[D]` and covariance `[D, D]` by kind where they are known, of all images and not of the rows.
        labels: `[N]`, the class of each row. Of generated images it is the class asked for; None: unknown.
        encoder: the score encoder that took the features.
        counts: `[N]`, how often each row is drawn in a resample; None: each is there once.

    Raises:
        ValueError: the arrays do not have one row for each image.
    """

    rows: Mapping[str, NDArray[np.floating]]
    statistics: Mapping[str, Gaussian] = field(default_factory=dict)
    labels: NDArray[np.integer] | None = None
    encoder: str = ""
    counts: NDArray[np.integer] | None = None

    def __post_init__(self) -> None:
        shapes = {kind: array.shape for kind, array in self.rows.items()}
        if any(len(shape) != 2 or shape[0] != len(self) for shape in shapes.values()):
            raise ValueError(f"rows have shapes {shapes}: give [N, D] with one N")
        for name, array in (("labels", self.labels), ("counts", self.counts)):
            if array is not None and np.shape(array) != (len(self),):
                given = counted(len(self), "image")
                raise ValueError(f"{name} have shape {np.shape(array)}: give one for each of {given}")

    def __len__(self) -> int:
        return next((len(array) for array in self.rows.values()), 0)

    def array(self, kind: str) -> NDArray[np.floating]:
        """The rows of a kind, each as often as it is drawn."""
        rows = self.rows[kind]
        return rows if self.counts is None else np.repeat(rows, self.counts, axis=0)

    def gaussian(self, kind: str) -> Gaussian:
        """Mean and covariance: the statistics that are known, or those of the rows."""
        return self.statistics[kind] if kind in self.statistics else moments(self.rows[kind], self.counts)

    def drawn(self, counts: NDArray[np.integer]) -> Self:
        """A resample, in which each row is there `counts` `[N]` times."""
        return replace(self, counts=counts, statistics={})


@dataclass(frozen=True)
class Score:
    """One of the numbers of a metric, for a person.

    Attributes:
        title: what tables and charts call it.
        better: which end is the better one. `neither`: the number goes with another one and is not compared.
        headline: whether a page shows it at the top.
        places: digits behind the point in tables.
        ratio: name of the number that this score is divided by that of held-out real images; '': there is none.
    """

    title: str
    better: Literal["lower", "higher", "neither"]
    headline: bool = False
    places: int = 4
    ratio: str = ""


Compute = Callable[[ImageSet, ImageSet, int], Mapping[str, float]]
"""`(real, generated, neighbours)` to numbers by name."""

Resample = Callable[[ImageSet, ImageSet, NDArray[np.integer], int], Mapping[str, NDArray[np.float64]]]
"""`(real, generated, counts [S, N], neighbours)` to numbers `[S]` by name, for each resample of generated images."""


@dataclass(frozen=True)
class Metric:
    """A metric: it knows arrays, and yields numbers by name.

    Attributes:
        title: what a sentence calls it.
        scores: every number that it may yield.
        compute: computes the numbers; the names are some of those in `scores`.
        kinds: the kinds of rows that it needs of generated images. Where an encoder has them not, the metric is no
            score of it and is left out without a word.
        real: what it needs of real images in the same kinds: nothing, their mean and covariance, or their rows.
        labels: whether it needs the classes of what it looks at, the real images' too unless `real` is nothing; it is
            left out without a word where they are unknown.
        images: how many images it needs at least, of both where it needs real rows.
        neighbours: whether it looks at nearest neighbours, of which there must be more than `eval.neighbours`.
        resample: computes the numbers of many resamples, for intervals; None: that takes too long, there are none.
    """

    title: str
    scores: Mapping[str, Score]
    compute: Compute
    kinds: tuple[str, ...] = ("features",)
    real: Literal["nothing", "statistics", "rows"] = "rows"
    labels: bool = False
    images: int = 2
    neighbours: bool = False
    resample: Resample | None = None

    def applies(self, real: ImageSet, fake: ImageSet) -> bool:
        """Whether it is a score of such images at all."""
        labelled = fake.labels is not None and (self.real == "nothing" or real.labels is not None)
        return all(kind in fake.rows for kind in self.kinds) and (labelled or not self.labels)

    def lacks(self, real: ImageSet, fake: ImageSet, k: int) -> str | None:
        """What is missing, as words about the real images or the generated ones; None: nothing is."""
        known = {"nothing": set(self.kinds), "statistics": {*real.statistics, *real.rows}, "rows": set(real.rows)}
        for kind in self.kinds:
            if kind not in known[self.real]:
                return f"holds no {kind}" if self.real == "rows" else f"holds no statistics of {kind}"
        least = max(self.images, k + 1 if self.neighbours else 0)
        if len(fake) < least:
            return f"too few images, {len(fake):,}"
        return "holds too few features" if self.real == "rows" and len(real) < least else None


@dataclass(frozen=True)
class OneByOne:
    """A `Resample` that computes a metric of each resample anew, so that nothing is lost if few are asked at a time."""

    compute: Compute

    def __call__(
        self, real: ImageSet, fake: ImageSet, counts: NDArray[np.integer], k: int
    ) -> Mapping[str, NDArray[np.float64]]:
        """The numbers of all resamples."""
        found = [self.compute(real, fake.drawn(row), k) for row in counts]
        return {name: np.asarray([numbers[name] for numbers in found]) for name in found[0]}


def undrawn(resample: Resample) -> Compute:
    """Computes a metric as the resample in which every image is there once."""

    def compute(real: ImageSet, fake: ImageSet, k: int) -> Mapping[str, float]:
        found = resample(real, fake, np.ones((1, len(fake)), np.int64), k)
        return {name: float(values[0]) for name, values in found.items()}

    return compute
