"""Files that grow as a run goes on. An object store cannot append, so there a file of this machine grows, and is
uploaded whole."""

import shutil
import tempfile
import time
from pathlib import Path

from drifting.runs.files import while_writing
from drifting.runs.places import is_stored

UPLOAD_SECONDS = 60.0
"""How old the copy in a store may be of what is not needed to go on."""


class GrowingFile:
    """Text that is appended line by line; each line is written when the call returns.

    Args:
        path: the file; what it holds stays, and a last line that a crash cut short is ended first.
        prompt: in a store, upload at each line, rather than now and then.

    Raises:
        MachineError: it cannot be written; so do the methods.
    """

    def __init__(self, path: Path, *, prompt: bool = True) -> None:
        self._path, self._prompt = path, prompt
        self._uploaded, self._folder = time.monotonic(), None
        with while_writing(path):
            here = path
            if is_stored(path):
                self._folder = tempfile.mkdtemp(prefix="drifting-")
                here = Path(self._folder, path.name)
                if path.is_file():
                    path.download(here)
            torn = here.is_file() and here.stat().st_size > 0 and not here.read_bytes().endswith(b"\n")
            self._file = here.open("a", encoding="utf-8")
        if torn:
            self._file.write("\n")

    def append(self, line: str) -> None:
        """Writes a line."""
        with while_writing(self._path):
            self._file.write(line + "\n")
            self._file.flush()
            if self._prompt or time.monotonic() - self._uploaded > UPLOAD_SECONDS:
                self._upload()

    def _upload(self) -> None:
        if is_stored(self._path):
            self._path.upload(Path(self._file.name))
            self._uploaded = time.monotonic()

    def close(self) -> None:
        """Closes the file; in a store all of it is there then."""
        if self._file.closed:
            return
        try:
            with while_writing(self._path):
                self._file.close()
                self._upload()
        finally:
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)


class GrowingFolder:
    """A folder in which a library writes files that grow. `here`: where it is to write, on this machine."""

    def __init__(self, path: Path) -> None:
        self._path, self._uploaded = path, time.monotonic()
        self.here = Path(tempfile.mkdtemp(prefix="drifting-")) if is_stored(path) else path
        self.here.mkdir(parents=True, exist_ok=True)

    def grown(self, now: bool = False) -> None:
        """Says that something was written; it is uploaded now and then, or now."""
        if is_stored(self._path) and (now or time.monotonic() - self._uploaded > UPLOAD_SECONDS):
            self._path.upload(self.here)
            self._uploaded = time.monotonic()

    def close(self) -> None:
        """Uploads what is there."""
        if is_stored(self._path):
            self.grown(now=True)
            shutil.rmtree(self.here, ignore_errors=True)
