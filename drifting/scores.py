"""Scores of generated images: of a run, of published weights, or of files, against a reference or the run's own data.

Features are taken in blocks of one size and parts of one size, and statistics are gathered in float64 in the order of
the images: a file of images and the generator that drew it give the same numbers, on however many processes.
"""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drifting.archive import Images
from drifting.config import Config, ConfigError
from drifting.encoders import Features, ScoreEncoder, known_widths, score_encoder
from drifting.evaluate.frechet import GaussianStatistics, frechet_distance
from drifting.evaluate.inception_score import SPLITS, inception_score
from drifting.evaluate.manifold import f1, precision_recall
from drifting.monitor import Progress
from drifting.own_data import OwnData
from drifting.parts import Parts, Share, write_json
from drifting.reference import Reference, read_reference
from drifting.sample import GeneratedImages, software, wanted_labels
from drifting.trained import TrainedGenerator
from drifting.validate import require

logger = logging.getLogger("drifting")

PART = 512
"""Images a part; a multiple of the blocks of generator and encoders."""
PUBLISHED = 50_000
"""Images that published scores are of."""
PLACES = ("source", "images")
"""Where something lies, as the person calls it: what it holds has a checksum."""
EVAL_FILE = re.compile(r"eval-(\d+)\.json")
CHOSEN = ("num", "seed", "uint8", "ema_decay", "vae", "labels_sha256", "encoder", "encoder_weights", "neighbours")
FORMAT, VERSION = "drifting-scores", 1
Scores = dict[str, Any]


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


class Judge:
    """A reference and the encoder that it was made with: gives images their scores.

    Args:
        path: of the reference, see `drifting.reference`.
        encoder: as `encoders.score_encoder` takes it; None: what the reference says, or `inception`.
        shape: of the images to come.
        neighbours: of precision and recall.

    Raises:
        ConfigError: the reference cannot be read, or is of other images or another encoder.
    """

    def __init__(self, path: Path, encoder: str | None, shape: tuple[int, int, int], neighbours: int) -> None:
        self.reference: Reference = read_reference(path)
        metadata = self.reference.metadata
        if metadata is not None and metadata["image_shape"] != list(shape):
            was = metadata["image_shape"]
            raise ConfigError(f"--reference={path}: is of images of {was}, these are of {list(shape)}")
        key, given = ("--encoder", encoder) if encoder else ("--reference", self.reference.encoder or "inception")
        self.reference.check_widths(given, known_widths(given, shape))  # before weights are downloaded
        self.encoder: ScoreEncoder = score_encoder(key, given, shape)
        self.reference.check(self.encoder)
        self.neighbours = neighbours
        self._real: NDArray[np.float32] | None = self.reference.features

    @property
    def facts(self) -> dict[str, Any]:
        """What scores depend on besides the images, JSON-able."""
        return {"reference": self.reference.facts, **self.encoder.facts, "neighbours": self.neighbours}

    def scores(self, images: Images, work: Path, share: Share | None = None) -> Scores | None:
        """Scores of images, going on where an earlier call stopped; None while parts of other processes are missing.

        Args:
            images: at least two. work: a folder for what is under way, which the caller removes.
            share: of several processes, which this is.

        Raises:
            ConfigError: other images are under way in that folder.
        """
        share = share or Share()
        parts = Parts(work, len(images), PART, ".npz")
        parts.claim("--out", images.facts | {"num": len(images)} | self.encoder.facts, PLACES)
        missing = parts.missing(share)
        done = 0
        with Progress(sum(len(parts.ranges[n]) for n in missing), label="evaluate", unit="images") as progress:

            def tick(count: int) -> None:
                nonlocal done
                done += count
                progress.update(done)

            for number in missing:
                features = self.encoder(images.part(parts.ranges[number]), tick)
                parts.write(number, lambda path, features=features: _save(path, features))  # type: ignore[misc]
        if left := parts.left():
            logger.info("evaluate: this process is done; %d parts of other processes are not there yet", left)
            return None
        return self.of_features([_load(parts.path(number)) for number in range(len(parts.ranges))])

    def of_features(self, parts: Sequence[Features]) -> Scores:
        """Scores of features, part after part: `num`, `fid` (of the Inception) or `frechet_distance`, `sfid`,
        `inception_score` and its deviation over ten splits, `precision`, `recall`, `f1`, as far as they can be had.
        """
        num = sum(len(part["features"]) for part in parts)
        if "logits" in parts[0] and num < PUBLISHED:
            logger.warning("FID of %s images: it falls with their number, compare equal ones only", f"{num:,}")
        scores: Scores = {"num": num}
        for kind, name in distance_names(self.encoder).items():
            if kind in self.reference.gaussians and kind in parts[0]:
                own = _gaussian([part[kind] for part in parts])
                scores[name] = frechet_distance(*self.reference.gaussians[kind], *own)
        if "logits" in parts[0] and num >= SPLITS:
            mean, deviation = inception_score(np.concatenate([part["logits"] for part in parts]))
            scores |= {"inception_score": mean, "inception_score_std": deviation}
        real = self.real_features()
        if real is not None and self.neighbours < min(num, len(real)):
            fake = np.concatenate([part["features"] for part in parts])
            precision, recall = precision_recall(real, fake, self.neighbours)
            scores |= {"precision": precision, "recall": recall, "f1": f1(precision, recall)}
        return scores

    def real_features(self) -> NDArray[np.float32] | None:
        """Features `[M, D]` of some real images, taken here where the reference holds images; None, with a warning."""
        if self._real is None and self.reference.images is not None:
            images = self.reference.images
            starts = range(0, len(images), PART)
            parts = [images.part(range(start, min(start + PART, len(images)))) for start in starts]
            self._real = np.concatenate([self.encoder(part)["features"] for part in parts])
        if self._real is None:
            logger.warning("%s: holds no features: no precision and recall", self.reference.path)
        return self._real


def distance_names(encoder: ScoreEncoder) -> dict[str, str]:
    """What the Fréchet distance in each kind of features is called."""
    return {"features": "fid" if encoder.name == "inception" else "frechet_distance", "spatial": "sfid"}


def _gaussian(parts: Sequence[np.ndarray]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    statistics = GaussianStatistics.empty(parts[0].shape[1])
    for part in parts:
        statistics.update(part)
    return statistics.mean, statistics.covariance


def _save(path: Path, features: Features) -> None:
    with path.open("wb") as file:  # np.savez would add to the name
        np.savez(file, **features)  # type: ignore[arg-type]


def _load(path: Path) -> Features:
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


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


def _check_settings(out: Path, about: Mapping[str, Any], alphas: Sequence[float | None]) -> None:
    """Raises `ConfigError` where a file of scores is there that was made with other settings than these."""
    if not out.exists():
        return
    try:
        old = json.loads(out.read_text(encoding="utf-8"))
        was = _settings(old, [one.get("alpha") for one in old["scores"]])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"--out={out}: is there and holds no scores; choose another, or remove it") from error
    wanted = _settings(about, alphas)
    if changed := [f"{key} was {was[key]!r}, is {wanted[key]!r}" for key in wanted if was[key] != wanted[key]]:
        raise ConfigError(f"--out={out}: was scored otherwise ({'; '.join(changed)}); choose another, or remove it")


def _settings(content: Mapping[str, Any], alphas: Sequence[float | None]) -> dict[str, Any]:
    """What a person chose of the content of a file of scores. A run that was trained on or anew is scored anew."""
    reference = content.get("reference")
    if isinstance(reference, dict):  # it may have been moved
        reference = reference.get("statistics_sha256")
    return {key: content.get(key) for key in CHOSEN} | {"reference": reference, "alpha": alphas}


def _write(out: Path, about: Mapping[str, Any], scores: list[Scores]) -> None:
    write_json(out, {"format": FORMAT, "version": VERSION, **about, "software": software(), "scores": scores})


def _digest(labels: NDArray[np.integer]) -> str:
    return hashlib.sha256(labels.astype("<i4").tobytes()).hexdigest()


def latest_scores(workdir: Path) -> Scores | None:
    """What `drifting evaluate` found of a run at its latest step, the best guidance scale; None if it has not run.

    Returns:
        The scores, and `step seed uint8 data`; the lowest `fid` or `frechet_distance` is the best.
    """
    files = {int(match[1]): file for file in workdir.glob("eval-*.json") if (match := EVAL_FILE.fullmatch(file.name))}
    if not files:
        return None
    found = json.loads(files[max(files)].read_text(encoding="utf-8"))
    best: Scores = min(found["scores"], key=lambda scores: scores[distance_name(scores)])
    return best | {key: found[key] for key in ("step", "seed", "uint8", "data") if key in found}


def distance_name(scores: Mapping[str, Any]) -> str:
    """`fid` where there is one, or `frechet_distance`."""
    return "fid" if "fid" in scores else "frechet_distance"


# --- for a person -----------------------------------------------------------------------------------------------------

COLUMNS = ("fid", "sfid", "inception_score", "frechet_distance", "precision", "recall", "f1")


def score_table(scores: Sequence[Scores]) -> str:
    """The scores of each guidance scale; against a run's own data, beside those of held-out real samples."""
    if "frechet_ratio" in scores[0]:
        return "\n\n".join(_own_data_table(one) for one in scores)
    names = [name for name in COLUMNS if name in scores[0]]
    lines = ["".join(f"{name:>18}" for name in ("alpha", "images", *names))]
    for one in scores:
        alpha = f"{one['alpha']:g}" if "alpha" in one else "-"
        lines.append(f"{alpha:>18}{one['num']:>18,}" + "".join(f"{one[name]:18.4f}" for name in names))
    return "\n".join(lines)


def _own_data_table(scores: Scores) -> str:
    rows = ("class_accuracy", "frechet_distance", "precision", "recall", "f1")
    lines = [f"{'':18}{'generated':>12}{'held-out':>12}"]
    lines += [f"{name:18}{scores[name]:12.4f}{scores[name + '_heldout']:12.4f}" for name in rows]
    lines.append(f"{'frechet_ratio':18}{scores['frechet_ratio']:12.2f}{1:12.2f}")
    lines.append(f"{scores['num']} images, alpha {scores['alpha']:g}")
    return "\n".join(lines)
