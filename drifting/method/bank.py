"""The sample bank: the latest real samples of each class, as a pytree with pure `push` and `sample`.

A step of training needs several real samples of one class, which a shuffled batch does not hold. The bank keeps the
last `capacity` of each class in a ring ("Generative Modeling via Drifting", sample queue of the released recipe).
An unconditional bank is one with a single class, pushed and sampled with label 0.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Int, Int32, Integer, Key, Shaped, UInt32

from drifting.method.records import RecordFormat


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Bank:
    """Ring buffers, one for each class, of `capacity` samples each. Several banks are one with a leading axis.

    Attributes:
        words: the samples as rows of words; the slots of class `c` that are valid are the first `fill(bank)[c]`.
        ids: what each sample is called in the data's order, by which it can be read again.
        pushed: pushes per class folded into `[0, 2 capacity)`: exact while the ring is not full, afterwards a full turn
            is subtracted, so that it never overflows. `pushed % capacity` is the next slot, `min(pushed, capacity)` the
            fill.
        record: shape and dtype of a sample, static.
    """

    words: UInt32[Array, "*sets classes capacity words"] = dataclasses.field(repr=False)
    ids: UInt32[Array, "*sets classes capacity"] = dataclasses.field(repr=False)
    pushed: Int32[Array, "*sets classes"] = dataclasses.field(repr=False)
    record: RecordFormat = dataclasses.field(metadata={"static": True})

    @property
    def samples(self) -> Shaped[Array, "..."]:
        """The samples `[*sets, classes, capacity, *record.shape]` in their own shape and dtype: a copy."""
        return self.record.unpack(self.words)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.ids.shape[-2]

    @property
    def capacity(self) -> int:
        """Samples kept per class."""
        return self.ids.shape[-1]


def empty_bank(num_classes: int, capacity: int, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Bank:
    """An empty bank for `num_classes` classes of `capacity` samples of `shape` and `dtype`.

    Raises:
        ValueError: if `num_classes` or `capacity` is not positive.
    """
    if num_classes < 1 or capacity < 1:
        raise ValueError(f"bank: num_classes={num_classes} and capacity={capacity} must both be at least 1")
    rings, record = (num_classes, capacity), RecordFormat(tuple(shape), dtype)
    words = jnp.zeros((*rings, record.words), jnp.uint32)
    return Bank(words, jnp.zeros(rings, jnp.uint32), jnp.zeros((num_classes,), jnp.int32), record)


def fill(bank: Bank) -> Int32[Array, "*sets classes"]:
    """Number of valid samples of each class, in `[0, capacity]`, of each of several banks where there are."""
    return jnp.minimum(bank.pushed, bank.capacity)


def ring_slots(
    pushed: Int32[Array, "classes"], labels: Int32[Array, "batch"], capacity: int
) -> tuple[Int32[Array, "batch"], Int32[Array, "batch"], Int32[Array, "batch"], Int32[Array, "classes"]]:
    """Where each sample of a batch goes: the plan of one `push`.

    Args:
        pushed: the bank's.
        labels: class indices, at least one; those outside `[0, classes)` are ignored.
        capacity: the bank's.

    Returns:
        The order of the batch sorted by label; label and slot of the samples in that order, with label `classes` for
        those that are not written, so that no slot occurs twice (a scatter has no order); and the new `pushed`.
    """
    num_classes, position = pushed.shape[0], jnp.arange(labels.shape[0], dtype=jnp.int32)
    # Sorted stably, the samples of a class form one run in batch order; the place in the run gives the slot.
    order = jnp.argsort(labels, stable=True)
    label = labels[order]
    edge = jnp.ones((1,), bool)
    change = label[1:] != label[:-1]
    first = jax.lax.cummax(jnp.where(jnp.concatenate([edge, change]), position, 0))
    ends = jnp.concatenate([change, edge])
    last = jax.lax.cummin(jnp.where(ends, position, position[-1]), reverse=True)

    in_range = (label >= 0) & (label < num_classes)
    before = pushed[jnp.where(in_range, label, 0)]
    slot = (before + position - first) % capacity
    # Of a run longer than the ring only the last `capacity` are written.
    written = jnp.where(in_range & (last - position < capacity), label, num_classes)
    total = before + last - first + 1
    folded = jnp.where(total < capacity, total, capacity + total % capacity)
    return order, written, slot, pushed.at[jnp.where(in_range & ends, label, num_classes)].set(folded, mode="drop")


def push(
    bank: Bank,
    samples: Shaped[Array | np.ndarray, "batch ..."],
    labels: Int[Array | np.ndarray, "batch"],
    ids: Integer[Array | np.ndarray, "batch"],
) -> Bank:
    """The bank after the samples of a batch are appended to the rings of their classes, in batch order.

    Samples of one class take consecutive slots and overwrite the oldest; if more than `capacity` of a class come at
    once, its last ones stay. It costs O(batch log batch) and writes in place when the bank is donated.

    Args:
        bank: a single bank.
        samples: cast to the dtype of the bank's records.
        labels: class indices; a sample whose label is not in `[0, classes)` (padding: -1) is ignored.
        ids: the samples' numbers.

    Raises:
        ValueError: if the shapes do not fit the bank.
    """
    samples, labels = jnp.asarray(samples), jnp.asarray(labels, jnp.int32)
    batch = labels.shape[0] if labels.ndim == 1 else -1
    if samples.shape != (batch, *bank.record.shape):
        raise ValueError(
            f"bank: cannot push samples {samples.shape} with labels {labels.shape}; "
            f"expected samples [B, *{bank.record.shape}] and labels [B]"
        )
    if batch == 0:
        return bank
    order, label, slot, pushed = ring_slots(bank.pushed, labels, bank.capacity)
    words = bank.words.at[label, slot].set(bank.record.pack(samples)[order], mode="drop")
    ids = bank.ids.at[label, slot].set(jnp.asarray(ids, jnp.uint32)[order], mode="drop")
    return dataclasses.replace(bank, words=words, ids=ids, pushed=pushed)


def sample(
    bank: Bank, key: Key[Array, ""], labels: Int[Array | np.ndarray, "labels"], count: int
) -> Shaped[Array, "labels {count} *record"]:
    """`count` samples of each requested class, drawn uniformly and independently for every entry of `labels`.

    Samples are drawn without replacement where the class holds at least `count`, otherwise with replacement over what
    it holds. A class that is empty or out of range gives NaN (zero in an integer bank), never stale zeros that would
    train silently: call `check_filled` on the host before the first draw.

    Args:
        bank: a single bank.
        key: one PRNG key.
        labels: class indices in `[0, classes)`; equal labels get independent draws.
        count: samples per label; static.

    Returns:
        The samples in the bank's dtype; the order within a row is random as well.

    Raises:
        ValueError: if `labels` is not a vector or `count` is not positive.
    """
    labels = jnp.asarray(labels, jnp.int32)
    if labels.ndim != 1 or count < 1:
        raise ValueError(f"bank: labels must be [L] and count at least 1, got labels {labels.shape}, count {count}")
    capacity = bank.capacity
    in_range = (labels >= 0) & (labels < bank.num_classes)
    label = jnp.where(in_range, labels, 0)
    held = jnp.where(in_range, fill(bank)[label], 0)

    key_without, key_with = jax.random.split(key)
    slots = jax.random.randint(key_with, (labels.shape[0], count), 0, jnp.maximum(held, 1)[:, None])
    if count <= capacity:
        # The slots of the `count` largest of K random priorities are a uniform draw without replacement.
        priority = (jax.random.bits(key_without, (labels.shape[0], capacity), jnp.uint32) >> 1).astype(jnp.int32)
        priority = jnp.where(jnp.arange(capacity) < held[:, None], priority, -1)
        distinct = jax.lax.top_k(priority, count)[1]
        slots = jnp.where(held[:, None] >= count, distinct, slots)

    drawn = bank.record.unpack(bank.words[label[:, None], slots])
    empty = (held == 0).reshape((-1,) + (1,) * (drawn.ndim - 1))
    missing = jnp.nan if jnp.issubdtype(drawn.dtype, jnp.inexact) else 0
    return jnp.where(empty, jnp.asarray(missing, drawn.dtype), drawn)


def check_filled(
    counts: Int[Array | np.ndarray, "classes"], needed: int = 1, class_names: Sequence[str] | None = None
) -> None:
    """Refuses, on the host, a bank that some class has too few samples in.

    Args:
        counts: `fill(bank)`.
        needed: samples that every class must hold; 1 accepts any class that is not empty, since `sample` then draws
            with replacement.
        class_names: names for the message; class indices are used without it.

    Raises:
        ValueError: names the first few classes that fall short, how many do, and the remedy.
    """
    counts = np.asarray(counts)
    short = np.flatnonzero(counts < needed)
    if not short.size:
        return
    shown = [f"{class_names[i] if class_names else i} ({counts[i]})" for i in short[:5]]
    more = f" and {short.size - 5} more" if short.size > 5 else ""
    raise ValueError(
        f"bank: {short.size} of {counts.size} classes hold fewer than {needed} real sample(s): "
        f"{', '.join(shown)}{more}; push more batches before the first step, "
        "or check that the data has every class and that num_classes is right"
    )
