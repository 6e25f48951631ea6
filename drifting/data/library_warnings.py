"""What the libraries that decode images warn of, gathered: thousands of odd pictures are one line.

Pillow has a logger. libtiff, by which Pillow reads compressed TIFF files, writes its errors to file descriptor 2 unless
it is given a function to call; here it is given one that hands them to a logger below Pillow's.
"""

import ctypes
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from drifting.errors import one_line

logger = logging.getLogger("drifting")


LONGEST_MESSAGE = 200
"""Bytes of a message of libtiff that are kept."""


@ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)
def _libtiff_error(_: bytes | None, template: bytes, arguments: int | None) -> None:
    """A `TIFFErrorHandler`, called in whatever thread decodes: a format of `printf` and its arguments, a `va_list`."""
    text = ctypes.create_string_buffer(LONGEST_MESSAGE)
    write = ctypes.CDLL(None).vsnprintf
    write.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_void_p)
    write(text, LONGEST_MESSAGE, template, arguments)
    logging.getLogger("PIL.libtiff").warning("libtiff: %s", text.value.decode(errors="replace"))


def _let_libtiff_speak_by_a_logger() -> None:
    """From now on, in the whole process. Where Pillow was built without libtiff, or hides it, nothing is done."""
    try:
        set_handler = ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler  # looked up in what Pillow is linked with
    except (AttributeError, OSError):
        return
    set_handler.argtypes, set_handler.restype = (ctypes.c_void_p,), ctypes.c_void_p
    set_handler(ctypes.cast(_libtiff_error, ctypes.c_void_p))


class _Gathered(logging.Handler):
    """Counts what Pillow says by either of its ways, its logger and Python's warnings."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.count, self.first = 0, ""

    def add(self, message: object) -> None:
        """One more warning."""
        self.count, self.first = self.count + 1, self.first or one_line(message)

    def emit(self, record: logging.LogRecord) -> None:
        """One more record of Pillow's logger."""
        self.add(record.getMessage())


def no_pillow_warnings() -> None:
    """From now on Pillow's warnings are silenced, in a process that has nobody to tell them to."""
    _let_libtiff_speak_by_a_logger()
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)


@contextmanager
def pillow_warnings_in_one_line() -> Iterator[None]:
    """Pillow's warnings within the block, in all threads, become one line of the log at its end, with their number.

    Enter it before threads are started: Python keeps its filters of warnings once for all threads.
    """
    _let_libtiff_speak_by_a_logger()
    gathered, pillow = _Gathered(), logging.getLogger("PIL")
    propagated = pillow.propagate
    with warnings.catch_warnings():
        show = warnings.showwarning

        def showwarning(message: Any, category: Any, filename: str, *where: Any, **more: Any) -> None:
            if "PIL" in Path(filename).parts:
                gathered.add(message)
            else:
                show(message, category, filename, *where, **more)

        warnings.showwarning = showwarning
        warnings.filterwarnings("always", module=r"PIL\.")
        pillow.addHandler(gathered)
        pillow.propagate = False
        try:
            yield
        finally:
            pillow.removeHandler(gathered)
            pillow.propagate = propagated
            if gathered.count:
                times = f"{gathered.count} times" if gathered.count > 1 else "once"
                logger.warning("images: Pillow warned %s while it read them, first: %s", times, gathered.first)
