"""Submits the cells of a sweep as an array of SLURM jobs."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from drifting.errors import ArgumentError, ConfigError, one_line
from drifting.experiments.grid import FAILED, FINISHED, SweepCell


def submit(
    cells: Sequence[SweepCell],
    workdir: Path,
    command_of: Callable[[SweepCell], Sequence[str]],
    options: Mapping[str, Any],
    retry: bool,
) -> list[str]:
    """Submits an array of SLURM jobs through `submitit`, a job for each cell that is not finished; returns their ids.

    Args:
        cells: all cells of the sweep.
        workdir: the sweep's folder.
        command_of: the program and arguments that run one cell.
        options: parameters of `submitit.AutoExecutor`, such as `slurm_partition`, and `cluster`.
        retry: whether cells that have failed are submitted as well.

    Raises:
        ConfigError: `submitit` is not installed, or does not take an option.
    """
    try:
        submitit = importlib.import_module("submitit")
    except ImportError as error:
        raise ConfigError("submitit is not installed; pip install -e '.[slurm]'") from error
    states = (FINISHED,) if retry else (FINISHED, FAILED)
    todo = [cell for cell in cells if cell.status(workdir) not in states]
    try:
        executor = submitit.AutoExecutor(folder=workdir / "slurm", cluster=options.get("cluster"))
        executor.update_parameters(name="drifting", **{key: v for key, v in options.items() if key != "cluster"})
    except (TypeError, NameError, RuntimeError, ValueError) as error:
        raise ArgumentError("options", None, one_line(error)) from error
    with executor.batch():
        run: Callable[[list[str]], Any] = submitit.helpers.CommandFunction
        jobs = [executor.submit(run(list(command_of(cell)))) for cell in todo]
    return [str(job.job_id) for job in jobs]
