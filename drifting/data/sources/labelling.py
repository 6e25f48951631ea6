"""Lists that say which class each picture of a folder or an archive is of: EDM's `dataset.json`, and tables."""

import csv
import json
import logging
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from drifting.data.class_labels import label_values
from drifting.data.image_files import is_image
from drifting.data.sources.splits import SPLIT_WORDS
from drifting.errors import InputError, counted, one_line
from drifting.runs.text import decoded_lines

logger = logging.getLogger("drifting")

LISTS = ("dataset.json", "labels.csv", "metadata.csv", "labels.tsv", "labels.txt", "metadata.jsonl")
"""Names under which a list is looked for, in this order."""

FILE_COLUMNS = ("file_name", "filename", "file", "image", "path", "name", "id")

LABEL_COLUMNS = ("label", "class", "labels", "target", "category")
"""Titles by which columns are known where a table has more than two."""

CAPTION_COLUMNS = ("text", "caption", "captions", "prompt", "description")
"""Titles of columns that have no classes, unless `label` names one."""


@dataclass(frozen=True)
class ListOptions:
    """The list of labels, in the folder or the archive."""

    labels: Annotated[
        str | None,
        "the list; None: dataset.json, labels.csv, metadata.csv, labels.tsv, labels.txt, metadata.jsonl if it is there",
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
    if found is None or str(found).endswith(".json"):
        what = f"no list of labels in {root}" if found is None else f"{found} has no columns"
        for option, given in (("file", options.file), ("label", options.label)):
            if given is not None:
                raise InputError(f"options.{key}.{option}={given!r}: {what}: leave it None, or give a table")
    return found


def labelled_rows(path: Any, names: Sequence[str], options: ListOptions, key: str) -> tuple[NDArray, NDArray] | None:
    """Which of the pictures `names`, paths below the folder, a list labels: places in `names`, and labels.

    Labels are integers or texts. None: the list says that there are none, as EDM's can.

    Raises:
        InputError: the list cannot be read, names a picture that is not there, or has no label for one.
    """
    known = _places(names)
    if str(path).endswith(".jsonl"):
        pairs = _of_json_lines(path, options, key)
    else:
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
    labels = [label for _, label in pairs]
    found = label_values(labels, lambda place: f"{path}: {pairs[place][0]!r}", "add it, or remove the line")
    if not len(found):
        raise InputError(f"{path}: has no label for any picture: add them")
    return places, found


def _of_json(path: Any) -> list[tuple[str, Any]] | None:
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
    return [(file, label) for file, label in pairs]


def _of_table(path: Any, known: Mapping[str, int], options: ListOptions, key: str) -> list[tuple[str, Any]] | None:
    """A line for each picture, its file and its class; columns parted by commas, semicolons, tabs or blanks.

    None: beside the file there are captions alone.
    """
    lines = decoded_lines(path, path.read_bytes)
    mark = next((mark for mark in ",;\t" if lines and mark in lines[0]), " ")
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=mark, skipinitialspace=True)]
    except csv.Error as error:
        raise InputError(f"{path}: cannot be read as a table ({error}): mend it") from error
    if not rows:
        raise InputError(f"{path}: is empty: give a line `FILE,CLASS` for each picture")
    file, label, titled = _columns(path, rows[0], known, options, key)
    if label is None:
        return None
    rows = rows[titled:]
    if short := next((row for row in rows if len(row) <= max(file, label) or not row[label]), None):
        raise InputError(f"{path}: has no class in the line {mark.join(short)[:60]!r}: add it, or remove the line")
    return [(row[file], row[label]) for row in rows]


def _of_json_lines(path: Any, options: ListOptions, key: str) -> list[tuple[str, Any]] | None:
    """An object on each line, as the hub's `imagefolder` has them: `{"file_name": "a.png", "label": 3}`.

    None: they have captions or other things, and no key of `LABEL_COLUMNS`.
    """
    rows = []
    for number, line in enumerate(decoded_lines(path, path.read_bytes), start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise InputError(f"{path}: line {number} is no JSON ({one_line(error)}): make it again") from error
        if not isinstance(rows[-1], dict):
            raise InputError(f'{path}: line {number} is no object of JSON: give {{"file_name": .., "label": ..}}')
    titles = list(dict.fromkeys(title for row in rows for title in row))
    for option, given in (("file", options.file), ("label", options.label)):
        if given is not None and given not in titles:
            has = ", ".join(titles)[:200] or "nothing"
            raise InputError(f"options.{key}.{option}={given!r}: {path} has the keys {has}: give one of them")
    file = options.file or next((title for title in FILE_COLUMNS if title in titles), None)
    if file is None or (missing := next((row for row in rows if not isinstance(row.get(file), str)), None)) is not None:
        where = "" if file is None else f" in {json.dumps(missing)[:60]}"
        raise InputError(f"{path}: has no {file or FILE_COLUMNS[0]}{where}, the file of a picture: add it")
    label = options.label or next((title for title in LABEL_COLUMNS if title in titles and title != file), None)
    return None if label is None else [(row[file], row.get(label)) for row in rows]


def _columns(
    path: Any, first: list[str], known: Mapping[str, int], options: ListOptions, key: str
) -> tuple[int, int | None, bool]:
    """The columns of files and, if there are any, of classes of a table, and whether its first line has titles."""
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
    if titled and others and all(titles[column] in CAPTION_COLUMNS for column in others):
        return file, None, titled
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


def class_folders(path: Path, names: Sequence[str]) -> NDArray[Any] | None:
    """The folders, below the one that holds all, of pictures in an archive; None: some lie in that folder itself.

    Raises:
        InputError: the folders are splits. `path` begins the message.
    """
    whole = [posixpath.normpath("/" + name.lstrip("/")) for name in names]
    common = posixpath.join(posixpath.commonpath([posixpath.dirname(name) for name in whole]), "")
    below = [name.removeprefix(common).split("/") for name in whole]
    if any(len(parts) < 2 for parts in below):
        return None
    folders = [parts[0] for parts in below]
    found = set(folders)
    if "train" in found and found <= {word for kinds in SPLIT_WORDS.values() for kind in kinds for word in kind}:
        raise InputError(f"{path}: its folders are splits, {', '.join(sorted(found))}: pack each into one of its own")
    return np.asarray(folders)
