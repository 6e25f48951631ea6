"""What a person reads when something is wrong: one line, with the nearest thing that would be right."""

import difflib
import os
import sys
from collections.abc import Iterable

from drifting.errors import one_line, refusal


def fail(message: str, code: int = 2) -> int:
    """Says what is wrong on standard error; returns the exit code."""
    print(f"drifting: error: {message}", file=sys.stderr)
    return code


def failure_of_the_machine(error: Exception) -> str | None:
    """One line for what the system, a library or JAX was refused; None for what is a bug."""
    if "jax" in sys.modules:
        from drifting.devices.backend import finds_no_device, without_devices

        if finds_no_device(error):
            return without_devices(error)
    if isinstance(error, OSError) and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    if isinstance(error, OSError):
        return one_line(error)
    return refusal(error)


def close_to(name: str, known: Iterable[str]) -> str:
    """A hint at the known name that `name` may be meant for, or nothing."""
    known = list(known)
    close = [word for word in known if word.startswith(f"{name} ")] or difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""
