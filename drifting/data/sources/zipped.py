"""Images in a zip archive, as EDM and StyleGAN keep theirs, or in class folders."""

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drifting.data.class_labels import UNLABELLED, classes_of, label_numbers, tell_one_class
from drifting.data.decode import EncodedSource, ImageShape, delivered_shape
from drifting.data.image_files import is_image, is_shown
from drifting.data.imagenet_names import readable
from drifting.data.kept import kept_arrays
from drifting.data.source import Indices
from drifting.data.sources.labelling import ListOptions, class_folders, find_list, labelled_rows
from drifting.data.sources.splits import not_what_it_seems, split_files
from drifting.data.zip_members import ZipMembers
from drifting.errors import InputError, MachineError, one_line, while_reading

ZIP_KEYS = ("name", "places", "label")


class ZipSource(EncodedSource):
    """Images in an archive, read where they lie and decoded then: see `zipped`."""

    def __init__(self, members: ZipMembers, labels: NDArray, class_names: tuple[str, ...], shape: ImageShape) -> None:
        super().__init__("zip", labels, class_names, shape)
        self._members = members

    def encoded(self, indices: Indices) -> Iterator[tuple[str, bytes]]:
        """Yields for each image its name and its bytes."""
        for index in indices:
            yield self._members.called(int(index)), self._members.content(int(index))


def zipped(
    path: str | Path,
    image_size: int,
    split: str = "train",
    channels: int = 3,
    image_width: int | None = None,
    options: ListOptions = ListOptions(),  # noqa: B008  it is frozen
) -> ZipSource:
    """The images of a zip archive, at any depth.

    Their labels are in EDM's `dataset.json` or another list in the archive. Without one, classes are the folders that
    hold the images, as in `imagefolder`; where there are none, all images are of one class.

    Args:
        path: the archive, or a folder with one for each split, see `split_files`.
        image_size: height of the delivered images, in pixels, and their width but where `image_width` says another.
        split: `train` or `heldout`.
        channels: 3 for RGB, 1 for grey.
        image_width: see `image_size`.
        options: the list of labels and its columns.

    Raises:
        InputError: there is no such archive, it is damaged, holds no images, or the list does not fit.
    """
    shape = delivered_shape(image_size, image_width, channels)
    found = {name: _indexed(Path(path), name, options) for name in dict.fromkeys(("train", split))}
    (_, train), (archive, index) = found["train"], found[split]
    members = ZipMembers(archive, index["name"], index["places"])
    if not len(index["label"]) or not len(train["label"]):
        tell_one_class(archive, bool(len(train["label"])), bool(len(index["label"])))
        return ZipSource(members, np.zeros(len(index["name"]), np.int32), UNLABELLED, shape)
    names = classes_of(train["label"], None, path)
    labels = label_numbers(index["label"], names, False, path)
    return ZipSource(members, labels, readable(names), shape)


def _indexed(path: Path, split: str, options: ListOptions) -> tuple[Path, dict[str, NDArray[Any]]]:
    archives = split_files(path, (".zip",), split, "zip archives")
    if len(archives) > 1:
        raise InputError(
            f"path={str(path)!r} holds {archives[0].name} and {archives[1].name} for split={split!r}: give one"
        )
    archive = archives[0]
    name = f"zip-{split}.npz"
    return archive, kept_arrays(archive, name, archives, lambda: _index(archive, options), ZIP_KEYS, options)


def _index(path: Path, options: ListOptions) -> dict[str, NDArray[Any]]:
    """For each image `name` and `places` of `ZipMembers`, and `label`, integers or texts; empty: there are none."""
    try:
        with while_reading(path), zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if is_image(os.path.basename(info.filename))]
            members = [info for info in members if all(map(is_shown, info.filename.split("/")))]
            members.sort(key=lambda info: info.filename)
            if not members:
                raise InputError(f"{path}: holds no images: give another archive")
            names = [info.filename for info in members]
            table = find_list(zipfile.Path(archive), options, "zip")
            labels = class_folders(path, names) if table is None else None
            if table is not None and (found := labelled_rows(table, names, options, "zip")) is not None:
                members, labels = [members[place] for place in found[0]], found[1]
    except (InputError, MachineError):
        raise
    except Exception as error:  # zipfile raises errors of any kind on damaged files
        raise InputError(f"{path}: is no zip archive ({one_line(error)}): {not_what_it_seems(path)}") from error
    there = ZipMembers.of(path, members)
    none = np.asarray([], np.int64)
    return {"name": there.names, "places": there.places, "label": none if labels is None else labels}
