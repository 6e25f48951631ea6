"""Data sets that TensorFlow Datasets has prepared, read without TensorFlow."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drifting.data.decode import EncodedSource, ImageShape, decode, delivered_shape
from drifting.data.imagenet_names import readable
from drifting.data.source import Indices, check_split
from drifting.errors import InputError, MachineError, one_line, while_reading

logger = logging.getLogger("drifting")

TFDS_SPLITS = {"train": ("train",), "heldout": ("validation", "test")}
"""Names of our splits there, the first that there is."""

RECORDS_A_READ = 64
"""Records fetched at a time: they are read in parallel, and few enough to wait in memory."""


class TfdsSplit:
    """One split of a prepared data set of labelled images: encoded images and labels, by index.

    Args:
        folder: the folder of a prepared version, or one above it that holds no other, such as `DATA_DIR/NAME`.
        split: `train` or `heldout`, which is the split `validation` or else `test` there.

    Raises:
        InputError: there is no such folder or split, it is no image classification, not prepared as array_record, or
            a file of it is missing.
    """

    def __init__(self, folder: Path, split: str) -> None:
        check_split(split)
        # Here, because it takes seconds to import.
        import tensorflow_datasets

        self.folder = _version(folder)
        try:
            builder = tensorflow_datasets.builder_from_directory(self.folder)
        except Exception as error:  # such a folder can be damaged in as many ways as there are kinds
            raise InputError(f"path={str(self.folder)!r}: TFDS cannot read it: {_line(error)}") from error
        self.split = next((name for name in TFDS_SPLITS[split] if name in builder.info.splits), "")
        if not self.split:
            raise InputError(
                f"path={str(self.folder)!r} has the splits {', '.join(builder.info.splits)}, and none of "
                f"{', '.join(TFDS_SPLITS[split])}, which split={split!r} needs: choose another data set"
            )
        self.size = int(builder.info.splits[self.split].num_bytes)
        features = builder.info.features
        self.image = self._only(features, tensorflow_datasets.features.Image, "image")
        self.label = self._only(features, tensorflow_datasets.features.ClassLabel, "label")
        self.class_names = tuple(features[self.label].names)
        missing = [file for file in builder.info.splits[self.split].filepaths if not Path(file).exists()]
        skip = {self.image: tensorflow_datasets.decode.SkipDecoding()}
        if (found := builder.info.file_format.value) != "array_record":
            raise InputError(
                f"path={str(self.folder)!r}: is prepared as {found}, which has no index; where TensorFlow is "
                f"installed, run `tfds convert_format --dataset_version_dir={self.folder} "
                "--out_file_format=array_record`"
            )
        try:
            self._source: Any = builder.as_data_source(self.split, decoders=skip)
        except Exception as error:  # as above
            raise InputError(f"path={str(self.folder)!r}: TFDS cannot read it: {_line(error)}") from error
        if missing:
            more = f" (and {len(missing) - 1} more)" if missing[1:] else ""
            raise InputError(f"{missing[0]}: is missing{more}; copy or prepare the data set again")

    def __len__(self) -> int:
        return len(self._source)

    def __call__(self, indices: Indices) -> Iterator[tuple[bytes, int]]:
        """The encoded image and the label of each index. Raises `InputError` at one that cannot be read."""
        for found in self.attempts(indices):
            if isinstance(found, InputError):
                raise found
            yield found

    def attempts(self, indices: Indices) -> Iterator[tuple[bytes, int] | InputError]:
        """The encoded image and the label of each index, or why it cannot be read."""
        for first in range(0, len(indices), RECORDS_A_READ):
            yield from self._fetch([int(index) for index in indices[first : first + RECORDS_A_READ]])

    def _fetch(self, indices: list[int]) -> list[tuple[bytes, int] | InputError]:
        try:
            return [(found[self.image], int(found[self.label])) for found in self._source.__getitems__(indices)]
        except Exception as error:  # the reader raises many kinds, and for all of them together
            if len(indices) > 1:
                return [found for index in indices for found in self._fetch([index])]
            where = f"{indices[0]} of split {self.split!r} in {self.folder}"
            return [InputError(f"cannot read the record {where}: {_line(error)}; copy or prepare the data set again")]

    def _only(self, features: Any, kind: type, what: str) -> str:
        names = [name for name, feature in features.items() if isinstance(feature, kind)]
        if len(names) != 1:
            raise InputError(
                f"path={str(self.folder)!r} has the features {', '.join(features)}, {len(names)} of which are a "
                f"{kind.__name__}: choose a data set with one {what} for each example"
            )
        return names[0]


class TfdsSource(EncodedSource):
    """Images that TFDS has prepared, decoded when they are read: see `tfds`."""

    def __init__(self, records: TfdsSplit, labels: NDArray, shape: ImageShape) -> None:
        super().__init__("tfds", labels, readable(records.class_names), shape)
        self._records = records

    def encoded(self, indices: Indices) -> Iterator[tuple[str, bytes]]:
        """Yields for each image its number and its bytes."""
        for index, (data, _) in zip(indices, self._records(indices), strict=True):
            yield f"{index} of split {self._records.split!r} in {self._records.folder}", data


def tfds(
    path: str | Path, image_size: int, split: str = "train", channels: int = 3, image_width: int | None = None
) -> TfdsSource:
    """Labelled images that TensorFlow Datasets has prepared as array_record, such as ImageNet; needs no TensorFlow.

    Images are decoded when they are read and become squares as in `EncodedSource`. The labels are read once, which
    takes as long as reading the split from the disk, and are kept beside the data where that may be written.

    Args:
        path: the folder of the prepared version, `DATA_DIR/NAME[/CONFIG]/VERSION`, or one above it that holds no other.
        image_size: height of the delivered images, in pixels, and their width but where `image_width` says another.
        split: `train`, or `heldout`, which is the data set's split `validation` or else `test`.
        channels: 3 for RGB, 1 for grey.
        image_width: see `image_size`.

    Raises:
        InputError: as `TfdsSplit` does, or an argument is out of range, or the split's images have no labels.
    """
    shape = delivered_shape(image_size, image_width, channels)
    records = TfdsSplit(Path(path), split)
    if len(records) == 0:
        raise InputError(
            f"path={str(records.folder)!r}: split {records.split!r} has no images: choose another data set"
        )
    return TfdsSource(records, _labels(records), shape)


def tfds_images(path: Path, split: str, shape: tuple[int, int, int]) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """All images `[N, H, W, C]` uint8 and labels `[N]` int32 of a data set whose images are all of one shape.

    Raises:
        InputError: as `TfdsSplit` does, or an image is of another shape.
    """
    records = TfdsSplit(path, split)
    images, labels = np.empty((len(records), *shape), np.uint8), np.empty(len(records), np.int32)
    for index, (data, label) in enumerate(records(range(len(records)))):
        pixels = decode(f"{index} of split {records.split!r} in {records.folder}", data, shape[2])
        if pixels.shape[:2] != shape[:2]:
            raise InputError(f"path={str(records.folder)!r}: image {index} is {pixels.shape[:2]}, not {shape[:2]}")
        images[index], labels[index] = pixels.reshape(shape), label
    return images, labels


def _version(folder: Path) -> Path:
    """The folder of the only prepared version at or below `folder`."""
    found = [folder] if (folder / "features.json").is_file() else []
    for below in ("*", "*/*", "*/*/*"):
        found = found or sorted(file.parent for file in folder.glob(f"{below}/features.json"))
    if not found:
        raise InputError(
            f"path={str(folder)!r} is no folder of a prepared TFDS data set (features.json is missing): give "
            "DATA_DIR/NAME[/CONFIG]/VERSION"
        )
    if len(found) > 1:
        raise InputError(f"path={str(folder)!r} holds {len(found)} data sets: give one, such as {found[-1]}")
    return found[0]


def _labels(records: TfdsSplit) -> NDArray[np.int32]:
    """The labels of all images, kept beside the data in a file whose name tells one preparation from another."""
    file = records.folder / f"labels-{records.split}-{len(records)}-{records.size}.npy"
    try:
        with while_reading(file):
            labels = np.load(file, allow_pickle=False)
    except MachineError:
        raise
    except (OSError, ValueError, EOFError):
        labels = _read_labels(records, file)
    if labels.shape != (len(records),) or labels.min() < 0 or labels.max() >= len(records.class_names):
        raise InputError(f"path={str(records.folder)!r}: split {records.split!r} has images without labels")
    return labels


def _read_labels(records: TfdsSplit, file: Path) -> NDArray[np.int32]:
    """Reads all labels and keeps them in `file`. Records that cannot be read count as of class 0 until they are asked
    for, so that a cache can be made of the others.

    Raises:
        InputError: no record can be read.
    """
    labels, bad, reason = np.zeros(len(records), np.int32), 0, InputError()
    for index, found in enumerate(records.attempts(range(len(records)))):
        if isinstance(found, InputError):
            bad, reason = bad + 1, found
        else:
            labels[index] = found[1]
    if bad == len(records):
        raise reason
    if bad:
        logger.warning("data: %d of %d records cannot be read, the last: %s", bad, len(records), reason)
    else:
        _save(file, labels)
    return labels


def _save(file: Path, labels: NDArray[np.int32]) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}.npy")
    try:
        np.save(temporary, labels)
        temporary.replace(file)
    except OSError:  # the data may be read-only: then they are read again the next time
        temporary.unlink(missing_ok=True)


def _line(error: Exception) -> str:
    return one_line(error)[:200]
