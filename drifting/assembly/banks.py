"""Fills the banks of a run before its first step."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from drifting.data.batches import Feed
from drifting.data.source import LabelledSource
from drifting.devices.mesh import shardings as state_shardings
from drifting.method import bank
from drifting.method.state import TrainState
from drifting.method.step import Batch, Parts, push_batch
from drifting.networks.network import Params

logger = logging.getLogger("drifting")


def fill_banks(parts: Parts, source: LabelledSource, feed: Feed, state: TrainState, frozen: Params) -> TrainState:
    """Pushes batches until every class can give its positives without repeating one, but for one epoch of each bank.

    Raises:
        ValueError: a class has no samples at all.
    """
    if not state.banks:
        return state
    config, sets = parts.config, parts.layout.replicas
    placed = state_shardings(parts.layout, state)

    def push(state: TrainState, batch: Batch, frozen: Params) -> tuple[TrainState, dict[str, Array]]:
        state = push_batch(parts.space, frozen, state, batch)
        return state, {name: jnp.min(bank.fill(held), axis=0) for name, held in state.banks.items()}

    jitted = jax.jit(push, donate_argnums=0, out_shardings=(placed, parts.layout.replicated))
    size = min(config.bank.push, len(source))
    batches = -(-len(source) * sets // size)
    logger.info("banks: filling them, with at most %d batches of %d real samples", batches, size)
    for _ in range(batches):
        state, held = jitted(state, next(feed), frozen)
        counts = np.asarray(held["class"])
        enough = "unconditional" not in held or int(held["unconditional"][0]) >= config.loss.unconditional
        if enough and counts.min() >= config.loss.positives:
            break
    bank.check_filled(counts, 1, source.class_names)
    return state
