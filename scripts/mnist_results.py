"""The results on MNIST: from the folder of the sweep to docs/results/ and the tables of docs/results.md.

    python -m scripts.mnist_results --workdir=runs/mnist      # docs/results/mnist*, and the tables of docs/results.md
    python -m scripts.mnist_results --check=runs/cell         # is a cell that was run again what the table says?

The header of `configs/sweeps/mnist.py` says what comes before. A sweep that is under way gives the cells that it has.
"""

import csv
import os
import platform
import re
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

from drifting.errors import ConfigError, DriftingError, counted
from drifting.runs.files import atomic_path

WORKDIR = flags.DEFINE_string("workdir", None, "folder of the sweep")

CHECK = flags.DEFINE_string("check", None, "folder of a run of one cell, which is compared with docs/results/mnist.csv")

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"

PAGE = RESULTS.parent / "results.md"

TABLE, CURVES = RESULTS / "mnist.csv", RESULTS / "mnist_curves.csv"

SCORES = (
    "frechet_distance", "precision", "recall", "f1", "density", "coverage", "kid", "classifier_accuracy",
)  # fmt: skip

CELL = ("objective", "kernel", "width", "seed")
"""What tells cells apart."""

COLUMNS = (*CELL, "steps", *SCORES, "gap", "collapse", "seconds", "commit", "machine", "command")

CURVE_COLUMNS = (*CELL, "step", "gap", "frechet_distance")

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
    ("log_kde", "gaussian"): "6.81 (0.2)",
    ("log_kde", "laplace"): "17.48 (0.1)",
    ("mean_shift", "laplace"): "10.68 (0.05)",
    ("drift", "gaussian"): "20.38 (0.25)",
    ("drift", "laplace"): "48.34 (0.05)",
}
"""FID-50k and width, "Drifting Fields are not Conservative", Table 2."""

Row = Mapping[str, str]


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


# --- from runs to rows ------------------------------------------------------------------------------------------------


def gather(workdir: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A row for each finished cell and one of the real test set, and the rows of the cells' curves.

    Raises:
        DriftingError: there is no sweep, or no cell of it is finished.
    """
    from drifting.experiments.grid import FINISHED, read_cells
    from drifting.experiments.report.data import SweepData, read_folder
    from scripts.chip.machine import commit

    found = read_folder(workdir)
    if not isinstance(found, SweepData):
        raise ConfigError(f"workdir={workdir}: holds a run: give the folder of the sweep")
    indices = {cell.name: cell.index for cell in read_cells(workdir)}
    about = {"commit": commit(), "machine": machine()}
    rows, curves, reference = [], [], ""
    for run in found.runs:
        cell = cell_of(run.config)
        if run.status != FINISHED or run.scores is None:
            continue
        command = f"drifting sweep --config=sweeps/mnist --workdir=runs/mnist --index={indices[run.name]}"
        last = run.metrics[-1]
        numbers = {name: run.scores[name] for name in SCORES} | {name: last[name] for name in ("gap", "collapse")}
        spent = {"steps": run.config["train"]["steps"], "seconds": round(run.seconds or 0)}
        rows.append(cell | numbers | spent | about | {"command": command})
        for line in run.metrics:
            if "eval/frechet_distance" in line and line["step"] > 1:
                curves.append(cell | {"step": int(line["step"]), "gap": line["gap"]})
                curves[-1]["frechet_distance"] = line["eval/frechet_distance"]
        reference = run.config["eval"]["reference"]
    if not rows:
        raise ConfigError(f"workdir={workdir}: no cell of the sweep is finished yet")
    command = "python -m scripts.mnist_results --workdir=runs/mnist"
    return [{"objective": REAL} | real_scores(Path(reference), workdir) | about | {"command": command}, *rows], curves


def cell_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What tells a run from the other cells."""
    loss = config["loss"]
    (width,) = loss["widths"]
    return dict(zip(CELL, (loss["objective"], loss["kernel"], f"{width:g}", config["train"]["seed"]), strict=True))


def real_scores(reference: Path, workdir: Path) -> dict[str, Any]:
    """The scores of the 10,000 test images against the same reference."""
    from drifting.data.sources.classic import mnist
    from drifting.scoring.evaluate import evaluate_files
    from drifting.scoring.image_sets import SourceImages

    images = SourceImages(mnist("data/mnist", "heldout"), {"images": "mnist, heldout"})
    found = evaluate_files(images, workdir / "real-test-images.json", reference)
    assert found is not None  # one process scores alone
    return found[0]


def machine() -> str:
    """What it was run on: system, architecture, cores."""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"


# --- from rows to tables ----------------------------------------------------------------------------------------------


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


def spread(rows: Sequence[Row], name: str, places: int = 2) -> str:
    """The mean of a score over the seeds and, of several, its standard deviation."""
    values = [float(row[name]) for row in rows]
    mean = f"{statistics.mean(values):.{places}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{places}f}"


BEST_COLUMNS = (
    "objective", "width", "seeds", "distance", "precision", "recall", "F1", "density", "coverage", "accuracy",
    "published FID",
)  # fmt: skip


def best_table(rows: Sequence[Row]) -> str:
    """Each objective at its best width, over all seeds there, beside the test set and the published FID."""
    lines = [
        f"| {' | '.join(BEST_COLUMNS)} |",
        "|---" * len(BEST_COLUMNS) + "|",
    ]
    found, names = cells(rows), ("precision", "recall", "f1", "density", "coverage", "classifier_accuracy")
    for objective, width in best_widths(rows).items():
        of = found[objective][width]
        shown = [spread(of, "frechet_distance"), *(spread(of, name, 3) for name in names)]
        about = [TITLES[objective], width, str(len(of)), *shown, PUBLISHED[objective]]
        lines.append(f"| {' | '.join(about)} |")
    for row in rows:
        if row["objective"] == REAL:
            shown = [spread([row], "frechet_distance"), *(spread([row], name, 3) for name in names)]
            lines.append(f"| real test images | | | {' | '.join(shown)} | |")
    return "\n".join(lines)


def width_table(rows: Sequence[Row]) -> str:
    """The distance of each objective at each width, seed 0."""
    found = cells(rows)
    widths = sorted({width for by_width in found.values() for width in by_width}, key=float)
    lines = [f"| width | {' | '.join(widths)} |", "|---" * (len(widths) + 1) + "|"]
    for objective, by_width in found.items():
        first = {width: [row for row in rows if row["seed"] == "0"] for width, rows in by_width.items()}
        shown = [spread(first[width], "frechet_distance") if first.get(width) else "" for width in widths]
        lines.append(f"| {TITLES[objective]} | {' | '.join(shown)} |")
    return "\n".join(lines)


TABLES = (best_table, width_table)


def with_tables(page: str, rows: Sequence[Row]) -> str:
    """The page with the tables of these rows in the places of those that it has, which begin as they do.

    Raises:
        ConfigError: it has none that begins so.
    """
    for make in TABLES:
        table = make(rows)
        first = re.escape(table.partition(" | ")[0])
        page, count = re.subn(
            rf"^{first} \|.*\n(\|.*\n)*", lambda _, table=table: f"{table}\n", page, flags=re.MULTILINE
        )
        if count != 1:
            raise ConfigError(f"{PAGE.name}: has {count} tables that begin with {table.splitlines()[0]!r}")
    return page


# --- a cell once more -------------------------------------------------------------------------------------------------


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


def check_run(folder: Path) -> bool:
    """Compares a run's scores with the table; prints the comparison."""
    from drifting.experiments.report.data import RunData, read_folder

    run = read_folder(folder)
    if not isinstance(run, RunData) or run.scores is None:
        raise ConfigError(f"check={folder}: holds no run that was scored: see the Makefile's results-check")
    text, fits = compare(cell_of(run.config) | run.scores, read_rows(TABLE))
    print(text)
    return fits


def main(_: list[str]) -> int:
    """Writes the results, or checks one. Exit code 1: a cell is not what the table says; 2: it cannot work."""
    try:
        if CHECK.value:
            return 0 if check_run(Path(CHECK.value)) else 1
        if not WORKDIR.value:
            raise ConfigError("workdir: give the folder of the sweep, or check=RUN")
        rows, curves = gather(Path(WORKDIR.value))
    except DriftingError as error:
        print(f"mnist_results: {error}", file=sys.stderr)
        return 2
    from scripts.mnist_figures import draw

    write_rows(TABLE, COLUMNS, rows)
    write_rows(CURVES, CURVE_COLUMNS, curves)
    table = read_rows(TABLE)
    draw(table, read_rows(CURVES), Path(WORKDIR.value), RESULTS)
    with atomic_path(PAGE) as temporary:
        temporary.write_text(with_tables(PAGE.read_text(encoding="utf-8"), table), encoding="utf-8")
    print(f"{TABLE}: {counted(len(table) - 1, 'cell')}, and their tables; look at the text of {PAGE}, which is yours")
    return 0


if __name__ == "__main__":
    app.run(main)
