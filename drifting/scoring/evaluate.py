"""Scores of generated images: of a run, of published weights, or of files, against a reference or the run's own data.

Features are taken in blocks of one size and parts of one size, and statistics are gathered in float64 in the order of
the images: a file of images and the generator that drew it give the same numbers, on however many processes.
"""

import hashlib
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from drifting.config.schema import Config
from drifting.errors import ConfigError, require
from drifting.runs.shared_work import Share
from drifting.sampling.generator import TrainedGenerator
from drifting.sampling.images import GeneratedImages, Images
from drifting.sampling.labels import wanted_labels
from drifting.scoring.against_own_data import OwnData
from drifting.scoring.against_reference import PUBLISHED, Judge, Scores
from drifting.scoring.results import _check_settings, _write

logger = logging.getLogger("drifting")


@dataclass(frozen=True)
class Settings:
    """How to score. Attributes:

    num: images; None: `eval.num_samples`, of published weights 50,000, or as many as there are labels.
    alphas: guidance scales; None: the default one.
    seed: of the first image; None: `eval.seed`. classes, labels: see `sample.wanted_labels`.
    uint8: see `archive.UINT8`. batch_size: images in flight; None: `eval.batch_size`. neighbours: of precision and
    recall; None: `eval.neighbours`.
    """

    num: int | None = None
    alphas: Sequence[float] | None = None
    seed: int | None = None
    classes: Sequence[str] | None = None
    labels: str | None = None
    uint8: str = "truncate"
    batch_size: int | None = None
    neighbours: int | None = None


# --- against a reference ----------------------------------------------------------------------------------------------

# --- what can be scored -----------------------------------------------------------------------------------------------


def evaluate_generator(
    trained: TrainedGenerator,
    source: str,
    out: Path | None = None,
    *,
    reference: Path | None = None,
    encoder: str | None = None,
    settings: Settings | None = None,
    share: Share | None = None,
    replace: bool = True,
) -> list[Scores] | None:
    """Scores of a generator at each guidance scale, written to a JSON file with everything needed to repeat them.

    Args:
        trained: the generator. source: what the person called it.
        out: the file; None: `eval-STEP.json` in the run's folder `source`, or here.
        reference: statistics of real images; None: `eval.reference`, or else a run's own data, pixel by pixel.
        encoder: see `Judge`; None: `eval.encoder`. settings: see there.
        share: of several processes, which this is; they need a reference.
        replace: whether `out` may hold scores by other settings.

    Returns:
        Scores for each guidance scale; None while other processes are at work.

    Raises:
        ConfigError: something cannot be had or does not fit, `num` is too small for the neighbours, or the file has
            scores by other settings that are to stay.
    """
    settings, share = settings or Settings(), share or Share()
    evaluation = (trained.config or Config()).eval
    own = PUBLISHED if trained.config is None else evaluation.num_samples
    num = own if settings.num is None and settings.labels is None else settings.num
    k = evaluation.neighbours if settings.neighbours is None else settings.neighbours
    if reference is None and evaluation.reference is not None:
        reference = Path(evaluation.reference)
    labels = wanted_labels(trained, num, settings.classes, settings.labels)
    neighbours = "eval.neighbours" if settings.neighbours is None else "--neighbours"
    require(len(labels) > k, "--num", len(labels), f"must exceed {neighbours}={k}")
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
    drawn = [images, *map(images.at, others)]
    out = out or (Path(source) if trained.config else Path()) / f"eval-{trained.step}.json"
    if reference is None:
        if share.count > 1:
            raise ConfigError("--reference: several processes need statistics of real images, see `drifting reference`")
        remedy = "a run's own data are compared pixel by pixel: leave it out, or give a --reference made with it"
        require(encoder is None, "--encoder", encoder, remedy)
        against: OwnData | Judge = OwnData(trained, source, k)
    else:
        against = Judge(reference, encoder or evaluation.encoder, drawn[0].shape, k)
    about = {key: value for key, value in drawn[0].facts.items() if key != "alpha"}
    about |= {"classes": settings.classes, "labels": settings.labels, "labels_sha256": _digest(labels)}
    about |= against.facts
    alphas = [images.facts["alpha"] for images in drawn]
    if not replace:
        _check_settings(out, about, alphas)
    found: list[Scores] | None
    if isinstance(against, Judge):
        found = _judged(against, {f"alpha-{i.facts['alpha']:g}": i for i in drawn}, out, share)
    else:
        found = [against.scores(images) for images in drawn]
    if found is None:
        return None
    found = [{"alpha": alpha} | scores for alpha, scores in zip(alphas, found, strict=True)]
    _write(out, about, found)
    return found


def evaluate_files(
    images: Images,
    out: Path,
    reference: Path,
    *,
    encoder: str | None = None,
    num: int | None = None,
    neighbours: int = 3,
    share: Share | None = None,
) -> list[Scores] | None:
    """Scores of images that were drawn before, written to the JSON file `out`; see `evaluate_generator`.

    Raises:
        ConfigError: there are fewer images than `num`, the reference cannot be had or does not fit, or the file has
            scores by other settings.
    """
    count = len(images) if num is None else num
    require(count <= len(images), "--num", count, f"there are {len(images):,} images")
    require(count > neighbours, "--num", count, f"must exceed --neighbours={neighbours}")
    judge = Judge(reference, encoder, images.shape, neighbours)
    about = {"num": count} | images.facts | judge.facts
    _check_settings(out, about, [None])
    found = _judged(judge, {"files": _First(images, count)}, out, share or Share())
    if found is not None:
        _write(out, about, found)
    return found


class _First:
    """The first of some images."""

    def __init__(self, images: Images, count: int) -> None:
        self.shape, self.facts, self.labels, self.part = images.shape, images.facts, images.labels, images.part
        self._count = count

    def __len__(self) -> int:
        return self._count


def _judged(judge: Judge, images: Mapping[str, Images], out: Path, share: Share) -> list[Scores] | None:
    """Scores of several sets of images; what is under way lies beside `out` until all of them are there."""
    work = out.with_name(f"{out.stem}.parts")
    try:
        found = [judge.scores(some, work / name, share) for name, some in images.items()]
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
    shutil.rmtree(work, ignore_errors=True)
    return scores


def _digest(labels: NDArray[np.integer]) -> str:
    return hashlib.sha256(labels.astype("<i4").tobytes()).hexdigest()


# --- for a person -----------------------------------------------------------------------------------------------------
