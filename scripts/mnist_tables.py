"""The tables of the results on MNIST: what docs/results/mnist.csv holds, and what docs/results.md shows of it."""

import csv
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.sweeps.mnist_recipe import BEST, CHANGES
from drifting.errors import ConfigError
from drifting.experiments.grid import SweepCell
from drifting.experiments.report.data import SweepData, read_folder
from drifting.runs.files import atomic_path
from scripts.chip.machine import commit, host

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"

PAGE = RESULTS.parent / "results.md"

SECTION = "\n## MNIST\n"

README, README_SECTION = RESULTS.parents[1] / "README.md", "# drifting\n"

TABLE, CURVES = RESULTS / "mnist.csv", RESULTS / "mnist_curves.csv"

SCORES = (
    "frechet_distance", "precision", "recall", "f1", "density", "coverage", "kid", "classifier_accuracy",
)  # fmt: skip

CELL = ("objective", "kernel", "width", "seed")
"""What tells cells apart."""

COLUMNS = (*CELL, "steps", *SCORES, "gap", "collapse", "seconds", "commit", "machine", "command")

CURVE_COLUMNS = (*CELL, "step", "gap", "frechet_distance")

RECIPES = RESULTS / "mnist_recipe.csv"

RECIPE_COLUMNS = ("recipe", "seed", "steps", *SCORES, "seconds", "commit", "machine", "command")

BEST_RECIPE = "`best_cpu`"
"""The name of the recipe from which the others are one step away."""

REAL = "real"
"""The objective's place of the row of the test set: what a perfect generator gets."""

TITLES = {
    ("log_kde", "gaussian"): "log-KDE-Gauss#",
    ("log_kde", "laplace"): "log-KDE-Laplace#",
    ("mean_shift", "laplace"): "mean shift, Laplace",
    ("drift", "gaussian"): "two-axis drift, Gauss",
    ("drift", "laplace"): "two-axis drift, Laplace",
}
"""The objectives in the order of the tables."""

PUBLISHED = {
    ("log_kde", "gaussian"): ("6.81 (0.2)", "0.57"),
    ("log_kde", "laplace"): ("17.48 (0.1)", "0.36"),
    ("mean_shift", "laplace"): ("10.68 (0.05)", "0.52"),
    ("drift", "gaussian"): ("20.38 (0.25)", "0.28"),
    ("drift", "laplace"): ("48.34 (0.05)", "0.02"),
}
"""FID-50k and width, and F1: "Drifting Fields are not Conservative", Table 2."""

Row = Mapping[str, str]


def about() -> dict[str, Any]:
    """By which code rows are measured, and on what."""
    return {"commit": commit(), "machine": host()}


def read_sweep(workdir: Path) -> SweepData:
    """The sweep in a folder.

    Raises:
        DriftingError: there is none.
    """
    found = read_folder(workdir)
    if not isinstance(found, SweepData):
        raise ConfigError(f"workdir={workdir}: holds a run: give the folder of the sweep")
    return found


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes a table, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _shown(value) for name, value in row.items()} for row in rows)


def _shown(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


def cells(rows: Iterable[Row]) -> dict[tuple[str, str], dict[str, list[Row]]]:
    """Rows by objective and then by width, in the order of the tables."""
    found: dict[tuple[str, str], dict[str, list[Row]]] = {objective: {} for objective in TITLES}
    for row in rows:
        if row["objective"] != REAL:
            found[row["objective"], row["kernel"]].setdefault(row["width"], []).append(row)
    ordered = {objective: dict(sorted(by.items(), key=lambda item: float(item[0]))) for objective, by in found.items()}
    return {objective: by for objective, by in ordered.items() if by}


def best_widths(rows: Iterable[Row]) -> dict[tuple[str, str], str]:
    """The width of each objective with the lowest distance at seed 0."""
    best = {}
    for objective, by_width in cells(rows).items():
        first = {width: row for width, rows in by_width.items() for row in rows if row["seed"] == "0"}
        if first:
            best[objective] = min(first, key=lambda width: float(first[width]["frechet_distance"]))
    return best


def spread(rows: Sequence[Row], name: str, places: int) -> str:
    """The mean of a score over the seeds and, of several, its standard deviation."""
    values = [float(row[name]) for row in rows]
    mean = f"{statistics.mean(values):.{places}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{places}f}"


BEST_COLUMNS = (
    "objective", "width", "seeds", "distance", "precision", "recall", "F1", "density", "coverage", "accuracy",
    "published FID", "published F1",
)  # fmt: skip


def best_table(rows: Sequence[Row]) -> str:
    """Each objective at its best width, over all seeds there, beside the test set and the published scores."""
    lines = [
        f"| {' | '.join(BEST_COLUMNS)} |",
        "|---" * len(BEST_COLUMNS) + "|",
    ]
    found, names = cells(rows), [name for name in SCORES if name != "kid"]
    for objective, width in best_widths(rows).items():
        of = found[objective][width]
        shown = [spread(of, name, 3) for name in names]
        about = [TITLES[objective], width, str(len(of)), *shown, *PUBLISHED[objective]]
        lines.append(f"| {' | '.join(about)} |")
    for row in rows:
        if row["objective"] == REAL:
            shown = [spread([row], name, 3) for name in names]
            lines.append(f"| real test images | | | {' | '.join(shown)} | | |")
    return "\n".join(lines)


def width_table(rows: Sequence[Row]) -> str:
    """The distance of each objective at each width, seed 0."""
    found = cells(rows)
    widths = sorted({width for by_width in found.values() for width in by_width}, key=float)
    lines = [f"| width | {' | '.join(widths)} |", "|---" * (len(widths) + 1) + "|"]
    for objective, by_width in found.items():
        first = {width: [row for row in rows if row["seed"] == "0"] for width, rows in by_width.items()}
        shown = [spread(first[width], "frechet_distance", 3) if first.get(width) else "" for width in widths]
        lines.append(f"| {TITLES[objective]} | {' | '.join(shown)} |")
    return "\n".join(lines)


TABLES = (best_table, width_table)
"""Those of the sweep over kernel widths."""


def recipe_of(cell: SweepCell) -> str:
    """Which recipe a cell has, by its name in the table."""
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in cell.values.items()}
    del values["train.seed"]
    changes: dict[str, dict[str, Any]] = {BEST_RECIPE: {}, **CHANGES}
    return next(name for name, change in changes.items() if BEST | change == values)


def recipe_table(rows: Sequence[Row]) -> str:
    """Each recipe, over all seeds it was run with."""
    names = [name for name in SCORES if name != "kid"]
    titles = ["distance", *BEST_COLUMNS[4:-2]]
    lines = [f"| recipe | seeds | steps | {' | '.join(titles)} | seconds |", "|---" * (len(titles) + 4) + "|"]
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["recipe"], []).append(row)
    for recipe, of in found.items():
        shown = [spread(of, name, 3) for name in names]
        lines.append(f"| {recipe} | {len(of)} | {of[0]['steps']} | {' | '.join(shown)} | {spread(of, 'seconds', 0)} |")
    return "\n".join(lines)


def short_table(rows: Sequence[Row]) -> str:
    """Each objective at its best width in a few columns: that of the README."""
    lines = ["| loss | kernel width | distance to MNIST | F1 | published FID-50k (width) |", "|---" * 5 + "|"]
    found = cells(rows)
    for objective, width in best_widths(rows).items():
        shown = [spread(found[objective][width], name, 2) for name in ("frechet_distance", "f1")]
        lines.append(f"| {' | '.join([TITLES[objective], width, *shown, PUBLISHED[objective][0]])} |")
    for row in rows:
        if row["objective"] == REAL:
            shown = [spread([row], name, 2) for name in ("frechet_distance", "f1")]
            lines.append(f"| real test images | | {' | '.join(shown)} | |")
    return "\n".join(lines)


def put_tables(path: Path, heading: str, tables: Iterable[str]) -> None:
    """Puts tables into a page, see `with_tables`; it is written whole or not at all."""
    text = with_tables(path.read_text(encoding="utf-8"), heading, tables)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def with_tables(page: str, heading: str, tables: Iterable[str]) -> str:
    """The page with these tables in its first section below `heading`, each in the place of the one that begins so.

    Raises:
        ConfigError: the section is not there, or has not one table that begins so.
    """
    before, heading, rest = page.partition(heading)
    section, following, after = rest.partition("\n## ")
    for table in tables:
        first = re.escape(table.partition(" | ")[0])
        old = re.findall(rf"^{first} \|.*\n(?:\|.*\n)*", section, flags=re.MULTILINE)
        if len(old) != 1:
            raise ConfigError(f"below {heading.strip()!r} there are {len(old)} tables like {table.splitlines()[0]!r}")
        section = section.replace(old[0], f"{table}\n")
    return f"{before}{heading}{section}{following}{after}"


def compare(row: Row, rows: Sequence[Row]) -> tuple[str, bool]:
    """What a cell that was run again comes to, and whether that lies within the spread of the table.

    The spread of a score is its range over the seeds at that width, to both sides of what the table says of this seed.

    Raises:
        ConfigError: the table has not this cell, or has not several seeds of its width.
    """
    seeds = [old for old in rows if all(old[name] == str(row[name]) for name in CELL[:3])]
    before = next((old for old in seeds if old["seed"] == str(row["seed"])), None)
    if before is None or len(seeds) < 2:
        raise ConfigError(f"{TABLE.name}: has no spread for {' '.join(str(row[name]) for name in CELL)}")
    lines, fits = [f"{'score':20}{'here':>10}{'table':>10}{'spread':>10}"], True
    for name in ("frechet_distance", "f1", "coverage", "classifier_accuracy"):
        values = [float(old[name]) for old in seeds]
        width, here, there = max(values) - min(values), float(row[name]), float(before[name])
        within = abs(here - there) <= width
        fits &= within
        lines.append(f"{name:20}{here:10.4f}{there:10.4f}{width:10.4f}{'' if within else '  outside'}")
    return "\n".join(lines), fits
