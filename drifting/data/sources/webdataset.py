"""Pictures in tar shards, as WebDataset lays them out."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drifting.data.class_labels import UNLABELLED, classes_of, label_numbers, tell_one_class
from drifting.data.decode import EncodedSource, ImageShape, delivered_shape
from drifting.data.kept import kept_arrays
from drifting.data.source import Indices
from drifting.data.sources.splits import split_files
from drifting.data.sources.tar_index import TAR_KEYS, WebDatasetOptions, tar_index
from drifting.errors import InputError, while_reading
from drifting.runs.text import read_lines

CLASS_LISTS = ("classnames.txt", "classes.txt")
"""Names under which a list of the classes' names is looked for beside the shards."""


class WebDatasetSource(EncodedSource):
    """Pictures in tar shards, read where they lie and decoded then: see `webdataset`."""

    def __init__(
        self, shards: list[Path], index: dict[str, NDArray[Any]], labels: NDArray, names: tuple[str, ...],
        shape: ImageShape,
    ) -> None:  # fmt: skip
        super().__init__("webdataset", labels, names, shape)
        self._shards, self._keys = shards, index["key"]
        self._places = np.stack([index["shard"], index["offset"], index["size"]], axis=1)

    def encoded(self, indices: Indices) -> Iterator[tuple[str, bytes]]:
        """Yields for each image its key and its bytes. Shards are opened anew: there may be more than may stay open."""
        for index in indices:
            number, offset, size = self._places[int(index)].tolist()
            shard = self._shards[number]
            with while_reading(shard), shard.open("rb", buffering=0) as file:
                yield f"{self._keys[int(index)].decode()} in {shard}", os.pread(file.fileno(), size, offset)


def webdataset(
    path: str | Path,
    image_size: int,
    split: str = "train",
    channels: int = 3,
    image_width: int | None = None,
    options: WebDatasetOptions = WebDatasetOptions(),  # noqa: B008  it is frozen
) -> WebDatasetSource:
    """Pictures and labels of tar shards: `KEY.jpg` and `KEY.cls` for each sample, one behind the other.

    Where there are no labels, classes are the folders of the samples, as in `zipped`; without such all is of one class.
    An index of all shards is made once, beside them or in the cache folder where that may not be written.

    Args:
        path: a shard, or a folder of shards with the names of splits, see `split_files`.
        image_size: height of the delivered images, in pixels, and their width but where `image_width` says another.
        split: `train` or `heldout`.
        channels: 3 for RGB, 1 for grey.
        image_width: see `image_size`.
        options: which members are read.

    Raises:
        InputError: there are no such shards, one is damaged or cut short, or a sample or a label is not as described.
    """
    shape = delivered_shape(image_size, image_width, channels)
    path = Path(path)
    found = {name: _indexed(path, name, options) for name in dict.fromkeys(("train", split))}
    (_, train), (shards, index) = found["train"], found[split]
    declared = _declared(path if path.is_dir() else path.parent, options)
    if not len(index["label"]) or not len(train["label"]):
        if options.classes is not None:
            raise InputError(f"options.webdataset.classes={options.classes!r}: the samples of {path} have no labels")
        tell_one_class(path, bool(len(train["label"])), bool(len(index["label"])))
        return WebDatasetSource(shards, index, np.zeros(len(index["key"]), np.int32), UNLABELLED, shape)
    names = classes_of(train["label"], declared, path)
    labels = label_numbers(index["label"], names, declared is not None, path)
    return WebDatasetSource(shards, index, labels, names, shape)


def _indexed(path: Path, split: str, options: WebDatasetOptions) -> tuple[list[Path], dict[str, NDArray[Any]]]:
    shards = split_files(path, (".tar",), split, "tar shards")
    members, name = (options.image, options.label, options.field), f"webdataset-{split}.npz"
    return shards, kept_arrays(path, name, shards, lambda: tar_index(shards, options), TAR_KEYS, members)


def _declared(place: Path, options: WebDatasetOptions) -> list[str] | None:
    lists = [place / name for name in (CLASS_LISTS if options.classes is None else (options.classes,))]
    found = next((file for file in lists if file.is_file()), None)
    if options.classes is not None and found is None:
        raise InputError(
            f"options.webdataset.classes={options.classes!r}: there is no {lists[0]}: give a list beside the shards"
        )
    return None if found is None else read_lines(found)
