"""What one training is, as the loop needs it: its parts, what is done beside its steps, and what it says of itself."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from drifting.assembly.pretraining import Pretraining
from drifting.assembly.run import Run
from drifting.config.schema import TrainingConfig
from drifting.data.batches import Feed
from drifting.data.source import LabelledSource
from drifting.errors import counted
from drifting.runs.checkpoints import Checkpoints

StepFn = Callable[[Any, dict[str, Any], bool], tuple[Any, dict[str, Any]]]


@dataclass(frozen=True)
class Callbacks:
    """What differs between the trainings.

    Attributes:
        flatten: metrics of a step on the host, to named numbers, `loop.FINITE_METRICS` among them.
        shown: names of the metrics on the progress bar, in order.
        watch: called with the step and the named numbers whenever they are logged, to warn.
        draw: `(step, state)` draws a picture; returns its file, in the process that writes.
        remedy: what to do about a loss that is not finite, a clause.
        evaluate: `(step, state)` gives scores, which are logged; None: none. A request to stop ends it by an exception.
        evaluate_every: scores are due every so many steps; 0: never.
        keep: `(step, state)` stores what is kept besides the checkpoint of that step, before it; None: nothing is.
        finish: `(step, state)` does what is left once all steps are trained, also where a call finds them trained
            already; None: nothing is.
    """

    flatten: Callable[[dict[str, Any]], dict[str, float]]
    shown: tuple[str, ...]
    watch: Callable[[int, Mapping[str, float]], None]
    draw: Callable[[int, Any], Path | None]
    remedy: str
    evaluate: Callable[[int, Any], Mapping[str, float]] | None = None
    evaluate_every: int = 0
    finish: Callable[[int, Any], None] | None = None
    keep: Callable[[int, Any], None] | None = None


@dataclass(frozen=True)
class Packing:
    """What a checkpoint leaves out of a state because it can be had again.

    Attributes:
        pack: a state without it.
        unpack: the state of what `pack` left.
        target: shapes and shardings of what `pack` leaves, for a checkpoint with these `facts`.
        facts: JSON that is saved with it.
    """

    pack: Callable[[Any], Any]
    unpack: Callable[[Any], Any]
    target: Callable[[dict[str, Any]], Any]
    facts: dict[str, Any] = field(default_factory=dict)


def whole(target: Any) -> Packing:
    """Leaves out nothing. `target`: shapes and shardings of the state."""
    return Packing(lambda state: state, lambda state: state, lambda facts: target)


@dataclass(frozen=True)
class Course:
    """One training, as the loop needs it.

    Attributes:
        workdir: the run directory; it is created once the run can start.
        config: all settings; they must be those of the run that is there, if there is one.
        feed: yields the batches; its position is part of the checkpoint.
        initial: makes the state before the first step; it may read batches.
        step_fn: the jitted step `(state, batch, measure) -> (state, metrics)`, to which the state is donated; `measure`
            says whether all metrics are wanted or only those that say whether training can go on.
        callbacks: what is done beside the steps.
        identity: facts (JSON) that the run depends on and that are not settings; they are compared on resuming.
        label: what the progress bar and messages call this.
        about: lines that are logged at the start, once nothing can be wrong with the input any more.
        packing: what a checkpoint leaves out of the state.
        samples: images that one step trains on, over all devices.
    """

    workdir: Path
    config: TrainingConfig
    feed: Feed
    initial: Callable[[], Any]
    step_fn: StepFn
    callbacks: Callbacks
    identity: dict[str, Any]
    label: str
    about: Iterable[str]
    packing: Packing
    samples: int


def begun_with(workdir: Path, run: Run | Pretraining) -> tuple[dict[str, Any], list[str]]:
    """What a run begins with in place of drawn parameters: facts for its identity, and lines to tell.

    A run that has a checkpoint goes on from there: nothing of where it began is read again, or needed.

    Raises:
        ConfigError, HubError: there are no such weights, or they do not fit.
    """
    start = run.start if Checkpoints(workdir).latest() is None else None
    return ({}, []) if start is None else ({"start": start.facts}, [start.told])


def describe_data(source: LabelledSource) -> str:
    """A line about the real samples."""
    shape = "x".join(map(str, source.shape))
    return f"data: {source.name}, {counted(len(source), 'sample')} of {shape}, {counted(source.num_classes, 'class')}"


def describe_model(name: str, params: Any) -> str:
    """A line about a network of these parameters (or their shapes), and where it runs."""
    devices = jax.devices()
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    return f"model: {name}, {counted(count, 'parameter')}, on {len(devices)} x {devices[0].device_kind}"
