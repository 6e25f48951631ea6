"""Where a run lies: a folder of this machine, or an address of an object store (`gs://BUCKET/…`, `s3://BUCKET/…`).

`place` makes one or the other of what a person gave, and whoever is given a place uses it as a `pathlib.Path`. What
only files of this machine can do (memory maps, C++ readers) goes through `local_copy`.
"""

import hashlib
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

from drifting.config.paths import is_address, is_place
from drifting.errors import ArgumentError, InputError

if TYPE_CHECKING:
    from drifting.runs.store_path import StorePath


def place(given: str | os.PathLike[str]) -> Path:
    """The place that a person named; nothing is read yet. One that has been made already comes back as it is.

    Raises:
        InputError: it is an address that is not served, or of a store whose library is not installed.
    """
    if not isinstance(given, str):
        return given if isinstance(given, Path) or is_stored(given) else Path(given)
    if not is_address(given):
        return Path(given)
    if not is_place(given) or not given.partition("://")[2].strip("/"):
        raise InputError(
            f"{given}: is no address that is served: give a path, gs://BUCKET/FOLDER or s3://BUCKET/FOLDER"
        )
    from drifting.runs.store_path import StorePath

    return StorePath(given).opened()


REFUSED_BY_TENSORSTORE = re.compile(r"\\|\.__lock$")
"""Names of folders in which TensorStore keeps no arrays."""


def check_utf8(workdir: Path) -> None:
    """Raises `ArgumentError` for a folder whose path is no UTF-8: libraries in C++ cannot open what is in it."""
    try:
        str(workdir.absolute()).encode()
    except UnicodeEncodeError as error:
        raise ArgumentError("workdir", workdir, "its path is no UTF-8, as checkpoints need; rename it") from error


def check_checkpoint_path(workdir: Path) -> None:
    """Raises `ArgumentError` for the folder of a run whose path is none that checkpoints can be kept at."""
    check_utf8(workdir)
    for name in () if is_stored(workdir) else workdir.absolute().parts:
        if REFUSED_BY_TENSORSTORE.search(name):
            raise ArgumentError(
                "workdir", workdir, f"no checkpoint can be kept in a folder of the name {name}; rename it"
            )


def is_stored(path: object) -> "TypeGuard[StorePath]":
    """Whether a place lies in an object store."""
    return hasattr(path, "checksums")


def cache_folder() -> Path:
    """Where copies of what lies elsewhere are kept: `drifting` in `XDG_CACHE_HOME`, or else in `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "drifting"


def local_copy(path: Path) -> Path:
    """The same file or folder on this machine: of a store a copy in `cache_folder()`, made once for each content.

    Raises:
        MachineError: it cannot be read now.
    """
    return path.copied(cache_folder() / "stores") if is_stored(path) else path


def remove_tree(path: Path) -> None:
    """Removes a folder and what is in it, as far as that goes."""
    if is_stored(path):
        path.rmtree(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def staging_folder(path: Path) -> Path:
    """A folder of this machine, in `TMPDIR`, where files for `path` are written before they are uploaded.

    All processes of one user on one machine are given the same one.
    """
    name = hashlib.sha256(os.fspath(path).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"drifting-{os.getuid()}" / name
