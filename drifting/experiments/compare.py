"""Two generators at the same seeds: scores with intervals over the samples, pictures and settings side by side.

Uncertainty is that of the samples alone, not of another training. Images are drawn again with replacement (Efron 1979);
both generators are given the same draws, because image `i` of both has the same seed and class, so that the interval of
the difference profits from what they have in common. A resample has fewer distinct images, which shifts a Fréchet
distance: intervals are therefore the value plus or minus 1.96 times the resamples' standard deviation.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drifting.config.schema import Config, to_dict
from drifting.data.source import LabelledSource
from drifting.errors import as_argument, require
from drifting.experiments.report.elements import TITLES, image, settings_table, table
from drifting.experiments.report.page import frame
from drifting.runs.directory import CONFIG_FILE
from drifting.runs.files import atomic_path
from drifting.runs.progress import Progress
from drifting.sampling.generator import TrainedGenerator
from drifting.sampling.grid import save_grid
from drifting.sampling.images import GeneratedImages
from drifting.sampling.labels import balanced_labels
from drifting.scoring.against_own_data import OwnData
from drifting.scoring.against_reference import Judge, distance_names
from drifting.scoring.image_features import Features, ScoreEncoder, score_encoder
from drifting.scoring.metrics.frechet import frechet_distance
from drifting.scoring.metrics.inception_score import SPLITS, inception_score
from drifting.scoring.metrics.precision_recall import f1, resampled_precision_recall
from drifting.scoring.reference import SourceImages

logger = logging.getLogger("drifting")

NORMAL_95 = 1.96

RESAMPLES = 200

FEW_RESAMPLES, MANY_FEATURES = 20, 512
"""So many resamples where there are more features than these: each takes a covariance and its decomposition."""

CHUNK = 512

GRID_COLUMNS, GRID_CLASSES = 10, 10

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A value and the half width of its 95 % interval."""

    value: float
    half: float

    def __str__(self) -> str:
        return f"{self.value:.4f} ± {self.half:.4f}"

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside."""
        return abs(self.value) > self.half


@dataclass(frozen=True)
class Comparison:
    """Scores by name, each of the first, of the second, and of the first minus the second."""

    scores: dict[str, tuple[Interval, Interval, Interval]]
    num: int
    resamples: int


@dataclass(frozen=True)
class Real:
    """What both are scored against. Attributes:

    encoder: of the features. gaussians: mean and covariance of each kind of them. features: of some images, or None.
    """

    encoder: ScoreEncoder
    gaussians: Mapping[str, tuple[Array, Array]]
    features: NDArray[np.floating] | None


def compare(
    first: str,
    second: str,
    out: Path,
    *,
    reference: Path | None = None,
    encoder: str | None = None,
    num: int | None = None,
    alpha: float | None = None,
    seed: int | None = None,
    resamples: int | None = None,
) -> Comparison:
    """Draws both at the same seeds and classes, scores them, and writes one HTML page.

    Args:
        first, second: runs' folders, or published weights as `drifting sample` takes them.
        out: the page.
        reference, encoder: see `drifting.scores.Judge`; None: the first one's `eval`, or else its own training data,
            pixel by pixel.
        num, alpha, seed: images of each, guidance scale, seed of the first; None: the first one's `eval`, and each
            one's own scale.
        resamples: None: 200, or 20 where there are more than 512 features.

    Raises:
        ConfigError: one cannot be had, they draw different things, or `num` is too small.
    """
    pair = [_open(side, name) for side, name in (("A", first), ("B", second))]
    for what in ("image_shape", "class_names"):
        a, b = (list(getattr(trained.usage, what)) for trained in pair)
        require(a == b, "B", second, f"its {what} differ from those of {first}: {b[:3]} and {a[:3]}")
    evaluation = (pair[0].config or Config()).eval
    if reference is None and evaluation.reference is not None:
        reference = Path(evaluation.reference)
    num = evaluation.num_samples if num is None else num
    require(num > evaluation.neighbours, "--num", num, f"must exceed eval.neighbours={evaluation.neighbours}")
    height, width, channels = pair[0].usage.image_shape
    shape = (height, width, channels)
    if reference is None:
        real = _own_data(pair[0], first, encoder, shape)
    else:
        judge = Judge(reference, encoder or evaluation.encoder, shape, evaluation.neighbours)
        real = Real(judge.encoder, judge.reference.gaussians, judge.real_features())
    seed = evaluation.seed if seed is None else seed
    labels = balanced_labels(num, len(pair[0].usage.class_names))
    drawn = [
        GeneratedImages(trained, labels, source=name, seed=seed, alpha=trained.alpha(alpha))
        for trained, name in zip(pair, (first, second), strict=True)
    ]
    features = [_features(images, real.encoder, name) for images, name in zip(drawn, (first, second), strict=True)]
    if resamples is None:
        resamples = RESAMPLES if features[0]["features"].shape[1] <= MANY_FEATURES else FEW_RESAMPLES
    found = intervals(features, real, resamples, evaluation.neighbours, seed)
    _write(out, (first, second), pair, drawn, found)
    return found


def _open(side: str, name: str) -> TrainedGenerator:
    path = Path(name)
    if (path / CONFIG_FILE).is_file():
        with as_argument(side, name):
            return TrainedGenerator.from_run(path)
    return TrainedGenerator.from_weights(name)


def _own_data(trained: TrainedGenerator, name: str, encoder: str | None, shape: tuple[int, int, int]) -> Real:
    source: LabelledSource = OwnData(trained, name, 1).source
    found = score_encoder("--encoder", encoder or "pixels", shape)
    images = SourceImages(source, {})
    features = np.concatenate([found(images.part(part))["features"] for part in _chunks(len(images))])
    wide = features.astype(np.float64)
    return Real(found, {"features": (wide.mean(axis=0), np.cov(wide, rowvar=False))}, features)


def _chunks(count: int) -> list[range]:
    return [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]


def _features(images: GeneratedImages, encoder: ScoreEncoder, name: str) -> Features:
    found = []
    with Progress(len(images), label=name, unit="images") as progress:
        for part in _chunks(len(images)):
            found.append(encoder(images.part(part)))
            progress.update(part.stop)
    return {kind: np.concatenate([part[kind] for part in found]) for kind in found[0]}


def intervals(features: Sequence[Features], real: Real, resamples: int, k: int, seed: int) -> Comparison:
    """Scores of two sets of features, image by image of the same seeds, with intervals.

    Args:
        features: of the two, arrays `[N, D]` of each kind. real: what they are scored against.
        resamples: how many. k: neighbour of precision and recall. seed: of the resamples.
    """
    num = len(features[0]["features"])
    rng = np.random.default_rng([seed, num])
    counts = np.stack([np.ones(num, np.int64), *rng.multinomial(num, np.full(num, 1 / num), resamples)])
    first, second = (_resampled(x, real, counts, k) for x in features)
    found = {key: (first[key], second[key], first[key] - second[key]) for key in first}
    return Comparison({key: _three(values) for key, values in found.items()}, num, resamples)


def _resampled(x: Features, real: Real, counts: NDArray[np.int64], k: int) -> dict[str, Array]:
    """Each score `[S]` of images that are drawn so many times, `[S, N]`."""
    scores = {}
    for kind, name in distance_names(real.encoder).items():
        if kind in real.gaussians and kind in x:
            rows = x[kind].astype(np.float64)
            distances = [frechet_distance(*real.gaussians[kind], *_moments(rows, c)) for c in counts]
            scores[name] = np.asarray(distances)
    if "logits" in x and len(x["logits"]) >= SPLITS:
        scores["inception_score"] = np.asarray([inception_score(np.repeat(x["logits"], c, axis=0))[0] for c in counts])
    if real.features is not None and k < min(len(real.features), counts.shape[1]):
        precision, recall = resampled_precision_recall(real.features, x["features"], counts, k)
        both = np.asarray([f1(p, r) for p, r in zip(precision, recall, strict=True)])
        scores |= {"precision": precision, "recall": recall, "f1": both}
    return scores


def _three(values: tuple[Array, Array, Array]) -> tuple[Interval, Interval, Interval]:
    first, second, difference = (Interval(float(v[0]), NORMAL_95 * float(v[1:].std(ddof=1))) for v in values)
    return first, second, difference


def _moments(x: Array, counts: NDArray[np.integer]) -> tuple[Array, Array]:
    """Mean and covariance of rows that are drawn so many times each."""
    number = counts.sum()
    mean = counts @ x / number
    centred = (x - mean) * np.sqrt(counts)[:, None]
    return mean, centred.T @ centred / (number - 1)


# --- what a person sees -----------------------------------------------------------------------------------------------


def comparison_table(found: Comparison, names: Sequence[str]) -> str:
    """The scores as text; a star where the interval of the difference excludes zero."""
    lines = [f"{'':18}" + "".join(f"{head:>24}" for head in ("A", "B", "A - B"))]
    for name, three in found.scores.items():
        star = " *" if three[2].excludes_zero else ""
        lines.append(f"{name:18}" + "".join(f"{interval!s:>24}" for interval in three) + star)
    lines.append(f"{found.num} images each, {found.resamples} resamples; * the 95 % interval excludes 0")
    lines += [f"{side}: {name}" for side, name in zip("AB", names, strict=True)]
    return "\n".join(lines)


def _write(
    out: Path,
    names: tuple[str, str],
    pair: Sequence[TrainedGenerator],
    drawn: Sequence[GeneratedImages],
    found: Comparison,
) -> None:
    shown = _distinct(names)
    sections = [
        ("Scores", _score_section(found, shown)),
        ("Samples", _picture_section(out, shown, pair, drawn)),
        ("Settings that differ", _setting_section(shown, pair)),
    ]
    text = frame(" and ".join(shown), "A comparison of two drifting generative models", sections)
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(out) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _distinct(names: tuple[str, str]) -> list[str]:
    """The last parts of two references, or all of them where those are the same."""
    short = [name.rstrip("/").rpartition("/")[2] for name in names]
    return short if short[0] != short[1] else [f"{name} ({side})" for name, side in zip(names, "AB", strict=True)]


def _score_section(found: Comparison, names: Sequence[str]) -> str:
    rows = []
    for name, three in found.scores.items():
        cells = "".join(f'<td class="n" data-value="{interval.value}">{interval}</td>' for interval in three)
        verdict = "clear" if three[2].excludes_zero else "within the interval"
        rows.append(f'<tr><th scope="row">{escape(TITLES[name])}</th>{cells}<td>{verdict}</td></tr>')
    lead = (
        f"{found.num:,} images of each at the same seeds and classes. 95 % intervals over the images, from "
        f"{found.resamples} resamples: they say nothing of what another training would give."
    )
    return f'<p class="lead">{lead}</p>{table(["Score", *names, "Difference", ""], rows, "scores", text=1)}'


def _picture_section(
    out: Path, names: Sequence[str], pair: Sequence[TrainedGenerator], drawn: Sequence[GeneratedImages]
) -> str:
    classes = min(len(pair[0].usage.class_names), GRID_CLASSES)
    labels = np.repeat(np.arange(classes, dtype=np.int32), GRID_COLUMNS)
    figures: list[str] = []
    for name, images in zip(names, drawn, strict=True):
        grid = images.of(labels)
        levels = grid.part(range(len(labels))).astype(np.float32) / np.float32(127.5) - 1
        path = out.with_name(f".{out.name}.{len(figures)}.png")
        try:
            save_grid(levels, path, GRID_COLUMNS)
            shown = image(path, f"Samples of {name}, a class each row")
        finally:
            path.unlink(missing_ok=True)
        alpha = images.facts["alpha"]
        about = f"alpha {alpha:g}, step {images.facts['step']}"
        caption = f"<figcaption><strong>{escape(name)}</strong><br>{about}</figcaption>"
        figures.append(f"<figure>{shown}{caption}</figure>")
    lead = "An image has the same place, class and noise in both."
    return f'<p class="lead">{lead}</p><div class="pair">{"".join(figures)}</div>'


def _setting_section(names: Sequence[str], pair: Sequence[TrainedGenerator]) -> str:
    configs: dict[str, Any] = {}
    for name, trained in zip(names, pair, strict=True):
        settings = to_dict(trained.config) if trained.config else {"model": trained.arguments}
        configs[name] = json.loads(json.dumps(settings))
    if any(trained.config is None for trained in pair):
        return '<p class="lead">Published weights do not come with the settings of their training.</p>'
    return settings_table(configs)
