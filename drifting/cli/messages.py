"""What a person reads when something is wrong: one line, with the nearest thing that would be right."""

import difflib
import os
import re
import sys
import traceback
from collections.abc import Iterable

from drifting.errors import ABOUT_THE_NAME, MachineError, one_line, refusal


def fail(message: str, code: int = 2) -> int:
    """Says what is wrong on standard error; returns the exit code."""
    print(f"drifting: error: {message}", file=sys.stderr)
    return code


def failure_of_the_machine(error: Exception) -> str | None:
    """One line for what the system, a library or JAX was refused; None for what is a bug."""
    if (wrong := wrong_variable(error)) is not None:
        return wrong
    if isinstance(error, OSError):
        named = error.filename is not None and not isinstance(error.filename, int)
        remedy = "; mend that, and run the same command again" if error.errno not in ABOUT_THE_NAME else ""
        return f"{os.fsdecode(error.filename)}: {error.strerror}{remedy}" if named else one_line(error)
    if "jax" in sys.modules:  # where there is no device, it raises many kinds in many places
        from drifting.devices.backend import require_devices

        try:
            require_devices()
        except MachineError as problem:
            return str(problem)
    return refusal(error)


def wrong_variable(error: Exception) -> str | None:
    """One line for a variable of the environment that kept a library from being imported; None for other errors."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__) if frame.f_code.co_name == "<module>"]
    packages = [str(frame.f_globals.get("__name__")).partition(".")[0] for frame in frames]
    library = next((package for package in packages if package not in ("__main__", "drifting")), None)
    if library is None:
        return None
    reason = one_line(error)
    # Most libraries name the variable; some quote its value alone.
    named = [name for name in os.environ if "_" in name and re.search(rf"\b{re.escape(name)}\b", reason.upper())]
    quoted = [
        name for name, value in os.environ.items() if value and {f"'{value}'", f'"{value}"'} & set(_quoted(reason))
    ]
    if not (found := named or quoted):
        return None
    given = " or ".join(f"{name}={os.environ[name]}" for name in found)
    return f"{given}: {library} cannot be imported with it ({reason[:300]}); unset it, or set it to what is right"


def _quoted(text: str) -> list[str]:
    return [match[0] for match in re.finditer(r"'[^']*'|\"[^\"]*\"", text)]


def close_to(name: str, known: Iterable[str]) -> str:
    """A hint at the known name that `name` may be meant for, or nothing."""
    known = list(known)
    close = [word for word in known if word.startswith(f"{name} ")] or difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""
