"""One process at a time writes into a folder: the others are told which, and touch nothing."""

import errno
import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from drifting.errors import ArgumentError, BusyError
from drifting.runs.files import while_writing
from drifting.runs.places import is_stored

logger = logging.getLogger("drifting")

LOCK_FILE = ".in_use"
"""The file in a folder that is locked while a process writes there. It names host and process."""

WITHOUT_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL})
"""What the system says of a lock on a file system that keeps none."""

REMOVAL_SECONDS = 1.0
"""How long one that shares a lock tries to get it: the last of the others has it alone while it removes the file."""


@contextmanager
def in_use(
    folder: Path, argument: str, work: str = "", *, shared: bool = False, given: Path | None = None
) -> Iterator[None]:
    """Keeps other processes from the same work in a folder while the block runs, and makes the folder.

    The kernel keeps the lock and releases it with the process, however that ends. An object store keeps none, and some
    network disks do not: a warning says so.

    Args:
        folder: where the block writes.
        argument: the argument that gave the folder, for the message.
        work: which of several kinds of work there; each has a lock of its own.
        shared: whether others that share it may do the same at the same time.
        given: the argument's value, where the folder only belongs to it; None: the folder.

    Raises:
        BusyError: another process is at it.
        ArgumentError: the folder cannot be made.
        MachineError: the lock's file cannot be written.
    """
    if is_stored(folder):
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArgumentError(
            argument, given or folder, f"cannot be written ({error.strerror}); choose another"
        ) from error
    path = folder / f"{LOCK_FILE}{work}"
    with while_writing(path):
        descriptor = _locked(path, shared)
    try:
        if descriptor is None:
            raise BusyError(
                argument, given or folder, f"{_holder(path)} is at work there: wait for it, or choose another"
            )
        with while_writing(path):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        if descriptor is not None:
            with suppress(OSError):  # it may be gone together with the folder
                # Of those that share it, the last removes the file: only one that is alone gets this lock.
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            os.close(descriptor)


def check_free(folder: Path, argument: str) -> None:
    """Checks that no other process writes into a folder, before the work that `in_use` protects is prepared.

    Raises:
        BusyError: one does.
    """
    path = folder / LOCK_FILE
    if not is_stored(folder) and path.is_file():
        with in_use(folder, argument):
            pass


def _locked(path: Path, shared: bool) -> int | None:
    """A descriptor of the file, locked where the file system keeps locks; None where another process has it."""
    began = time.monotonic()
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            if shared and time.monotonic() - began < REMOVAL_SECONDS:
                time.sleep(REMOVAL_SECONDS / 20)
                continue
            return None
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                os.close(descriptor)
                raise
            logger.warning("%s: this disk keeps no locks; see to it that one process alone writes there", path.parent)
            return descriptor
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        os.close(descriptor)  # of a file that its process has just removed


def _holder(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace") or "another process"
    return "another process"
