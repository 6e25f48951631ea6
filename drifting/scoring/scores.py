"""The numbers of some images: every metric of `METRICS` that is defined for them."""

import logging
from collections.abc import Mapping
from typing import Any

from drifting.scoring.metrics import HELDOUT_SUFFIX, METRICS, ImageSet, Metric, known_scores

logger = logging.getLogger("drifting")

Scores = dict[str, Any]


def defined_metrics(real: ImageSet, fake: ImageSet, neighbours: int, name: str) -> list[Metric]:
    """The metrics that these images have, in the order of `METRICS`. Those that lack something are warned of.

    Args:
        real, fake: the real images and the generated ones.
        neighbours: see `Metric`.
        name: what the warning calls the real images.
    """
    defined: list[Metric] = []
    missing: dict[str, list[str]] = {}
    for metric in METRICS.values():
        if not metric.applies(real, fake):
            continue
        if reason := metric.lacks(real, fake, neighbours):
            missing.setdefault(reason, []).append(metric.title)
        else:
            defined.append(metric)
    for reason, titles in missing.items():
        logger.warning("%s: %s: no %s", name, reason, ", ".join(titles))
    return defined


def scores_of(real: ImageSet, fake: ImageSet, neighbours: int, name: str) -> Scores:
    """The number of images as `num`, and every number of every metric that they have; see `defined_metrics`.

    Raises:
        ValueError: a feature is not finite, or those of the two do not fit together.
    """
    scores: Scores = {"num": len(fake)}
    for metric in defined_metrics(real, fake, neighbours, name):
        scores |= metric.compute(real, fake, neighbours)
    return scores


def beside_heldout(scores: Mapping[str, Any], heldout: Mapping[str, Any]) -> Scores:
    """Scores of generated images with those of held-out real ones, `NAME_heldout`, and with the ratios of the two.

    1 is as close to the training set as new real images are.
    """
    beside = {f"{name}{HELDOUT_SUFFIX}": value for name, value in heldout.items() if name != "num"}
    ratios = {}
    for name, score in known_scores().items():
        if score.ratio and name in scores and heldout.get(name, 0) > 0:  # it is 0 of equal images: no ratio to that
            ratios[score.ratio] = scores[name] / heldout[name]
    return {**scores, **beside, **ratios}
