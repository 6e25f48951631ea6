"""Arrays in an `.npz` file as a source."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drifting.data.npz import member_names, open_member
from drifting.data.source import ArraySource, check_split, checked_labels
from drifting.errors import InputError, counted


def array(path: str | Path, split: str = "train") -> ArraySource:
    """A user's own `.npz` file, read into memory once.

    Keys: `image`, `[N, H, W, C]` or `[N, H, W]`, uint8 or float in [-1, 1], and `label`, `[N]` integers numbered from
    0 without gaps. Optionally `image_heldout` and `label_heldout`, the same for the held-out split.

    Raises:
        InputError: the file is missing or not an `.npz`, a key is missing, or an array is not as described.
    """
    check_split(split)
    suffix = "_heldout" if split == "heldout" else ""
    arrays: dict[str, NDArray[Any]] = {}
    for key in (f"image{suffix}", f"label{suffix}", "label"):
        found = open_member(Path(path), key)
        if found is None:
            there = ", ".join(member_names(Path(path))) or "nothing"
            raise InputError(f"{path}: has no key {key!r}, which split={split!r} needs, but {there}: add it")
        arrays[key] = np.array(found)
    train_labels = checked_labels(arrays["label"], f"{path}: label")
    classes = np.unique(train_labels)
    if len(classes) != train_labels.max() + 1:
        raise InputError(
            f"{path}: label has {counted(len(classes), 'class')} but values up to {train_labels.max()}: "
            "number the classes 0, 1, ... without gaps"
        )
    images = arrays[f"image{suffix}"]
    labels = checked_labels(arrays[f"label{suffix}"], f"{path}: label{suffix}")
    if images.ndim > 2 and len(images) != len(labels):
        counts = f"{counted(len(images), 'image')} but {counted(len(labels), 'label')}"
        raise InputError(f"{path}: split={split!r} has {counts}: give one each")
    if labels.max() >= len(classes):
        raise InputError(f"{path}: label{suffix} has class {labels.max()}, which no training image has: remove it")
    return ArraySource(images, labels, tuple(str(c) for c in classes), called=f"{path}: image{suffix}")
