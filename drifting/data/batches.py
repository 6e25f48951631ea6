"""Batches of real images, in an order that depends on the seed alone.

Batch number `i` is a pure function of (source, seed, batch size, i): the position is the whole state of a pipeline,
and neither prefetching nor the number of processes changes what is read. Only *indices* are shuffled and batched; the
images are then read by one call for each batch, in Grain's threads or processes.
"""

import abc
import dataclasses
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self

import grain
import numpy as np
from absl import flags
from numpy.typing import NDArray

from drifting.data.library_warnings import no_pillow_warnings
from drifting.data.source import LabelledSource, Source, delivery, read_records
from drifting.errors import InputError, counted, require_argument

# Purposes of the random streams, so that no two draws of a run share one.
_ORDER, _FLIP, _CLASSES, _CROP = range(4)


class Feed(Protocol):
    """What a training is fed with, batch by batch: a `BatchIterator`, or a `Constant`."""

    def __next__(self) -> dict[str, Any]: ...

    def state(self) -> dict[str, int]:
        """The position in the data, for JSON."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue where a feed of that state was."""

    def close(self) -> None:
        """End what runs in the background."""


class Constant:
    """The same batch again and again: data that are on the device already."""

    def __init__(self, batch: dict[str, Any]) -> None:
        self._batch = batch

    def __next__(self) -> dict[str, Any]:
        return self._batch

    def state(self) -> dict[str, int]:
        """There is no position: an empty dict."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Does nothing: there is no position."""

    def close(self) -> None:
        """Does nothing: nothing runs in the background."""


@dataclass(frozen=True)
class Reading:
    """How a `BatchIterator` reads, and which part of each batch.

    Attributes:
        flip: mirror each image left to right with probability 1/2, a fresh coin for each place in the order.
        random_crop: deliver a random resized crop of each image, a fresh one for each place in the order: it depends on
            the seed and that place alone, neither on the batch size nor on the number of processes.
        prefetch: threads that read, and batches made ahead of the caller; 0 reads in the caller's thread.
        workers: processes that read, each with `prefetch` threads; 0 reads in this process.
        process_index, process_count: this process delivers the rows
            `[process_index * B / process_count, (process_index + 1) * B / process_count)` of each batch.
        place: puts a batch on the devices, ahead of the caller; None delivers NumPy arrays.

    Raises:
        ArgumentError: a count is out of range.
    """

    flip: bool = False
    random_crop: bool = False
    prefetch: int = 2
    workers: int = 0
    process_index: int = 0
    process_count: int = 1
    place: Callable[[dict[str, NDArray]], dict[str, Any]] | None = None

    def __post_init__(self) -> None:
        index, count = self.process_index, self.process_count
        remedy = "must be 0 or more; 0 reads in the caller's"
        require_argument(self.prefetch >= 0, "prefetch", self.prefetch, f"{remedy} thread")
        require_argument(self.workers >= 0, "workers", self.workers, f"{remedy} process")
        require_argument(0 <= index < count, "process_index", index, f"must be in [0, process_count={count})")


class BatchIterator(abc.ABC):
    """An iterator of `{"image": [B, H, W, C], "label": int32 [B]}` that can be resumed at any batch.

    Images are uint8, float32 in [-1, 1], or float16 moments of latents, see `drifting.data.source.read_records`.
    `Pipeline` and `ClassBalanced` choose the indices of a batch; this class reads, crops, flips, prefetches and counts.

    Args:
        source: the images.
        batch_size: images in a batch, over all processes.
        num_batches: where the iterator stops.
        seed: any non-negative integer; order, flips and crops follow from it.
        reading: how images are read; neither it nor the number of processes changes what is delivered.
    """

    def __init__(self, source: Source, *, batch_size: int, num_batches: int, seed: int, reading: Reading) -> None:
        count = reading.process_count
        require_argument(batch_size > 0, "batch_size", batch_size, "must be positive")
        require_argument(seed >= 0, "seed", seed, "must be 0 or more")
        require_argument(
            batch_size % count == 0, "batch_size", batch_size, f"must be a multiple of process_count={count}"
        )
        self.source = source
        self.batch_size = batch_size
        self.num_batches = num_batches
        self.seed = seed
        self._reading = reading
        rows = batch_size // count
        self._rows = slice(reading.process_index * rows, (reading.process_index + 1) * rows)
        self._position = 0
        self._batches: Any = None

    @abc.abstractmethod
    def indices(self, position: int) -> NDArray[np.int64]:
        """Indices into the source of this process's rows of batch `position`, `[B / process_count]`."""

    def batch(self, position: int) -> dict[str, NDArray]:
        """This process's rows of batch number `position`, whatever has been read before."""
        indices = self.indices(position)
        first = position * self.batch_size + self._rows.start
        images, labels = self._read(indices, np.arange(first, first + len(indices)))
        return {"image": images, "label": labels}

    def _read(self, indices: NDArray[np.int64], ids: NDArray[np.int64]) -> tuple[NDArray, NDArray[np.int32]]:
        """Images and labels of `indices`, flipped and cropped as is due at the places `ids` of the order."""
        mirrored, crop_seeds = np.zeros(len(ids), bool), None
        if self._reading.flip:
            positions, rows = np.divmod(ids, self.batch_size)
            for position in np.unique(positions):
                coins = np.random.default_rng([self.seed, _FLIP, position]).random(self.batch_size) < 0.5
                here = positions == position
                mirrored[here] = coins[rows[here]]
        if self._reading.random_crop:
            crop_seeds = [(self.seed, _CROP, int(place)) for place in ids]
        return read_records(self.source, indices, mirrored, crop_seeds)

    def _start(self) -> Any:
        """Grain's iterator of the batches from the present position on."""
        reading = self._reading
        ahead = grain.ReadOptions(num_threads=reading.prefetch, prefetch_buffer_size=reading.prefetch)
        batches = grain.MapDataset.range(self._position, self.num_batches).map(self.batch).to_iter_dataset(ahead)
        if reading.workers:
            flags.FLAGS.mark_as_parsed()  # Grain asks for that before it starts a process
            options = grain.MultiprocessingOptions(reading.workers, per_worker_buffer_size=max(1, reading.prefetch))
            batches = batches.mp_prefetch(options).map(_copied)
        if reading.place is not None:
            batches = batches.map(reading.place)
            if reading.prefetch:
                batches = grain.experimental.ThreadPrefetchIterDataset(batches, prefetch_buffer_size=reading.prefetch)
        return iter(batches)

    def __getstate__(self) -> dict[str, Any]:
        """What a worker process is given: what `batch` needs."""
        return {**self.__dict__, "_batches": None, "_reading": dataclasses.replace(self._reading, place=None)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state
        no_pillow_warnings()  # here begins a worker process

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> dict[str, Any]:
        if self._batches is None:
            self._batches = self._start()
        try:
            batch = next(self._batches)
        except StopIteration:
            raise
        except Exception:
            self.close()  # the iterator has moved past the batch that failed, and trying again is to read the same one
            raise
        self._position += 1
        return batch

    def state(self) -> dict[str, int]:
        """`{"position": number of batches the caller has taken}`, for JSON; the same on every process."""
        return {"position": self._position}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue as if `state["position"]` batches had just been taken.

        Raises:
            InputError: `state` has no position from 0 to the number of batches.
        """
        position = state.get("position")
        if not isinstance(position, int) or not 0 <= position <= self.num_batches:
            raise InputError(f"state position={position!r} must be an integer from 0 to {self.num_batches}")
        self.close()
        self._position = position

    def close(self) -> None:
        """End the threads and processes that read ahead; the next batch starts them again."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None


class Pipeline(BatchIterator):
    """Every image once in each epoch, each epoch in a new order.

    Epochs follow one another without a seam: a batch may end one and begin the next. With a finite number of epochs the
    last batch holds what is left, and a process may find few or no rows in it. Batches have a third entry, `id` `[B]`
    uint32: each image's place in the order, by which `recall` reads it again.

    Args:
        source: the images.
        batch_size: images in a batch, over all processes; at most the size of the source.
        seed: any non-negative integer.
        shuffle: False reads every epoch in the order of the source.
        epochs: how often every image is read; None for an endless pipeline.
        reading: the fields of `Reading`.

    Raises:
        ArgumentError: a count is out of range, `process_count` does not divide the batch, or the source is too small.
    """

    def __init__(
        self,
        source: Source,
        batch_size: int,
        seed: int,
        *,
        shuffle: bool = True,
        epochs: int | None = None,
        **reading: Any,
    ) -> None:
        remedy = "must be positive, or None for an endless pipeline"
        require_argument(epochs is None or epochs > 0, "epochs", epochs, remedy)
        self._total = sys.maxsize if epochs is None else epochs * len(source)
        num_batches = -(-self._total // max(batch_size, 1))
        super().__init__(source, batch_size=batch_size, num_batches=num_batches, seed=seed, reading=Reading(**reading))
        remedy = f"exceeds the {counted(len(source), 'image')} of {source.name!r}: reduce it"
        require_argument(batch_size <= len(source), "batch_size", batch_size, remedy)
        order = grain.MapDataset.range(len(source))
        if shuffle:
            # Grain shuffles epoch e with seed + e: hash ours, lest the second epoch of seed 0 be the first of seed 1.
            order = order.shuffle(seed=int(np.random.SeedSequence([seed, _ORDER]).generate_state(1)[0]))
        self._order = order.repeat(epochs)

    def indices(self, position: int) -> NDArray[np.int64]:
        """Indices of this process's rows: the next of the shuffled epochs."""
        first = position * self.batch_size
        last = min(first + self._rows.stop, self._total)
        return self._at(np.arange(first + self._rows.start, last))

    def batch(self, position: int) -> dict[str, NDArray]:
        """This process's rows of batch number `position`, and their places in the order."""
        found = super().batch(position)
        first = position * self.batch_size + self._rows.start
        return found | {"id": np.arange(first, first + len(found["label"])).astype(np.uint32)}

    def recall(self, ids: NDArray[np.uint32]) -> NDArray:
        """The images `[N, H, W, C]` of the places `ids` `[N]` in the order, as they were or will be delivered."""
        places = ids.astype(np.int64)
        return self._read(self._at(places), places)[0]

    def _at(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.array([self._order[int(place)] for place in places], dtype=np.int64)


class ClassBalanced(BatchIterator):
    """Endless batches of groups: images of one class, and after them images of any class.

    Every class once in each pass over the classes, in a new order for each batch; the images of a group are drawn anew
    without replacement, or with it where there are fewer than asked for. Group `c` of a batch is the rows
    `[c G, (c + 1) G)`, `G = samples_per_class + unconditional`; the first of them is of its class. The released MNIST
    recipe draws 5 classes x 96.

    Args:
        source: the images; labels must be known in advance.
        classes_per_batch: groups in a batch.
        samples_per_class: images of its class in each.
        seed: any non-negative integer.
        unconditional: images of any class in each.
        reading: the fields of `Reading`.

    Raises:
        ArgumentError: a count is out of range, or `process_count` does not divide the batch.
        InputError: a class has no images.
    """

    def __init__(
        self,
        source: LabelledSource,
        classes_per_batch: int,
        samples_per_class: int,
        seed: int,
        *,
        unconditional: int = 0,
        **reading: Any,
    ) -> None:
        for name, value, least in (
            ("classes_per_batch", classes_per_batch, 1),
            ("samples_per_class", samples_per_class, 1),
            ("unconditional", unconditional, 0),
        ):
            require_argument(value >= least, name, value, f"must be at least {least}")
        self._members = members_of(source)
        self._groups, self._samples_per_class, self._unconditional = classes_per_batch, samples_per_class, unconditional
        super().__init__(
            source,
            batch_size=classes_per_batch * (samples_per_class + unconditional),
            num_batches=sys.maxsize,
            seed=seed,
            reading=Reading(**reading),
        )

    def indices(self, position: int) -> NDArray[np.int64]:
        """Indices of this process's rows: a draw of classes, then of the images of each and of any."""
        rng = np.random.default_rng([self.seed, _CLASSES, position])
        passes = -(-self._groups // len(self._members))
        classes = np.concatenate([rng.permutation(len(self._members)) for _ in range(passes)])[: self._groups]
        rows = []
        for c in classes:
            rows.append(_draw(rng, self._members[c], self._samples_per_class))
            if self._unconditional:
                rows.append(_draw(rng, len(self.source), self._unconditional))
        return np.concatenate(rows)[self._rows]


def _copied(batch: dict[str, NDArray]) -> dict[str, NDArray]:
    """A batch outside of the memory that it was shared in with a worker process.

    Grain frees that once the last user has gone. Batches on a CPU device use it as it is, until the interpreter ends,
    when nobody is left to free it.
    """
    return {key: np.array(rows) for key, rows in batch.items()}


def _draw(rng: np.random.Generator, population: int | NDArray[np.int64], count: int) -> NDArray[np.int64]:
    size = population if isinstance(population, int) else len(population)
    return rng.choice(population, count, replace=count > size)


def members_of(source: LabelledSource) -> list[NDArray[np.int64]]:
    """The indices of each class's images, ascending. Raises `InputError` where a class has none."""
    order = np.argsort(source.labels, kind="stable").astype(np.int64)
    members = np.split(order, np.searchsorted(source.labels[order], np.arange(1, source.num_classes)))
    empty = [name for found, name in zip(members, source.class_names, strict=True) if not len(found)]
    if empty:
        more = f" and {len(empty) - 5} more" if len(empty) > 5 else ""
        name, remedy = repr(source.name), "leave them out, or add images"
        if delivery(source).are_moments:
            name, remedy = delivery(source).path or name, f"{remedy}, and make the cache again in another folder"
        raise InputError(
            f"{len(empty)} of {counted(source.num_classes, 'class')} of {name} have no image: "
            f"{', '.join(empty[:5])}{more}; {remedy}"
        )
    return members
