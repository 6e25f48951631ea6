"""The loop both trainings share: feed batches, log, draw, save, stop cleanly, go on exactly where it was."""

import logging
import math
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from drifting.checkpoint import Checkpoints, abstract
from drifting.config import RunConfig
from drifting.data.pipeline import BatchIterator
from drifting.monitor import MetricsWriter, Progress

logger = logging.getLogger("drifting")

StepFn = Callable[[Any, dict[str, Any]], tuple[Any, dict[str, Any]]]


class TrainingError(RuntimeError):
    """Training cannot go on. The message is one line: what happened, what is safe, what to do."""


@dataclass(frozen=True)
class Callbacks:
    """What differs between the trainings.

    Attributes:
        flatten: metrics of a step on the host, to named numbers.
        shown: names of the metrics on the progress bar, in order.
        watch: called with the step and the named numbers whenever they are logged, to warn.
        draw: `(step, state)` draws pictures.
    """

    flatten: Callable[[dict[str, Any]], dict[str, float]]
    shown: tuple[str, ...]
    watch: Callable[[int, Mapping[str, float]], None]
    draw: Callable[[int, Any], None]


def run(
    *,
    workdir: Path,
    label: str,
    config: RunConfig,
    pipeline: BatchIterator,
    empty: Callable[[], Any],
    initial: Callable[[], Any],
    step_fn: StepFn,
    callbacks: Callbacks,
    identity: dict[str, Any],
) -> tuple[int, Any]:
    """Trains until `config.steps`, from the latest checkpoint if there is one.

    A run that was killed and is started again ends with the same state and the same `metrics.jsonl` as one that was not:
    state, data position and metrics go back to the checkpoint together. On SIGTERM and Ctrl-C the step is finished and
    saved first.

    Args:
        workdir: the run directory. label: what the progress bar calls this.
        pipeline: batches; its position is part of the checkpoint.
        empty: makes a state of the right structure; only its shapes are used, on resuming.
        initial: makes the state before the first step; it may read batches.
        step_fn: jitted `(state, batch) -> (state, metrics)`; state donated. Metrics hold `loss` and `grad_norm`.
        identity: facts the run depends on that are not settings, compared on resuming.

    Returns:
        The step reached (less than `config.steps` if interrupted) and the state.

    Raises:
        TrainingError: the loss or its gradient is not finite; the last checkpoint is intact.
        ValueError: the checkpoint is of another model, or depends on other facts.
    """
    checkpoints = Checkpoints(workdir, keep=config.keep_checkpoints)
    start = checkpoints.latest()
    if start is None:
        start, state = 0, initial()
    else:
        state, saved = checkpoints.restore(start, abstract(jax.eval_shape(empty)))
        _check_identity(workdir, saved["identity"], identity)
        pipeline.restore(saved["data"])
        logger.info("%s: going on after step %d of %s", label, start, workdir)
    if start >= config.steps:
        logger.info("%s: finished already, %d steps in %s", label, start, workdir)
        checkpoints.close()
        return start, state

    def save(step: int) -> None:
        checkpoints.save(step, state, {"identity": identity, "data": pipeline.state()})

    step, metrics = start, None
    writer = MetricsWriter(
        workdir, tensorboard=config.tensorboard, wandb_project=config.wandb_project, last_step=start
    )
    try:
        with writer, Progress(config.steps, start=start, label=label) as progress, _interrupts() as interrupted:
            while step < config.steps and not interrupted():
                batch = next(pipeline)
                previous = metrics
                state, metrics = step_fn(state, batch)
                step += 1
                if previous is not None:  # at most two steps in flight: bounded memory, prompt interrupts
                    jax.block_until_ready(previous["loss"])
                due = {key: _due(step, getattr(config, f"{key}_every"), config.steps) for key in ("log", "sample", "checkpoint")}
                if due["log"] or due["checkpoint"] or step == 1:
                    values = callbacks.flatten(jax.device_get(metrics))
                    _require_finite(step, values, checkpoints)
                    progress.update(step, {name: values[name] for name in callbacks.shown})
                    if due["log"] or step == 1:
                        writer.write(step, values)
                        callbacks.watch(step, values)
                if due["sample"]:
                    callbacks.draw(step, state)
                if due["checkpoint"]:
                    save(step)
        if step < config.steps:
            save(step)
            logger.warning("%s: stopped after step %d, saved; the same command goes on from there", label, step)
    finally:
        checkpoints.close()
    return step, state


def _due(step: int, every: int, last: int) -> bool:
    """Whether a thing done every so many steps (0 = never), and at the end, is due."""
    return every > 0 and (step % every == 0 or step == last)


def _require_finite(step: int, values: Mapping[str, float], checkpoints: Checkpoints) -> None:
    # A gradient that is not finite makes every later loss so: looking at this step's covers all since the last look.
    for name in ("loss", "grad_norm"):
        if not math.isfinite(values[name]):
            checkpoints.wait()
            saved = checkpoints.latest()
            kept = "no checkpoint was written yet" if saved is None else f"the checkpoint after step {saved} is intact"
            raise TrainingError(
                f"{name} is {values[name]} at step {step}; {kept}. Lower optimizer.learning_rate or use larger loss.widths"
            )


def _check_identity(workdir: Path, saved: dict[str, Any], now: dict[str, Any]) -> None:
    for name, value in now.items():
        if saved.get(name) != value:
            raise ValueError(
                f"--workdir={workdir}: was trained with {name} {saved.get(name)!r}, now it is {value!r}; "
                "put back what it was trained with, or choose another --workdir"
            )


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """SIGTERM and Ctrl-C only ask to stop while the block runs; a second Ctrl-C stops at once."""
    received: list[int] = []

    def handler(number: int, frame: Any) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    old = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(received)
    finally:
        for number, previous in old.items():
            signal.signal(number, previous)
