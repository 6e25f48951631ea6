"""Labels as data sets have them, numbers or names, as labels from 0 on."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drifting.errors import InputError, counted

UNLABELLED = ("all",)
"""The only class of images without labels."""


def classes_of(values: NDArray[Any], declared: Sequence[str] | None, where: object) -> tuple[str, ...]:
    """The names of the classes: those that the data set declares, or what its training images are labelled with.

    Args:
        values: labels of the training images, `[N]` integers or texts.
        declared: a name for each number from 0 on, where the data set has such a list.
        where: what a message begins with.

    Raises:
        InputError: a label is below 0, as that of images without one is.
    """
    if declared is not None:
        return tuple(declared)
    _check_none_below_0(values, where)
    found = np.unique(values).tolist()
    numeric = all(str(value).isdecimal() for value in found)
    return tuple(str(value) for value in sorted(found, key=int if numeric else None))


def label_numbers(values: NDArray[Any], names: Sequence[str], declared: bool, where: object) -> NDArray[np.int32]:
    """Labels `[N]` int32, places in `names`, of integers or texts.

    Args:
        values: `[N]`: where the names are declared, numbers among them or names; otherwise what is called that.
        names: see `classes_of`.
        declared: whether the data set has a list of them.
        where: what a message begins with.

    Raises:
        InputError: a label is none of the classes.
    """
    if np.issubdtype(values.dtype, np.integer):
        _check_none_below_0(values, where)
    kinds, places = np.unique(values, return_inverse=True)
    known = {name: number for number, name in enumerate(names)}
    numbers = np.empty(len(kinds), np.int32)
    for place, value in enumerate(kinds.tolist()):
        number = known.get(str(value))
        if declared and (isinstance(value, int) or number is None):
            number = int(value) if str(value).isdecimal() and int(value) < len(names) else None
        if number is None:
            rows = int((places == place).sum())
            listed = ", ".join(names[:3]) + (", .." if names[3:] else "")
            raise InputError(
                f"{where}: the label {value!r} of {counted(rows, 'image')} is none of the "
                f"{counted(len(names), 'class')} ({listed}): mend the labels or the list of classes"
            )
        numbers[place] = number
    return numbers[places]


def _check_none_below_0(values: NDArray[Any], where: object) -> None:
    if np.issubdtype(values.dtype, np.integer) and len(values) and values.min() < 0:
        rows = int((values < 0).sum())
        raise InputError(
            f"{where}: {counted(rows, 'image')} of label {values.min()}, that is without one: "
            "leave those out, or read another split"
        )
