"""What every study gives back, and how it is checked, shown and written."""

import csv
import dataclasses
import importlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jax.typing import ArrayLike
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table as RichTable

from drifting.config.schema import StudyRun, to_dict
from drifting.errors import ArgumentError, InputError, counted, one_of, require_argument
from drifting.method.fields import FIELDS
from drifting.method.kernels import KERNELS
from drifting.method.potentials import LOSSES
from drifting.runs.files import atomic_path, read_json
from drifting.studies import plots
from drifting.studies.settings import check_study_numbers

TableCell = str | int | float | None  # None: does not apply

KNOWN_NAMES: dict[str, Iterable[str]] = {
    "kernel": KERNELS,
    "kernels": KERNELS,
    "field": FIELDS,
    "fields": FIELDS,
    "objective": {**LOSSES, **FIELDS},
    "objectives": {**LOSSES, **FIELDS},
}
"""Settings that name entries of a registry, in every study."""

RESULT_FILE = "result.json"
"""Holds what a study was, its claims and its table."""

PRINTED_ROWS = 24
"""The most rows of a table that are printed; its file has all."""


@dataclass(frozen=True)
class Claim:
    """A sentence of a paper as a number and the interval it should lie in."""

    text: str
    value: float
    low: float = -math.inf
    high: float = math.inf

    @property
    def holds(self) -> bool:
        """Whether the number lies in the interval; NaN does not."""
        return self.low <= self.value <= self.high

    @property
    def wanted(self) -> str:
        """The interval in words."""
        if self.low == -math.inf:
            return f"<= {self.high:g}"
        return f">= {self.low:g}" if self.high == math.inf else f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Table:
    """Rows of text and numbers under named columns."""

    columns: Sequence[str]
    rows: Sequence[Sequence[TableCell]]

    def of(self, *columns: str) -> list[tuple[TableCell, ...]]:
        """The rows of these columns alone."""
        places = [list(self.columns).index(column) for column in columns]
        return [tuple(row[place] for place in places) for row in self.rows]


@dataclass(frozen=True)
class Result:
    """What a study found. Attributes:

    table: the numbers, one row for each thing measured.
    claims: what the papers say, and whether it holds here.
    figures: by file name, `figure.png` first; animations are lists of pictures, named `.gif`.
    more: further tables, by file name.
    full: a table too wide to print, for `all.csv`.
    """

    table: Table
    claims: Sequence[Claim]
    figures: Mapping[str, Figure | plots.Animation]
    more: Mapping[str, Table] = field(default_factory=dict)
    full: Table | None = None


def run_study(name: str, settings: StudyRun, out: Path, **arguments: Any) -> Result:
    """Runs the study `name`, prints its table and claims, and writes everything to `out`.

    Args:
        name: a key of `STUDIES`.
        settings: an instance of its entry.
        out: the folder; it is made if need be.
        arguments: they are passed on to the study's `run`.

    Raises:
        ConfigError: a setting or an argument cannot be.
    """
    check_study(to_dict(settings)["study"])
    check_results_folder(out, name)
    result: Result = importlib.import_module(f"drifting.studies.{name}").run(settings, **arguments)
    write(result, name, settings, out)
    show(result, name)
    return result


def check_results_folder(out: Path, name: str) -> None:
    """Checks that the study `name` may write to a folder, which is not that of a run, a sweep or another study.

    Every folder that a command writes holds a JSON file that says what it is.

    Raises:
        ArgumentError: it is a file, or holds something else.
    """
    require_argument(out.is_dir() or not out.exists(), "out", out, "is a file: give a folder")
    described, remedy = sorted(path.name for path in out.glob("*.json")), "give a new folder"
    others = [file for file in described if file != RESULT_FILE]
    require_argument(not others, "out", out, f"holds something else ({', '.join(others[:4])}); {remedy}")
    if not described:
        overwritten = [file for file in ("table.csv", "figure.png") if (out / file).exists()]
        require_argument(not overwritten, "out", out, f"has a {' and a '.join(overwritten)} of its own; {remedy}")
        return
    try:
        other = read_json(out / RESULT_FILE).get("study")
    except InputError as error:
        raise ArgumentError("out", out, f"holds a {RESULT_FILE} that is no study's; {remedy}") from error
    require_argument(other == name, "out", out, f"holds the study {other}; {remedy}")


def check_study(section: Mapping[str, Any]) -> None:
    """Raises `ConfigError` unless numbers are positive and finite, tuples not empty and names known."""
    check_study_numbers(section)
    for key, value in section.items():
        for one in value if isinstance(value, tuple) else (value,):
            if one is None:
                continue
            if key in KNOWN_NAMES:
                one_of(f"study.{key}", one, KNOWN_NAMES[key])


def write(result: Result, name: str, settings: StudyRun, out: Path) -> None:
    """Writes `table.csv`, `result.json` (settings, table, claims) and the figures to the folder `out`.

    An open end of a claim's interval is null in JSON, and so is what is not a number.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArgumentError("out", out, str(error.strerror)) from error
    full = {"all.csv": result.full} if result.full else {}
    for file, table in {"table.csv": result.table, **result.more, **full}.items():
        with atomic_path(out / file) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([table.columns, *table.rows])
    content = {
        "study": name,
        "settings": to_dict(settings),
        "claims": [dataclasses.asdict(claim) | {"holds": claim.holds} for claim in result.claims],
        "table": [dict(zip(result.table.columns, row, strict=True)) for row in result.table.rows],
    }
    with atomic_path(out / RESULT_FILE) as temporary:
        text = json.dumps(_as_json(content), indent=2, default=float, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")
    for file, figure in result.figures.items():
        plots.save(figure, out / file)


def _as_json(value: Any) -> Any:
    """Puts null for infinities (of open intervals, say) and NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def show(result: Result, name: str, console: Console | None = None) -> None:
    """Prints the table, as many columns and rows as there is room for, where the other numbers are, and the claims."""
    console = console or Console(width=None if Console().is_terminal else 118)
    _print(console, name, result.table)
    others = [*result.more, *(["all.csv"] if result.full else [])]
    if others:
        console.print(f"more numbers: {', '.join(others)}")
    if result.claims:
        rich = RichTable("claim", title="claims", title_justify="left", header_style="bold")
        for column in ("measured", "expected", "holds"):
            rich.add_column(column, no_wrap=True, justify="left" if column == "holds" else "right")
        for claim in result.claims:
            rich.add_row(claim.text, _text(claim.value), claim.wanted, "yes" if claim.holds else "NO")
        console.print(rich)


def _print(console: Console, name: str, table: Table) -> None:
    """The columns that fit without a broken word and the first rows, and what is in the file alone."""
    rows = table.rows[:PRINTED_ROWS]
    cells = [[_text(row[i]) for row in rows] for i in range(len(table.columns))]
    widths = [max(map(len, (*name.split(), *column))) for name, column in zip(table.columns, cells, strict=True)]
    ends = np.cumsum(np.asarray(widths) + 3) + 1  # with a rule and a blank on each side
    shown = max(1, int(np.sum(ends <= console.width)))
    natural = [max(width, len(name)) + 3 for width, name in zip(widths, table.columns, strict=True)]
    broken = sum(natural[:shown]) + 1 > console.width
    rich = RichTable(header_style="bold")
    for i in range(shown):
        numbers = any(not isinstance(row[i], str) for row in table.rows)
        width = widths[i] if broken else None
        rich.add_column(table.columns[i], justify="right" if numbers else "left", width=width)
    for row in zip(*cells[:shown], strict=True):
        rich.add_row(*row)
    console.print(f"{name}:")
    console.print(rich)
    left = len(table.rows) - len(rows)
    more = [*([f"{counted(left, 'row')}"] if left else []), *table.columns[shown:]]
    if more:
        console.print(f"more in table.csv: {', '.join(more)}")


def _text(cell: TableCell) -> str:
    if cell is None:
        return ""
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)


def loglog_slope(x: ArrayLike, y: ArrayLike) -> float:
    """Slope of the least-squares line through `log y` against `log x`."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])
