"""Labels as data sets have them, numbers or names, as labels from 0 on."""

import logging
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drifting.errors import InputError, counted

logger = logging.getLogger("drifting")

UNLABELLED = ("all",)
"""The only class of images without labels."""

NUMBER = re.compile(r"-?[0-9]+(\.0+)?")
"""A whole number, as a text."""


def label_values(labels: Sequence[Any], called: Callable[[int], str], remedy: str) -> NDArray[Any]:
    """Labels `[N]`, integers where all are whole numbers, `3`, `3.0` or `"3"` alike, and otherwise texts.

    Args:
        labels: one for each image, None or an empty text where there is none. Where there is none at all, the array
            is empty.
        called: what a message calls an image, by its place.
        remedy: what to do about an image without a label.

    Raises:
        InputError: an image has none and others do, or one that is neither a whole number nor a text.
    """
    missing = [place for place, label in enumerate(labels) if label is None or label == ""]
    if len(missing) == len(labels):
        return np.asarray([], np.int64)
    if missing:
        more = f" (and {counted(len(missing) - 1, 'more image')})" if missing[1:] else ""
        raise InputError(f"{called(missing[0])}: has no label{more}, and others have one: {remedy}")
    for place, label in enumerate(labels):
        if not isinstance(label, int | str) and not (isinstance(label, float) and label.is_integer()):
            shown = str(label)[:40]
            raise InputError(f"{called(place)}: its label is {shown}, not one class: give a whole number or a name")
    if all(not isinstance(label, str) or NUMBER.fullmatch(label) for label in labels):
        return np.asarray([_whole(label) for label in labels], np.int64)
    return np.asarray([str(_whole(label)) if isinstance(label, float) else str(label) for label in labels])


def _whole(label: int | str | float) -> int:
    return int(label.partition(".")[0]) if isinstance(label, str) else int(label)


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


def tell_one_class(where: object, train: bool, split: bool) -> None:
    """Says that all images are of one class; a warning where labels are left out for it.

    Args:
        where: the data set.
        train: whether its training images have labels.
        split: whether those that are asked for have some.
    """
    if train == split:
        logger.info("data: the images of %s have no labels: all are of one class", where)
    else:
        has, lacks = ("training", "held-out") if train else ("held-out", "training")
        text = "data: %s: the %s split has labels and the %s split has none: all images are taken as of one class"
        logger.warning(text, where, has, lacks)
