"""A step of a run again, to see what went wrong in it: every draw follows from the run's seed and the step's number."""

import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from drifting.assembly.run import Run, prepare
from drifting.config.schema import Config, MeshConfig, has_banks
from drifting.errors import counted, require_argument
from drifting.method.pool import Batch
from drifting.method.state import TrainState
from drifting.method.step import begin_step, features_and_samples, generator_inputs, real_features
from drifting.runs.checkpoints import Checkpoints
from drifting.runs.directory import read_config
from drifting.training.saved_banks import bank_packing
from drifting.training.watch import named_metrics

logger = logging.getLogger("drifting")

SHOWN_METRICS = ("loss", "gap", "collapse", "grad_norm", "param_norm")


def replay(workdir: Path, step: int) -> Iterator[str]:
    """Trains from the last checkpoint before `step` up to it, writes nothing, and says what the step consists of.

    Where the loss of a step before it is not finite already, that is the one looked into. With other devices than the
    run had, the mesh is that of the devices here, and a warning says what differs.

    Args:
        workdir: a run's directory.
        step: the number of the step, counted from 1.

    Yields:
        Lines, as they come: the metrics of the steps up to it, and of the step itself the labels and guidance scales,
        and the range of everything it computes, with how many numbers are not finite.

    Raises:
        ArgumentError: the directory holds no run, or the step is none that the run trains from a checkpoint on.
        InputError: the checkpoint cannot be read.
    """
    config, checkpoints = read_config(workdir), Checkpoints(workdir)
    start = _start(step, checkpoints.steps(), config.train.steps)
    with prepare(_with_devices_here(config)) as run:
        state = _state_after(run, checkpoints, start)
        logger.info("replay: from step %d to step %d of %s", start, step, workdir)
        for number, batch in enumerate(run.batches(step - start), start=start + 1):
            if number == step:
                yield from _looked_into(run, state, batch)
            state, metrics = run.step(state, batch)
            values = named_metrics(config.loss.widths, jax.device_get(metrics))
            shown = "  ".join(f"{name} {values[name]:.4g}" for name in SHOWN_METRICS)
            yield f"step {number}: {shown}"
            wrong = [f"{name}: {value}" for name, value in values.items() if not np.isfinite(value)]
            if number == step:
                yield from wrong
            elif not np.isfinite(values["loss"]):
                logger.warning("replay: step %d is the first whose loss is not finite: looking into that", number)
                break
    if number != step:
        yield from replay(workdir, number)


def _start(step: int, saved: list[int], steps: int) -> int:
    """The step of the last checkpoint before `step`; 0, the beginning, for a run that has none."""
    require_argument(step <= steps, "step", step, f"the run ends with step {steps}; ask for an earlier step")
    if not saved:
        require_argument(step > 0, "step", step, "steps are counted from 1")
        return 0
    oldest = min(saved)
    require_argument(step > oldest, "step", step, f"the oldest checkpoint is of step {oldest}; ask for a later step")
    return max(found for found in saved if found < step)


def _state_after(run: Run, checkpoints: Checkpoints, step: int) -> TrainState:
    """The state of a checkpoint, or that before the first step; the run's feed goes on from there."""
    if not step:
        return run.initial_state()
    saved, packing = checkpoints.read_run(step), bank_packing(run)
    sets, here = saved.get("layout", {}).get("bank_sets", 1), run.layout.replicas
    if sets != here and has_banks(run.config):
        logger.warning(
            "replay: the run drew from %d sets of banks, one for each device along mesh.data; here there are %d, so "
            "each step draws other samples than it did", sets, here,
        )  # fmt: skip
    state: TrainState = packing.unpack(checkpoints.restore(step, packing.target(saved.get("layout", {}))))
    run.feed.restore(saved["data"])
    return state


def _with_devices_here(config: Config) -> Config:
    """The settings, with a mesh of what devices there are if theirs is another."""
    mesh, devices = config.mesh, jax.device_count()
    if (mesh.data and mesh.data * mesh.fsdp != devices) or devices % mesh.fsdp:
        logger.warning(
            "replay: mesh.data=%d, mesh.fsdp=%d of the run does not fit the %s here: using all as mesh.data",
            mesh.data, mesh.fsdp, counted(devices, "device"),
        )  # fmt: skip
        return dataclasses.replace(config, mesh=MeshConfig())
    return config


def _looked_into(run: Run, state: TrainState, batch: Batch) -> Iterator[str]:
    """What goes into a step: its draws, the samples, and every feature map."""
    parts = run.parts

    @jax.jit
    def inside(state: TrainState, batch: Batch, frozen: Any, key: Array) -> dict[str, Any]:
        _, draw = begin_step(parts, state, batch, frozen, key)
        features, samples = features_and_samples(parts, state.params, generator_inputs(draw), frozen)
        real = real_features(parts, draw, frozen)
        named = {"parameters": state.params, "positives": draw.positives, "unconditional": draw.unconditional}
        named |= {"samples": samples} | {f"features of samples, {name}": f for name, f in features.items()}
        named |= {f"features of real samples, {name}": f for name, f in real.items()}
        return {"labels": draw.labels, "alpha": draw.alpha, "ranges": {name: _range(x) for name, x in named.items()}}

    found = jax.device_get(inside(state, batch, run.frozen, run.key))
    yield f"labels: {', '.join(map(str, found['labels']))}"
    yield f"alpha: {', '.join(f'{alpha:.3g}' for alpha in found['alpha'])}"
    for name, (low, high, bad) in found["ranges"].items():
        yield f"{name}: {low:.4g} to {high:.4g}" + (f", {int(bad)} NOT FINITE" if bad else "")


def _range(tree: Any) -> tuple[Array, Array, Array]:
    """Smallest and largest number of a tree of arrays, and how many are not finite."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if leaf.size]
    if not leaves:
        return jnp.float32(0), jnp.float32(0), jnp.int32(0)
    low = jnp.min(jnp.stack([jnp.min(leaf) for leaf in leaves]))
    high = jnp.max(jnp.stack([jnp.max(leaf) for leaf in leaves]))
    return low, high, sum((jnp.sum(~jnp.isfinite(leaf)) for leaf in leaves), jnp.int32(0))
