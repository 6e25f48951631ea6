"""Every metric, by name: a new one is a file beside this one and an entry in `METRICS`.

Tables, JSON files, comparisons, sweeps and pages read from the entry what they show; see `metric.Metric`.
"""

from collections.abc import Mapping
from typing import Any

from drifting.scoring.metrics.class_accuracy import CLASS_ACCURACY, CLASSIFIER_ACCURACY
from drifting.scoring.metrics.density_coverage import DENSITY_COVERAGE
from drifting.scoring.metrics.frechet import FRECHET, SPATIAL_FRECHET
from drifting.scoring.metrics.inception_score import INCEPTION_SCORE
from drifting.scoring.metrics.kid import KID
from drifting.scoring.metrics.metric import HELDOUT_SUFFIX, ImageSet, Metric, Score
from drifting.scoring.metrics.precision_recall import PRECISION_RECALL

__all__ = [
    "HELDOUT_SUFFIX",
    "METRICS",
    "ImageSet",
    "Metric",
    "Score",
    "compared_scores",
    "known_scores",
    "rank",
    "ranked_by",
]

METRICS: dict[str, Metric] = {
    "frechet": FRECHET,
    "spatial_frechet": SPATIAL_FRECHET,
    "inception_score": INCEPTION_SCORE,
    "precision_recall": PRECISION_RECALL,
    "class_accuracy": CLASS_ACCURACY,
    "classifier_accuracy": CLASSIFIER_ACCURACY,
    "kid": KID,
    "density_coverage": DENSITY_COVERAGE,
}
"""The order is that of columns; images are ranked by the first score that they have."""


def known_scores() -> dict[str, Score]:
    """Every number that some metric gives, by its name."""
    return {name: score for metric in METRICS.values() for name, score in metric.scores.items()}


def compared_scores() -> dict[str, Score]:
    """The scores of which one end is the better one."""
    return {name: score for name, score in known_scores().items() if score.better != "neither"}


def ranked_by(numbers: Mapping[str, Any]) -> str:
    """The name of the score that images with these numbers are ranked by: the first that has a better end.

    Raises:
        ValueError: there is none.
    """
    for name in compared_scores():
        if name in numbers:
            return name
    raise ValueError(f"no score is known among {', '.join(numbers) or 'no numbers'}")


def rank(numbers: Mapping[str, Any]) -> float:
    """What images with these numbers are ranked by, such that lower is better.

    Raises:
        ValueError: there is no score among them.
    """
    name = ranked_by(numbers)
    return float(numbers[name]) * (1 if known_scores()[name].better == "lower" else -1)
