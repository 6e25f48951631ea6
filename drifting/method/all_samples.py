"""The pool of all real samples, on the device and drawn by class index.

A bank holds the latest few samples of each class and has to be fed. Where all of them fit (ImageNet's latents are 21 GB
in float16), a step draws from the whole class instead: nothing is stale, nothing is loaded, nothing has to be saved.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float32, Int32, Key, Shaped, UInt32

from drifting.method.placement import Take
from drifting.method.pool import draw_labels
from drifting.method.records import RecordFormat


def look_up(
    records: UInt32[Array, "rows views words"],
    rows: Int32[Array, "labels count"],
    views: Int32[Array, "labels count"],
) -> UInt32[Array, "labels count words"]:
    """`records[rows, views]`, of records on one device."""
    return records[rows, views]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AllSamples:
    """Records of all real samples, sorted by class; see `drifting.method.pool.Pool`.

    Attributes:
        words: the samples as rows of words in the order of their classes, each in one view or two: the sample and,
            where there is a second, its mirror image. Rows from `starts[-1]` on are padding.
        starts: class `c` is the rows `[starts[c], starts[c + 1])`, at least one; there are `classes + 1` bounds.
        mirror: whether to mirror each drawn sample with probability 1/2: by its second view, or if it has but one, left
            to right along axis 1 of its shape `[H, W, C]`.
        record: shape and dtype of a sample.
        take: looks records up.
    """

    words: UInt32[Array, "rows views words"] = dataclasses.field(repr=False)
    starts: Int32[Array, "bounds"] = dataclasses.field(repr=False)
    record: RecordFormat = dataclasses.field(metadata={"static": True})
    mirror: bool = dataclasses.field(default=False, metadata={"static": True})
    take: Take = dataclasses.field(default=look_up, metadata={"static": True}, repr=False)

    def labels(self, key: Key[Array, ""], count: int) -> Int32[Array, "{count}"]:
        """The class labels of a step, see `draw_labels`."""
        return draw_labels(key, count, self.starts.shape[0] - 1)

    def of_class(
        self, key: Key[Array, ""], labels: Int32[Array, "labels"], count: int
    ) -> Shaped[Array, "labels {count} *record"]:
        """`count` records of each label's class, drawn uniformly and independently for every label.

        Records are drawn without replacement where the class has at least `count`, otherwise with replacement.

        Args:
            key: one PRNG key.
            labels: class indices.
            count: records per label; static.
        """
        first = self.starts[labels]
        return self._draw(key, first, self.starts[labels + 1] - first, count)

    def of_any(
        self, key: Key[Array, ""], labels: Int32[Array, "labels"], count: int
    ) -> Shaped[Array, "labels {count} *record"]:
        """As `of_class`, of any class: the labels only say how many rows there are."""
        held = jnp.broadcast_to(self.starts[-1], labels.shape)
        if count == 0:
            return jnp.zeros((labels.shape[0], 0, *self.record.shape), self.record.dtype)
        return self._draw(key, jnp.zeros_like(held), held, count)

    def fill(self) -> Float32[Array, ""]:
        """1: nothing is missing."""
        return jnp.float32(1)

    def kept(self) -> None:
        """The state keeps nothing: every batch carries the samples."""

    def _draw(
        self, key: Key[Array, ""], first: Int32[Array, "labels"], held: Int32[Array, "labels"], count: int
    ) -> Shaped[Array, "labels {count} *record"]:
        """`count` records out of the `held` ones that begin at the rows `first`."""
        row_key, coin_key = jax.random.split(key)
        rows = first[:, None] + distinct(row_key, held, count)
        if not self.mirror:
            return self._look_up(rows, jnp.zeros_like(rows))
        mirrored = jax.random.bernoulli(coin_key, shape=rows.shape)
        if self.words.shape[1] > 1:
            return self._look_up(rows, mirrored.astype(jnp.int32))
        drawn = self._look_up(rows, jnp.zeros_like(rows))
        return jnp.where(mirrored[..., None, None, None], drawn[:, :, :, ::-1], drawn)

    def _look_up(
        self, rows: Int32[Array, "labels count"], views: Int32[Array, "labels count"]
    ) -> Shaped[Array, "labels count *record"]:
        return self.record.unpack(self.take(self.words, rows, views))


def distinct(key: Key[Array, ""], held: Int32[Array, "labels"], count: int) -> Int32[Array, "labels {count}"]:
    """For each of `held`, `count` numbers of `[0, held)`.

    The numbers are a uniform draw of a subset, by Floyd's algorithm (Bentley & Floyd 1987), whose cost does not depend
    on `held`; they are independent draws with replacement where `held < count`.
    """
    without, replaced = jax.random.split(key)
    keys = jax.random.split(without, count)

    def add(i: Int32[Array, ""], chosen: Int32[Array, "labels count"]) -> Int32[Array, "labels count"]:
        last = held - count + i
        drawn = jax.random.randint(keys[i], held.shape, 0, last + 1)
        taken = jnp.any(chosen == drawn[:, None], axis=1)
        return chosen.at[:, i].set(jnp.where(taken, last, drawn))

    chosen = jax.lax.fori_loop(0, count, add, jnp.full((held.shape[0], count), -1, jnp.int32))
    repeated = jax.random.randint(replaced, chosen.shape, 0, held[:, None])
    return jnp.where(held[:, None] >= count, chosen, repeated)
