"""What each ingredient of the best recipe on MNIST is worth: from the folder of the sweep to docs/results/.

    python -m scripts.mnist_recipe --workdir=runs/mnist_recipe      # docs/results/mnist_recipe.csv, and its table

The header of `configs/sweeps/mnist_recipe.py` says what comes before.
"""

import sys
from pathlib import Path
from typing import Any

from absl import app, flags

from drifting.errors import ConfigError, DriftingError, counted
from drifting.experiments.grid import FINISHED, read_cells
from scripts.mnist_tables import (
    PAGE,
    RECIPE_COLUMNS,
    RECIPES,
    SCORES,
    SECTION,
    about,
    put_tables,
    read_rows,
    read_sweep,
    recipe_of,
    recipe_table,
    write_rows,
)

WORKDIR = flags.DEFINE_string("workdir", None, "folder of the sweep", required=True)


def gather(workdir: Path) -> list[dict[str, Any]]:
    """A row for each finished cell.

    Raises:
        DriftingError: there is no sweep, or no cell of it is finished.
    """
    found, made = read_sweep(workdir), about()
    runs = {run.name: run for run in found.runs if run.status == FINISHED and run.scores is not None}
    rows = []
    for cell in read_cells(workdir):
        if (run := runs.get(cell.name)) is None or run.scores is None:
            continue
        command = f"drifting sweep --config=sweeps/mnist_recipe --workdir=runs/mnist_recipe --index={cell.index}"
        spent = {"steps": cell.steps, "seconds": round(run.seconds or 0), "command": command}
        named = {"recipe": recipe_of(cell), "seed": cell.values["train.seed"]}
        rows.append(named | {name: run.scores[name] for name in SCORES} | spent | made)
    if not rows:
        raise ConfigError(f"workdir={workdir}: no cell of the sweep is finished yet")
    return rows


def main(_: list[str]) -> int:
    """Writes the table. Exit code 2: it cannot work."""
    try:
        rows = gather(Path(WORKDIR.value))
    except DriftingError as error:
        print(f"mnist_recipe: {error}", file=sys.stderr)
        return 2
    write_rows(RECIPES, RECIPE_COLUMNS, rows)
    put_tables(PAGE, SECTION, [recipe_table(read_rows(RECIPES))])
    print(f"{RECIPES}: {counted(len(rows), 'cell')}, and their table; look at the text of {PAGE}, which is yours")
    return 0


if __name__ == "__main__":
    app.run(main)
