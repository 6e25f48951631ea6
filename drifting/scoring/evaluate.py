"""Scores of generated images: of a run, of published weights, or of files, against a reference or the run's own data.

Features are taken in blocks of one size and parts of one size, and statistics are gathered in float64 in the order of
the images: a file of images and the generator that drew it give the same numbers, on however many processes.
"""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drifting.config.arguments import checked_arguments
from drifting.config.schema import Config, EvalConfig
from drifting.errors import ArgumentError, counted, require_argument
from drifting.method.space import Shape
from drifting.runs.files import labels_sha256, write_json
from drifting.runs.places import place, remove_tree
from drifting.runs.shared_work import Share
from drifting.sampling.files import software
from drifting.sampling.generator import TrainedGenerator, image_shape
from drifting.sampling.images import GeneratedImages, Images
from drifting.sampling.labels import wanted_labels
from drifting.scoring.against_own_data import own_data_judge
from drifting.scoring.against_reference import reference_judge
from drifting.scoring.judge import PUBLISHED_IMAGES, Judge
from drifting.scoring.scores import Scores
from drifting.scoring.settings import ScoreSettings

logger = logging.getLogger("drifting")

SCORES_FORMAT, SCORES_VERSION = "drifting-scores", 1

CHOSEN_FACTS = (
    "num", "seed", "uint8", "ema_decay", "ema_std", "vae", "labels_sha256", "encoder", "encoder_weights", "neighbours",
    "real_images",
)  # fmt: skip
"""What a person chose of the content of a file of scores, besides the reference and the guidance scales."""


@checked_arguments
def score(
    trained: TrainedGenerator,
    *,
    num: int | None = None,
    reference: str | Path | None = None,
    encoder: str | None = None,
    alpha: float | None = None,
    seed: int | None = None,
) -> Scores:
    """Scores of a generator, by name; nothing is written.

    Args:
        trained: the generator.
        num: how many images; None: `eval.num_samples`, of published weights 50,000.
        reference: statistics of real images; None: `eval.reference`, or else a run's own data.
        encoder: the features, `inception`, `pixels` or `mae:WEIGHTS`; None: `eval.encoder`, or else the reference's, or
            the pixels of the run's own data.
        alpha: the guidance scale; None: the generator's own one.
        seed: the seed of the first image; None: `eval.seed`.

    Raises:
        ConfigError: something cannot be had or does not fit.
    """
    remedy = f"is a {type(trained).__name__}: give what drifting.load returns"
    require_argument(isinstance(trained, TrainedGenerator), "trained", None, remedy)
    settings = ScoreSettings(num=num, seed=seed, alphas=None if alpha is None else [alpha])
    labels, k = _labels(trained, settings), (trained.config or Config()).eval.neighbours
    require_argument(len(labels) > k, "num", len(labels) if num is None else num, f"must exceed eval.neighbours={k}")
    (images,) = _drawn(trained, "the generator", labels, settings)
    path = None if reference is None else place(reference)
    judge = judge_of(trained.config, trained.facts, "the generator", images.shape, k, path, encoder)
    images.tell()
    found = judge.scores(images)
    assert found is not None  # one process scores alone
    return found


def evaluate_generator(
    trained: TrainedGenerator,
    source: str,
    out: Path | None = None,
    *,
    reference: Path | None = None,
    real_images: Path | None = None,
    encoder: str | None = None,
    settings: ScoreSettings | None = None,
    share: Share | None = None,
    replace: bool = True,
    judge: Judge | None = None,
) -> list[Scores] | None:
    """Scores of a generator at each guidance scale, written to a JSON file with everything needed to repeat them.

    Args:
        trained: the generator.
        source: what the person called it.
        out: the file; None: `eval-STEP.json` in the run's folder `source`, or here.
        reference: statistics of real images; None: `eval.reference`, or else a run's own data, pixel by pixel.
        real_images: real images for the metrics that need them; None: those in the reference.
        encoder: see `reference_judge`; None: `eval.encoder`.
        settings: how to score.
        share: which of several processes this is; they need a reference.
        replace: whether `out` may hold scores by other settings.
        judge: the `judge_for` of another average of the same run and all these, whose real images have been looked at
            already; None: it is made.

    Returns:
        Scores for each guidance scale; None while other processes are at work.

    Raises:
        ConfigError: something cannot be had or does not fit, `num` is too small for the neighbours, or the file has
            scores by other settings that are to stay.
    """
    settings, share = settings or ScoreSettings(), share or Share()
    labels, k = _labels(trained, settings), _neighbours(trained, settings)
    _check_neighbours(settings.neighbours, settings.num, len(labels), f"eval.neighbours={k}", k)
    drawn = _drawn(trained, source, labels, settings)
    out = out or scores_file(trained, source)
    judge = judge or judge_for(
        trained, source, reference=reference, real_images=real_images, encoder=encoder, settings=settings, share=share
    )
    about = {key: value for key, value in drawn[0].facts.items() if key != "alpha"}
    about |= {"classes": settings.classes, "labels": settings.labels}
    about |= {"labels_sha256": labels_sha256(labels)} | judge.facts
    alphas = [images.facts["alpha"] for images in drawn]
    if not replace:
        _check_settings(out, about, alphas)
    trained.tell(source)
    found = _judged(
        judge, {f"alpha-{alpha:g}": images for alpha, images in zip(alphas, drawn, strict=True)}, out, share
    )
    if found is None:
        return None
    found = [{"alpha": alpha} | scores for alpha, scores in zip(alphas, found, strict=True)]
    _write(out, about, found)
    return found


def judge_for(
    trained: TrainedGenerator,
    source: str,
    *,
    reference: Path | None,
    real_images: Path | None,
    encoder: str | None,
    settings: ScoreSettings,
    share: Share,
) -> Judge:
    """What `evaluate_generator` scores against, of the same arguments; all averages of a run can have the same one.

    Raises:
        ConfigError: the real images cannot be had or do not fit.
    """
    if reference is None and (trained.config or Config()).eval.reference is None:
        _check_own_data(encoder, share)
    shape, k = image_shape(trained.usage), _neighbours(trained, settings)
    return judge_of(trained.config, trained.facts, source, shape, k, reference, encoder, real_images)


def _neighbours(trained: TrainedGenerator, settings: ScoreSettings) -> int:
    return (trained.config or Config()).eval.neighbours if settings.neighbours is None else settings.neighbours


def _check_neighbours(given: int | None, num: int | None, count: int, default: str, neighbours: int) -> None:
    """Raises `ArgumentError` unless there are more images than neighbours; `given` and `num` are what a person gave."""
    remedy = f"must be less than the {counted(count, 'image')} that are scored"
    require_argument(given is None or given < count, "neighbours", given, remedy)
    remedy = (
        f"must exceed {default}" if num is not None else f"there are {counted(count, 'image')}, {default} need more"
    )
    require_argument(neighbours < count, "num", num, remedy)


def scores_file(trained: TrainedGenerator, source: str) -> Path:
    """Where scores of a generator that a person called `source` lie, if nowhere else: in the run's folder or here."""
    return (place(source) if trained.config else Path()) / f"eval-{trained.step}.json"


def _labels(trained: TrainedGenerator, settings: ScoreSettings) -> NDArray[np.int32]:
    """The class of each image to draw."""
    num = settings.num
    if num is None and settings.labels is None:
        num = PUBLISHED_IMAGES if trained.config is None else trained.config.eval.num_samples
    return wanted_labels(trained.usage.class_names, num, settings.classes, settings.labels)


def _drawn(
    trained: TrainedGenerator, source: str, labels: NDArray[np.int32], settings: ScoreSettings
) -> list[GeneratedImages]:
    """The images at each guidance scale; one compiled sampler draws all of them."""
    evaluation = (trained.config or Config()).eval
    first, *others = [trained.alpha(alpha) for alpha in settings.alphas or [trained.usage.alpha]]
    images = GeneratedImages(
        trained,
        labels,
        source=source,
        seed=evaluation.seed if settings.seed is None else settings.seed,
        alpha=first,
        uint8=settings.uint8,
        batch_size=settings.batch_size or evaluation.batch_size,
    )
    return [images, *map(images.at, others)]


def _check_own_data(encoder: str | None, share: Share) -> None:
    remedy = "several processes need statistics of real images, see `drifting reference`"
    require_argument(share.count == 1, "reference", None, remedy)
    remedy = "a run's own data are compared pixel by pixel: leave it out, or give a reference made with it"
    require_argument(encoder is None, "encoder", encoder, remedy)


def judge_of(
    config: Config | None,
    facts: Mapping[str, Any],
    source: str,
    shape: Shape,
    neighbours: int,
    reference: Path | None = None,
    encoder: str | None = None,
    real_images: Path | None = None,
) -> Judge:
    """What the images of a generator are scored against.

    Args:
        config, facts: the attributes of a `TrainedGenerator`.
        source: what the person called it.
        shape: height, width and channels of its images.
        neighbours: see `Judge`.
        reference: statistics of real images; None: `eval.reference`, or else the run's own data.
        encoder: the features; None: `eval.encoder`, or else the reference's, or the pixels of the run's own data.
        real_images: see `read_reference`; None: `eval.real_images` where the reference is `eval.reference`.

    Raises:
        ConfigError: as `reference_judge` and `own_data_judge` do.
    """
    evaluation = (config or Config()).eval
    if reference is None and evaluation.reference is not None:
        reference = place(evaluation.reference)
        if real_images is None and evaluation.real_images is not None:
            real_images = place(evaluation.real_images)
    if reference is None:
        remedy = "goes with statistics of real images: give a reference, or leave it out"
        require_argument(real_images is None, "real_images", real_images, remedy)
        return own_data_judge(config, facts, source, neighbours, encoder or evaluation.encoder)
    return reference_judge(reference, encoder or evaluation.encoder, shape, neighbours, real_images)


def evaluate_files(
    images: Images,
    out: Path,
    reference: Path,
    *,
    encoder: str | None = None,
    num: int | None = None,
    neighbours: int | None = None,
    real_images: Path | None = None,
    share: Share | None = None,
) -> list[Scores] | None:
    """Scores of images that were drawn before, written to the JSON file `out`; see `evaluate_generator`.

    Raises:
        ConfigError: there are fewer images than `num`, the reference cannot be had or does not fit, or the file has
            scores by other settings.
    """
    count = len(images) if num is None else num
    require_argument(count <= len(images), "num", count, f"there are {counted(len(images), 'image')}")
    k = EvalConfig().neighbours if neighbours is None else neighbours
    _check_neighbours(neighbours, num, count, f"the neighbours={k}", k)
    judge = reference_judge(reference, encoder, images.shape, k, real_images)
    about = {"num": count} | images.facts | judge.facts
    _check_settings(out, about, [None])
    found = _judged(judge, {"files": _First(images, count)}, out, share or Share())
    if found is not None:
        _write(out, about, found)
    return found


class _First:
    """The first of some images."""

    def __init__(self, images: Images, count: int) -> None:
        self.shape, self.facts, self.part, self._count = images.shape, images.facts, images.part, count
        self.labels = None if images.labels is None else images.labels[:count]

    def __len__(self) -> int:
        return self._count


def _judged(judge: Judge, images: Mapping[str, Images], out: Path, share: Share) -> list[Scores] | None:
    """Scores of several sets of images; what is under way lies beside `out` until all of them are there."""
    work = out.with_name(f"{out.stem}.parts")
    try:
        found = [judge.scores(some, work / name, share, out) for name, some in images.items()]
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt("the same command goes on from there") from interrupt
    except FileNotFoundError:
        if work.exists():
            raise
        logger.info("evaluate: another process has put the parts together")
        return None
    scores = [one for one in found if one is not None]
    if len(scores) < len(found):
        return None
    remove_tree(work)
    return scores


def _difference(key: str, was: Any, now: Any) -> str:
    """What is another value. Of files there are the sums, which say nothing to a reader."""
    sums = [isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) for value in (was, now)]
    if all(sums):
        return f"{key} was another file"
    was, now = ("a file" if is_sum else repr(value) for is_sum, value in zip(sums, (was, now), strict=True))
    return f"{key} was {was}, is {now}"


def _check_settings(out: Path, about: Mapping[str, Any], alphas: Sequence[float | None]) -> None:
    """Raises `ArgumentError` where a file of scores is there that was made with other settings than these."""
    if not out.exists():
        return
    try:
        old = json.loads(out.read_text(encoding="utf-8"))
        was = _chosen(old, [one.get("alpha") for one in old["scores"]])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ArgumentError("out", out, "is there and holds no scores; choose another, or remove it") from error
    wanted = _chosen(about, alphas)
    if others := [_difference(key, was[key], wanted[key]) for key in wanted if was[key] != wanted[key]]:
        raise ArgumentError("out", out, f"was scored otherwise ({'; '.join(others)}); choose another, or remove it")


def _chosen(content: Mapping[str, Any], alphas: Sequence[float | None]) -> dict[str, Any]:
    """What a person chose of the content of a file of scores. A run that was trained on or anew is scored anew."""
    reference = content.get("reference")
    if isinstance(reference, dict):  # it may have been moved
        reference = reference.get("statistics_sha256")
    return {key: content.get(key) for key in CHOSEN_FACTS} | {"reference": reference, "alpha": alphas}


def _write(out: Path, about: Mapping[str, Any], scores: list[Scores]) -> None:
    write_json(
        out, {"format": SCORES_FORMAT, "version": SCORES_VERSION, **about, "software": software(), "scores": scores}
    )
