"""The files of scores of a run, and the tables that show them; nothing here scores anything."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from drifting.errors import InputError, counted
from drifting.scoring.metrics import HELDOUT_SUFFIX, compared_scores, known_scores, rank
from drifting.scoring.metrics.metric import Score

EVAL_FILE = re.compile(r"eval-(\d+)\.json")

LEAST_COLUMN = 10
"""Characters of a table's narrowest column."""


def latest_scores(workdir: Path) -> dict[str, Any] | None:
    """What `drifting evaluate` found of a run at its latest step, the best guidance scale; None if it has not run.

    Returns:
        The scores, and `step seed uint8 data`; the best are those of the best rank, see `metrics.rank`.

    Raises:
        InputError: the file of that step holds no scores.
    """
    files = {int(match[1]): file for file in workdir.glob("eval-*.json") if (match := EVAL_FILE.fullmatch(file.name))}
    if not files:
        return None
    latest = files[max(files)]
    try:
        found = json.loads(latest.read_text(encoding="utf-8"))
        best: dict[str, Any] = min(found["scores"], key=rank)
    except (ValueError, KeyError, TypeError) as error:
        remedy = "remove it and run `drifting evaluate` again"
        raise InputError(f"{latest}: cannot be read as scores ({error!r}); {remedy}") from error
    return best | {key: found[key] for key in ("step", "seed", "uint8", "data") if key in found}


def score_table(scores: Sequence[dict[str, Any]]) -> str:
    """The scores of each guidance scale; against a run's own data, beside those of held-out real images."""
    if any(name.endswith(HELDOUT_SUFFIX) for name in scores[0]):
        return "\n\n".join(_heldout_table(one) for one in scores)
    shown = {name: score for name, score in compared_scores().items() if name in scores[0]}
    widths = [max(len(name), LEAST_COLUMN) + 2 for name in ("alpha", "images", *shown)]
    rows = [["alpha", "images", *shown]]
    for one in scores:
        alpha = f"{one['alpha']:g}" if "alpha" in one else "-"
        rows.append([alpha, f"{one['num']:,}", *(_text(one[name], score) for name, score in shown.items())])
    return "\n".join("".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)


def _heldout_table(scores: dict[str, Any]) -> str:
    lines = [f"{'':18}{'generated':>12}{'held-out':>12}"]
    known = known_scores()
    for name, score in compared_scores().items():
        if f"{name}{HELDOUT_SUFFIX}" in scores:
            lines.append(f"{name:18}{_text(scores[name], score):>12}{_text(scores[name + HELDOUT_SUFFIX], score):>12}")
    for ratio in (score.ratio for score in known.values() if score.ratio in scores):
        lines.append(f"{ratio:18}{_text(scores[ratio], known[ratio]):>12}{_text(1, known[ratio]):>12}")
    lines.append(f"{counted(scores['num'], 'image')}, alpha {scores['alpha']:g}")
    return "\n".join(lines)


def _text(value: float, score: Score) -> str:
    return f"{value:.{score.places}f}"
