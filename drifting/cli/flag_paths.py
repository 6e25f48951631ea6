"""The paths that flags give: `~` expanded in all of them, addresses refused where only a path can be served, and what
is to be written tried before the work."""

import os
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from drifting.config.paths import STORES, expanded, is_address
from drifting.errors import ConfigError, as_argument
from drifting.runs.places import is_stored, place

PATH_FLAGS = ("config", "images", "labels")
"""The flags that give a path of this machine."""

PLACE_FLAGS = ("workdir", "out", "reference", "real_images", "run")
"""The flags that give a path of this machine, or one of an object store. Of those that may name weights, their readers
know what is served."""


def expanded_arguments(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command with `~` expanded where a value begins, which shells do only for a word of its own."""
    return [expanded(argument) for argument in arguments]


def refuse_addresses(values: flags.FlagValues) -> None:
    """Refuses an address where a path is to be given, which would become a local folder of that name.

    Raises:
        ConfigError: a flag of `PATH_FLAGS` has one, or a flag of `PLACE_FLAGS` one that is of no store.
    """
    for flag in PATH_FLAGS:
        value = values[flag].value if flag in values else None
        if isinstance(value, str) and is_address(value):
            remedy = "is an address, and only paths are read and written: mount what it names, and give the path"
            raise ConfigError(f"--{flag}={value}: {remedy}")
    for flag in PLACE_FLAGS:
        value = values[flag].value if flag in values else None
        if isinstance(value, str) and is_address(value) and value.partition("://")[0] not in STORES:
            remedy = "is an address, and only gs://BUCKET/… and s3://BUCKET/… are read and written: give one, or a path"
            raise ConfigError(f"--{flag}={value}: {remedy}")


def check_out(values: flags.FlagValues) -> None:
    """Checks that a command can write where `--out` says, or its default, before the work whose result it is.

    Raises:
        ConfigError: it cannot.
    """
    if "out" not in values or ("watch" in values and values.watch):
        return
    given = values.out or ("workdir" in values and values.workdir) or "."
    if is_address(given):
        with as_argument("out" if values.out else "workdir", given):
            if is_stored(there := place(given)):
                there.require_bucket()
        return
    out = Path(given).absolute()
    folder = next(path for path in (out, *out.parents) if path.is_dir())
    if not os.access(folder, os.W_OK | os.X_OK):
        given = f"--out={values.out}" if values.out else "--out"
        raise ConfigError(f"{given}: the folder {folder} cannot be written; make it writable, or give another")
