"""`drifting sweep`, `report` and the studies."""

import dataclasses
import sys
from functools import partial
from typing import Any

from absl import flags

from drifting.cli.command import Command
from drifting.cli.settings import SweepRequest, load_function, load_settings
from drifting.cli.shared import WEIGHTS_HELP, check_files, define_import, out_of, place_of, workdir_of
from drifting.config.parse import annotation
from drifting.config.schema import Config
from drifting.config.shipped import experiment_file
from drifting.errors import ConfigError, counted
from drifting.experiments import grid
from drifting.runs.places import is_stored
from drifting.studies import STUDIES


def _define_sweep(values: flags.FlagValues) -> None:
    flags.DEFINE_string("config", None, "the sweep, a Python file such as those in configs/sweeps/", flag_values=values)
    flags.DEFINE_string("workdir", None, "folder of all its runs; what is there goes on", flag_values=values)
    flags.DEFINE_boolean("list", False, "show the cells and how far they are, and run nothing", flag_values=values)
    flags.DEFINE_integer("index", None, "run this cell alone", lower_bound=0, flag_values=values)
    flags.DEFINE_boolean("retry", False, "run cells again that have failed", flag_values=values)
    flags.DEFINE_boolean("slurm", False, "submit an array of jobs, a cell each (needs submitit)", flag_values=values)
    options = "KEY=VALUE,..: of submitit's executor, e.g. slurm_partition=gpu,timeout_min=600"
    flags.DEFINE_list("slurm_options", [], options, flag_values=values)


def _sweep(values: flags.FlagValues) -> int:
    request = values.config
    if not request.file:
        raise ConfigError("--config: give the sweep's file, such as sweeps/kernel_width; `drifting configs` lists them")
    workdir = workdir_of(values, "the sweep's folder")
    if values.slurm and is_stored(workdir):
        raise ConfigError(
            f"--workdir={workdir}: jobs of SLURM write their logs to a folder, give one that all nodes see"
        )
    found, cells = _cells(request)
    if values.list:
        grid.check_cells(cells, workdir)
        print(grid.listing(list(cells), workdir))
        return 0
    for config in cells.values():
        check_files(config)
    from drifting.experiments import sweep
    from drifting.experiments.slurm import submit

    if not values.slurm:
        return 1 if sweep.run_sweep(found, cells, workdir, index=values.index, retry=values.retry) else 0
    options = dict(_option(option) for option in values.slurm_options)
    sweep.prepare_sweep(found, cells, workdir)

    def command_of(cell: grid.SweepCell) -> list[str]:
        given = [f"--config={request.file}", f"--workdir={workdir}", f"--index={cell.index}"]
        # Options that a network of one's own declares are Python literals, so that a word may look like a number.
        given += [
            f"--config.{key}={value!r}" if annotation(Config, key, value) is Any else f"--config.{key}={value}"
            for key, value in request.changes.items()
        ]
        return [sys.executable, "-m", "drifting.cli", "sweep", *given]

    ids = submit(list(cells), workdir, command_of, options, values.retry)
    print(f"{counted(len(ids), 'job')} submitted: {' '.join(ids)}" if ids else "nothing is left to run")
    return 0


def _cells(request: SweepRequest) -> tuple[grid.Sweep, dict[grid.SweepCell, Config]]:
    """The sweep that was asked for, and its cells with the settings that were changed on the command line.

    Raises:
        ConfigError: the file is no sweep, what it is over cannot be had, or a setting that all cells shall have is
            one that the grid varies, or cannot work.
    """
    found = load_function(request.file, "get_sweep")
    if not isinstance(found, grid.Sweep):
        remedy = "return a drifting.experiments.grid.Sweep"
        raise ConfigError(f"--config={request.file}: get_sweep() returned {found!r}; {remedy}")
    for keys in found.grid:
        if varied := set(request.changes) & set((keys,) if isinstance(keys, str) else keys):
            key = sorted(varied)[0]
            raise ConfigError(f"--config.{key}: the cells differ in it; leave it out, or change the sweep's file")
    file = experiment_file(request.file.split(":", 1)[0])
    assert file is not None  # it was loaded
    try:
        beside = file.parent / found.config
        there = beside.with_name(beside.name.partition(":")[0]).is_file()
        base = load_settings(str(beside.resolve()) if there else found.config)
        cells = grid.cells_of(dataclasses.replace(found, settings={**found.settings, **request.changes}), base)
    except ConfigError as error:
        raise ConfigError(f"--config={request.file}: {str(error).removeprefix('--config=')}") from error
    return found, cells


def _option(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--slurm_options={text}: expected KEY=VALUE")
    return key, int(value) if value.isdecimal() else value


def _define_report(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "folder of a run or of a sweep", flag_values=values)
    flags.DEFINE_string("out", None, "HTML file to write; default report.html in WORKDIR", flag_values=values)
    flags.DEFINE_boolean("watch", False, "serve it on this machine, and follow what goes on", flag_values=values)
    flags.DEFINE_integer(
        "port", 8000, "of --watch; default 8000, 0: any that is free", lower_bound=0, flag_values=values
    )


def _report(values: flags.FlagValues) -> int:
    workdir = workdir_of(values, "a run's or a sweep's folder")
    from drifting.experiments.report.serve import watch, write_report

    if values.watch:
        watch(workdir, values.port)
        return 0
    out = out_of(values) if values.out else workdir / "report.html"
    write_report(workdir, out)
    print(out)
    return 0


def _define_study(values: flags.FlagValues) -> None:
    flags.DEFINE_string("out", None, "folder to write: table.csv, result.json and the figures", flag_values=values)


def _define_diagnose(values: flags.FlagValues) -> None:
    flags.DEFINE_string("run", None, "run directory of `drifting train`, or give --weights", flag_values=values)
    flags.DEFINE_string("weights", None, f"{WEIGHTS_HELP}, in place of --run", flag_values=values)
    flags.DEFINE_string("vae", None, "VAE of the weights' latents; default theirs", flag_values=values)
    define_import(values)
    _define_study(values)


def _study(name: str, values: flags.FlagValues) -> int:
    out, settings = out_of(values), values.config
    if is_stored(out):
        raise ConfigError(f"--out={out}: a study writes its figures to a folder of this machine, give one")
    from drifting.studies.study import run_study

    subject = {}
    if name == "diagnose":
        subject = {"run": place_of(values, "run") if values.run else None, "weights": values.weights, "vae": values.vae}
    run_study(name, settings, out, **subject)
    print(out)
    return 0


COMMANDS = {
    "sweep": Command(
        "run a grid of experiments, here or on SLURM",
        _define_sweep,
        _sweep,
        usage="--config=FILE --workdir=DIR [--flags] [--config.SECTION.KEY=VALUE ...]",
        flag_of={"options": "slurm_options"},
    ),
    "report": Command("show a run or a sweep on one HTML page", _define_report, _report, out="page"),
} | {
    f"study {name}": Command(
        study.summary,
        _define_diagnose if name == "diagnose" else _define_study,
        partial(_study, name),
        study.settings,
        usage="--run=DIR|--weights=WEIGHTS --out=DIR" if name == "diagnose" else "--out=DIR",
        has_defaults=True,
        flag_of={"workdir": "run"} if name == "diagnose" else {},
        out="folder",
    )
    for name, study in STUDIES.items()
}
