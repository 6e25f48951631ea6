"""What a person reads when something is wrong: one line, with the nearest thing that would be right."""

import difflib
import os
import sys
from collections.abc import Iterable

from drifting.errors import MachineError, one_line, refusal


def fail(message: str, code: int = 2) -> int:
    """Says what is wrong on standard error; returns the exit code."""
    print(f"drifting: error: {message}", file=sys.stderr)
    return code


def failure_of_the_machine(error: Exception) -> str | None:
    """One line for what the system, a library or JAX was refused; None for what is a bug."""
    if isinstance(error, OSError):
        named = error.filename is not None and not isinstance(error.filename, int)
        return f"{os.fsdecode(error.filename)}: {error.strerror}" if named else one_line(error)
    if "jax" in sys.modules:  # where there is no device, it raises many kinds in many places
        from drifting.devices.backend import require_devices

        try:
            require_devices()
        except MachineError as problem:
            return str(problem)
    return refusal(error)


def close_to(name: str, known: Iterable[str]) -> str:
    """A hint at the known name that `name` may be meant for, or nothing."""
    known = list(known)
    close = [word for word in known if word.startswith(f"{name} ")] or difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""
