"""A grid of runs over one experiment: `drifting sweep`. Every cell is an ordinary run directory.

A file in `configs/sweeps/` defines `get_sweep()`. Cells are trained and scored one after the other in this process, or
each by itself (`--index`, SLURM arrays); what is finished is skipped, what was killed goes on. Kernel widths are
arguments of the compiled step, and what was compiled is kept in the sweep's folder, so cells that differ in widths,
seeds or the like share one compilation, in whichever process they run.
"""

import csv
import importlib
import itertools
import json
import logging
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from drifting.checkpoint import check_config
from drifting.config import Config, ConfigError, differences, parse, unknown_key
from drifting.monitor import atomic_path, duration
from drifting.parts import write_json
from drifting.scores import Settings, distance_name, evaluate_generator
from drifting.train import train
from drifting.trained import TrainedGenerator, ema_decay
from drifting.validate import check

logger = logging.getLogger("drifting")

SWEEP_FILE, TABLE, ERROR, COMPILED = "sweep.json", "sweep.csv", "error.txt", "compiled"
CELL_SCORES = "sweep-scores.json"
"""A cell's scores as the sweep asked for them: `drifting evaluate` of a cell writes `eval-STEP.json` anew."""
FINISHED, FAILED, STARTED, WAITING = "finished", "failed", "started", "waiting"
CACHED_SECONDS = 0.3
"""Programs that take longer to compile are kept."""


@dataclass(frozen=True)
class Sweep:
    """What `get_sweep()` of a file in `configs/sweeps/` returns.

    Attributes:
        config: the experiment, as `--config` takes it, relative to the sweep's own file.
        grid: dotted keys of settings, or a tuple of keys that vary together, each with its values; a cell for every
            combination, the last key varying fastest.
        settings: dotted keys and values that all cells have in place of the experiment's.
        alphas: guidance scales to score at; (): `eval.alpha`. The best one counts.
    """

    config: str
    grid: Mapping[str | tuple[str, ...], Sequence[Any]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    alphas: Sequence[float] = ()


@dataclass(frozen=True, eq=False)
class Cell:
    """One run of a sweep. Attributes:

    index: its place in the grid. name: of its folder. values: what it changes, by dotted key. steps: how long it is.
    scoring: how it is scored, as files of scores say it: `num seed alphas reference ...`.
    """

    index: int
    name: str
    values: dict[str, Any]
    steps: int
    scoring: Mapping[str, Any]

    def folder(self, workdir: Path) -> Path:
        """Its run directory."""
        return workdir / self.name

    def scores(self, workdir: Path) -> dict[str, Any] | None:
        """The best of its scores at its last step; None until it is finished and scored as the sweep asks."""
        for name in (CELL_SCORES, f"eval-{self.steps}.json"):
            try:
                found = json.loads((self.folder(workdir) / name).read_text(encoding="utf-8"))
                if not self._is_asked_for(found):
                    continue
                best: dict[str, Any] = min(found["scores"], key=lambda scores: scores[distance_name(scores)])
            except (OSError, ValueError, KeyError, TypeError):  # none, or damaged: the cell is scored again
                continue
            return best
        return None

    def _is_asked_for(self, found: dict[str, Any]) -> bool:
        reference = found.get("reference")
        facts = found | {
            "alphas": [scores.get("alpha") for scores in found["scores"]],
            "reference": reference["path"] if isinstance(reference, dict) else None,  # a sentence: its own data
        }
        wanted = {"step": self.steps, "classes": None, "labels": None, **self.scoring}
        return all(facts.get(key) == value for key, value in wanted.items())

    def error(self, workdir: Path) -> str | None:
        """Why it failed; None if it has not."""
        path = self.folder(workdir) / ERROR
        return path.read_text(encoding="utf-8").strip() if path.is_file() else None

    def status(self, workdir: Path) -> str:
        """One of the four states."""
        if self.scores(workdir) is not None:
            return FINISHED
        if self.error(workdir) is not None:
            return FAILED
        return STARTED if self.folder(workdir).is_dir() else WAITING


def cells_of(sweep: Sweep, base: ConfigDict) -> dict[Cell, Config]:
    """All cells of a sweep over the experiment `base`, with their settings.

    Raises:
        ConfigError: there are none, a key does not exist, or a cell's settings cannot work.
    """
    axes: list[list[dict[str, Any]]] = []
    for keys, values in sweep.grid.items():
        names = (keys,) if isinstance(keys, str) else keys
        if not len(values):
            raise ConfigError(f"grid {', '.join(names)}: has no values, give at least one")
        axes.append([dict(zip(names, v if isinstance(keys, tuple) else (v,), strict=True)) for v in values])
    cells: dict[Cell, Config] = {}
    for index, combination in enumerate(itertools.product(*axes)):
        changed = {key: value for part in combination for key, value in part.items()}
        config = parse(_changed(base, {**sweep.settings, **changed}))
        assert isinstance(config, Config)
        name = "-".join(_text(key, value) for key, value in changed.items())
        try:
            check(config)
        except ConfigError as error:
            raise ConfigError(f"cell {name}: {error}") from error
        cells[Cell(index, name, changed, config.train.steps, _scoring(sweep, config))] = config
    folders = [cell.name for cell in cells]
    if twice := next((name for name in folders if folders.count(name) > 1), None):
        raise ConfigError(f"grid: two cells are {twice!r}, give each value once")
    return cells


def _scoring(sweep: Sweep, config: Config) -> dict[str, Any]:
    wanted = config.eval
    return {
        "num": wanted.num_samples,
        "seed": wanted.seed,
        "alphas": list(sweep.alphas) or [wanted.alpha],
        "reference": wanted.reference,
        "neighbours": wanted.neighbours,
        "ema_decay": ema_decay(config),
        "uint8": Settings().uint8,
    }


def check_cells(cells: Mapping[Cell, Config], workdir: Path) -> None:
    """Checks that the cells that have begun have these settings, but for those that may change on resuming.

    Raises:
        ConfigError: one has others; says which.
    """
    for cell, config in cells.items():
        if cell.status(workdir) in (FINISHED, STARTED):
            check_config(cell.folder(workdir), config)


def _changed(base: ConfigDict, values: Mapping[str, Any]) -> dict[str, Any]:
    settings = base.to_dict()
    for path, value in values.items():
        section, _, key = path.rpartition(".")
        if section not in settings or key not in settings[section]:
            raise ConfigError(f"grid: {unknown_key(path, value, settings.get(section, settings))}")
        settings[section][key] = value
    return settings


def _text(key: str, value: Any) -> str:
    """A value in a folder's name: words by themselves, numbers after the last part of their key."""
    if isinstance(value, str):
        return value.replace("/", "_")
    values = value if isinstance(value, tuple | list) else (value,)
    shown = "+".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values)
    return f"{key.rpartition('.')[2].removesuffix('s')}{shown}".replace("/", "_")


# --- running ----------------------------------------------------------------------------------------------------------


def run_cell(sweep: Sweep, cell: Cell, config: Config, workdir: Path, label: str) -> bool:
    """Trains and scores a cell, going on where it was stopped; returns False if it was asked to stop.

    `label` is what progress and messages call it.

    Raises:
        Exception: whatever went wrong.
    """
    folder = cell.folder(workdir)
    (folder / ERROR).unlink(missing_ok=True)
    if train(config, folder, label) < config.train.steps:
        return False
    evaluate_generator(
        TrainedGenerator.from_run(folder),
        str(folder),
        settings=Settings(alphas=list(sweep.alphas) or None),
    )
    with atomic_path(folder / CELL_SCORES) as temporary:
        shutil.copyfile(folder / f"eval-{cell.steps}.json", temporary)
    return True


def run_sweep(
    sweep: Sweep, cells: Mapping[Cell, Config], workdir: Path, *, index: int | None = None, retry: bool = False
) -> int:
    """Runs the cells that are not finished, one after the other; returns how many have failed.

    Args:
        sweep, cells: what to run. workdir: the sweep's folder.
        index: run this cell alone. retry: run those again that have failed.

    Raises:
        ConfigError: there is no cell of that index, or the folder holds cells with other settings.
    """
    if index is not None and index >= len(cells):
        raise ConfigError(f"--index={index}: cells are numbered from 0 to {len(cells) - 1}")
    prepare(sweep, cells, workdir)
    counts = CompileCounts()
    wanted = [cell for cell in cells if index in (None, cell.index)]
    states = (FINISHED,) if retry or index is not None else (FINISHED, FAILED)
    todo = [cell for cell in wanted if cell.status(workdir) not in states]
    began = time.monotonic()
    logger.info("sweep: %d of %d cells to run, in %s", len(todo), len(cells), workdir)
    for number, cell in enumerate(todo):
        left = (time.monotonic() - began) / number * (len(todo) - number) if number else float("inf")
        place = f"cell {number + 1}/{len(todo)}"
        logger.info("%s: %s, index %d; ETA of all %s", place, cell.name, cell.index, duration(left))
        try:
            whole = run_cell(sweep, cell, cells[cell], workdir, place)
        except Exception as error:  # of any kind: the other cells shall run
            _note_failure(cell, workdir, error)
            whole = True
        collect(list(cells), workdir)
        if not whole:
            logger.info("sweep: stopped, the same command goes on from there")
            return 0
    failed = [cell for cell in wanted if cell.status(workdir) == FAILED]
    for cell in failed:
        if cell not in todo:  # those of this time have been told of
            _warn_of(cell, workdir)
    finished, remedy = len(wanted) - len(failed), " (--retry runs them again)" if failed else ""
    logger.info("sweep: %d finished, %d failed%s, %s; %s", finished, len(failed), remedy, counts, workdir / TABLE)
    return len(failed)


def _note_failure(cell: Cell, workdir: Path, error: Exception) -> None:
    cell.folder(workdir).mkdir(parents=True, exist_ok=True)
    with atomic_path(cell.folder(workdir) / ERROR) as temporary:
        temporary.write_text(f"{type(error).__name__}: {' '.join(str(error).split())}\n", encoding="utf-8")
    _warn_of(cell, workdir)


def _warn_of(cell: Cell, workdir: Path) -> None:
    logger.warning("sweep: cell %d, %s has failed: %s", cell.index, cell.name, cell.error(workdir))


def prepare(sweep: Sweep, cells: Mapping[Cell, Config], workdir: Path) -> None:
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
        jax.config.update("jax_compilation_cache_dir", str((workdir / COMPILED).absolute()))
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


def read_cells(workdir: Path) -> list[Cell]:
    """The cells of a sweep that has begun.

    Raises:
        ConfigError: there is none.
    """
    try:
        listed = json.loads((workdir / SWEEP_FILE).read_text(encoding="utf-8"))["cells"]
        # Older sweeps do not say how they are scored.
        return [Cell(i, c["name"], c["values"], c["steps"], c.get("scoring", {})) for i, c in enumerate(listed)]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"--workdir={workdir}: holds no sweep that can be read ({error})") from error


# --- results ----------------------------------------------------------------------------------------------------------


def rows_of(cells: Sequence[Cell], workdir: Path) -> list[dict[str, Any]]:
    """A row for each cell: its settings, state and best scores."""
    rows = []
    for cell in cells:
        row = {"index": cell.index, "cell": cell.name, "status": cell.status(workdir)}
        row |= {key: _cell_text(value) for key, value in cell.values.items()}
        rows.append(row | (cell.scores(workdir) or {}) | {"error": cell.error(workdir) or ""})
    return rows


def collect(cells: Sequence[Cell], workdir: Path) -> None:
    """Writes `sweep.csv`, the rows of all cells."""
    rows = rows_of(cells, workdir)
    names = [*dict.fromkeys(name for row in rows for name in row if name != "error"), "error"]
    with atomic_path(workdir / TABLE) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(rows)


def _cell_text(value: Any) -> Any:
    return " ".join(f"{v:g}" for v in value) if isinstance(value, tuple | list) else value


def listing(cells: Sequence[Cell], workdir: Path) -> str:
    """A line for each cell: index, state, distance, name."""
    lines = [f"{'index':>5}  {'state':9} {'distance':>9}  cell"]
    for cell in cells:
        scores = cell.scores(workdir)
        distance = f"{scores[distance_name(scores)]:.4f}" if scores else ""
        lines.append(f"{cell.index:5}  {cell.status(workdir):9} {distance:>9}  {cell.name}")
    return "\n".join(lines)


# --- SLURM ------------------------------------------------------------------------------------------------------------


def submit(
    cells: Sequence[Cell], workdir: Path, arguments: Sequence[str], options: Mapping[str, Any], retry: bool
) -> list[str]:
    """Submits an array of SLURM jobs through `submitit`, a job for each cell that is not finished; returns their ids.

    Args:
        cells, workdir: see `run_sweep`. arguments: of `drifting sweep`, to which `--index` is added.
        options: parameters of `submitit.AutoExecutor`, such as `slurm_partition`, and `cluster`.
        retry: also cells that have failed.

    Raises:
        ConfigError: `submitit` is not installed, or does not take an option.
    """
    try:
        submitit = importlib.import_module("submitit")
    except ImportError as error:
        raise ConfigError("--slurm: submitit is not installed; pip install -e '.[slurm]'") from error
    states = (FINISHED,) if retry else (FINISHED, FAILED)
    todo = [cell for cell in cells if cell.status(workdir) not in states]
    try:
        executor = submitit.AutoExecutor(folder=workdir / "slurm", cluster=options.get("cluster"))
        executor.update_parameters(name="drifting", **{key: v for key, v in options.items() if key != "cluster"})
    except (TypeError, NameError, RuntimeError, ValueError) as error:
        raise ConfigError(f"--slurm_options: {' '.join(str(error).split())}") from error
    command = [sys.executable, "-m", "drifting.cli", "sweep", *arguments]
    with executor.batch():
        run: Callable[[list[str]], Any] = submitit.helpers.CommandFunction
        jobs = [executor.submit(run([*command, f"--index={cell.index}"])) for cell in todo]
    return [str(job.job_id) for job in jobs]


def config_differences(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Settings in which runs differ: `{dotted key: {run: value}}`, of their `config.json` by name."""
    first = next(iter(configs.values()))
    keys = sorted({key for other in configs.values() for key in differences(dict(first), dict(other))})
    return {key: {name: _at(config, key) for name, config in configs.items()} for key in keys}


def _at(config: Mapping[str, Any], path: str) -> Any:
    section, _, key = path.rpartition(".")
    return config.get(section, {}).get(key)
