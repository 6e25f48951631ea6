"""Rows of the report: JSON objects that have a name, one for each thing that is measured."""

from collections.abc import Callable
from typing import Any

from drifting.errors import one_line

Row = dict[str, Any]
"""`name` is unique in its section. `error`: why it could not be measured, in one line; `ok`: whether it passed;
`partial`: that more is to come, in a later row of the same name."""

LONGEST_ERROR = 300


def guarded(name: str, measure: Callable[[], Row]) -> Row:
    """What `measure` finds under its name; or what went wrong, in one line."""
    try:
        return {"name": name} | measure()
    except Exception as error:  # a row that fails must not take the others with it
        return failed(name, error)


def failed(name: str, error: object) -> Row:
    """The row of what could not be measured."""
    kind = f"{type(error).__name__}: " if isinstance(error, Exception) else ""
    return {"name": name, "error": f"{kind}{one_line(error)}"[:LONGEST_ERROR]}
