"""Arrays in an `.npz` file as a source."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drifting.data.npz import member_names, open_member
from drifting.data.source import ArraySource, check_split, checked_images, checked_labels
from drifting.errors import InputError, counted

HELDOUT = "_heldout"
"""How the names of the held-out split's arrays end."""


def array(path: str | Path, split: str = "train") -> ArraySource:
    """A user's own `.npz` file, read into memory once.

    Keys: `image`, `[N, H, W, C]` or `[N, H, W]`, uint8 or float in [-1, 1], and `label`, `[N]` integers numbered from
    0 without gaps. Optionally `image_heldout` and `label_heldout`, the same for the held-out split. They are looked at
    together: whoever trains on the one is told what is wrong with the other, and not at the end, when it is needed.

    Raises:
        InputError: the file is missing or not an `.npz`, a key is missing, or an array is not as described.
    """
    check_split(split)
    file = Path(path)
    images, labels = _arrays(file, "", "train")
    classes = np.unique(labels)
    if len(classes) != labels.max() + 1:
        raise InputError(
            f"{path}: label has {counted(len(classes), 'class')} but values up to {labels.max()}: "
            "number the classes 0, 1, ... without gaps"
        )
    names = tuple(str(c) for c in classes)
    train = ArraySource(images, labels, names, called=f"{path}: image")
    if split == "train" and not {f"image{HELDOUT}", f"label{HELDOUT}"} & set(member_names(file)):
        return train
    images, labels = _arrays(file, HELDOUT, "heldout")
    if labels.max() >= len(classes):
        raise InputError(f"{path}: label{HELDOUT} has class {labels.max()}, which no training image has: remove it")
    heldout = ArraySource(images, labels, names, called=f"{path}: image{HELDOUT}")
    if heldout.shape != train.shape:
        shapes = f"images of shape {heldout.shape}, and image of shape {train.shape}"
        raise InputError(f"{path}: image{HELDOUT} has {shapes}: make them alike, or remove image{HELDOUT}")
    return train if split == "train" else heldout


def _arrays(file: Path, suffix: str, split: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """The images and the labels of a split, of which there are equally many."""
    arrays: list[NDArray[Any]] = []
    for key in (f"image{suffix}", f"label{suffix}"):
        found = open_member(file, key)
        if found is None:
            there = ", ".join(member_names(file)) or "nothing"
            raise InputError(f"{file}: has no key {key!r}, which split={split!r} needs, but {there}: add it")
        arrays.append(np.array(found))
    if arrays[0].ndim and not len(arrays[0]):  # where there are no labels either, the images are what is missing
        checked_images(arrays[0], f"{file}: image{suffix}")
    images, labels = arrays[0], checked_labels(arrays[1], f"{file}: label{suffix}")
    if images.ndim > 2 and len(images) != len(labels):
        counts = f"{counted(len(images), 'image')} but {counted(len(labels), 'label')}"
        raise InputError(f"{file}: split={split!r} has {counts}: give one each")
    return images, labels
