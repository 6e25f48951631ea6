"""A whole data set in memory.

`InMemory` keeps it on the host, `load_source` puts it on the devices, sorted by class; `Encoded` makes latents of it.
"""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding
from numpy.typing import NDArray

from drifting.data.batches import members_of
from drifting.data.crop import Seed
from drifting.data.source import (
    Delivery,
    Indices,
    LabelledImages,
    LabelledSource,
    Records,
    augmented,
    delivery,
    read_records,
)
from drifting.method.all_samples import AllSamples, look_up
from drifting.method.placement import Take
from drifting.method.records import RecordFormat

logger = logging.getLogger("drifting")

ROWS_A_READ, READING_THREADS = 512, 8

REPORTED_BYTES = 2**30
"""Bytes from which on loading takes long enough to be announced."""


class Encoded:
    """Another source's images as moments of latents, encoded whenever they are read.

    Args:
        source: the images.
        encode: moments `[B, h, w, 2 C]` float16 of images `[B, H, W, C]` as the source delivers them.
        delivers: what that makes of one image.
    """

    def __init__(self, source: LabelledSource, encode: Callable[[NDArray], NDArray], delivers: Delivery) -> None:
        self.name, self.shape, self.delivers = source.name, source.shape, delivers
        self.labels, self.class_names, self.num_classes = source.labels, source.class_names, source.num_classes
        self._source, self._encode = source, encode

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int, /) -> tuple[NDArray, int]:
        moments, labels = self.__getitems__([index])
        return moments[0], int(labels[0])

    def __getitems__(self, indices: Indices, /) -> LabelledImages:
        return self.read(indices, np.zeros(len(indices), bool), None)

    def read(self, indices: Indices, mirrored: NDArray[np.bool_], crop_seeds: Sequence[Seed] | None) -> Records:
        """Moments of the images, mirrored and cropped before they are encoded, and labels."""
        images, labels = read_records(self._source, indices, mirrored, crop_seeds)
        return self._encode(images), labels


class InMemory:
    """What another source delivers, read once and kept in memory.

    Args:
        source: the images, or moments of latents.
        flip: keep the mirror images of moments, too, which are read apart; images are turned when they are read.
    """

    def __init__(self, source: LabelledSource, flip: bool) -> None:
        self.name, self.shape, self.delivers = source.name, source.shape, delivery(source)
        self.labels, self.class_names, self.num_classes = source.labels, source.class_names, source.num_classes
        self._records = views(source, flip)(np.arange(len(source)))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int, /) -> tuple[NDArray, int]:
        return self._records[index, 0], int(self.labels[index])

    def __getitems__(self, indices: Indices, /) -> LabelledImages:
        return self.read(indices, np.zeros(len(indices), bool), None)

    def read(self, indices: Indices, mirrored: NDArray[np.bool_], crop_seeds: Sequence[Seed] | None) -> Records:
        """Reads as `drifting.data.source.read_records` says, from memory."""
        rows = np.asarray(indices, dtype=np.int64)
        if self._records.shape[1] > 1:
            return self._records[rows, mirrored.astype(np.intp)], self.labels[rows]
        return augmented(self._records[rows, 0], mirrored, crop_seeds), self.labels[rows]


def load_source(
    source: LabelledSource, flip: bool, sharding: Sharding | None = None, shards: int = 1, take: Take = look_up
) -> AllSamples:
    """All of a source on the devices; each process reads only what its own devices hold.

    Args:
        source: the images, or the moments of a cache of latents.
        flip: mirror what is drawn with probability 1/2; doubles what latents take.
        sharding: how the rows `[N, V, words]` are spread; None puts them on the default device.
        shards: how many parts of equal size that makes of the rows.
        take: how records that are spread like that are looked up.

    Raises:
        InputError: a class has no samples, or an image cannot be read.
    """
    members = members_of(source)
    order = np.concatenate(members)
    starts = np.cumsum([0, *map(len, members)]).astype(np.int32)
    read_views = views(source, flip)
    one = read_views(order[:1])
    record = RecordFormat(one.shape[2:], one.dtype)
    rows = -(-len(order) // shards) * shards
    _report(one.nbytes * rows // shards, f" on each of {shards} devices" if shards > 1 else "")

    def part(index: Any) -> NDArray[np.uint32]:
        wanted = np.arange(rows)[index[0]]
        return record.pack_on_host(read_views(order[np.minimum(wanted, len(order) - 1)]))

    where = sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    words = jax.make_array_from_callback((rows, one.shape[1], record.words), where, part)
    return AllSamples(words, jax.device_put(starts), record, flip, take)


def views(source: LabelledSource, flip: bool) -> Callable[[NDArray[np.int64]], NDArray]:
    """A reader of samples by index, `[N] -> [N, V, *shape]`: each, and of moments with `flip` the mirror image's."""
    kinds = (False, True) if flip and delivery(source).are_moments else (False,)

    def chunk(rows: NDArray[np.int64]) -> NDArray:
        return np.stack([read_records(source, rows, np.full(len(rows), kind), None)[0] for kind in kinds], axis=1)

    def all_of(rows: NDArray[np.int64]) -> NDArray:
        first = chunk(rows[:1])
        out = np.empty((len(rows), *first.shape[1:]), first.dtype)

        def fill(start: int) -> None:
            out[start : start + ROWS_A_READ] = chunk(rows[start : start + ROWS_A_READ])

        with ThreadPoolExecutor(READING_THREADS) as pool:
            list(pool.map(fill, range(0, len(rows), ROWS_A_READ)))
        return out

    return all_of


def _report(size: int, where: str) -> None:
    if size > REPORTED_BYTES:
        logger.info("data: loading %.1f GB%s", size / 1e9, where)
