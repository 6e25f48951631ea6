"""How to score: which images, of which seeds, at which guidance scales."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ScoreSettings:
    """How to score.

    Attributes:
        num: how many images; None: `eval.num_samples`, of published weights 50,000, or as many as there are labels.
        alphas: the guidance scales; None: the generator's own one.
        seed: the seed of the first image; None: `eval.seed`.
        classes, labels: which classes to draw, see `sampling.labels.wanted_labels`.
        uint8: how images become bytes, see `sampling.images.ROUNDINGS`.
        batch_size: images in flight; None: `eval.batch_size`.
        neighbours: the nearest neighbour that some metrics look at; None: `eval.neighbours`.
    """

    num: int | None = None
    alphas: Sequence[float] | None = None
    seed: int | None = None
    classes: Sequence[str] | None = None
    labels: str | None = None
    uint8: str = "truncate"
    batch_size: int | None = None
    neighbours: int | None = None
