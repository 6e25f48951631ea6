"""Two generators at the same seeds: scores with intervals over the images, on a page with pictures and settings."""

import re
from collections.abc import Sequence
from pathlib import Path

from drifting.config.paths import impossible, is_address, is_place
from drifting.config.schema import Config
from drifting.errors import ConfigError, InputError, counted, require, require_argument
from drifting.experiments.report.comparison import write_comparison
from drifting.runs.directory import CONFIG_FILE
from drifting.runs.files import exists
from drifting.runs.places import place
from drifting.sampling.generator import TrainedGenerator
from drifting.sampling.images import GeneratedImages
from drifting.sampling.labels import balanced_labels
from drifting.scoring.evaluate import judge_of
from drifting.scoring.intervals import Comparison, intervals


def compare_generators(
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
        reference, encoder: what the first one is scored against, see `judge_of`.
        num, alpha, seed: images of each, guidance scale, seed of the first; None: the first one's `eval`, and each
            one's own scale.
        resamples: see `intervals`.

    Raises:
        ConfigError: one cannot be had, they draw different things, or `num` is too small.
    """
    pair = [_open(side, name) for side, name in (("A", first), ("B", second))]
    for what in ("image_shape", "class_names"):
        a, b = (list(getattr(trained.usage, what)) for trained in pair)
        require(a == b, "B", second, f"its {what} differ from those of {first}: {b[:3]} and {a[:3]}")
    evaluation = (pair[0].config or Config()).eval
    num, seed = evaluation.num_samples if num is None else num, evaluation.seed if seed is None else seed
    k = evaluation.neighbours
    require_argument(num > k, "num", num, f"must exceed eval.neighbours={k}")
    labels = balanced_labels(num, len(pair[0].usage.class_names))
    drawn = [
        GeneratedImages(trained, labels, source=name, seed=seed, alpha=trained.alpha(alpha))
        for trained, name in zip(pair, (first, second), strict=True)
    ]
    judge = judge_of(pair[0].config, pair[0].facts, first, drawn[0].shape, k, reference, encoder)
    for images in drawn:
        images.tell()
    sides = [judge.side(images, name) for images, name in zip(drawn, (first, second), strict=True)]
    found = intervals(sides, judge.real, neighbours=k, seed=seed, name=judge.name, resamples=resamples)
    write_comparison(out, (first, second), pair, drawn, found)
    return found


def _open(side: str, name: str) -> TrainedGenerator:
    """What a person named as A or B."""
    if not is_address(name) and (reason := impossible(name)):
        raise ConfigError(f"{side}={name}: {reason}")
    try:
        path = place(name) if is_place(name) else None
        if path is not None and exists(path / CONFIG_FILE):
            return TrainedGenerator.from_run(path)
        return TrainedGenerator.from_weights(name)
    except (ConfigError, InputError) as error:  # its message may begin with the name
        reason = re.sub(rf"^\S*{re.escape(name)}'?: ", "", str(error))
        raise ConfigError(f"{side}={name}: {reason}") from error


def comparison_table(found: Comparison, names: Sequence[str]) -> str:
    """The scores as text; a star where the interval of the difference excludes zero."""
    lines = [f"{'':18}" + "".join(f"{head:>24}" for head in ("A", "B", "A - B"))]
    for name, three in found.scores.items():
        star = " *" if three[2].excludes_zero else ""
        lines.append(f"{name:18}" + "".join(f"{interval!s:>24}" for interval in three) + star)
    resamples = counted(found.resamples, "resample")
    lines.append(f"{counted(found.num, 'image')} each, {resamples}; * the 95 % interval excludes 0")
    lines += [f"{side}: {name}" for side, name in zip("AB", names, strict=True)]
    return "\n".join(lines)
