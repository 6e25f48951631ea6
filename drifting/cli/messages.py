"""What a person reads when something is wrong: one line, with the nearest thing that would be right."""

import difflib
import sys
from collections.abc import Iterable


def fail(message: str, code: int = 2) -> int:
    """Says what is wrong on standard error; returns the exit code."""
    print(f"drifting: error: {message}", file=sys.stderr)
    return code


def close_to(name: str, known: Iterable[str]) -> str:
    """A hint at the known name that `name` may be meant for, or nothing."""
    known = list(known)
    close = [word for word in known if word.startswith(f"{name} ")] or difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""
