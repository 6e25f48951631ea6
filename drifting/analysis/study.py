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

from drifting.analysis import plots
from drifting.config import ConfigError, StudyRun, to_dict
from drifting.fields import FIELDS
from drifting.kernels import KERNELS
from drifting.losses import LOSSES
from drifting.monitor import atomic_path
from drifting.validate import SEED_LIMIT, one_of, require

Cell = str | int | float
NAMES: dict[str, Iterable[str]] = {
    "kernel": KERNELS,
    "kernels": KERNELS,
    "field": FIELDS,
    "fields": FIELDS,
    "objective": {**LOSSES, **FIELDS},
    "objectives": {**LOSSES, **FIELDS},
}
"""Settings that name entries of a registry, in every study."""
SHOWN = 12
"""Columns that a table printed may have."""


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
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Result:
    """What a study found. Attributes:

    table: the numbers, one row for each thing measured.
    claims: what the papers say, and whether it holds here.
    figures: by file name, `figure.png` first; animations are lists of pictures, named `.gif`.
    more: further tables, by file name.
    """

    table: Table
    claims: Sequence[Claim]
    figures: Mapping[str, Figure | plots.Animation]
    more: Mapping[str, Table] = field(default_factory=dict)


def run_study(name: str, settings: StudyRun, out: Path, **arguments: Any) -> Result:
    """Runs the study `name`, prints its table and claims, and writes everything to `out`.

    Args:
        name: a key of `STUDIES`. settings: an instance of its entry. out: folder, made if need be.
        arguments: passed on to the study's `run`.

    Raises:
        ConfigError: a setting that cannot be.
    """
    check_settings(to_dict(settings)["study"])
    require(not out.is_file(), "--out", str(out), "is a file: give a folder")
    result: Result = importlib.import_module(f"drifting.analysis.{name}").run(settings, **arguments)
    write(result, name, settings, out)
    show(result, name)
    return result


def check_settings(section: Mapping[str, Any]) -> None:
    """Raises `ConfigError` unless numbers are positive and finite, tuples not empty and names known."""
    for key, value in section.items():
        values = value if isinstance(value, tuple) else (value,)
        require(len(values) > 0 or key == "widths", f"study.{key}", value, "give at least one")
        for one in values:
            if one is None:
                continue
            if key in NAMES:
                one_of(f"study.{key}", one, NAMES[key])
            elif key == "seed":
                require(0 <= one < SEED_LIMIT, "study.seed", one, "a seed lies in [0, 2^32)")
            elif isinstance(one, int | float) and not isinstance(one, bool):
                require(0 < one < math.inf, f"study.{key}", value, "use a positive number")


def write(result: Result, name: str, settings: StudyRun, out: Path) -> None:
    """Writes `table.csv`, `result.json` (settings, table, claims) and the figures to the folder `out`."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out={str(out)!r}: {error.strerror}") from error
    for file, table in {"table.csv": result.table, **result.more}.items():
        with atomic_path(out / file) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([table.columns, *table.rows])
    content = {
        "study": name,
        "settings": to_dict(settings),
        "claims": [dataclasses.asdict(claim) | {"holds": claim.holds} for claim in result.claims],
        "table": [dict(zip(result.table.columns, row, strict=True)) for row in result.table.rows],
    }
    with atomic_path(out / "result.json") as temporary:
        temporary.write_text(json.dumps(content, indent=2, default=float) + "\n", encoding="utf-8")
    for file, figure in result.figures.items():
        plots.save(figure, out / file)


def show(result: Result, name: str, console: Console | None = None) -> None:
    """Prints the tables and the claims."""
    console = console or Console(width=None if Console().is_terminal else 118)
    for title, table in {name: result.table, **result.more}.items():
        if len(table.columns) > SHOWN:
            continue  # too wide for a terminal; it is in its file
        console.print(_rich(title.removesuffix(".csv"), table))
    rows = [(claim.text, claim.value, claim.wanted, "yes" if claim.holds else "NO") for claim in result.claims]
    if rows:
        console.print(_rich("claims", Table(("claim", "measured", "expected", "holds"), rows)))


def _rich(title: str, table: Table) -> RichTable:
    rich = RichTable(title=title, title_justify="left", header_style="bold")
    for i, column in enumerate(table.columns):
        numbers = any(not isinstance(row[i], str) for row in table.rows)
        rich.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in table.rows:
        rich.add_row(*(cell if isinstance(cell, str) else _number(cell) for cell in row))
    return rich


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.3g}"


def loglog_slope(x: ArrayLike, y: ArrayLike) -> float:
    """Slope of the least-squares line through `log y` against `log x`."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])
