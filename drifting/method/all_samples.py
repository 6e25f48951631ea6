"""All real samples on the device, drawn by class index: a pytree with a pure `sample`, beside `drifting.bank`.

A bank holds the latest few samples of each class and has to be fed. Where all of them fit (ImageNet's latents are 21 GB
in float16), a step draws from the whole class instead: nothing is stale, nothing is loaded, nothing has to be saved.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

Take = Callable[[Array, Array, Array], Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Resident:
    """Real samples, sorted by class.

    Attributes:
      records: `[N, V, *shape]`, in the order of their classes; `V` views of each: the sample and, where there is a
        second, its mirror image. Rows from `starts[C]` on are padding.
      starts: `[C + 1]` int32, class `c` is the rows `[starts[c], starts[c + 1])`, at least one.
      mirror: whether to mirror each drawn sample with probability 1/2: by its second view, or if it has but one, left
        to right along axis 1 of its shape `[H, W, C]`.
    """

    records: Array
    starts: Array
    mirror: bool = dataclasses.field(default=False, metadata={"static": True})


def look_up(records: Array, rows: Array, views: Array) -> Array:
    """`records[rows, views]`; data that are spread over devices have a `take` of their own."""
    return records[rows, views]


def sample(resident: Resident, key: Array, labels: ArrayLike, count: int, take: Take = look_up) -> Array:
    """`count` samples of each requested class `[L, count, *shape]`, drawn uniformly and independently for every label.

    Without replacement where the class has at least `count`, otherwise with replacement.

    Args:
      resident: the samples.
      key: one PRNG key.
      labels: `[L]` int32 in `[0, C)`.
      count: samples per label; static.
      take: how records are looked up.
    """
    labels = jnp.asarray(labels, jnp.int32)
    first = resident.starts[labels]
    return _sample(resident, key, first, resident.starts[labels + 1] - first, count, take)


def sample_any(resident: Resident, key: Array, rows: int, count: int, take: Take = look_up) -> Array:
    """As `sample`, of any class: `[rows, count, *shape]`."""
    held = jnp.broadcast_to(resident.starts[-1], (rows,))
    return _sample(resident, key, jnp.zeros_like(held), held, count, take)


def _sample(resident: Resident, key: Array, first: Array, held: Array, count: int, take: Take) -> Array:
    row_key, coin_key = jax.random.split(key)
    rows = first[:, None] + distinct(row_key, held, count)
    if not resident.mirror:
        return take(resident.records, rows, jnp.zeros_like(rows))
    mirrored = jax.random.bernoulli(coin_key, shape=rows.shape)
    if resident.records.shape[1] > 1:
        return take(resident.records, rows, mirrored.astype(jnp.int32))
    drawn = take(resident.records, rows, jnp.zeros_like(rows))
    return jnp.where(mirrored[..., None, None, None], drawn[:, :, :, ::-1], drawn)


def distinct(key: Array, held: Array, count: int) -> Array:
    """For each of `held` `[L]` int32, `count` numbers of `[0, held)`: `[L, count]` int32.

    A uniform draw of a subset, by Floyd's algorithm (Bentley & Floyd 1987), whose cost does not depend on `held`;
    independent draws with replacement where `held < count`.
    """
    without, replaced = jax.random.split(key)
    keys = jax.random.split(without, count)

    def add(i: Array, chosen: Array) -> Array:
        last = held - count + i
        drawn = jax.random.randint(keys[i], held.shape, 0, last + 1)
        taken = jnp.any(chosen == drawn[:, None], axis=1)
        return chosen.at[:, i].set(jnp.where(taken, last, drawn))

    chosen = jax.lax.fori_loop(0, count, add, jnp.full((held.shape[0], count), -1, jnp.int32))
    repeated = jax.random.randint(replaced, chosen.shape, 0, held[:, None])
    return jnp.where(held[:, None] >= count, chosen, repeated)
