"""Lists that say which class each picture of a folder or an archive is of: EDM's `dataset.json`, and tables."""

import csv
import json
import logging
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from drifting.data.image_files import is_image
from drifting.errors import InputError, counted, one_line
from drifting.runs.text import decoded_lines

logger = logging.getLogger("drifting")

LISTS = ("dataset.json", "labels.csv", "metadata.csv", "labels.tsv", "labels.txt")
"""Names under which a list is looked for, in this order."""

FILE_COLUMNS = ("file_name", "filename", "file", "image", "path", "name", "id")

LABEL_COLUMNS = ("label", "class", "labels", "target", "category")
"""Titles by which columns are known where a table has more than two."""


@dataclass(frozen=True)
class ListOptions:
    """The list of labels, in the folder or the archive."""

    labels: Annotated[
        str | None, "the list; None: dataset.json, labels.csv, metadata.csv, labels.tsv or labels.txt if it is there"
    ] = None
    file: Annotated[str | None, "title of the table's column of files; None: the first, or the one called so"] = None
    label: Annotated[str | None, "title of the table's column of classes; None: the other, or the one called so"] = None


def find_list(root: Any, options: ListOptions, key: str) -> Any | None:
    """The list of a folder, a `pathlib.Path` or a `zipfile.Path`; None: there is none. `key`: the source's name.

    Raises:
        InputError: the one that is wanted is not there.
    """
    names = LISTS if options.labels is None else (options.labels,)
    found = next((root / name for name in names if (root / name).is_file()), None)
    if found is None and options.labels is not None:
        raise InputError(
            f"options.{key}.labels={options.labels!r}: there is no {root / options.labels}: give a list in it"
        )
    return found


def labelled_rows(path: Any, names: Sequence[str], options: ListOptions, key: str) -> tuple[NDArray, NDArray] | None:
    """Which of the pictures `names`, paths below the folder, a list labels: places in `names`, and labels.

    Labels are integers or texts. None: the list says that there are none, as EDM's can.

    Raises:
        InputError: the list cannot be read, names a picture that is not there, or has no label for one.
    """
    known = _places(names)
    pairs = _of_json(path) if str(path).endswith(".json") else _of_table(path, known, options, key)
    if pairs is None:
        return None
    missing = [file for file, _ in pairs if _normal(file) not in known]
    if missing:
        more = f" (and {len(missing) - 1:,} more)" if missing[1:] else ""
        raise InputError(f"{path}: names {missing[0]!r}{more}, which is not there: add it, or remove the line")
    if not pairs:
        raise InputError(f"{path}: labels no picture: give a line for each")
    places = np.asarray([known[_normal(file)] for file, _ in pairs])
    if len(twice := np.flatnonzero(np.bincount(places) > 1)):
        raise InputError(f"{path}: has {counted(len(twice), 'picture')} twice, {names[twice[0]]!r}: keep one line each")
    if left := len(names) - len(pairs):
        logger.warning("data: %s of which %s says nothing left out", counted(left, "picture"), path)
    numbers = all(isinstance(label, int) for _, label in pairs)
    return places, np.asarray([label for _, label in pairs], np.int64 if numbers else str)


def _of_json(path: Any) -> list[tuple[str, int | str]] | None:
    """`{"labels": [["00000/img00000000.png", 6], ..]}`, or null in place of the list."""
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path}: is damaged ({one_line(error)}): make it again") from error
    labels = found.get("labels", found) if isinstance(found, dict) else found
    if labels is None or labels == {}:
        return None
    pairs = list(labels.items()) if isinstance(labels, dict) else labels
    for pair in pairs if isinstance(pairs, list) else [pairs]:
        if not (isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str)):
            raise InputError(f"{path}: has {str(pair)[:60]!r} among its labels: give [FILE, CLASS] for each picture")
        if not isinstance(pair[1], int | str):
            raise InputError(
                f"{path}: the label of {pair[0]!r} is {str(pair[1])[:40]}, not one class: give a number or a name"
            )
    return [(file, label) for file, label in pairs]


def _of_table(path: Any, known: Mapping[str, int], options: ListOptions, key: str) -> list[tuple[str, int | str]]:
    """A line for each picture, its file and its class; columns parted by commas, semicolons, tabs or blanks."""
    lines = decoded_lines(path, path.read_bytes)
    mark = next((mark for mark in ",;\t" if lines and mark in lines[0]), " ")
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=mark, skipinitialspace=True)]
    except csv.Error as error:
        raise InputError(f"{path}: cannot be read as a table ({error}): mend it") from error
    if not rows:
        raise InputError(f"{path}: is empty: give a line `FILE,CLASS` for each picture")
    file, label, titled = _columns(path, rows[0], known, options, key)
    rows = rows[titled:]
    if short := next((row for row in rows if len(row) <= max(file, label) or not row[label]), None):
        raise InputError(f"{path}: has no class in the line {mark.join(short)[:60]!r}: add it, or remove the line")
    numbers = all(row[label].removeprefix("-").isdecimal() for row in rows)
    return [(row[file], int(row[label]) if numbers else row[label]) for row in rows]


def _columns(
    path: Any, first: list[str], known: Mapping[str, int], options: ListOptions, key: str
) -> tuple[int, int, bool]:
    """The columns of files and classes of a table, and whether its first line has titles."""
    titled = not any(_normal(cell) in known or is_image(cell) for cell in first)
    for option, given in (("file", options.file), ("label", options.label)):
        if given is not None and (given not in first or not titled):
            has = f"the columns {', '.join(first)}" if titled else "no titles"
            raise InputError(f"options.{key}.{option}={given!r}: {path} has {has}: give the title of a column")
    titles = [cell.lower() for cell in first]
    file = (
        first.index(options.file) if options.file else next((titles.index(t) for t in FILE_COLUMNS if t in titles), 0)
    )
    if options.label:
        return file, first.index(options.label), titled
    others = [column for column in range(len(first)) if column != file]
    label = next((titles.index(title) for title in LABEL_COLUMNS if title in titles), None)
    if label is None and len(others) != 1:
        raise InputError(
            f"{path}: which column has the classes? It has {', '.join(first)[:200]}: "
            f"set data.options.{key}.label to the title of one"
        )
    return file, others[0] if label is None else label, titled


def _places(names: Sequence[str]) -> dict[str, int]:
    """Where each picture is, by its path, and by its name with and without ending where no other has the same."""
    found: dict[str, int] = {}
    for short in (_path_without_ending, _name_without_ending, posixpath.basename):
        several: set[str] = set()
        by_name: dict[str, int] = {}
        for place, name in enumerate(names):
            if (shortened := short(name)) in by_name:
                several.add(shortened)
            by_name[shortened] = place
        found |= {name: place for name, place in by_name.items() if name not in several}
    return found | {name: place for place, name in enumerate(names)}


def _path_without_ending(name: str) -> str:
    return posixpath.splitext(name)[0]


def _name_without_ending(name: str) -> str:
    return posixpath.splitext(posixpath.basename(name))[0]


def _normal(file: str) -> str:
    return file.replace("\\", "/").removeprefix("./")
