"""Images in a zip archive, as EDM and StyleGAN keep theirs, or in class folders."""

import logging
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drifting.data.class_labels import UNLABELLED, classes_of, label_numbers
from drifting.data.decode import EncodedSource, check_size
from drifting.data.image_files import is_image, is_shown
from drifting.data.imagenet_names import readable
from drifting.data.kept import kept_arrays
from drifting.data.source import Indices
from drifting.data.sources.labelling import ListOptions, find_list, labelled_rows
from drifting.data.sources.splits import SPLIT_WORDS, not_what_it_seems, split_files
from drifting.errors import InputError, MachineError, one_line, while_reading

logger = logging.getLogger("drifting")

LOCAL_HEADER = 30
"""Bytes of a member's own header before its name and its extra field, whose lengths are the last four of them."""


class ZipSource(EncodedSource):
    """Images in an archive, read where they lie and decoded then: see `zipped`."""

    def __init__(
        self, archive: Path, index: dict[str, NDArray[Any]], labels: NDArray, names: tuple[str, ...], size: int,
        channels: int,
    ) -> None:  # fmt: skip
        super().__init__("zip", labels, names, size, channels)
        self._archive, self._names = archive, index["name"]
        self._places = np.stack([index["offset"], index["packed"], index["method"]], axis=1)

    def encoded(self, indices: Indices) -> Iterator[tuple[str, bytes]]:
        """Yields for each image its name and its bytes."""
        with while_reading(self._archive), self._archive.open("rb", buffering=0) as file:
            for index in indices:
                offset, packed, method = self._places[int(index)].tolist()
                name = f"{self._names[int(index)].decode()} in {self._archive}"
                header = os.pread(file.fileno(), LOCAL_HEADER, offset)
                lengths = int(np.frombuffer(header[26:30], "<u2").sum())
                content = os.pread(file.fileno(), packed, offset + LOCAL_HEADER + lengths)
                yield name, content if method == zipfile.ZIP_STORED else _unpacked(name, content)


def zipped(
    path: str | Path,
    image_size: int,
    split: str = "train",
    channels: int = 3,
    options: ListOptions = ListOptions(),  # noqa: B008  it is frozen
) -> ZipSource:
    """The images of a zip archive, at any depth.

    Their labels are in EDM's `dataset.json` or another list in the archive. Without one, classes are the folders that
    hold the images, as in `imagefolder`; where there are none, all images are of one class.

    Args:
        path: the archive, or a folder with one for each split, see `split_files`.
        image_size: height and width of the delivered images, in pixels.
        split: `train` or `heldout`.
        channels: 3 for RGB, 1 for grey.
        options: the list of labels and its columns.

    Raises:
        InputError: there is no such archive, it is damaged, holds no images, or the list does not fit.
    """
    check_size(image_size, channels)
    found = {name: _indexed(Path(path), name, options) for name in dict.fromkeys(("train", split))}
    (_, train), (archive, index) = found["train"], found[split]
    if not len(index["label"]) or not len(train["label"]):
        logger.info("data: %s has neither a list of labels nor class folders: all is of one class", archive)
        return ZipSource(archive, index, np.zeros(len(index["name"]), np.int32), UNLABELLED, image_size, channels)
    names = classes_of(train["label"], None, path)
    return ZipSource(
        archive, index, label_numbers(index["label"], names, False, path), readable(names), image_size, channels
    )


def _indexed(path: Path, split: str, options: ListOptions) -> tuple[Path, dict[str, NDArray[Any]]]:
    archives = split_files(path, (".zip",), split, "zip archives")
    if len(archives) > 1:
        raise InputError(
            f"path={str(path)!r} holds {archives[0].name} and {archives[1].name} for split={split!r}: give one"
        )
    archive = archives[0]
    return archive, kept_arrays(archive.parent, f"{split}.npz", archives, lambda: _index(archive, options), options)


def _index(path: Path, options: ListOptions) -> dict[str, NDArray[Any]]:
    """For each image `name offset packed method`, and `label`, integers or texts; empty where there are none."""
    try:
        with while_reading(path), zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if is_image(os.path.basename(info.filename))]
            members = [info for info in members if all(map(is_shown, info.filename.split("/")))]
            members.sort(key=lambda info: info.filename)
            if not members:
                raise InputError(f"{path}: holds no images: give another archive")
            names = [info.filename for info in members]
            table = find_list(zipfile.Path(archive), options, "zip")
            found = labelled_rows(table, names, options, "zip") if table is not None else _class_folders(path, names)
            if found is not None:
                members = [members[place] for place in found[0]]
    except (InputError, MachineError):
        raise
    except Exception as error:  # zipfile raises errors of any kind on damaged files
        raise InputError(f"{path}: is no zip archive ({one_line(error)}): {not_what_it_seems(path)}") from error
    for info in members:
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError(
                f"{path}: {info.filename} is encrypted, or packed otherwise than zip's deflate: pack it anew"
            )
    return {
        "name": np.asarray([info.filename.encode() for info in members]),
        "offset": np.asarray([info.header_offset for info in members]),
        "packed": np.asarray([info.compress_size for info in members]),
        "method": np.asarray([info.compress_type for info in members]),
        "label": np.asarray([], np.int64) if found is None else found[1],
    }


def _class_folders(path: Path, names: list[str]) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """All images, and the folders below the one that holds all of them; None: some lie in that folder itself."""
    common = os.path.commonpath([os.path.dirname(name) for name in names])
    below = [os.path.relpath(name, common or ".").split(os.sep) for name in names]
    if any(len(parts) < 2 for parts in below):
        return None
    folders = {parts[0] for parts in below}
    if "train" in folders and folders <= {word for kinds in SPLIT_WORDS.values() for kind in kinds for word in kind}:
        raise InputError(
            f"{path}: its folders are splits, {', '.join(sorted(folders))}: pack each into a zip of its own"
        )
    return np.arange(len(names)), np.asarray([parts[0] for parts in below])


def _unpacked(name: str, content: bytes) -> bytes:
    try:
        return zlib.decompress(content, -zlib.MAX_WBITS)
    except zlib.error as error:
        raise InputError(f"cannot read the image {name}: {error}; copy the archive again") from error
