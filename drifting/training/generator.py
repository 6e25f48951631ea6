"""Training a generator: set up the parts, fill the banks, run the loop."""

import dataclasses
import logging
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path

import jax
import jax.numpy as jnp

from drifting.assembly.run import Run, prepare
from drifting.assembly.spaces import encoder_options
from drifting.assembly.start import check_start
from drifting.config.arguments import checked_arguments
from drifting.config.schema import Config, ema_decay, has_banks
from drifting.data.source import LabelledSource
from drifting.devices.processes import is_writer
from drifting.errors import counted, require
from drifting.method.state import STD_PREFIX, TrainState
from drifting.runs.checkpoints import Checkpoints
from drifting.runs.places import place
from drifting.scoring.diagnosis import Diagnosis, subject_of
from drifting.training.course import Callbacks, Course, begun_with, describe_data, describe_model
from drifting.training.loop import check_folder, run_loop
from drifting.training.saved_banks import bank_packing
from drifting.training.scores import TrainingEvaluator, check_score_encoder
from drifting.training.watch import CollapseWatch, GridDrawer, named_metrics
from drifting.weights.averages import store_averages

logger = logging.getLogger("drifting")

REPLAY_REMEDY = "`drifting replay` looks into that step; try a lower optimizer.learning_rate in another folder"
"""What to do about a loss that is not finite."""


@checked_arguments
def train(config: Config, workdir: str | Path, *, source: LabelledSource | None = None, label: str = "train") -> int:
    """Trains a generator in `workdir`, going on from its latest checkpoint; returns the step reached.

    Args:
        config: the settings.
        workdir: the folder of the run, made if it is not there.
        source: real samples of one's own, in place of those that `config.data` names. A run goes on with the same ones
            alone: they are compared by content.
        label: what progress and messages call it.

    Raises:
        ConfigError: the settings cannot work, do not fit the data, or are not those of the run in `workdir`.
        TrainingError: the loss is not finite, or a batch cannot be read.
        CheckpointError: a checkpoint cannot be written.
    """
    workdir = place(workdir)
    if isinstance(config, Config):
        check_folder(workdir, config)  # before anything is said of the data
        check_score_encoder(config)
        if Checkpoints(workdir).latest() is None:
            check_start(config.train, config.model.name)
    with prepare(config, source=source) as run:
        config, (began, told) = run.config, begun_with(workdir, run)
        callbacks = Callbacks(
            flatten=partial(named_metrics, config.loss.widths),
            shown=("gap", "collapse", "loss"),
            watch=CollapseWatch(config.optimizer, config.train.steps),
            draw=GridDrawer(run, workdir),
            remedy=REPLAY_REMEDY,
            evaluate=evaluator_of(run, workdir),
            evaluate_every=config.eval.every,
            keep=keeper_of(run, workdir),
        )
        course = Course(
            workdir=workdir,
            config=config,
            feed=run.feed,
            initial=run.initial_state,
            step_fn=run.step,
            callbacks=callbacks,
            identity=run.identity | began,
            label=label,
            about=chain(describe_training(run), told),
            packing=bank_packing(run),
            samples=config.loss.labels * config.loss.generated,
        )
        return run_loop(course)


def evaluator_of(run: Run, workdir: Path) -> Callable[[int, TrainState], dict[str, float]] | None:
    """Scores the run as it goes on; None where the settings do not ask for it.

    Raises:
        ConfigError: several processes train, of which none can score alone; or as `TrainingEvaluator` does.
    """
    config, count = run.config, jax.process_count()
    if not config.eval.every:
        return None
    remedy = f"not while {count} processes train: set it to 0, and score checkpoints with `drifting evaluate`"
    require(count == 1, "eval.every", config.eval.every, remedy)
    decay = str(ema_decay(config))
    evaluator = TrainingEvaluator(config, run.parts.generator, run.parts.space, run.identity, workdir)
    diagnosis = None
    if config.eval.diagnose:
        subject = subject_of(config.loss, run.parts.generator, run.source, run.parts.space, run.encoder)
        diagnosis = Diagnosis(subject, config.eval.alpha)

    def evaluate(step: int, state: TrainState) -> dict[str, float]:
        state = dataclasses.replace(state, ema=run.layout.local(state.ema))
        return evaluator(step, state) | (diagnosis(state.ema[decay]) if diagnosis else {})

    return evaluate


def keeper_of(run: Run, workdir: Path) -> Callable[[int, TrainState], None] | None:
    """Stores the averages of `train.ema_stds`, of which others are made after the run; None where there are none."""
    stds, before = run.config.train.ema_stds, run.config.optimizer.no_op_steps
    if not stds:
        return None

    def keep(step: int, state: TrainState) -> None:
        averages = run.layout.local({std: state.ema[f"{STD_PREFIX}{std}"] for std in stds})
        if step > before and is_writer():  # a step without an update has averages of nothing
            store_averages(workdir, step, step - before, averages)

    return keep


def describe_training(run: Run) -> Iterator[str]:
    """What is about to be trained, in a few lines; only shapes of the state are looked at."""
    config, shape, encoder = run.config, run.parts.space.shape, run.encoder
    loss = config.loss
    maps = jax.eval_shape(encoder.features, encoder.params, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
    positions = sum(f.shape[1] for f in maps.values())
    encoders = ", ".join(
        f"{name} {encoder_options(config.features, name).weights}" for name in config.features.encoders
    )
    yield describe_model(config.model.name, jax.eval_shape(run.empty).params)
    yield describe_data(run.source)
    yield f"real samples: {_drawn_from(config)}"
    if run.parts.space.vae is not None:
        yield f"samples: latents of {'x'.join(map(str, shape))}, of {config.data.vae}"
    yield f"loss: {loss.objective}, {loss.kernel} kernel of width {', '.join(f'{width:g}' for width in loss.widths)}"
    problems = f"{counted(len(maps), 'map')}, {counted(positions, 'drift problem')} a label"
    yield f"features: {encoders or 'the samples themselves'}: {problems}"


def _drawn_from(config: Config) -> str:
    """What a step draws its real samples from."""
    if has_banks(config):
        any_class = f" and {config.bank.unconditional} of any" if config.loss.unconditional else ""
        return f"out of banks of {config.bank.per_class} a class{any_class}, {config.bank.push} new ones a step"
    places = {"device": "out of all, on the device", "host": "out of all, in the host's memory"}
    return places.get(config.data.resident or "", "out of all, read for each step")
