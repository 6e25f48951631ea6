"""The results on MNIST: from the folder of the sweep to docs/results/ and the tables of docs/results.md.

    python -m scripts.mnist_results --workdir=runs/mnist      # docs/results/mnist*, and the tables of docs/results.md
    python -m scripts.mnist_results --check=runs/cell         # is a cell that was run again what the table says?

The header of `configs/sweeps/mnist.py` says what comes before. A sweep that is under way gives the cells that it has.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import app, flags

from drifting.data.sources.classic import mnist
from drifting.errors import ConfigError, DriftingError, counted
from drifting.experiments.grid import FINISHED, read_cells
from drifting.experiments.report.data import RunData, read_folder
from drifting.scoring.evaluate import evaluate_files
from drifting.scoring.image_sets import SourceImages
from scripts.mnist_figures import draw
from scripts.mnist_tables import (
    CELL,
    COLUMNS,
    CURVE_COLUMNS,
    CURVES,
    PAGE,
    README,
    README_SECTION,
    REAL,
    RESULTS,
    SCORES,
    SECTION,
    TABLE,
    TABLES,
    about,
    compare,
    put_tables,
    read_rows,
    read_sweep,
    short_table,
    write_rows,
)

WORKDIR = flags.DEFINE_string("workdir", None, "folder of the sweep")

CHECK = flags.DEFINE_string("check", None, "folder of a run of one cell, which is compared with docs/results/mnist.csv")


def gather(workdir: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A row for each finished cell and one of the real test set, and the rows of the cells' curves.

    Raises:
        DriftingError: there is no sweep, or no cell of it is finished.
    """

    found, made = read_sweep(workdir), about()
    indices = {cell.name: cell.index for cell in read_cells(workdir)}
    rows, curves, reference = [], [], ""
    for run in found.runs:
        cell = cell_of(run.config)
        if run.status != FINISHED or run.scores is None:
            continue
        command = f"drifting sweep --config=sweeps/mnist --workdir=runs/mnist --index={indices[run.name]}"
        last = run.metrics[-1]
        numbers = {name: run.scores[name] for name in SCORES} | {name: last[name] for name in ("gap", "collapse")}
        spent = {"steps": run.config["train"]["steps"], "seconds": round(run.seconds or 0)}
        rows.append(cell | numbers | spent | made | {"command": command})
        for line in run.metrics:
            if "eval/frechet_distance" in line and line["step"] > 1:
                curves.append(cell | {"step": int(line["step"]), "gap": line["gap"]})
                curves[-1]["frechet_distance"] = line["eval/frechet_distance"]
        reference = run.config["eval"]["reference"]
    if not rows:
        raise ConfigError(f"workdir={workdir}: no cell of the sweep is finished yet")
    command = "python -m scripts.mnist_results --workdir=runs/mnist"
    return [{"objective": REAL} | real_scores(Path(reference), workdir) | made | {"command": command}, *rows], curves


def cell_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What tells a run from the other cells."""
    loss = config["loss"]
    (width,) = loss["widths"]
    return dict(zip(CELL, (loss["objective"], loss["kernel"], f"{width:g}", config["train"]["seed"]), strict=True))


def real_scores(reference: Path, workdir: Path) -> dict[str, Any]:
    """The scores of the 10,000 test images against the same reference."""

    images = SourceImages(mnist("data/mnist", "heldout"), {"images": "mnist, heldout"})
    found = evaluate_files(images, workdir / "real-test-images.json", reference)
    assert found is not None  # one process scores alone
    return found[0]


def check_run(folder: Path) -> bool:
    """Compares a run's scores with the table; prints the comparison."""

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

    write_rows(TABLE, COLUMNS, rows)
    write_rows(CURVES, CURVE_COLUMNS, curves)
    table = read_rows(TABLE)
    draw(table, read_rows(CURVES), Path(WORKDIR.value), RESULTS)
    put_tables(PAGE, SECTION, [make(table) for make in TABLES])
    put_tables(README, README_SECTION, [short_table(table)])
    print(f"{TABLE}: {counted(len(table) - 1, 'cell')}, and their tables; look at the text of {PAGE}, which is yours")
    return 0


if __name__ == "__main__":
    app.run(main)
