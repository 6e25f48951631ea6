"""What the library that decodes images warns of, gathered: thousands of odd pictures are one line."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from drifting.errors import one_line

logger = logging.getLogger("drifting")


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
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)


@contextmanager
def pillow_warnings_in_one_line() -> Iterator[None]:
    """Pillow's warnings within the block, in all threads, become one line of the log at its end, with their number.

    Enter it before threads are started: Python keeps its filters of warnings once for all threads.
    """
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
