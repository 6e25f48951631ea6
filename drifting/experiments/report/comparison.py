"""The page of a comparison: scores with intervals, pictures and settings of two generators side by side."""

import json
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from drifting.config.schema import to_dict
from drifting.data.source import to_float
from drifting.errors import counted
from drifting.experiments.report.elements import image, score_title, settings_table, table
from drifting.experiments.report.page import page_html
from drifting.runs.files import atomic_path
from drifting.sampling.generator import TrainedGenerator
from drifting.sampling.grid import save_grid
from drifting.sampling.images import GeneratedImages
from drifting.sampling.labels import titles
from drifting.scoring.intervals import Comparison, Interval

COMPARED_COLUMNS, COMPARED_CLASSES = 10, 10


def write_comparison(
    out: Path,
    names: tuple[str, str],
    pair: Sequence[TrainedGenerator],
    drawn: Sequence[GeneratedImages],
    found: Comparison,
) -> None:
    """Writes the page, whole or not at all.

    Args:
        out: the file.
        names: what the person called the two.
        pair: the two generators.
        drawn: images of each at the same seeds, of which others are drawn for the pictures.
        found: their scores.
    """
    shown = _distinct(names)
    sections = [
        ("Scores", _score_section(found, shown)),
        ("Samples", _picture_section(out, shown, pair, drawn)),
        ("Settings that differ", _setting_section(shown, pair)),
    ]
    text = page_html(" and ".join(shown), "A comparison of two drifting generative models", sections)
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(out) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # names of files may be no text


def _distinct(names: tuple[str, str]) -> list[str]:
    """The last parts of two references, or all of them where those are the same."""
    short = [name.rstrip("/").rpartition("/")[2] for name in names]
    return short if short[0] != short[1] else [f"{name} ({side})" for name, side in zip(names, "AB", strict=True)]


def _score_section(found: Comparison, names: Sequence[str]) -> str:
    heads, rows = [*names, "Difference"], []
    for name, three in found.scores.items():
        cells = [
            f'<td class="n" data-label="{escape(head)}" data-value="{interval.value}">{_shown(interval)}</td>'
            for head, interval in zip(heads, three, strict=True)
        ]
        verdict = f'<td class="n" data-label="Verdict">{_verdict(three[2])}</td>'
        rows.append(f'<tr><th scope="row">{escape(score_title(name))}</th>{"".join(cells)}{verdict}</tr>')
    same = all(_is_nothing(three[2]) for three in found.scores.values())
    lead = (
        f"{counted(found.num, 'image')} of each at the same seeds and classes. 95 % intervals over the images, from "
        f"{counted(found.resamples, 'resample')}: they say nothing of what another training would give."
        f"{' The two draw images of the same scores, to the last digit.' if same else ''}"
    )
    shown = table(["Score", *heads, "Verdict"], rows, "scores", text=1, stack=True)
    return f'<p class="lead">{lead}</p>{shown}'


def _is_nothing(difference: Interval) -> bool:
    return difference.value == 0 and difference.half == 0


def _shown(interval: Interval) -> str:
    return "0" if _is_nothing(interval) else str(interval)


def _verdict(difference: Interval) -> str:
    if _is_nothing(difference):
        return "the same"
    if math.isnan(difference.half):
        return "no interval"
    return "clear" if difference.excludes_zero else "within the interval"


def _picture_section(
    out: Path, names: Sequence[str], pair: Sequence[TrainedGenerator], drawn: Sequence[GeneratedImages]
) -> str:
    classes = min(len(pair[0].usage.class_names), COMPARED_CLASSES)
    labels = np.repeat(np.arange(classes, dtype=np.int32), COMPARED_COLUMNS)
    figures: list[str] = []
    for name, images in zip(names, drawn, strict=True):
        grid = images.of(labels)
        path = out.with_name(f".{out.name}.{len(figures)}.png")
        try:
            shown_images = to_float(grid.part(range(len(labels))))
            save_grid(shown_images, path, COMPARED_COLUMNS, names=titles(range(classes), pair[0].usage.class_names))
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
    configs = {name: _settings_of(trained) for name, trained in zip(names, pair, strict=True)}
    unknown = [name for name, config in configs.items() if config is None]
    if unknown:
        return f'<p class="lead">{escape(" and ".join(unknown))} came without the settings of the training.</p>'
    return settings_table({name: config for name, config in configs.items() if config is not None})


def _settings_of(trained: TrainedGenerator) -> dict[str, Any] | None:
    """The settings of the training: a run's own, or those that came with published weights."""
    if trained.config is None:
        found = trained.facts.get("settings")
        return found if isinstance(found, dict) else None
    plain: dict[str, Any] = json.loads(json.dumps(to_dict(trained.config)))
    return plain
