"""Files that appear whole or not at all, and checksums of what they hold."""

import glob
import hashlib
import json
import os
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drifting.errors import DriftingError, InputError, MachineError, refusal, while_reading
from drifting.runs.places import is_stored

ONLY_IN_PART = "only a part of it found room: the disk, a quota or the limit of `ulimit -f` is full"
"""What it means where NumPy says how many numbers it has written, without the number of an error."""

HASH_THREADS = 16
"""Files whose checksums are computed at a time; hashing and reading leave the interpreter's lock."""


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal.

    Raises:
        MachineError: it cannot be read now.
    """
    with while_reading(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def exists(path: Path) -> bool:
    """Whether there is such a file or folder.

    Raises:
        MachineError: that cannot be told now. It does not pass for a path that is not there.
    """
    with while_reading(path):
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
    return True


def check_readable(*paths: Path) -> None:
    """Opens files before a library does that would call one missing, damaged or empty that it may not open.

    Args:
        paths: files, or folders, of which all files are meant. What is missing is left to the library.

    Raises:
        MachineError: one cannot be read now.
    """
    for path in paths:
        with while_reading(path), suppress(FileNotFoundError, NotADirectoryError):
            if path.is_dir():
                check_readable(*path.iterdir())
            else:
                with path.open("rb") as file:
                    file.read(1)


def labels_sha256(labels: NDArray[np.integer]) -> str:
    """SHA-256 of labels `[N]`, as little-endian int32."""
    return hashlib.sha256(labels.astype("<i4").tobytes()).hexdigest()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well, and is removed when it does not.

    Of an object store it is a file of this machine, which is uploaded then: a store writes an object whole or not at
    all.

    Raises:
        MachineError: it cannot be written, as the block's errors of the system say. Those that name other files pass.
    """
    if is_stored(path):
        with while_writing(path), tempfile.TemporaryDirectory(prefix="drifting-") as folder:
            yield (temporary := Path(folder, path.name))
            path.upload(temporary)
        return
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")  # process numbers repeat on other machines
    with while_writing(path):
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            with suppress(OSError):  # what kept the block from writing it may keep it from being removed, too
                temporary.unlink(missing_ok=True)


@contextmanager
def while_writing(path: Path) -> Iterator[None]:
    """What keeps the block from writing a file, or into a folder, becomes a `MachineError` that names it.

    Errors that name a file of another place pass, and those of another process that has finished the same work.
    """
    try:
        yield
    except DriftingError:  # it says already what is wrong
        raise
    except Exception as error:
        named = getattr(error, "filename", None)
        here = not is_stored(path)
        if here and isinstance(named, str | bytes) and not _stands_for(Path(os.fsdecode(named)), path):
            raise
        if here and isinstance(error, FileNotFoundError) and path.parent.is_dir():
            raise
        reason = refusal(error) or (isinstance(error, OSError) and (error.strerror or ONLY_IN_PART))
        if not reason:
            raise
        remedy = "make room or mend that, and run the same command again"
        raise MachineError(f"{path}: cannot be written ({reason}): {remedy}") from error


def _stands_for(named: Path, path: Path) -> bool:
    """Whether a file is what is written at `path`, in it, or what takes its place later: `.NAME.*` beside it."""
    if not named.is_relative_to(path.parent):
        return False
    first = named.relative_to(path.parent).parts[:1]
    return not first or first[0] == path.name or first[0].startswith(f".{path.name}.")


def remove_torn(*paths: Path) -> None:
    """Removes what processes that were killed have left of files that nobody is writing now. A store keeps nothing."""
    names: dict[Path, set[str]] = {}
    for path in paths:
        if is_stored(path):
            continue
        names.setdefault(path.parent, set()).add(path.name)
    for folder, known in names.items():
        pattern = glob.escape(next(iter(known))) if len(known) == 1 else "*"
        for stale in folder.glob(f".{pattern}.*.tmp"):
            if stale.name[1:].rsplit(".", 2)[0] in known:
                stale.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON object, whole or not at all: a key on each line, however long its value. It survives a crash."""
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in content.items()]
    with atomic_path(path) as temporary:
        temporary.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
        flush(temporary)
    if not is_stored(path):
        flush(path.parent)


def read_json(path: Path, remedy: str = "restore it, or remove it") -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        InputError: there is none. The message begins with the path and ends with `remedy`.
        MachineError: the file cannot be read now.
    """
    try:
        with while_reading(path):
            found = json.loads(path.read_text(encoding="utf-8"))
    except MachineError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); {remedy}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: holds no JSON object; {remedy}")
    return found


def flush(path: Path) -> None:
    """Waits until a file or a folder's entries are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError) if path.is_dir() else nullcontext():  # some network file systems cannot flush folders
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
