"""Image sets by name. A new data set is a function that returns a `LabelledSource`, and an entry in `SOURCES`."""

import inspect
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from drifting.data.classic import cifar10, fashion_mnist, mnist
from drifting.data.folder import imagefolder
from drifting.data.latents import latents
from drifting.data.source import ArraySource, LabelledSource, check_split
from drifting.data.synthetic import synthetic
from drifting.data.tfds import tfds

DIGITS_HELDOUT = 397


def digits(split: str = "train") -> ArraySource:
    """scikit-learn's scanned digits: 8x8x1, ten classes, grey levels 0..16 delivered as x / 8 - 1. Needs no download.

    The 1,797 images are split once and for all into 1,400 for training and 397 held out (38 to 41 of each class).

    Raises:
        ValueError: `split` is not one of `SPLITS`.
    """
    check_split(split)
    data = load_digits()
    labels = data.target
    # RandomState, because its stream is frozen: the split is the same under every version of NumPy.
    shuffled = np.random.RandomState(0).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    # Evenly spaced ranks of a list sorted by class: stratified to within one image, and exactly 397 in all.
    quota = np.arange(len(labels) + 1) * DIGITS_HELDOUT // len(labels)
    heldout = np.diff(quota) > 0
    rows = np.sort(by_class[heldout if split == "heldout" else ~heldout])
    images = (data.images[rows, :, :, None] / 8 - 1).astype(np.float32)
    return ArraySource("digits", images, labels[rows], tuple(str(c) for c in range(10)))


def array(path: str | Path, split: str = "train") -> ArraySource:
    """A user's own `.npz` file, read into memory once.

    Keys: `image`, `[N, H, W, C]` or `[N, H, W]`, uint8 or float in [-1, 1], and `label`, `[N]` integers numbered from
    0 without gaps. Optionally `image_heldout` and `label_heldout`, the same for the held-out split.

    Raises:
        ValueError: The file is missing or not an `.npz`, a key is missing, or an array is not as described.
    """
    check_split(split)
    suffix = "_heldout" if split == "heldout" else ""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {k: archive[k] for k in (f"image{suffix}", f"label{suffix}", "label") if k in archive.files}
    # TypeError: a bare .npy loads as an array, which is no context manager.
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        # NumPy takes a file it does not know for a pickle and advises to allow that.
        reason = "it is something else, or holds pickled objects" if "pickle" in str(error).lower() else error
        raise ValueError(f"path={str(path)!r} cannot be read as an .npz file of plain arrays: {reason}") from error
    for key in (f"image{suffix}", f"label{suffix}", "label"):
        if key not in arrays:
            raise ValueError(f"path={str(path)!r} has no key {key!r}, which split={split!r} needs: add it")
    train_labels = _check_labels(arrays["label"], f"{path}: label")
    classes = np.unique(train_labels)
    if len(classes) != train_labels.max() + 1:
        raise ValueError(
            f"{path}: label has {len(classes)} classes but values up to {train_labels.max()}: "
            "number the classes 0, 1, ... without gaps"
        )
    images = _check_images(arrays[f"image{suffix}"], f"{path}: image{suffix}")
    labels = _check_labels(arrays[f"label{suffix}"], f"{path}: label{suffix}")
    if len(images) != len(labels):
        raise ValueError(f"{path}: split={split!r} has {len(images)} images but {len(labels)} labels: give one each")
    if labels.max() >= len(classes):
        raise ValueError(f"{path}: label{suffix} has class {labels.max()}, which no training image has: remove it")
    return ArraySource("array", images, labels, tuple(str(c) for c in classes))


def _check_labels(labels: NDArray, what: str) -> NDArray:
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or len(labels) == 0:
        raise ValueError(f"{what} has shape {labels.shape} and dtype {labels.dtype}: give one integer per image, [N]")
    if labels.min() < 0:
        raise ValueError(f"{what} has the value {labels.min()}: number the classes from 0")
    return labels


def _check_images(images: NDArray, what: str) -> NDArray:
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(f"{what} has shape {images.shape}: give [N, H, W, C] or [N, H, W], none of them 0")
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.floating):
        raise ValueError(f"{what} has dtype {images.dtype}: give uint8, or float in [-1, 1]")
    low, high = images.min(), images.max()
    if not (low >= -1 and high <= 1):  # written so that NaN fails too
        raise ValueError(f"{what} is float with values from {low} to {high}: rescale to [-1, 1], or give uint8")
    return images.astype(np.float32)


SOURCES: dict[str, Callable[..., LabelledSource]] = {
    "digits": digits,
    "array": array,
    "imagefolder": imagefolder,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
    "tfds": tfds,
    "synthetic": synthetic,
    "latents": latents,
}


def make_source(
    name: str,
    *,
    split: str = "train",
    path: str | Path | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    classes: int | None = None,
) -> LabelledSource:
    """Build the source `SOURCES[name]`; arguments left at None are not passed on.

    Raises:
        ValueError: `name` is unknown, the source needs an argument that is None or takes none of that name, or the
            source itself refuses its arguments.
    """
    if name not in SOURCES:
        raise ValueError(f"source name={name!r} is unknown: use one of {', '.join(SOURCES)}")
    given = {"path": path, "image_size": image_size, "channels": channels, "classes": classes}
    parameters = inspect.signature(SOURCES[name]).parameters
    for key, value in given.items():
        if value is None and key in parameters and parameters[key].default is inspect.Parameter.empty:
            raise ValueError(f"source {name!r} needs {key}: give it")
        if value is not None and key not in parameters:
            raise ValueError(f"source {name!r} takes no {key} (got {value!r}): leave it None")
    return SOURCES[name](split=split, **{key: value for key, value in given.items() if value is not None})
