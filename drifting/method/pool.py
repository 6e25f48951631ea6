"""Where a step draws its real samples from."""

from functools import partial

import jax
from jax import Array

from drifting.method import bank


def _push(banks: bank.Bank, *batch: Array) -> bank.Bank:
    """Each of the banks, one a device, takes the part of the batch that lies there."""
    parts = banks.pushed.shape[0]
    return jax.vmap(bank.push)(banks, *(x.reshape(parts, -1, *x.shape[1:]) for x in batch))


def _sample(banks: bank.Bank, key: Array, labels: Array, count: int) -> Array:
    """`count` samples of each of `labels` `[L]`, from the bank of the device where the label lies."""
    parts = banks.pushed.shape[0]
    keys = key[None] if parts == 1 else jax.random.split(key, parts)
    drawn = jax.vmap(partial(bank.sample, count=count))(banks, keys, labels.reshape(parts, -1))
    return drawn.reshape(-1, *drawn.shape[2:])
