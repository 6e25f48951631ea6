"""A grid of runs over one experiment: `drifting sweep`. Every cell is an ordinary run directory.

A file in `configs/sweeps/` defines `get_sweep()`. Cells are trained and scored one after the other in this process, or
each by itself (`--index`, SLURM arrays); what is finished is skipped, what was killed goes on. Kernel widths are
arguments of the compiled step, and what was compiled is kept in the sweep's folder, so cells that differ in widths,
seeds or the like share one compilation, in whichever process they run.
"""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from drifting.config.schema import Config
from drifting.errors import BusyError, MachineError, counted, require_argument
from drifting.experiments.grid import (
    CELL_ROUNDING,
    CELL_SCORES,
    COMPILED_FOLDER,
    ERROR_FILE,
    FAILED,
    FINISHED,
    TABLE_FILE,
    Sweep,
    SweepCell,
    check_cells,
    collect,
)
from drifting.runs.directory import SWEEP_FILE
from drifting.runs.files import atomic_path, write_json
from drifting.runs.lock import check_free
from drifting.runs.progress import duration
from drifting.sampling.generator import TrainedGenerator
from drifting.scoring.evaluate import evaluate_generator
from drifting.scoring.settings import ScoreSettings
from drifting.training.generator import train

logger = logging.getLogger("drifting")

CACHED_SECONDS = 0.3
"""Programs that take longer to compile are kept."""


def run_cell(sweep: Sweep, cell: SweepCell, config: Config, workdir: Path, label: str) -> bool:
    """Trains and scores a cell, going on where it was stopped; returns False if it was asked to stop.

    `label` is what progress and messages call it.

    Raises:
        BusyError: another process runs it.
        Exception: whatever went wrong.
    """
    folder = cell.folder(workdir)
    check_free(folder, "workdir")
    (folder / ERROR_FILE).unlink(missing_ok=True)
    if train(config, folder, label=label) < config.train.steps:
        return False
    evaluate_generator(
        TrainedGenerator.from_run(folder),
        str(folder),
        settings=ScoreSettings(alphas=list(sweep.alphas) or None, uint8=CELL_ROUNDING),
    )
    with atomic_path(folder / CELL_SCORES) as temporary:
        temporary.write_bytes((folder / f"eval-{cell.steps}.json").read_bytes())
    return True


def run_sweep(
    sweep: Sweep, cells: Mapping[SweepCell, Config], workdir: Path, *, index: int | None = None, retry: bool = False
) -> int:
    """Runs the cells that are not finished, one after the other; returns how many have failed.

    Args:
        sweep: what the sweep's file says.
        cells: its cells, each with its settings.
        workdir: the sweep's folder.
        index: the number of the one cell to run; None: all.
        retry: whether cells that have failed are run again.

    Raises:
        ArgumentError: there is no cell of that index, or the folder holds cells with other settings.
    """
    known = index is None or 0 <= index < len(cells)
    require_argument(known, "index", index, f"cells are numbered from 0 to {len(cells) - 1}")
    prepare_sweep(sweep, cells, workdir)
    counts = CompileCounts()
    wanted = [cell for cell in cells if index in (None, cell.index)]
    states = (FINISHED,) if retry or index is not None else (FINISHED, FAILED)
    todo = [cell for cell in wanted if cell.status(workdir) not in states]
    began, left_out = time.monotonic(), 0
    logger.info("sweep: %d of %s to run, in %s", len(todo), counted(len(cells), "cell"), workdir)
    for number, cell in enumerate(todo):
        left = (time.monotonic() - began) / number * (len(todo) - number) if number else float("inf")
        place = f"cell {number + 1}/{len(todo)}"
        logger.info("%s: %s, index %d; ETA of all %s", place, cell.name, cell.index, duration(left))
        try:
            whole = run_cell(sweep, cell, cells[cell], workdir, place)
        except BusyError as error:
            logger.warning("sweep: %s is left to another process: %s", cell.name, error)
            left_out += 1
            whole = True
        except MachineError:  # the other cells would meet it, too; it says nothing of this one
            raise
        except Exception as error:  # whatever it is, the other cells shall run
            _note_failure(cell, workdir, error)
            whole = True
        finally:
            collect(list(cells), workdir)
        if not whole:
            logger.info("sweep: stopped, the same command goes on from there")
            return 0
    failed = [cell for cell in wanted if cell.status(workdir) == FAILED]
    for cell in failed:
        if cell not in todo:  # the loop above has told of its own
            _warn_of(cell, workdir)
    finished, remedy = len(wanted) - len(failed) - left_out, " (a retry runs them again)" if failed else ""
    logger.info("sweep: %d finished, %d failed%s, %s; %s", finished, len(failed), remedy, counts, workdir / TABLE_FILE)
    return len(failed)


def _note_failure(cell: SweepCell, workdir: Path, error: Exception) -> None:
    cell.folder(workdir).mkdir(parents=True, exist_ok=True)
    with atomic_path(cell.folder(workdir) / ERROR_FILE) as temporary:
        temporary.write_text(f"{type(error).__name__}: {' '.join(str(error).split())}\n", encoding="utf-8")
    _warn_of(cell, workdir)


def _warn_of(cell: SweepCell, workdir: Path) -> None:
    logger.warning("sweep: cell %d, %s has failed: %s", cell.index, cell.name, cell.error(workdir))


def prepare_sweep(sweep: Sweep, cells: Mapping[SweepCell, Config], workdir: Path) -> None:
    """Writes what the sweep is, for `drifting report`, and keeps what is compiled, unless a place is set already.

    Raises:
        ConfigError: the folder holds cells with other settings.
    """
    check_cells(cells, workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    listed = [{key: getattr(cell, key) for key in ("name", "values", "steps", "scoring")} for cell in cells]
    write_json(workdir / SWEEP_FILE, {"config": sweep.config, "cells": listed})
    collect(list(cells), workdir)
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str((workdir / COMPILED_FOLDER).absolute()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", CACHED_SECONDS)


class CompileCounts:
    """How many programs, of those that take long, were compiled since it was made, and how many were found compiled."""

    def __init__(self) -> None:
        self.compiled = self.found = 0
        jax.monitoring.register_event_listener(self._listen)

    def _listen(self, event: str, **_: Any) -> None:
        self.compiled += event == "/jax/compilation_cache/cache_misses"
        self.found += event == "/jax/compilation_cache/cache_hits"

    def __str__(self) -> str:
        return f"programs: {self.compiled} compiled, {self.found} found compiled"
