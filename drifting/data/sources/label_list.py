"""Labels of images that lie in no class folders, as ImageNet's validation images do when they are unpacked."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from drifting.data.class_labels import NUMBER
from drifting.data.imagenet_names import WORDNET_ID, validation_ids
from drifting.errors import InputError, counted
from drifting.runs.text import read_lines

logger = logging.getLogger("drifting")

LABEL_LISTS = (
    "labels.txt",
    "labels.csv",
    "val.txt",
    "val.csv",
    "val_labels.txt",
    "val_annotations.txt",
    "LOC_val_solution.csv",
    "imagenet_2012_validation_synset_labels.txt",
)
"""Names under which such a list is looked for, in the folder and beside it."""

VALIDATION_IMAGE = re.compile(r"ILSVRC2012_val_(\d{8})")


def listed_labels(
    folder: Path, files: Sequence[str], class_names: Sequence[str]
) -> tuple[list[str], NDArray[np.int64]] | None:
    """The images of a folder that a list knows, and their labels; None: there are no images outside of folders.

    A list has a line for each image: its name, with or without suffix, and its class, with a comma or a blank between
    them; or the class alone, in the order of the sorted names. A class is the name of its folder, or its number from 0
    on in their sorted order. ImageNet's validation images need no list where the classes are WordNet ids. Those of
    other ids are left out.

    Args:
        folder: the folder, for its lists and for messages.
        files: its images.
        class_names: the names of the class folders of the training images.

    Raises:
        InputError: there is no list, or it does not fit.
    """
    path = next((p for name in LABEL_LISTS for p in (folder / name, folder.parent / name) if p.is_file()), None)
    if path is not None and files:
        classes = _read_list(path, files, class_names)
    elif not any(Path(file).parent == folder for file in files):
        return None
    elif (found := _imagenets(files, class_names)) is not None:
        classes = found
    else:
        devkit = [f for f in (*folder.glob("*ground_truth*"), *folder.parent.glob("*ground_truth*")) if f.is_file()]
        unread = f"; {devkit[0].name} is not read, its numbers have an order of their own" if devkit else ""
        raise InputError(
            f"{folder} holds {counted(len(files), 'image')} and no class folders: put them into {folder}/CLASS/, "
            f"or add {folder / LABEL_LISTS[0]} with a line `FILE CLASS` for each (ImageNet's own, ILSVRC2012_val_*, "
            f"need none where the class folders of train/ are WordNet ids{unread})"
        )
    where = path or folder
    labels = np.asarray([_label(name, class_names, where) for name in classes])
    kept = labels >= 0
    if not kept.any():
        known = counted(len(class_names), "class")
        raise InputError(f"{where}: no image is of one of the {known} of the training images")
    if not kept.all():
        logger.info(
            "data: %d of %s of other classes left out, in %s", (~kept).sum(), counted(len(files), "image"), folder
        )
    return [file for file, known in zip(files, kept, strict=True) if known], labels[kept]


def _imagenets(files: Sequence[str], class_names: Sequence[str]) -> list[str] | None:
    """The WordNet ids of images that are all ImageNet's, where the classes are, too."""
    numbers = [VALIDATION_IMAGE.fullmatch(Path(file).stem) for file in files]
    if not all(map(WORDNET_ID.fullmatch, class_names)) or not all(numbers):
        return None
    ids = validation_ids()
    found = [int(number[1]) for number in numbers if number]
    return [ids[number - 1] for number in found] if 1 <= min(found) <= max(found) <= len(ids) else None


def _read_list(path: Path, files: Sequence[str], class_names: Sequence[str]) -> list[str]:
    """What a list calls the class of each image."""
    rows = [_columns(line) for line in read_lines(path)]
    names = {Path(file).name for file in files} | {Path(file).stem for file in files}
    if not any(_file_name(row[0]) in names for row in rows[:2]):  # the first may be a title
        if len(rows) != len(files):
            lengths = f"{counted(len(rows), 'line')}, of {counted(len(files), 'image')}"
            raise InputError(f"{path}: has {lengths}: give `FILE CLASS` on each line")
        return [" ".join(row) for row in rows]
    known: dict[str, str] = {}
    for name, label, *_ in (row for row in rows if len(row) > 1):
        if (before := known.setdefault(_file_name(name), label)) != label:
            raise InputError(f"{path}: says {before} and {label} of {_file_name(name)}: remove one of the lines")
    found = [known.get(Path(file).name) or known.get(Path(file).stem) for file in files]
    if missing := [file for file, label in zip(files, found, strict=True) if label is None]:
        more = f" (and {len(missing) - 1} more)" if missing[1:] else ""
        raise InputError(f"{path}: has no line `FILE CLASS` for {Path(missing[0]).name}{more}: add it")
    return [
        label if label in class_names else label.split()[0]  # boxes may follow
        for label in found
        if label is not None
    ]


def _columns(line: str) -> list[str]:
    """A line's first column, and the next where there are several."""
    mark = next((mark for mark in ",;\t" if mark in line), None)
    return [column.strip(" \"'") for column in (line.split(mark)[:2] if mark else line.split(None, 1))]


def _file_name(column: str) -> str:
    return column.replace("\\", "/").rsplit("/", 1)[-1]


def _label(name: str, class_names: Sequence[str], path: Path) -> int:
    """The label of a class's name or number; -1 of a WordNet id that is none of the classes."""
    if name in class_names:
        return class_names.index(name)
    if NUMBER.fullmatch(name) and 0 <= float(name) < len(class_names):
        return int(float(name))
    if WORDNET_ID.fullmatch(name) and any(map(WORDNET_ID.fullmatch, class_names)):
        return -1
    remedy = f"use names of class folders, or numbers from 0 to {len(class_names) - 1} in their sorted order"
    raise InputError(f"{path}: {name!r} is no class: {remedy}")
