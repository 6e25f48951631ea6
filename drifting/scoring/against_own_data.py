"""A run's own training and held-out images, against which small images are scored pixel by pixel."""

from typing import Any

import numpy as np

from drifting.data import fingerprint, sources
from drifting.data.source import Batch, LabelledSource, to_float
from drifting.errors import ConfigError
from drifting.runs.progress import Progress
from drifting.sampling.generator import TrainedGenerator
from drifting.sampling.images import GeneratedImages
from drifting.scoring.metrics.pixels import pixel_scores
from drifting.scoring.reference import SourceImages

PART = 512
"""Images that are drawn at a time; a multiple of the generator's blocks."""

OWN_DATA = 20_000
"""The most training images that a run is compared with pixel by pixel; of more, a reference is needed."""


class OwnData:
    """The training and held-out images of a run, for scores of small images.

    Raises:
        ConfigError: published weights have none, there are too many or no held-out ones, or they have changed.
    """

    def __init__(self, trained: TrainedGenerator, source: str, neighbours: int) -> None:
        if trained.config is None or trained.space.vae is not None:
            raise ConfigError(f"--reference: {source} needs statistics of real images, see `drifting reference`")
        data = trained.config.data
        train, heldout = sources.source(data), sources.source(data, split="heldout")
        if len(train) > OWN_DATA:
            remedy = "are too many to compare pixel by pixel: give statistics of them, see `drifting reference`"
            raise ConfigError(f"--reference: {len(train):,} training images {remedy}")
        facts = fingerprint.data_facts(train)
        if changed := [name for name, value in facts.items() if trained.facts.get(name) != value]:
            raise ConfigError(f"data.name={data.name!r}: {', '.join(changed)} are not what {source} was trained with")
        self._real, self._neighbours = (*_levels(train), *_levels(heldout)), neighbours
        self.source = train
        self.facts = {"reference": "the run's own data", "data": data.name, "neighbours": neighbours}

    def scores(self, images: GeneratedImages) -> dict[str, Any]:
        """The keys of `pixel_scores`, with `num` for the number of images."""
        done, total = 0, len(images)
        parts = []
        with Progress(total, label="evaluate", unit="images") as progress:
            for start in range(0, total, PART):
                parts.append(images.part(range(start, min(start + PART, total))))
                done += len(parts[-1])
                progress.update(done)
        scores: dict[str, Any] = pixel_scores(
            to_float(np.concatenate(parts)), images.labels, *self._real, self._neighbours
        )
        return {"num": scores.pop("n_generated")} | scores


def _levels(source: LabelledSource) -> Batch:
    """All images and labels. The images have the levels that files have, as the generated ones and a reference."""
    return to_float(SourceImages(source, {}).part(range(len(source)))), source.labels
