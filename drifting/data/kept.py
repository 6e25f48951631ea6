"""What is made of a data set's files once and kept: beside them, or in the cache folder where they are read-only."""

import hashlib
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from drifting.errors import InputError, MachineError, while_reading
from drifting.runs.files import atomic_path
from drifting.runs.places import cache_folder

KEPT_FOLDER = ".drifting"
"""The folder beside the data; like all names with a dot before them it is no part of any data set."""

KEPT_VERSION = 2
"""Version of what is kept: what an older version of the package has made is made again."""

DAMAGE = (InputError, OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)
"""What is raised where a kept file is damaged, or is another."""

Found = TypeVar("Found")


def kept_file(
    path: Path, name: str, of: Iterable[Path | str], write: Callable[[Path], None], read: Callable[[Path], Found],
    about: object = "",
) -> Found:  # fmt: skip
    """What `read` finds in the file that `write` makes of others.

    It is made anew where one of those has another size or time, and where it is damaged; what was made of the same
    files before is then removed.

    Args:
        path: the data set, a folder or a file, however it is spelled: what is kept is that of the place.
        name: the source, the split and the ending: `zip-train.npz`.
        of: the files that it is made of, spelled as `path` is.
        write: writes it to the path that it is given.
        read: reads it, and raises one of `DAMAGE` where it is not what `write` writes.
        about: what else it depends on, for example settings.

    Raises:
        MachineError: it can be written nowhere, or the machine does not let it be read or written.
        InputError: as `write` does.
    """
    place = path if path.is_dir() else path.parent
    facts, start = hashlib.sha256(), os.path.join(place, "")
    for file in of:
        found = os.stat(file)
        facts.update(f"{str(file).removeprefix(start)} {found.st_size} {found.st_mtime_ns}\n".encode())
    folders = place / KEPT_FOLDER, cache_folder() / "data"
    files = [_kept(folder, path.resolve(), name, about, facts.hexdigest()) for folder in folders]
    for kept in files:
        if kept.is_file():
            try:
                with while_reading(kept):
                    return read(kept)
            except MachineError:
                raise
            except DAMAGE:
                continue
    kept = next((file for file in files if _may_be_written(file.parent)), files[0])
    if not os.access(kept.parent, os.W_OK):
        remedy = f"make {folders[1]} writable, or set XDG_CACHE_HOME to a folder that is"
        raise MachineError(f"{place}: what is made of it once can be kept neither there nor in the cache: {remedy}")
    with atomic_path(kept) as temporary:
        write(temporary)
    for older in kept.parent.glob(f"{kept.stem.rpartition('-')[0]}-*{kept.suffix}"):
        if older != kept:
            older.unlink(missing_ok=True)
    with while_reading(kept):
        return read(kept)


def _kept(folder: Path, path: Path, name: str, about: object, facts: str) -> Path:
    """The kept file in a folder: named by what it is made of, and behind that by the sizes and times of the files.

    Beside the data it is found again when both are moved together; the cache folder is shared by all data sets.
    """
    beside = "" if path.is_dir() else path.name
    what = hashlib.sha256(f"{KEPT_VERSION} {beside if folder.name == KEPT_FOLDER else path} {about}".encode())
    return folder / Path(name).with_stem(f"{Path(name).stem}-{what.hexdigest()[:12]}-{facts[:16]}").name


def _may_be_written(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def kept_arrays(
    path: Path, name: str, of: Iterable[Path | str], make: Callable[[], Mapping[str, NDArray[Any]]],
    keys: Sequence[str], about: object = "",
) -> dict[str, NDArray[Any]]:  # fmt: skip
    """Arrays of these `keys` that are made of files once, see `kept_file`; `name` ends with `.npz`."""

    def write(to: Path) -> None:
        with to.open("wb") as file:
            np.savez(file, **make())  # type: ignore[arg-type, unused-ignore]

    def read(kept: Path) -> dict[str, NDArray[Any]]:
        with np.load(kept, allow_pickle=False) as arrays:
            if set(arrays.files) != set(keys):
                raise KeyError(f"{kept}: has {', '.join(arrays.files)}")
            return {key: arrays[key] for key in keys}

    return kept_file(path, name, of, write, read, about)
