"""Standard output and standard error, whoever reads them and whether or not anyone still does.

Messages are no result: where nobody reads them any more, as after a closed terminal or `| head -1`, the command goes on
without. Results are: where they cannot be delivered, the command ends.
"""

import errno
import io
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from drifting.errors import DriftingError, refusal

CLOSED_PIPE = 141
"""Exit code where the reader of standard output has gone: what a shell reports of a program that SIGPIPE ends."""


class OutputError(DriftingError, OSError):
    """Standard output cannot be written."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"standard output: cannot be written ({error.strerror or error})")
        self.reader_is_gone = error.errno == errno.EPIPE


class _Stream:
    """A text stream that says by `_failed` what happens where it cannot be written; else it is the one it is given."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        with suppress(AttributeError, io.UnsupportedOperation):  # names of files may be no text
            stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes a text, and returns its length."""
        try:
            self._stream.write(text)
        except OSError as error:
            self._failed(error)
        return len(text)

    def flush(self) -> None:
        """Hands on what has been written."""
        try:
            self._stream.flush()
        except OSError as error:
            self._failed(error)

    def _failed(self, error: OSError) -> None:
        if not isinstance(error, BlockingIOError):
            _point_at_nothing(self._stream)


class _Results(_Stream):
    def _failed(self, error: OSError) -> None:
        super()._failed(error)
        raise OutputError(error) from error


def _point_at_nothing(stream: Any) -> None:
    """Lets what a stream still holds, and what libraries write to its descriptor, vanish: nobody can have it."""
    with suppress(OSError, AttributeError):  # a stream of tests has no descriptor
        number, nothing = stream.fileno(), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, number)
        os.close(nothing)


@contextmanager
def standard_streams() -> Iterator[None]:
    """Messages that nobody reads are dropped while the block runs, and lost results raise `OutputError`."""
    for number in range(3):  # the next file that is opened would take the place of a closed one
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    # A process that is started without a stream has None in its place.
    streams: Any = _Results(sys.stdout or io.StringIO()), _Stream(sys.stderr or io.StringIO())
    sys.stdout, sys.stderr = streams
    try:
        yield
        sys.stdout.flush()
    finally:
        sys.stdout, sys.stderr = before


def silence_what_the_command_tells() -> None:
    """Has Python say nothing, to the end of the process, of errors that nobody catches where the system refuses.

    On a full disk libraries' threads, callbacks and forgotten files tell, with tracebacks, what the command itself
    meets and tells in a line. Of other errors nothing is lost.
    """
    for owner, name in ((threading, "excepthook"), (sys, "unraisablehook")):
        setattr(owner, name, _unless_refused(getattr(owner, name), lambda told: told.exc_value))
    # TensorStore's callbacks find the event loop closed of a checkpoint that could not be written.
    sys.excepthook = _unless_refused(sys.excepthook, lambda kind, error, trace: error)


def silence_the_compiler() -> None:
    """Has XLA log nothing short of its end; must come before JAX is imported.

    It logs at length how long it compiles and folds constants. What fails it raises, too. A level that the environment
    sets stays.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def _unless_refused(hook: Callable[..., Any], error_of: Callable[..., BaseException | None]) -> Callable[..., None]:
    def told(*arguments: Any) -> None:
        error = error_of(*arguments)
        if error is None or not (refusal(error) or "Event loop is closed" in str(error)):
            hook(*arguments)

    return told
