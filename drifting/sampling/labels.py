"""Which classes to draw: numbers, names, or a file of labels."""

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from drifting.errors import ArgumentError, MachineError, counted, one_line, require_argument
from drifting.runs.files import check_readable, exists
from drifting.runs.text import read_lines

ROWS_TEXT = "Rows"
"""The key of a grid's text that says what its rows are, see `grid.save_grid`."""

LISTED_CLASSES = 20
"""The most classes that are named in a line."""


def balanced_labels(count: int, num_classes: int) -> np.ndarray:
    """`count` labels `[count]` int32, the classes in turn: as evenly spread as can be."""
    return (np.arange(count) % num_classes).astype(np.int32)


def class_labels(classes: Sequence[str | int] | None, names: Sequence[str]) -> list[int]:
    """The labels that are meant by names or numbers; None: all.

    Raises:
        ArgumentError: the list is empty, or there is no such class.
    """
    if classes is None:
        return list(range(len(names)))
    if not [name for name in classes if str(name).strip()]:
        raise ArgumentError("classes", "", "give at least one class, or leave it out")
    return [_class_label(name, names) for name in classes]


def distinct_class_labels(classes: Sequence[str | int] | None, names: Sequence[str]) -> list[int]:
    """The labels that are meant, see `class_labels`, of which no two are the same class.

    Raises:
        ArgumentError: as `class_labels`, or a class is given twice, be it by its name and its number.
    """
    found = class_labels(classes, names)
    for place, label in enumerate(found):
        if classes is not None and label in found[:place]:
            words = f"{classes[found.index(label)]} and {classes[place]}"
            remedy = f"{words} are the same class, {titles([label], names)[0]}: give each once"
            raise ArgumentError("classes", ",".join(map(str, classes)), remedy)
    return found


def titles(labels: Iterable[int], names: Sequence[str]) -> list[str]:
    """What a person calls these classes: number and name, `7 three`, or the number alone where it is the name."""
    return [names[label] if names[label] == str(label) else f"{label} {names[label]}" for label in labels]


def class_line(labels: Sequence[int], names: Sequence[str]) -> str:
    """Classes in a line, of many the first."""
    more = f" and {len(labels) - LISTED_CLASSES} more" if len(labels) > LISTED_CLASSES else ""
    return ", ".join(titles(labels[:LISTED_CLASSES], names)) + more


def _class_label(given: str | int, names: Sequence[str]) -> int:
    text = str(given)
    if text in names:
        return names.index(text)
    if text.isdecimal() and int(text) < len(names):
        return int(text)
    lower = {name.lower(): name for name in names}
    # A number out of range, or one that is not whole, is no misspelling of another.
    number = re.fullmatch(r"[-+]?\d*\.?\d*(e[-+]?\d+)?", text)
    close = [] if number else difflib.get_close_matches(text.lower(), lower, n=1)
    meant = f" (did you mean {lower[close[0]]!r}?)" if close else ""
    remedy = f"use names or whole numbers from 0 to {len(names) - 1}{meant}"
    named = "" if all(name.isdecimal() for name in names) else f"; classes are {class_line(range(len(names)), names)}"
    raise ArgumentError("classes", text, remedy + named)


def wanted_labels(
    names: Sequence[str], num: int | None, classes: Sequence[str] | None = None, labels: str | None = None
) -> NDArray[np.int32]:
    """The label of each image to draw, `[num]` int32: `classes` in turn, or the first of a file.

    Args:
        names: a name for each class of the generator.
        num: how many images there are; None: as many as the file has labels.
        classes: names or numbers; None: all.
        labels: a file of labels, text with a number on each line, or `.npy`.

    Raises:
        ArgumentError: there are no classes, no such, or one twice; the file has too few labels or wrong ones.
    """
    if labels is None:
        if num is None:
            raise ArgumentError("num", None, "give the number of images")
        chosen = np.asarray(distinct_class_labels(classes, names), np.int32)
        return chosen[balanced_labels(num, len(chosen))]
    require_argument(classes is None, "classes", classes, "labels says which, leave one of them out")
    found = _read_labels(labels)
    wrong = found[(found < 0) | (found >= len(names))]
    if len(wrong):
        raise ArgumentError("labels", labels, f"holds {wrong[0]}, labels lie in [0, {len(names) - 1}]")
    if num is not None and len(found) < num:
        raise ArgumentError("labels", labels, f"holds {counted(len(found), 'label')}, num={num} asks for more")
    return found[:num].astype(np.int32)


def _read_labels(file: str) -> NDArray[np.int64]:
    if not exists(Path(file)):
        raise ArgumentError("labels", file, "there is no such file")
    if not Path(file).is_file():  # to open a pipe waits for its writer
        raise ArgumentError("labels", file, "is no regular file: give a text file or an .npy")
    try:
        check_readable(Path(file))
        if file.endswith(".npy"):
            found = np.load(file, allow_pickle=False)
        else:
            found = np.asarray([int(word) for line in read_lines(Path(file)) for word in line.split()], np.int64)
    except MachineError:
        raise
    except (OSError, ValueError, EOFError, OverflowError) as error:
        reason = one_line(error).removeprefix(f"{file}: ")
        raise ArgumentError("labels", file, f"cannot be read as whole numbers ({reason})") from error
    if not found.size:
        raise ArgumentError("labels", file, "is empty: give one whole number for each image")
    if found.ndim != 1 or not np.issubdtype(found.dtype, np.integer):
        raise ArgumentError("labels", file, f"must hold one whole number for each image, has {list(found.shape)}")
    return found.astype(np.int64)
