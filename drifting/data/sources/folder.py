"""Images of a user's own in folders, one for each class, decoded when they are read."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from drifting.data.decode import EncodedSource, ImageShape, delivered_shape
from drifting.data.image_files import IMAGE_SUFFIXES, image_files, image_files_of, is_image, is_shown
from drifting.data.imagenet_names import readable
from drifting.data.source import Indices, check_split
from drifting.data.sources.label_list import listed_labels
from drifting.errors import InputError, MachineError, counted

logger = logging.getLogger("drifting")


class FolderSource(EncodedSource):
    """Image files, decoded when they are read: see `imagefolder` and `flat`."""

    def __init__(
        self, files: Sequence[str], labels: NDArray, class_names: tuple[str, ...], shape: ImageShape,
        name: str = "imagefolder",
    ) -> None:  # fmt: skip
        super().__init__(name, labels, class_names, shape)
        self._files = files

    def encoded(self, indices: Indices) -> Iterator[tuple[str, Path]]:
        """Yields for each image its file, twice."""
        for index in indices:
            file = self._files[int(index)]
            yield file, Path(file)


def imagefolder(
    path: str | Path, image_size: int, split: str = "train", channels: int = 3, image_width: int | None = None
) -> FolderSource:
    """A folder with one sub-folder of images for each class; labels follow the sorted folder names.

    The layout is `path/CLASS/...` (training images only) or `path/train/CLASS/...` beside `path/heldout/CLASS/...` or
    `path/val/CLASS/...`. What is ignored, followed and left out is said in `image_files_of`. Held-out images may lie
    in no class folders where a list has their labels, see `listed_labels`. Images become squares as in
    `EncodedSource`. Folders named by ImageNet's WordNet ids are in ImageNet-1k's order, and their classes get English
    names.

    Args:
        path: the folder.
        image_size: height of the delivered images, in pixels, and their width but where `image_width` says another.
        split: `train` or `heldout`.
        channels: 3 for RGB, 1 for grey.
        image_width: see `image_size`.

    Raises:
        InputError: an argument is out of range, or the folder has no images, no classes or no such split, or it is
            rather one below it whose sub-folders are classes. Reading an image that is damaged raises one, too, that
            names the file.
    """
    check_split(split)
    shape = delivered_shape(image_size, image_width, channels)
    try:
        files, labels, class_names = _labelled_files(Path(path), split)
    except MachineError:  # it names the folder and the remedy
        raise
    except OSError as error:
        raise InputError(f"path={str(path)!r} cannot be read ({error}): make it readable") from error
    return FolderSource(files, labels, readable(class_names), shape)


def _labelled_files(path: Path, split: str) -> tuple[list[str], NDArray[np.int64], tuple[str, ...]]:
    """The files of a split, their labels, and the names of the class folders."""
    train, heldout = _split_folders(path)
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
    if folder != train and (listed := _listed(folder, class_names)) is not None:
        return *listed, class_names
    # Of the held-out images whoever trains on the others is told, too: it would be found only after the training.
    unknown = [f for f in _folders(heldout) if f.name not in class_names] if heldout is not None else []
    if unknown and heldout is not None and (folder == heldout or _listed(heldout, class_names) is None):
        raise InputError(f"{unknown[0]} is a class that {train} lacks: remove it or add training images")
    files: list[str] = []
    labels: list[int] = []
    split_folders = _folders(folder)
    for class_folder, found in zip(split_folders, image_files_of(split_folders), strict=True):
        if not found:
            raise InputError(
                f"{class_folder} holds no images: remove it or add some: {' '.join(sorted(IMAGE_SUFFIXES))}"
            )
        files += found
        labels += [class_names.index(class_folder.name)] * len(found)
    if not files:
        raise InputError(f"{folder} holds no images: add them as {folder}/CLASS/IMAGE, or remove it")
    if loose := sum(is_image(file.name) and file.is_file() for file in folder.iterdir()):
        logger.warning("data: %s left out, in %s beside its class folders", counted(loose, "image"), folder)
    return files, np.asarray(labels), class_names


def _listed(folder: Path, class_names: tuple[str, ...]) -> tuple[list[str], NDArray[np.int64]] | None:
    """The files of a folder and their labels where a list has these; None where its folders are classes."""
    if any(found.name in class_names for found in _folders(folder)):
        return None
    return listed_labels(folder, image_files(folder), class_names)


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
    return sorted(f for f in folder.iterdir() if f.is_dir() and is_shown(f.name))


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
    return any(is_image(file.name) for file in folder.iterdir())
