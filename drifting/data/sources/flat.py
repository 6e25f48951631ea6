"""Images of a folder that are not sorted into classes: a list has their labels, or they are of one class."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drifting.data.class_labels import UNLABELLED, classes_of, label_numbers, tell_one_class
from drifting.data.decode import delivered_shape
from drifting.data.image_files import IMAGE_SUFFIXES, image_files
from drifting.data.source import check_split
from drifting.data.sources.folder import FolderSource
from drifting.data.sources.labelling import ListOptions, find_list, labelled_rows
from drifting.errors import InputError, MachineError

HELDOUT_FOLDERS = ("heldout", "val", "validation", "test")


def flat(
    path: str | Path,
    image_size: int,
    split: str = "train",
    channels: int = 3,
    image_width: int | None = None,
    options: ListOptions = ListOptions(),  # noqa: B008  it is frozen
) -> FolderSource:
    """The images of a folder, at any depth, labelled by a list in it; without one all are of one class.

    The list is a table with a line for each image, its file and its class, or EDM's `dataset.json`. Images may be split
    into `path/train/` and `path/heldout/`, `val/`, `validation/` or `test/`, each with a list of its own.

    Args:
        path: the folder.
        image_size: height of the delivered images, in pixels, and their width but where `image_width` says another.
        split: `train` or `heldout`.
        channels: 3 for RGB, 1 for grey.
        image_width: see `image_size`.
        options: the list and its columns.

    Raises:
        InputError: there is no such folder or split, it has no images, or the list does not fit.
    """
    check_split(split)
    shape = delivered_shape(image_size, image_width, channels)
    try:
        train, heldout = _split_folders(Path(path))
        if split == "heldout" and heldout is None:
            wanted = " or ".join(f"{name}/" for name in HELDOUT_FOLDERS)
            raise InputError(f"path={str(path)!r} has no held-out images: add {wanted} beside train/")
        files, values = _labelled(train, options)
        found, theirs = (files, values) if split == "train" else _labelled(heldout or train, options)
    except MachineError:  # it names the folder and the remedy
        raise
    except OSError as error:
        raise InputError(f"path={str(path)!r} cannot be read ({error}): make it readable") from error
    if values is None or theirs is None:
        tell_one_class(path, values is not None, theirs is not None)
        return FolderSource(found, np.zeros(len(found), np.int32), UNLABELLED, shape, "flat")
    names = classes_of(values, None, path)
    return FolderSource(found, label_numbers(theirs, names, False, path), names, shape, "flat")


def _labelled(folder: Path, options: ListOptions) -> tuple[list[str], NDArray[Any] | None]:
    """The images of a split, and their labels if a list has some."""
    files = image_files(folder)
    if not files:
        raise InputError(f"{folder}: holds no images: add some: {' '.join(sorted(IMAGE_SUFFIXES))}")
    table = find_list(folder, options, "flat")
    start = len(os.path.join(folder, ""))
    below = [file[start:].replace(os.sep, "/") for file in files]
    found = None if table is None else labelled_rows(table, below, options, "flat")
    if found is None:
        return files, None
    return [files[place] for place in found[0]], found[1]


def _split_folders(path: Path) -> tuple[Path, Path | None]:
    if not path.is_dir():
        raise InputError(f"path={str(path)!r} is not a folder: give one that holds images")
    heldout = next((path / name for name in HELDOUT_FOLDERS if (path / name).is_dir()), None)
    return (path / "train", heldout) if (path / "train").is_dir() else (path, None)
