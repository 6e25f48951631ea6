"""Pools: where a step draws its real samples from.

A step asks a pool for samples of a class and for samples of any class, and does not know how they are stored. There are
three forms. `Banks` hold the latest samples of each class and are part of the state (`bank_pool`); `AllSamples` of the
module `all_samples` is the whole data set on the devices (`all_samples_pool`); `Groups` are what a batch brought for
this one step (`batch_pool`).

A pool holds *records*, what is kept of a real sample: `drifting.method.space` makes them of what a source delivers.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float32, Int32, Key, Shaped, UInt32

from drifting.method import bank
from drifting.method.bank import Bank

Batch = dict[str, Any]
"""What a feed delivers for a step; which arrays it holds depends on the pool."""

ToRecords = Callable[[Shaped[Array, "batch ..."]], Shaped[Array, "batch ..."]]
"""Makes records of what a source delivers."""


@runtime_checkable
class Pool(Protocol):
    """The real samples that one step can draw."""

    def labels(self, key: Key[Array, ""], count: int) -> Int32[Array, "{count}"]:
        """The class labels of the step."""

    def of_class(
        self, key: Key[Array, ""], labels: Int32[Array, "labels"], count: int
    ) -> Shaped[Array, "labels {count} *record"]:
        """`count` records of each label's class."""

    def of_any(
        self, key: Key[Array, ""], labels: Int32[Array, "labels"], count: int
    ) -> Shaped[Array, "labels {count} *record"]:
        """`count` records of any class for each label; `count` may be 0."""

    def fill(self) -> Float32[Array, ""]:
        """The share of the pool that holds samples, in [0, 1]."""

    def kept(self) -> "Banks | None":
        """The banks that the next step finds in its state."""


OpenPool = Callable[["Banks | None", Batch, ToRecords], Pool]
"""Makes the pool of a step of the state's banks and the step's batch: `bank_pool`, `all_samples_pool`, `batch_pool`."""


def bank_pool(banks: "Banks | None", batch: Batch, to_records: ToRecords) -> Pool:
    """The state's banks after the batch is pushed: `image`, and of each image `label` (int32) and `id` (uint32)."""
    assert banks is not None, "a step with banks needs a state with banks"
    return banks.push(to_records(batch["image"]), batch["label"], batch["id"])


def all_samples_pool(banks: "Banks | None", batch: Batch, to_records: ToRecords) -> Pool:
    """All samples, which every batch carries as `samples`: an `AllSamples` of records."""
    pool: Pool = batch["samples"]
    return pool


def batch_pool(banks: "Banks | None", batch: Batch, to_records: ToRecords) -> Pool:
    """The batch's own samples, `image` and of each image `label` (int32), those of one label together.

    Each group of one label is positives of its class and then unconditional samples; its first sample is of its class.
    """
    return Groups(to_records(batch["image"]), batch["label"])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Banks:
    """The latest real samples of each class, and of any. The first axis of every array is that of the sets of banks.

    On a mesh every device along `data` may have a set of its own; the part of each batch that lies there goes into it.

    Attributes:
        by_class: one ring for each class.
        unconditional: a single ring for samples of any class; None where no step asks for them.
    """

    by_class: Bank
    unconditional: Bank | None

    def push(
        self, records: Shaped[Array, "batch ..."], labels: Int32[Array, "batch"], ids: UInt32[Array, "batch"]
    ) -> "Banks":
        """The banks with a batch of records, their labels and their numbers appended."""
        any_class = self.unconditional
        if any_class is not None:
            any_class = self._push(any_class, records, jnp.zeros_like(labels), ids)
        return Banks(self._push(self.by_class, records, labels, ids), any_class)

    def labels(self, key: Key[Array, ""], count: int) -> Int32[Array, "{count}"]:
        """See `draw_labels`."""
        return draw_labels(key, count, self.by_class.num_classes)

    def of_class(
        self, key: Key[Array, ""], labels: Int32[Array, "labels"], count: int
    ) -> Shaped[Array, "labels {count} *record"]:
        """See `bank.sample`."""
        return self._sample(self.by_class, key, labels, count)

    def of_any(
        self, key: Key[Array, ""], labels: Int32[Array, "labels"], count: int
    ) -> Shaped[Array, "labels {count} *record"]:
        """See `bank.sample`, of the bank with a single class."""
        if self.unconditional is None or count == 0:
            return self._none(labels)
        return self._sample(self.unconditional, key, jnp.zeros_like(labels), count)

    def fill(self) -> Float32[Array, ""]:
        """The mean over the classes of the share of a ring that holds samples."""
        return jnp.mean(bank.fill(self.by_class)) / self.by_class.capacity

    def kept(self) -> "Banks":
        """The banks themselves."""
        return self

    def _none(self, labels: Int32[Array, "labels"]) -> Shaped[Array, "labels 0 *record"]:
        record = self.by_class.record
        return jnp.zeros((labels.shape[0], 0, *record.shape), record.dtype)

    @staticmethod
    def _push(banks: Bank, *batch: Shaped[Array, "batch ..."]) -> Bank:
        """Each set of banks takes the part of the batch that lies on its device."""
        parts = banks.pushed.shape[0]
        return jax.vmap(bank.push)(banks, *(x.reshape(parts, -1, *x.shape[1:]) for x in batch))

    @staticmethod
    def _sample(
        banks: Bank, key: Key[Array, ""], labels: Int32[Array, "labels"], count: int
    ) -> Shaped[Array, "labels {count} *record"]:
        """`count` samples of each label's class, from the set of banks of the device where the label lies."""
        parts = banks.pushed.shape[0]
        keys = key[None] if parts == 1 else jax.random.split(key, parts)
        drawn = jax.vmap(partial(bank.sample, count=count))(banks, keys, labels.reshape(parts, -1))
        return drawn.reshape(-1, *drawn.shape[2:])


def empty_banks(
    num_classes: int,
    per_class: int,
    unconditional: int,
    shape: tuple[int, ...],
    dtype: DTypeLike = jnp.float32,
    sets: int = 1,
) -> Banks:
    """`sets` sets of empty banks for records of `shape` and `dtype`; `unconditional=0`: none for any class.

    Raises:
        ValueError: a number of classes or of samples is not positive.
    """

    def several(one: Bank) -> Bank:
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (sets, *x.shape)), one)

    any_class = several(bank.empty_bank(1, unconditional, shape, dtype)) if unconditional else None
    return Banks(several(bank.empty_bank(num_classes, per_class, shape, dtype)), any_class)


@dataclasses.dataclass(frozen=True)
class Groups:
    """The pool of a batch's own samples, see `batch_pool`. What is drawn is what is there, in order.

    Attributes:
        records: the samples, those of one group together.
        label_of_record: the label of each record's group.
    """

    records: Shaped[Array, "samples *record"] = dataclasses.field(repr=False)
    label_of_record: Int32[Array, "samples"] = dataclasses.field(repr=False)

    def labels(self, key: Key[Array, ""], count: int) -> Int32[Array, "{count}"]:
        """The class of each of the `count` groups."""
        return self.label_of_record.reshape(count, -1)[:, 0]

    def of_class(
        self, key: Key[Array, ""], labels: Int32[Array, "labels"], count: int
    ) -> Shaped[Array, "labels {count} *record"]:
        """The first `count` of each group."""
        return self._groups(labels)[:, :count]

    def of_any(
        self, key: Key[Array, ""], labels: Int32[Array, "labels"], count: int
    ) -> Shaped[Array, "labels {count} *record"]:
        """The last `count` of each group."""
        groups = self._groups(labels)
        return groups[:, groups.shape[1] - count :]

    def fill(self) -> Float32[Array, ""]:
        """1: nothing is missing."""
        return jnp.float32(1)

    def kept(self) -> None:
        """The state keeps nothing: every batch brings its own."""

    def _groups(self, labels: Int32[Array, "labels"]) -> Shaped[Array, "labels group *record"]:
        return self.records.reshape(labels.shape[0], -1, *self.records.shape[1:])


def draw_labels(key: Key[Array, ""], count: int, num_classes: int) -> Int32[Array, "{count}"]:
    """`count` class labels, as evenly as can be: each class once in every pass over the classes."""
    passes = -(-count // num_classes)
    keys = jax.random.split(key, passes)
    return jax.vmap(lambda k: jax.random.permutation(k, num_classes))(keys).reshape(-1)[:count].astype(jnp.int32)
