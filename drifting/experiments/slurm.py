"""Submits the cells of a sweep as an array of SLURM jobs."""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from drifting.errors import ConfigError
from drifting.experiments.grid import FAILED, FINISHED, Cell


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
