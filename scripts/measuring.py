"""What the measuring scripts share: how a call is timed, and a state that a step can be measured with, without data."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from drifting.method.bank import Bank
from drifting.method.state import TrainState

REPEATS = 10
"""Calls that are timed at least."""


def timed(call: Callable[[], Any], least: int = REPEATS, most: int = REPEATS, until: float = 0.0) -> list[float]:
    """Seconds of `least` to `most` calls, each waited for, one after the other; after the first `least` it goes on as
    long as they have taken less than `until` seconds together. One call before them is not counted."""
    jax.block_until_ready(call())
    seconds: list[float] = []
    while len(seconds) < least or (len(seconds) < most and sum(seconds) < until):
        start = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - start)
    return seconds


def moved(params: Any, key: jax.Array) -> Any:
    """Parameters beside the initial ones, whose last layer is zero, so that all generated samples would coincide."""
    return jax.tree.map(lambda p: p + 0.02 * jax.random.normal(key, p.shape, p.dtype), params)


def made_up_bank(bank: Bank, held: int, key: jax.Array) -> Bank:
    """The bank, or the set of banks, with `held` made-up samples in the ring of every class: in all rings the same, so
    that nothing as large as the bank is made beside it."""
    ring = bank.record.pack(made_up_samples((bank.capacity, *bank.record.shape), bank.record.dtype, key))
    return dataclasses.replace(
        bank,
        words=jnp.broadcast_to(ring, bank.words.shape),
        pushed=jnp.full(bank.pushed.shape, min(held, bank.capacity), jnp.int32),
    )


def made_up_samples(shape: tuple[int, ...], dtype: Any, key: jax.Array) -> jax.Array:
    """Random bytes, or numbers of a standard normal distribution."""
    if jnp.dtype(dtype) == jnp.uint8:
        return jax.random.bits(key, shape, jnp.uint8)
    return jax.random.normal(key, shape, dtype)


def made_up_state(state: TrainState, held: int, key: jax.Array) -> TrainState:
    """A state before its first step as one in the middle of training; it can be jitted. `held`: see `made_up_bank`."""
    banks = state.banks
    if banks is not None:
        unconditional = None if banks.unconditional is None else made_up_bank(banks.unconditional, held, key)
        banks = dataclasses.replace(
            banks, by_class=made_up_bank(banks.by_class, held, key), unconditional=unconditional
        )
    return dataclasses.replace(state, params=moved(state.params, key), banks=banks)
