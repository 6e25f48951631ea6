"""The elements that pages are made of: tables, tiles, pictures, switches, settings; each a piece of HTML."""

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from drifting.experiments.report.charts import number
from drifting.experiments.report.data import picture, short
from drifting.runs.directory import config_differences
from drifting.scoring.metrics import HELDOUT_SUFFIX, known_scores

FACT_TITLES = {
    "alpha": "Guidance scale",
    "num": "Images",
    "step": "Step",
    "seed": "First seed of the images",
}
"""What stands beside scores and is none."""

COLUMN_RUNS = 3
"""The most runs whose settings stand in columns."""


def score_title(key: str) -> str:
    """A score's name for a person; of what is no score, the key."""
    name = key.removesuffix(HELDOUT_SUFFIX)
    if score := known_scores().get(name):
        return score.title if name == key else f"{score.title}, held-out"
    return FACT_TITLES.get(key, key)


def heldout_note(name: str, value: float, heldout: float | None) -> str:
    """How a score compares with that of held-out real images; '' where that is not known."""
    if heldout is None:
        return ""
    beside = f"held-out {number(heldout)}"
    distance = known_scores()[name].better == "lower" and value > heldout > 0
    return f"{value / heldout:.3g} × {beside}" if distance else beside


def tiles(tiles: Iterable[tuple[str, str, str]]) -> str:
    """Names, values and notes as tiles."""
    items = (
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}{f'<small>{escape(note)}</small>' if note else ''}</dd></div>"
        for name, value, note in tiles
    )
    return f'<dl class="tiles">{"".join(items)}</dl>'


def table(
    heads: Sequence[str], rows: Iterable[str], name: str, text: int, sort: bool = False, stack: bool = False
) -> str:
    """A table that scrolls by itself where it is too wide; its first `text` columns hold words.

    `stack`: on a phone each row becomes a block, whose cells are called by their `data-label`.
    """
    cells = []
    for i, head in enumerate(heads):
        label = f'<button type="button">{escape(head)}</button>' if sort else escape(head)
        cells.append(f'<th scope="col"{"" if i < text else " class=n"}>{label}</th>')
    style = ' class="stack"' if stack else ""
    scroll = f'<div class="scroll" tabindex="0" role="region" aria-label="Table: {escape(name)}">'
    return f'{scroll}<table{style} data-table="{escape(name)}"><thead><tr>{"".join(cells)}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'  # noqa: E501


def number_cell(key: str, value: Any, note: str = "") -> str:
    """A table's cell that holds a number: shown rounded, kept whole; `note` stands beside it."""
    if value is None or value == "":
        return f'<td class="n" data-key="{escape(key)}" data-value=""></td>'
    shown = f"{value:,}" if isinstance(value, int) else number(float(value))
    small = f"<small>{escape(note)}</small>" if note else ""
    return f'<td class="n" data-key="{escape(key)}" data-value="{value}">{shown}{small}</td>'


def text_cell(text: str, style: str = "") -> str:
    """A table's cell that holds words."""
    return f"<td{f' class={style}' if style else ''}>{escape(text)}</td>"


def switch(name: str, choices: Sequence[str], panels: Sequence[str]) -> str:
    """Radio buttons of which each shows one panel; they work without the script."""
    inputs = "".join(
        f'<input type="radio" name="{name}" id="{name}-{i}"{" checked" if not i else ""}><label for="{name}-{i}">{escape(choice)}</label>'  # noqa: E501
        for i, choice in enumerate(choices)
    )
    shown = "".join(f'<div class="panel">{panel}</div>' for panel in panels)
    return f'<fieldset class="switch"><legend class="lead">Metric</legend>{inputs}{shown}</fieldset>'


def image(path: Path, text: str) -> str:
    """An image file inside the page, with what it shows in words, and the names of its rows beside them.

    Of a file that is damaged it is the words alone.
    """
    try:
        found = picture(path)
    except (OSError, SyntaxError):  # Pillow's kinds of a damaged file
        return f'<p class="lead">{escape(text)}: {escape(path.name)} cannot be read</p>'
    shown = f'<img src="{found.source}" width="{found.width}" height="{found.height}" alt="{escape(text)}">'
    if not found.names:
        return shown
    names = "".join(f'<li title="{escape(name)}"><span>{escape(name)}</span></li>' for name in found.names)
    return f'<div class="rows"><ol aria-label="Rows">{names}</ol>{shown}</div>'


def settings_table(configs: Mapping[str, dict[str, dict[str, Any]]]) -> str:
    """Settings in which runs differ, a row for each run or each setting, and folded away those that are the same."""
    differing = config_differences(configs)
    equal = details("Equal settings", _without(next(iter(configs.values())), differing))
    if len(configs) <= COLUMN_RUNS:  # a column for each run reads better on any screen
        heads, names = ["Setting", *configs], list(differing)
        cells = [[values[name] for name in configs] for values in differing.values()]
    else:
        heads, names = ["Run", *differing], list(configs)
        cells = [[values[name] for values in differing.values()] for name in configs]
    rows = []
    for name, values in zip(names, cells, strict=True):
        labelled = (
            f'<td data-label="{escape(head)}">{escape(short(value))}</td>'
            for head, value in zip(heads[1:], values, strict=True)
        )
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{"".join(labelled)}</tr>')
    return table(heads, rows, "settings", text=len(heads), stack=True) + equal


def _without(config: Mapping[str, Mapping[str, Any]], keys: Iterable[str]) -> dict[str, dict[str, Any]]:
    left_out = set(keys)
    return {s: {k: v for k, v in kept.items() if f"{s}.{k}" not in left_out} for s, kept in config.items()}


def details(title: str, content: Any) -> str:
    """Settings, folded away."""
    text = escape("\n".join(f"{s:10} {json.dumps(kept)}" for s, kept in content.items()))
    return f'<details><summary>{escape(title)}</summary><pre tabindex="0">{text}</pre></details>'
