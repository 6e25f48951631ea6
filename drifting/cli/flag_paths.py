"""The paths that flags give: `~` expanded in all of them, addresses refused where only a path can be served, and what
is to be written tried before the work."""

import errno
import tempfile
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from drifting.config.paths import STORES, expanded, impossible, is_address
from drifting.errors import ConfigError, MachineError, as_argument
from drifting.runs.places import is_stored, place

PATH_FLAGS = ("config", "images", "labels")
"""The flags that give a path of this machine."""

PLACE_FLAGS = ("workdir", "out", "reference", "real_images", "run", "from")
"""The flags that give a path of this machine, or one of an object store. Of those that may name weights, their readers
know what is served."""


WEIGHTS_FLAGS = ("weights", "vae")
"""The flags that give a path of this machine, or an address on the hub."""

OUT_FILE_SUFFIXES = (".png", ".npz")
"""How `--out` ends where a command that writes files and folders is to write a file."""

TRIAL_BYTES = 4096
"""A block of most file systems, of which a full one has none left."""


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


def refuse_impossible_paths(values: flags.FlagValues) -> None:
    """Refuses paths that lead nowhere, which would be said to be missing, or fail as they are written.

    Raises:
        ConfigError: a flag has one.
    """
    for flag in (*PATH_FLAGS, *PLACE_FLAGS, *WEIGHTS_FLAGS):
        value = values[flag].value if flag in values else None
        if isinstance(value, str) and not is_address(value) and (reason := impossible(value)):
            raise ConfigError(f"--{flag}={value}: {reason}")


PAGE_SUFFIXES = (".html", ".htm")
"""Ends of the names of pages: what else lies there is not written over."""


def check_out(values: flags.FlagValues, kind: str) -> None:
    """Checks that a command can write where `--out` says, or its default, before the work whose result it is.

    `kind`: see `Command.out`.

    Raises:
        ConfigError: it cannot.
        MachineError: there is no room.
    """
    if "out" not in values or ("watch" in values and values.watch):
        return
    given = values.out or ("workdir" in values and values.workdir) or "."
    if is_address(given):
        with as_argument("out" if values.out else "workdir", given):
            if is_stored(there := place(given)):
                there.require_bucket()
        return
    named = f"--out={values.out}" if values.out else "--out"
    if values.out:
        usual = "file" if kind == "page" or Path(given).suffix in OUT_FILE_SUFFIXES else "folder"
        _check_kind(named, Path(given), usual if kind in ("", "page") else kind)
    elif "images" in values and values.images:
        given = str(Path(values.images).parent)
    elif not Path(given).is_dir():  # there is no such run, which the command says
        return
    out = Path(given).absolute()
    try_to_write(named, next(path for path in (out, *out.parents) if path.is_dir()))
    if values.out and kind == "page" and out.suffix.lower() not in PAGE_SUFFIXES:
        raise ConfigError(f"{named}: give the name of a page, one that ends in .html")


def _check_kind(named: str, out: Path, kind: str) -> None:
    """Checks that what is there already is a file or a folder, as `kind` says."""
    if kind == "file" and out.is_dir():
        raise ConfigError(f"{named}: is a folder; give a file, such as {out}/NAME")
    if kind == "folder" and out.is_file():
        raise ConfigError(f"{named}: is a file; give a folder")
    if out.exists() and not out.is_dir() and not out.is_file():
        raise ConfigError(f"{named}: is no regular file; give the name of one")


def try_to_write(named: str, folder: Path) -> None:
    """Writes a file in the folder and removes it: rights alone say nothing of full disks, and little of `/proc`.

    Raises:
        ConfigError: it cannot be written; `named` is the flag that asks for it.
        MachineError: there is no room.
    """
    try:
        with tempfile.NamedTemporaryFile(prefix=".drifting-", dir=folder) as file:
            file.write(bytes(TRIAL_BYTES))
            file.flush()
    except OSError as error:
        wrong = f"{named}: the folder {folder} cannot be written ({error.strerror})"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise MachineError(f"{wrong}; make room, or give another") from error
        raise ConfigError(f"{wrong}; make it writable, or give another") from error
