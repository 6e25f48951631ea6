"""What a checkpoint leaves out of the banks, and how they come back: on the same devices, or on others.

Where a source delivers what the banks keep, a checkpoint holds the samples' numbers alone, megabytes in place of
gigabytes for each device, and reading them again gives the same bits.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from drifting.data.batches import Feed, Pipeline
from drifting.devices.mesh import Layout, shardings
from drifting.method import bank
from drifting.method.space import SampleSpace
from drifting.method.state import TrainState
from drifting.method.step import Parts
from drifting.runs.checkpoints import abstract
from drifting.training import loop

CHUNK = 4096
"""Samples read at a time when banks are restored."""


def bank_packing(parts: Parts, feed: Feed, empty: Callable[[], TrainState]) -> loop.Packing:
    """How the state of a run is kept in its checkpoints. `empty`: makes a state of its structure."""
    layout, space = parts.layout, parts.space
    by_number = isinstance(feed, Pipeline) and space.as_delivered

    def pack(state: TrainState) -> TrainState:
        return _with_samples(state, lambda _: None) if by_number else state

    def target(saved: dict[str, Any]) -> TrainState:
        shapes = jax.eval_shape(empty)
        placed, sets = shardings(layout, shapes), int(saved.get("bank_sets", layout.replicas))
        banks, where = shapes.banks, placed.banks
        if sets != layout.replicas:
            banks = jax.tree.map(lambda x: jax.ShapeDtypeStruct((sets, *x.shape[1:]), x.dtype), banks)
            where = jax.tree.map(lambda _: layout.replicated, banks)
        shapes, placed = (dataclasses.replace(s, banks=b) for s, b in ((shapes, banks), (placed, where)))
        return abstract(pack(shapes), pack(placed))

    def unpack(state: TrainState) -> TrainState:
        banks = {name: _dealt(layout, held) for name, held in state.banks.items()}
        state = dataclasses.replace(state, banks=banks)
        if not by_number:
            return state
        assert isinstance(feed, Pipeline)
        return _with_samples(state, partial(recall_samples, space, feed))

    return loop.Packing(pack, unpack, target, {"bank_sets": layout.replicas})


def _with_samples(state: TrainState, samples: Callable[[bank.Bank], Any]) -> TrainState:
    banks = {name: dataclasses.replace(held, samples=samples(held)) for name, held in state.banks.items()}
    return dataclasses.replace(state, banks=banks)


def _dealt(layout: Layout, held: bank.Bank) -> bank.Bank:
    """As many sets of banks as there are now, in turn those that there were."""
    sets = held.pushed.shape[0]
    if sets == layout.replicas:
        return held
    turn = jnp.arange(layout.replicas) % sets
    return jax.jit(lambda held: jax.tree.map(lambda x: x[turn], held), out_shardings=layout.banks)(held)


def recall_samples(space: SampleSpace, pipeline: Pipeline, held: bank.Bank) -> Array:
    """The samples of banks `[S, C, K, *shape]`, read again by their numbers; zero where there are none yet.

    Each process reads what its own devices hold.
    """
    kept, read = space.record, {}
    parts = []
    for ids, pushed in zip(held.ids.addressable_shards, held.pushed.addressable_shards, strict=True):
        key = str(ids.index)
        if key not in read:
            read[key] = _recall(pipeline, kept, np.asarray(ids.data), np.asarray(pushed.data))
        parts.append(jax.device_put(read[key], ids.device))
    shape = (*held.ids.shape, *kept.shape)
    return jax.make_array_from_single_device_arrays(shape, held.ids.sharding, parts)


def _recall(pipeline: Pipeline, kept: jax.ShapeDtypeStruct, ids: NDArray[np.uint32], pushed: NDArray) -> NDArray:
    valid = np.arange(ids.shape[-1]) < np.minimum(pushed, ids.shape[-1])[..., None]
    samples = np.zeros((*ids.shape, *kept.shape), kept.dtype)
    order = np.argsort(ids[valid], kind="stable")  # neighbours in the data's order share a batch
    wanted, places = ids[valid][order], np.argwhere(valid)[order]
    for first in range(0, len(wanted), CHUNK):
        chunk = slice(first, first + CHUNK)
        samples[tuple(places[chunk].T)] = pipeline.recall(wanted[chunk])
    return samples
