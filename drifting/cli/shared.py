"""Flags that several commands have."""

import os
from pathlib import Path

from absl import flags

from drifting.errors import ConfigError

WEIGHTS_HELP = "published weights: a folder or hf://OWNER/REPO[@REVISION][/FOLDER]"

SCORE_ENCODER_HELP = "inception[:WEIGHTS], pixels, mae|dinov2:WEIGHTS"


SHARE_FLAGS = {"index": "process_index", "count": "process_count"}
"""The flags that give the arguments of a `Share`, see `Command.flag_of`."""


def workdir_of(values: flags.FlagValues, what: str = "the run's folder") -> Path:
    """The folder that `--workdir` gives."""
    if not values.workdir:
        raise ConfigError(f"--workdir: give {what}")
    if "://" in values.workdir:
        raise ConfigError(f"--workdir={values.workdir}: is no folder; mount what it names, and give a folder")
    return Path(values.workdir)


def out_of(values: flags.FlagValues, what: str = "folder") -> Path:
    """The path that `--out` gives."""
    if not values.out:
        raise ConfigError(f"--out: give the {what} to write")
    return Path(values.out)


def define_share(values: flags.FlagValues, what: str) -> None:
    """Declares the flags of which `share_of` is made."""
    process = f"which of several processes that {what}; default SLURM's, or 0"
    flags.DEFINE_integer("process_index", None, process, lower_bound=0, flag_values=values)
    count = "how many there are; default SLURM's, or 1"
    flags.DEFINE_integer("process_count", None, count, lower_bound=1, flag_values=values)


def share_of(values: flags.FlagValues) -> tuple[int, int]:
    """Index and count of the processes that share a command's work."""
    # They are those of a step of SLURM's; a batch script's own environment names tasks that do not run.
    index, count = (os.environ.get(name) for name in ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"))
    if values.process_index is None and values.process_count is None and index and count:
        return int(index), int(count)
    if values.process_index is None and (values.process_count or 1) > 1:
        raise ConfigError(f"--process_count={values.process_count}: say which of them this one is, --process_index=I")
    return values.process_index or 0, values.process_count or 1
