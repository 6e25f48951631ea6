"""Images in LMDB, as LSUN, Caffe and their followers keep theirs."""

import logging
from collections.abc import Iterator
from os import getpid
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drifting.data.class_labels import UNLABELLED, classes_of, label_numbers, tell_one_class
from drifting.data.decode import EncodedSource, ImageShape, delivered_shape
from drifting.data.kept import kept_arrays
from drifting.data.source import Indices
from drifting.data.sources.caffe_datum import parse_datum
from drifting.data.sources.labelling import ListOptions, find_list
from drifting.data.sources.lmdb_index import (
    END,
    LMDB_KEYS,
    SUFFIXES,
    environment,
    lmdb_index,
    reading_database,
    text_of,
)
from drifting.data.sources.splits import split_files
from drifting.errors import InputError, counted

logger = logging.getLogger("drifting")


class LmdbSource(EncodedSource):
    """Images in LMDB, read where they lie and decoded then: see `lmdb`."""

    def __init__(
        self, files: list[Path], index: dict[str, NDArray[Any]], labels: NDArray, names: tuple[str, ...],
        shape: ImageShape,
    ) -> None:  # fmt: skip
        super().__init__("lmdb", labels, names, shape)
        self._files, self._keys, self._numbers, self._datum = files, index["key"], index["database"], index["datum"]

    def encoded(self, indices: Indices) -> Iterator[tuple[str, bytes]]:
        """Yields for each image its key and its bytes."""
        for index in indices:
            row = int(index)
            file, key = self._files[int(self._numbers[row])], self._keys[row][: -len(END)]
            with reading_database(file), environment(file, getpid()).begin() as transaction:
                content = transaction.get(key) or b""
                picture = parse_datum(content).picture if self._datum[row] else content
            yield f"{text_of(key)} in {file}", picture


def lmdb(
    path: str | Path,
    image_size: int,
    split: str = "train",
    channels: int = 3,
    image_width: int | None = None,
    options: ListOptions = ListOptions(),  # noqa: B008  it is frozen
) -> LmdbSource:
    """Encoded images under any keys, as LSUN has them, or Caffe's `Datum` with labels.

    Labels are those of `Datum`, entries `label-N` beside `image-N`, a list in the folder whose files are the keys, or,
    of several databases, the names of their folders; where there are none of these all images are of one class. An
    index of the keys is made once, beside the data or in the cache folder where that may not be written.

    Args:
        path: the folder of `data.mdb`, the file of a database without one, or a folder of several, see `split_files`.
        image_size: height of the delivered images, in pixels, and their width but where `image_width` says another.
        split: `train` or `heldout`.
        channels: 3 for RGB, 1 for grey.
        image_width: see `image_size`.
        options: the list of labels and its columns.

    Raises:
        InputError: there is no such database, it is damaged, holds no images, or the lmdb library is not installed.
    """
    shape = delivered_shape(image_size, image_width, channels)
    try:
        import lmdb as library  # noqa: F401
    except ImportError as error:
        raise InputError("needs lmdb: pip install 'drifting[lmdb]'") from error
    found = {name: _indexed(Path(path), name, options) for name in dict.fromkeys(("train", split))}
    (_, train), (files, index) = found["train"], found[split]
    if pickles := int(index["pickles"][0]):
        logger.warning("data: %s in %s left out: they are never read here", counted(pickles, "pickle"), path)
    if not len(index["label"]) or not len(train["label"]):
        tell_one_class(path, bool(len(train["label"])), bool(len(index["label"])))
        return LmdbSource(files, index, np.zeros(len(index["key"]), np.int32), UNLABELLED, shape)
    names = classes_of(train["label"], None, path)
    return LmdbSource(files, index, label_numbers(index["label"], names, False, path), names, shape)


def _indexed(path: Path, split: str, options: ListOptions) -> tuple[list[Path], dict[str, NDArray[Any]]]:
    files = split_files(path, SUFFIXES, split, "LMDB")
    table = find_list(files[0].parent, options, "lmdb")
    of = files if table is None else [*files, table]
    name = f"lmdb-{split}.npz"
    return files, kept_arrays(path, name, of, lambda: lmdb_index(files, table, options), LMDB_KEYS, options)
