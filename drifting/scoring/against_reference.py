"""Scores against statistics of real images."""

from pathlib import Path

from drifting.errors import require_argument
from drifting.method.space import Shape
from drifting.scoring.extraction import features_of
from drifting.scoring.image_features import ScoreEncoder, known_widths, score_encoder
from drifting.scoring.judge import Judge
from drifting.scoring.metrics import ImageSet
from drifting.scoring.real_images import check_rows
from drifting.scoring.reference import Reference, read_reference


def reference_judge(
    path: Path, encoder: str | None, shape: Shape, neighbours: int, images: Path | None = None
) -> Judge:
    """What images of `shape` are scored against: the statistics of a reference, and features of some of its images.

    Args:
        path: the reference, see `reference.read_reference`.
        encoder: the features, as `score_encoder` takes them; None: those that the reference says, or `inception`.
        shape: height, width and channels.
        neighbours: see `Judge`.
        images: real images for the metrics that need them, see `read_reference`.

    Raises:
        ConfigError: the reference cannot be read, or is of other images or another encoder.
    """
    reference = read_reference(path, images)
    if reference.metadata is not None:
        was = reference.metadata["image_shape"]
        fits = was == list(shape)
        require_argument(fits, "reference", str(path), f"is of images of {was}, these are of {list(shape)}")
    given = encoder or reference.encoder or "inception"
    reference.check_widths(given, known_widths(given, shape))  # before weights are downloaded
    found = score_encoder(given, shape)
    reference.check(found)
    facts = {"reference": reference.facts, **found.facts, "neighbours": neighbours}
    if images is not None and reference.images is not None:
        facts["real_images"] = reference.images.facts["sha256"]
    return Judge(str(path), found, neighbours, facts, lambda: _real(reference, found))


def _real(reference: Reference, encoder: ScoreEncoder) -> ImageSet:
    """The real images; the features of those that the reference holds are taken here."""
    rows = {} if reference.features is None else {"features": reference.features}
    if reference.images is not None and not rows:
        rows = {"features": features_of(reference.images, encoder, "reference")["features"]}
    if rows:
        place = reference.path if reference.images is None else reference.images.path
        check_rows(rows["features"], str(place), encoder.name)
    return ImageSet(rows, reference.gaussians, encoder=encoder.name)
