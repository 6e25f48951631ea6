"""Scores of small images against a run's own training images, beside those of its held-out ones."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from drifting.config.schema import Config
from drifting.data import fingerprint, sources
from drifting.data.source import LabelledSource
from drifting.errors import ConfigError, counted, require_argument
from drifting.scoring.extraction import features_of
from drifting.scoring.image_features import ScoreEncoder, score_encoder
from drifting.scoring.image_sets import SourceImages
from drifting.scoring.judge import Judge
from drifting.scoring.metrics import ImageSet
from drifting.scoring.metrics.gaussian import moments
from drifting.scoring.real_images import check_count, check_variance

OWN_IMAGES = 20_000
"""The most training images that a run is compared with image by image; of more, a reference is needed."""


def own_data_judge(
    config: Config | None, facts: Mapping[str, Any], name: str, neighbours: int, encoder: str | None = None
) -> Judge:
    """What a run is scored against: all images that it was trained on, and those that were held out.

    Args:
        config: the run's settings; None: the generator is of published weights, which have no data.
        facts: what the run knows of its data, see `fingerprint.data_facts`.
        name: what the person called the run.
        neighbours: see `Judge`.
        encoder: the features, as `score_encoder` takes them; None: the pixels.

    Raises:
        ConfigError: published weights have no data, there are too many or no held-out ones, or they have changed.
        InputError: there are too few of either.
    """
    remedy = f"{name} needs statistics of real images, see `drifting reference`"
    require_argument(config is not None and config.data.vae is None, "reference", None, remedy)
    assert config is not None
    train, heldout = sources.source(config.data), sources.source(config.data, split="heldout")
    remedy = "are too many to compare pixel by pixel: give statistics of them, see `drifting reference`"
    require_argument(len(train) <= OWN_IMAGES, "reference", None, f"{counted(len(train), 'training image')} {remedy}")
    if changed := [key for key, value in fingerprint.data_facts(train).items() if facts.get(key) != value]:
        known = f"{', '.join(changed)} are not what {name} was trained with"
        raise ConfigError(f"data.name={config.data.name!r}: {known}")
    for split, images in (("train", train), ("heldout", heldout)):
        check_count(len(images), f"data.name={config.data.name!r}, split {split}")
    found = score_encoder(encoder or "pixels", train.shape)
    about = {"reference": "the run's own data", "data": config.data.name, "neighbours": neighbours}
    return Judge(name, found, neighbours, about, lambda: _real(train, found, name), lambda: _side(heldout, found))


def _real(source: LabelledSource, encoder: ScoreEncoder, name: str) -> ImageSet:
    """The training images, with the statistics that every scoring needs."""
    side = _side(source, encoder)
    statistics = {"features": moments(side.rows["features"])}
    check_variance(statistics, f"training images of {name}", encoder.name)
    return replace(side, statistics=statistics)


def _side(source: LabelledSource, encoder: ScoreEncoder) -> ImageSet:
    """All images; they have the levels that files have, as the generated ones and those of a reference."""
    rows = features_of(SourceImages(source, {}), encoder, "real images")
    return ImageSet(rows, labels=source.labels, encoder=encoder.name)
