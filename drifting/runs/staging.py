"""Checkpoints of a store that Orbax cannot write to: written on this machine first, and uploaded whole.

Orbax knows `gs://`. Of `s3://` each checkpoint is written into `staging_folder`, which all processes of a machine
share, and copied; the file that says that it is whole goes last.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

from drifting.devices.processes import everyones, is_writer, wait_for_all
from drifting.errors import MachineError
from drifting.runs.places import is_stored, staging_folder
from drifting.runs.store_path import StorePath

COMMITTED = "commit_success.txt"
"""The file without which a checkpoint in a store is not whole; Orbax's own name, written by Orbax in `gs://`."""


def needs_staging(path: Path) -> bool:
    """Whether Orbax cannot write there itself."""
    return is_stored(path) and path.scheme != "gs"


def clean_staging(path: Path) -> Path:
    """The empty folder in which the checkpoints of `path` are written. All processes call this together.

    Raises:
        MachineError: the processes do not share it.
    """
    folder = staging_folder(path)
    sign = folder / "sign"
    if is_writer():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, mode=0o700)
        sign.touch()
    wait_for_all("staging")
    shared = all(everyones(int(sign.exists())))
    wait_for_all("staged")
    if is_writer():
        sign.unlink(missing_ok=True)
    if not shared:
        remedy = "set TMPDIR to a folder that all of them share, or write to gs://"
        raise MachineError(f"{path}: checkpoints go through {folder}, which not all of the machines share: {remedy}")
    return folder


def remove_staging(path: Path) -> None:
    """Removes what `clean_staging` made."""
    if is_writer():
        shutil.rmtree(staging_folder(path), ignore_errors=True)


def upload_checkpoint(folder: Path, target: StorePath) -> None:
    """Copies a checkpoint of this machine; until all of it is there, it does not count."""
    target.rmtree(missing_ok=True, first=COMMITTED)
    (folder / COMMITTED).touch()  # Orbax may have written it already, and it must not go with the others
    target.upload(folder, last=COMMITTED)


@contextmanager
def readable_checkpoint(path: Path) -> Iterator[str]:
    """The address of a checkpoint from where Orbax can read it; a copy lasts as long as the block."""
    if not (is_stored(path) and needs_staging(path)):
        yield os.fspath(path)
        return
    with tempfile.TemporaryDirectory(prefix=f"drifting-{jax.process_index()}-") as folder:
        path.download(Path(folder, path.name))
        yield str(Path(folder, path.name))
