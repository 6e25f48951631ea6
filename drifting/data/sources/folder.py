"""Images of a user's own in folders, one for each class, decoded when they are read."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from drifting.data.decode import EncodedSource, check_size
from drifting.data.imagenet_names import readable
from drifting.data.source import Indices, check_split
from drifting.errors import InputError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})


class FolderSource(EncodedSource):
    """Class folders of image files, decoded when they are read: see `imagefolder`."""

    def __init__(self, files: Sequence[str], labels: NDArray, class_names: tuple[str, ...], size: int, channels: int):
        super().__init__("imagefolder", labels, class_names, size, channels)
        self._files = files

    def encoded(self, indices: Indices) -> Iterator[tuple[str, Path]]:
        """Yields for each image its file, twice."""
        for index in indices:
            file = self._files[int(index)]
            yield file, Path(file)


def imagefolder(path: str | Path, image_size: int, split: str = "train", channels: int = 3) -> FolderSource:
    """A folder with one sub-folder of images for each class; labels follow the sorted folder names.

    The layout is `path/CLASS/...` (training images only) or `path/train/CLASS/...` beside `path/heldout/CLASS/...` or
    `path/val/CLASS/...`. Names that begin with a dot are ignored. Images become squares as in `EncodedSource`. Folders
    named by ImageNet's WordNet ids are in ImageNet-1k's order, and their classes get English names.

    Args:
        path: the folder.
        image_size: height and width of the delivered images, in pixels.
        split: `train` or `heldout`.
        channels: 3 for RGB, 1 for grey.

    Raises:
        InputError: an argument is out of range, or the folder has no images, no classes or no such split, or it is
            rather one below it whose sub-folders are classes. Reading an image that is damaged raises one, too, that
            names the file.
    """
    check_split(split)
    check_size(image_size, channels)
    train, heldout = _split_folders(Path(path))
    class_folders = _folders(train)
    class_names = tuple(f.name for f in class_folders)
    if not class_names:
        raise InputError(f"path={str(path)!r} has no class folders: expected {train}/CLASS/IMAGE")
    if below := _folder_of_classes(class_folders):
        raise InputError(
            f"path={str(path)!r}: its class folders hold folders and no images; give {str(below)!r} instead"
        )
    folder = train if split == "train" else heldout
    if folder is None:
        raise InputError(f"path={str(path)!r} has no held-out images: add heldout/CLASS/ or val/CLASS/ beside train/")
    files: list[str] = []
    labels: list[int] = []
    for class_folder in _folders(folder):
        if class_folder.name not in class_names:
            raise InputError(f"{class_folder} is a class that {train} lacks: remove it or add training images")
        found = _images(class_folder)
        if not found:
            raise InputError(
                f"{class_folder} holds no images: remove it or add some: {' '.join(sorted(IMAGE_SUFFIXES))}"
            )
        files += found
        labels += [class_names.index(class_folder.name)] * len(found)
    return FolderSource(files, np.asarray(labels), readable(class_names), image_size, channels)


def _split_folders(path: Path) -> tuple[Path, Path | None]:
    if not path.is_dir():
        raise InputError(f"path={str(path)!r} is not a folder: give one with a sub-folder of images for each class")
    heldout = next((path / name for name in ("heldout", "val") if (path / name).is_dir()), None)
    if (path / "train").is_dir():
        return path / "train", heldout
    if heldout is not None:
        raise InputError(
            f"path={str(path)!r} has {heldout.name}/ but no train/, whose classes number the labels: add it"
        )
    return path, None


def _folders(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))


def _images(folder: Path) -> list[str]:
    """The image files at any depth, in the order of their paths. A million of them: no call of the system for each."""
    found: list[str] = []
    for base, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [os.path.join(base, name) for name in names if _is_image(name)]
    return sorted(found, key=lambda file: file.split(os.sep))


def _folder_of_classes(class_folders: list[Path]) -> Path | None:
    """If these are no classes, but folders above them: the first folder below whose sub-folders hold images."""
    if any(_holds_images(folder) for folder in class_folders):
        return None
    for folder in class_folders:
        below = _folders(folder)
        if any(_holds_images(f) for f in below):
            # train/ is a part of what is to be given.
            return folder.parent if folder.name == "train" else folder
        if deeper := _folder_of_classes(below):
            return deeper
    return None


def _holds_images(folder: Path) -> bool:
    return any(_is_image(file.name) for file in folder.iterdir())


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith(".")
