"""The paths that flags give: `~` expanded in all of them, addresses refused where only a path can be served, and what
is to be written tried before the work."""

import os
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from drifting.config.paths import expanded, is_address
from drifting.errors import ConfigError

PATH_FLAGS = ("config", "workdir", "out", "images", "reference", "real_images", "labels", "run")
"""The flags that give a path of this machine. Of those that may name weights, their readers know what is served."""


def expanded_arguments(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command with `~` expanded where a value begins, which shells do only for a word of its own."""
    return [expanded(argument) for argument in arguments]


def refuse_addresses(values: flags.FlagValues) -> None:
    """Refuses an address where a path is to be given, which would become a local folder of that name.

    Raises:
        ConfigError: a flag of `PATH_FLAGS` has one.
    """
    for flag in PATH_FLAGS:
        value = values[flag].value if flag in values else None
        if isinstance(value, str) and is_address(value):
            remedy = "is an address, and only paths are read and written: mount what it names, and give the path"
            raise ConfigError(f"--{flag}={value}: {remedy}")


def check_out(values: flags.FlagValues) -> None:
    """Checks that a command can write where `--out` says, or its default, before the work whose result it is.

    Raises:
        ConfigError: it cannot.
    """
    if "out" not in values or ("watch" in values and values.watch):
        return
    out = Path(values.out or ("workdir" in values and values.workdir) or ".").absolute()
    place = next(path for path in (out, *out.parents) if path.is_dir())
    if not os.access(place, os.W_OK | os.X_OK):
        given = f"--out={values.out}" if values.out else "--out"
        raise ConfigError(f"{given}: the folder {place} cannot be written; make it writable, or give another")
