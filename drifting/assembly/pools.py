"""The pool that a run draws its real samples from: how a step opens it, and the banks before the first step."""

import dataclasses
import logging

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from drifting.config.schema import Config, has_banks
from drifting.data.batches import Feed
from drifting.data.source import LabelledSource
from drifting.devices.mesh import Layout, shardings
from drifting.errors import InputError, counted
from drifting.method import bank
from drifting.method.pool import Banks, Batch, OpenPool, all_samples_pool, bank_pool, batch_pool, empty_banks
from drifting.method.space import SampleSpace
from drifting.method.state import TrainState
from drifting.networks.network import Params

logger = logging.getLogger("drifting")


def pool_of(config: Config) -> OpenPool:
    """Opens the pool of a step: the banks, all samples on the device, or the batch's own."""
    if has_banks(config):
        return bank_pool
    return all_samples_pool if config.data.resident == "device" else batch_pool


def banks_of(config: Config, space: SampleSpace, num_classes: int, sets: int = 1) -> Banks | None:
    """The `sets` of banks of a run before samples are pushed; None where it has none."""
    if not has_banks(config):
        return None
    wanted = config.bank.unconditional if config.loss.unconditional else 0
    return empty_banks(num_classes, config.bank.per_class, wanted, space.record.shape, space.record.dtype, sets)


def fill_banks(
    config: Config,
    space: SampleSpace,
    layout: Layout,
    source: LabelledSource,
    feed: Feed,
    state: TrainState,
    frozen: Params,
) -> TrainState:
    """Pushes batches until every class can give its positives without repeating one, but for one epoch of each bank.

    Args:
        config: the settings.
        space: says what the banks keep of a sample.
        layout: says where the banks lie.
        source: the real samples that the run trains on.
        feed: yields batches of them.
        state: the state whose banks are filled; one without banks is returned as it is.
        frozen: `space.params`.

    Raises:
        InputError: a class has no samples at all.
    """
    if state.banks is None:
        return state

    def push(banks: Banks, batch: Batch, frozen: Params) -> tuple[Banks, Array, Array | None]:
        banks = banks.push(space.records(frozen, batch["image"], layout), batch["label"], batch["id"])
        return banks, _least(banks.by_class), None if banks.unconditional is None else _least(banks.unconditional)

    placed = shardings(layout, state).banks
    jitted = jax.jit(push, donate_argnums=0, out_shardings=(placed, layout.replicated, layout.replicated))
    size = min(config.bank.push, len(source))
    batches = -(-len(source) * layout.replicas // size)
    most, each = counted(batches, "batch"), counted(size, "real sample")
    logger.info("banks: filling them, with at most %s of %s", most, each)
    banks, counts = state.banks, np.zeros(0)
    for _ in range(batches):
        banks, of_class, of_any = jitted(banks, next(feed), frozen)
        counts = np.asarray(of_class)
        enough = of_any is None or int(of_any[0]) >= config.loss.unconditional
        if enough and counts.min() >= config.loss.positives:
            break
    try:
        bank.check_filled(counts, 1, source.class_names)
    except ValueError as error:
        raise InputError(f"data.name={config.data.name!r}: {error}") from error
    return dataclasses.replace(state, banks=banks)


def _least(held: bank.Bank) -> Array:
    """Samples of each class `[C]` in the emptiest of several sets of banks."""
    return jnp.min(bank.fill(held), axis=0)
