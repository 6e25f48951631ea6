"""What a checkpoint leaves out of the banks, and how they come back: on the same devices, or on others.

Where a source delivers what the banks keep, a checkpoint holds the samples' numbers alone, megabytes in place of
gigabytes for each device, and reading them again gives the same bits.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from drifting.assembly.run import Run
from drifting.data.batches import Pipeline
from drifting.devices.mesh import Layout, shardings
from drifting.method.bank import Bank
from drifting.method.pool import Banks
from drifting.method.space import SampleSpace
from drifting.method.state import TrainState
from drifting.runs.checkpoints import abstract
from drifting.training.course import Packing

RECALLED_AT_ONCE = 4096
"""Samples read at a time when banks are restored."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SavedState:
    """A `TrainState` as a checkpoint holds it: the same fields, its banks as nested dicts.

    Attributes:
        banks: `class` and, where there is one, `unconditional`, each with `ids`, `pushed` and, unless they can be read
            again, `samples`.
    """

    step: Any
    params: Any = dataclasses.field(repr=False)
    opt_state: Any = dataclasses.field(repr=False)
    ema: Any = dataclasses.field(repr=False)
    banks: dict[str, dict[str, Any]]
    neighbour_scale: Any = dataclasses.field(repr=False)


def bank_packing(run: Run) -> Packing:
    """How the state of a run is kept in its checkpoints: as a `SavedState`."""
    layout, space, feed = run.layout, run.parts.space, run.feed
    by_number = isinstance(feed, Pipeline) and space.as_delivered

    def pack(state: TrainState) -> SavedState:
        return SavedState(**vars(state) | {"banks": _packed(state.banks, with_samples=not by_number)})

    def target(saved: dict[str, Any]) -> Any:
        shapes = jax.eval_shape(run.empty)
        placed, sets = shardings(layout, shapes), int(saved.get("bank_sets", layout.replicas))
        banks, where = shapes.banks, placed.banks
        if sets != layout.replicas:
            banks = jax.tree.map(lambda x: jax.ShapeDtypeStruct((sets, *x.shape[1:]), x.dtype), banks)
            where = jax.tree.map(lambda _: layout.replicated, banks)
        shapes, placed = (dataclasses.replace(s, banks=b) for s, b in ((shapes, banks), (placed, where)))
        return abstract(pack(shapes), pack(placed))

    def unpack(saved: SavedState) -> TrainState:
        if not saved.banks:
            return TrainState(**vars(saved) | {"banks": None})
        dealt = {name: _dealt(layout, held) for name, held in saved.banks.items()}
        if by_number:
            assert isinstance(feed, Pipeline)
            for held in dealt.values():
                held["samples"] = recall_samples(space, feed, held["ids"], held["pushed"])
        banks = {name: Bank(**held) for name, held in dealt.items()}
        return TrainState(**vars(saved) | {"banks": Banks(banks["class"], banks.get("unconditional"))})

    return Packing(pack, unpack, target, {"bank_sets": layout.replicas})


def _packed(banks: Banks | None, with_samples: bool) -> dict[str, dict[str, Any]]:
    if banks is None:
        return {}
    held = {"class": banks.by_class, "unconditional": banks.unconditional}
    # None, not left out: that is how checkpoints without samples have always said so.
    return {
        name: {"samples": one.samples if with_samples else None, "ids": one.ids, "pushed": one.pushed}
        for name, one in held.items()
        if one is not None
    }


def _dealt(layout: Layout, held: dict[str, Any]) -> dict[str, Any]:
    """Deals the saved sets of banks out, in turn, to as many sets as there are now."""
    sets = held["pushed"].shape[0]
    if sets == layout.replicas:
        return dict(held)
    turn = jnp.arange(layout.replicas) % sets
    dealt: dict[str, Any] = jax.jit(lambda held: jax.tree.map(lambda x: x[turn], held), out_shardings=layout.banks)(
        held
    )
    return dealt


def recall_samples(space: SampleSpace, pipeline: Pipeline, ids: Array, pushed: Array) -> Array:
    """The samples of banks `[S, C, K, *shape]`, read again by their numbers; zero where there are none yet.

    Each process reads what its own devices hold.
    """
    kept, read = space.record, {}
    parts = []
    for some, filled in zip(ids.addressable_shards, pushed.addressable_shards, strict=True):
        key = str(some.index)
        if key not in read:
            read[key] = _recall(pipeline, kept, np.asarray(some.data), np.asarray(filled.data))
        parts.append(jax.device_put(read[key], some.device))
    return jax.make_array_from_single_device_arrays((*ids.shape, *kept.shape), ids.sharding, parts)


def _recall(pipeline: Pipeline, kept: jax.ShapeDtypeStruct, ids: NDArray[np.uint32], pushed: NDArray) -> NDArray:
    valid = np.arange(ids.shape[-1]) < np.minimum(pushed, ids.shape[-1])[..., None]
    samples = np.zeros((*ids.shape, *kept.shape), kept.dtype)
    order = np.argsort(ids[valid], kind="stable")  # neighbours in the data's order share a batch
    wanted, places = ids[valid][order], np.argwhere(valid)[order]
    for first in range(0, len(wanted), RECALLED_AT_ONCE):
        chunk = slice(first, first + RECALLED_AT_ONCE)
        samples[tuple(places[chunk].T)] = pipeline.recall(wanted[chunk])
    return samples
