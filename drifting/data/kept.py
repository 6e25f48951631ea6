"""What is made of a data set's files once and kept: beside them, or in the cache folder where they are read-only."""

import hashlib
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drifting.errors import MachineError
from drifting.runs.files import atomic_path
from drifting.runs.places import cache_folder

KEPT_FOLDER = ".drifting"
"""The folder beside the data; like all names with a dot before them it is no part of any data set."""


def kept_file(place: Path, name: str, of: Sequence[Path], write: Callable[[Path], None], about: object = "") -> Path:
    """The file that `write` makes of others, made anew where one of those has another size or time.

    Args:
        place: the folder of the data.
        name: its name, whose ending stays: `index.npz`.
        of: the files that it is made of.
        write: writes it to the path that it is given.
        about: what else it depends on, for example settings.

    Raises:
        MachineError: it can be written nowhere, or the machine does not let it be written.
        InputError: as `write` does.
    """
    digest = hashlib.sha256(f"{place.absolute()} {about}".encode())
    for file in of:
        facts = file.stat()
        digest.update(f"{file} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    kept = Path(name).with_stem(f"{Path(name).stem}-{digest.hexdigest()[:16]}").name
    places = [place / KEPT_FOLDER / kept, cache_folder() / "data" / kept]
    found = next((path for path in places if path.is_file()), None)
    if found is not None:
        return found
    path = next((path for path in places if _may_be_written(path.parent)), None)
    if path is None:
        remedy = f"make {places[1].parent} writable, or set XDG_CACHE_HOME to a folder that is"
        raise MachineError(f"{place}: what is made of it once can be kept neither there nor in the cache: {remedy}")
    with atomic_path(path) as temporary:
        write(temporary)
    return path


def _may_be_written(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def kept_arrays(
    place: Path, name: str, of: Sequence[Path], make: Callable[[], Mapping[str, NDArray[Any]]], about: object = ""
) -> dict[str, NDArray[Any]]:
    """Arrays that are made of files once, see `kept_file`; `name` ends with `.npz`."""

    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, **make())  # type: ignore[arg-type, unused-ignore]

    path = kept_file(place, name, of, write, about)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):  # damaged: made again
        path.unlink(missing_ok=True)
        with np.load(kept_file(place, name, of, write, about), allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}
