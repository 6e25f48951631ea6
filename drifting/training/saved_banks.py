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
from drifting.method.records import RecordFormat
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
        banks: `class` and, where there is one, `unconditional`, each with `ids`, `pushed` and, unless its samples can
            be read again, `words`, see `drifting.method.bank.Bank`. Checkpoints of version 0.1 have `samples` in their
            own shape in place of `words`.
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
        found = abstract(pack(shapes), pack(placed))
        return found if "bank_records" in saved else dataclasses.replace(found, banks=_of_older(found.banks, banks))

    def unpack(saved: SavedState) -> TrainState:
        if not saved.banks:
            return TrainState(**vars(saved) | {"banks": None})
        empty = jax.eval_shape(run.empty).banks
        assert empty is not None, "a state with banks was saved for a run without"
        record = empty.by_class.record
        dealt = {name: _dealt(layout, _as_words(record, held)) for name, held in saved.banks.items()}
        if by_number:
            assert isinstance(feed, Pipeline)
            for held in dealt.values():
                held["words"] = recall_samples(record, feed, held["ids"], held["pushed"])
        banks = {name: Bank(**held, record=record) for name, held in dealt.items()}
        return TrainState(**vars(saved) | {"banks": Banks(banks["class"], banks.get("unconditional"))})

    return Packing(pack, unpack, target, {"bank_sets": layout.replicas, "bank_records": "words"})


def _packed(banks: Banks | None, with_samples: bool) -> dict[str, dict[str, Any]]:
    # None, not left out: that is how checkpoints without samples have always said so.
    return {
        name: {"words": one.words if with_samples else None, "ids": one.ids, "pushed": one.pushed}
        for name, one in _by_name(banks).items()
    }


def _by_name(banks: Banks | None) -> dict[str, Bank]:
    held = {} if banks is None else {"class": banks.by_class, "unconditional": banks.unconditional}
    return {name: one for name, one in held.items() if one is not None}


def _of_older(found: dict[str, dict[str, Any]], banks: Banks | None) -> dict[str, dict[str, Any]]:
    """The target of a checkpoint of version 0.1: `samples` in their own shape in place of `words`."""
    older = {}
    for name, one in _by_name(banks).items():
        held = dict(found[name])
        words, record = held.pop("words"), one.record
        shape = (*one.words.shape[:-1], *record.shape)
        if words is not None:
            words = jax.ShapeDtypeStruct(shape, record.dtype, sharding=words.sharding)
        older[name] = held | {"samples": words}
    return older


def _as_words(record: RecordFormat, held: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint holds of a bank, whichever version wrote it."""
    held = dict(held)
    if "samples" in held:
        samples = held.pop("samples")
        held["words"] = None if samples is None else jax.jit(record.pack)(samples)
    return held


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


def recall_samples(record: RecordFormat, pipeline: Pipeline, ids: Array, pushed: Array) -> Array:
    """The words of banks `[S, C, K, words]`, read again by their samples' numbers; zero where there are none yet.

    Each process reads what its own devices hold.
    """
    read: dict[str, NDArray[np.uint32]] = {}
    parts = []
    for some, filled in zip(ids.addressable_shards, pushed.addressable_shards, strict=True):
        key = str(some.index)
        if key not in read:
            read[key] = _recall(pipeline, record, np.asarray(some.data), np.asarray(filled.data))
        parts.append(jax.device_put(read[key], some.device))
    return jax.make_array_from_single_device_arrays((*ids.shape, record.words), ids.sharding, parts)


def _recall(pipeline: Pipeline, record: RecordFormat, ids: NDArray[np.uint32], pushed: NDArray) -> NDArray[np.uint32]:
    valid = np.arange(ids.shape[-1]) < np.minimum(pushed, ids.shape[-1])[..., None]
    words = np.zeros((*ids.shape, record.words), np.uint32)
    order = np.argsort(ids[valid], kind="stable")  # neighbours in the data's order share a batch
    wanted, places = ids[valid][order], np.argwhere(valid)[order]
    for first in range(0, len(wanted), RECALLED_AT_ONCE):
        chunk = slice(first, first + RECALLED_AT_ONCE)
        words[tuple(places[chunk].T)] = record.pack_on_host(pipeline.recall(wanted[chunk]))
    return words
