"""Batches of real images, in an order that depends on the seed alone.

Batch number `i` is a pure function of (source, seed, batch size, i): the position is the whole state of a pipeline,
and neither prefetching nor the number of processes changes what is read. Only *indices* are shuffled and batched; the
images are then read by one call for each batch, in Grain's prefetch threads.
"""

import abc
import sys
from collections.abc import Mapping
from typing import Any, Self

import grain
import numpy as np
from numpy.typing import NDArray

from drifting.data.source import LabelledSource, Source, read

# Purposes of the random streams, so that no two draws of a run share one.
_ORDER, _FLIP, _CLASSES, _CROP = range(4)


class BatchIterator(abc.ABC):
    """An iterator of `{"image": float32 [B, H, W, C], "label": int32 [B]}` that can be resumed at any batch.

    Of a cache of latents, the images are their moments: float16 `[B, h, w, 2 C]`.

    `Pipeline` and `ClassBalanced` choose the indices of a batch; this class reads, crops, flips, prefetches and counts.

    Args:
        source: The images.
        batch_size: Images in a batch, over all processes.
        num_batches: Where the iterator stops.
        seed: Any non-negative integer; order, flips and crops follow from it.
        flip: Mirror each image left to right with probability 1/2, a fresh coin for each position in the order.
        random_crop: Deliver a random resized crop of each image, a fresh one for each position in the order: it depends
            on `seed` and that position alone, neither on the batch size nor on the number of processes.
        prefetch: Threads, and batches made ahead of the caller; 0 reads in the caller's thread.
        process_index, process_count: This process delivers the rows
            `[process_index * B / process_count, (process_index + 1) * B / process_count)` of each batch.

    Raises:
        ValueError: A count is out of range, `process_count` does not divide the batch, or the source is too small.
    """

    def __init__(
        self,
        source: Source,
        *,
        batch_size: int,
        num_batches: int,
        seed: int,
        flip: bool,
        random_crop: bool,
        prefetch: int,
        process_index: int,
        process_count: int,
    ) -> None:
        if batch_size <= 0:
            raise ValueError(f"batch_size={batch_size} must be positive")
        if len(source) < batch_size:
            raise ValueError(f"batch_size={batch_size} exceeds the {len(source)} images of {source.name!r}: reduce it")
        if seed < 0:
            raise ValueError(f"seed={seed} must not be negative")
        if prefetch < 0:
            raise ValueError(f"prefetch={prefetch} must not be negative (0 reads in the caller's thread)")
        if not 0 <= process_index < process_count:
            raise ValueError(f"process_index={process_index} must be in [0, process_count={process_count})")
        if batch_size % process_count:
            raise ValueError(f"batch_size={batch_size} must be a multiple of process_count={process_count}")
        self.source = source
        self.batch_size = batch_size
        self.num_batches = num_batches
        self.seed = seed
        self._flip, self._random_crop = flip, random_crop
        rows = batch_size // process_count
        self._rows = slice(process_index * rows, (process_index + 1) * rows)
        self._position = 0
        options = grain.ReadOptions(num_threads=prefetch, prefetch_buffer_size=prefetch)
        self._batches = iter(grain.MapDataset.range(num_batches).map(self.batch).to_iter_dataset(options))

    @abc.abstractmethod
    def indices(self, position: int) -> NDArray[np.int64]:
        """Indices into the source of this process's rows of batch `position`, `[B / process_count]`."""

    def batch(self, position: int) -> dict[str, NDArray]:
        """This process's rows of batch number `position`, whatever has been read before."""
        indices = self.indices(position)
        mirrored, crop_seeds = np.zeros(len(indices), bool), None
        if self._flip:
            coins = np.random.default_rng([self.seed, _FLIP, position]).random(self.batch_size) < 0.5
            mirrored = coins[self._rows][: len(indices)]
        if self._random_crop:
            first = position * self.batch_size + self._rows.start
            crop_seeds = [(self.seed, _CROP, first + row) for row in range(len(indices))]
        images, labels = read(self.source, indices, mirrored, crop_seeds)
        return {"image": images, "label": labels}

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> dict[str, NDArray]:
        try:
            batch = next(self._batches)
        except StopIteration:
            raise
        except Exception:
            # Grain has moved past the batch that failed: go back, so that trying again reads the same one.
            self._batches.set_state({"next_index": self._position})
            raise
        self._position += 1
        return batch

    def state(self) -> dict[str, int]:
        """`{"position": number of batches the caller has taken}`, for JSON; the same on every process."""
        return {"position": self._position}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue as if `state["position"]` batches had just been taken.

        Raises:
            ValueError: `state` has no position from 0 to the number of batches.
        """
        position = state.get("position")
        if not isinstance(position, int) or not 0 <= position <= self.num_batches:
            raise ValueError(f"state position={position!r} must be an integer from 0 to {self.num_batches}")
        self._batches.set_state({"next_index": position})
        self._position = position

    def close(self) -> None:
        """End the prefetch threads; the pipeline cannot be read afterwards."""
        self._batches.close()


class Pipeline(BatchIterator):
    """Every image once in each epoch, each epoch in a new order.

    Epochs follow one another without a seam: a batch may end one and begin the next. With a finite number of epochs the
    last batch holds what is left, and a process may find few or no rows in it. For the other arguments see
    `BatchIterator`.

    Args:
        source: The images.
        batch_size: Images in a batch, over all processes; at most the size of the source.
        seed: Any non-negative integer.
        shuffle: False reads every epoch in the order of the source.
        epochs: None for an endless pipeline.
    """

    def __init__(
        self,
        source: Source,
        batch_size: int,
        seed: int,
        *,
        shuffle: bool = True,
        epochs: int | None = None,
        flip: bool = False,
        random_crop: bool = False,
        prefetch: int = 2,
        process_index: int = 0,
        process_count: int = 1,
    ) -> None:
        if epochs is not None and epochs <= 0:
            raise ValueError(f"epochs={epochs} must be positive, or None for an endless pipeline")
        self._total = sys.maxsize if epochs is None else epochs * len(source)
        super().__init__(
            source,
            batch_size=batch_size,
            num_batches=-(-self._total // max(batch_size, 1)),
            seed=seed,
            flip=flip,
            random_crop=random_crop,
            prefetch=prefetch,
            process_index=process_index,
            process_count=process_count,
        )
        order = grain.MapDataset.range(len(source))
        if shuffle:
            # Grain shuffles epoch e with seed + e: hash ours, lest the second epoch of seed 0 be the first of seed 1.
            order = order.shuffle(seed=int(np.random.SeedSequence([seed, _ORDER]).generate_state(1)[0]))
        self._order = order.repeat(epochs)

    def indices(self, position: int) -> NDArray[np.int64]:
        """Indices of this process's rows: the next of the shuffled epochs."""
        first = position * self.batch_size
        last = min(first + self._rows.stop, self._total)
        return np.array([self._order[i] for i in range(first + self._rows.start, last)], dtype=np.int64)


class ClassBalanced(BatchIterator):
    """Endless batches of a few classes and equally many images of each (the released MNIST recipe: 5 classes x 96).

    For each batch the classes, and the images of each class, are drawn anew without replacement. Rows are grouped by
    class: image j of the batch's c-th class is row `c * samples_per_class + j`. For the other arguments see
    `BatchIterator`.

    Args:
        source: The images; labels must be known in advance.
        classes_per_batch: Distinct classes in a batch.
        samples_per_class: Images of each.
        seed: Any non-negative integer.

    Raises:
        ValueError: There are too few classes, or a class has too few images.
    """

    def __init__(
        self,
        source: LabelledSource,
        classes_per_batch: int,
        samples_per_class: int,
        seed: int,
        *,
        flip: bool = False,
        random_crop: bool = False,
        prefetch: int = 2,
        process_index: int = 0,
        process_count: int = 1,
    ) -> None:
        if not 0 < classes_per_batch <= source.num_classes:
            raise ValueError(
                f"classes_per_batch={classes_per_batch} must be in 1..{source.num_classes}, the classes there are"
            )
        if samples_per_class <= 0:
            raise ValueError(f"samples_per_class={samples_per_class} must be positive")
        self._members = [np.flatnonzero(source.labels == c) for c in range(source.num_classes)]
        for members, name in zip(self._members, source.class_names, strict=True):
            if len(members) < samples_per_class:
                raise ValueError(
                    f"samples_per_class={samples_per_class} exceeds the {len(members)} images of class {name!r}"
                )
        self._classes_per_batch, self._samples_per_class = classes_per_batch, samples_per_class
        super().__init__(
            source,
            batch_size=classes_per_batch * samples_per_class,
            num_batches=sys.maxsize,
            seed=seed,
            flip=flip,
            random_crop=random_crop,
            prefetch=prefetch,
            process_index=process_index,
            process_count=process_count,
        )

    def indices(self, position: int) -> NDArray[np.int64]:
        """Indices of this process's rows: a draw of classes, then of the images of each."""
        rng = np.random.default_rng([self.seed, _CLASSES, position])
        classes = rng.choice(len(self._members), self._classes_per_batch, replace=False)
        rows = [rng.choice(self._members[c], self._samples_per_class, replace=False) for c in classes]
        return np.concatenate(rows)[self._rows]
