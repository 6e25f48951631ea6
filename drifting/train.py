"""Training a generator: set up the parts, fill the banks, run the loop."""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from drifting import bank, build, loop, sharding
from drifting.config import Config, ConfigError
from drifting.data import resident
from drifting.data.pipeline import ClassBalanced, Constant, Feed, Pipeline, members_of
from drifting.data.source import LabelledSource
from drifting.evaluator import TrainingEvaluator
from drifting.frozen import FeatureEncoder, SampleSpace, feature_encoder, source_space
from drifting.losses import MapMetrics
from drifting.monitor import save_grid
from drifting.packing import bank_packing
from drifting.processes import is_writer
from drifting.sample import Sampler
from drifting.sharding import Layout
from drifting.state import TrainState, create
from drifting.state import shardings as state_shardings
from drifting.step import Batch, Parts, push_batch, train_step
from drifting.trained import ema_decay
from drifting.validate import check, check_layout, check_sizes, has_banks, require

logger = logging.getLogger("drifting")

# Below this ratio of distances among generated to distances among real samples, images of a class are nearly one image.
COLLAPSED = 0.3
GRID_COLUMNS = 10
GRID_CLASSES = 10


@dataclass(frozen=True)
class Training:
    """Everything a run needs but its directory. Made by `prepare`.

    Attributes:
        parts: of the step. source: the real samples. encoder: the feature space.
        empty: jittable, the state before the first step, banks still empty.
        frozen: parameters of the frozen networks, on all devices. widths, key: the other constants of the step.
        step: the compiled step, `(state, batch, frozen, widths, key) -> (state, metrics)`; the state is donated.
    """

    parts: Parts
    source: LabelledSource
    encoder: FeatureEncoder
    empty: Callable[[], TrainState]
    frozen: build.Params
    widths: Array
    key: Array
    step: Callable[..., tuple[TrainState, dict[str, Any]]]

    def advance(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Any]]:
        """One step."""
        return self.step(state, batch, self.frozen, self.widths, self.key)

    def first_state(self, feed: Feed) -> TrainState:
        """The state before the first step, its banks filled from the feed."""
        placed = state_shardings(self.parts.layout, jax.eval_shape(self.empty))
        return fill_banks(self.parts, self.source, feed, jax.jit(self.empty, out_shardings=placed)(), self.frozen)

    @property
    def identity(self) -> dict[str, Any]:
        """Facts that a run depends on and that are not settings."""
        space = self.parts.space
        weights = self.encoder.checksums | space.checksums
        return build.data_facts(self.source) | {"sample_shape": list(space.shape), "weights": weights}


def prepare(config: Config) -> Training:
    """Reads data and frozen networks, and sets up the step.

    Raises:
        ConfigError: the settings cannot work, do not fit the data or the devices, or something named is not there.
    """
    check(config)
    source = build.source(config.data)
    config, space = build.named_vae(config, source), source_space(config.data.vae, source)
    check_sizes(config, space.shape, source.num_classes)
    layout = sharding.layout(config.mesh, config.bank.per_device)
    check_layout(config, layout.devices, jax.process_count(), len(source))
    encoder = feature_encoder(config.features, space)
    parts, empty = set_up(config, space, encoder, source.num_classes, layout)
    placed = state_shardings(layout, jax.eval_shape(empty))
    # Arguments, not constants: runs that differ in them alone share what is compiled.
    everywhere = partial(jax.jit, out_shardings=layout.replicated)
    widths = everywhere(lambda widths: widths)(np.asarray(config.loss.widths, np.float32))
    key = everywhere(jax.random.key)(config.train.seed)
    step = jax.jit(partial(train_step, parts), donate_argnums=0, out_shardings=(placed, layout.replicated))
    return Training(parts, source, encoder, empty, layout.put(encoder.params), widths, key, step)


def train(config: Config, workdir: Path, label: str = "train") -> int:
    """Trains a generator in `workdir`, going on from its latest checkpoint; returns the step reached.

    `label` is what progress and messages call it.

    Raises:
        ConfigError: the settings cannot work, do not fit the data, or are not those of the run in `workdir`.
        loop.TrainingError: the loss is not finite, or a batch cannot be read.
        CheckpointError: a checkpoint cannot be written.
    """
    training = prepare(config)
    parts, config = training.parts, training.parts.config
    with closing(make_feed(config, training.source, parts.layout)) as feed:
        step, _ = loop.run(
            workdir=workdir,
            config=config,
            feed=feed,
            initial=lambda: training.first_state(feed),
            step_fn=training.advance,
            callbacks=loop.Callbacks(
                flatten=partial(named_metrics, config.loss.widths),
                shown=("gap", "collapse", "loss"),
                watch=CollapseWatch(config.train.steps),
                draw=GridDrawer(parts, workdir),
                evaluate=evaluator_of(training, workdir),
                evaluate_every=config.eval.every,
            ),
            identity=training.identity,
            label=label,
            about=describe(parts, training.source, training.encoder, training.empty),
            packing=bank_packing(parts, feed, training.empty),
        )
    return step


def evaluator_of(training: Training, workdir: Path) -> Callable[[int, TrainState], dict[str, float]] | None:
    """Scores the run as it goes on; None where the settings do not ask for it.

    Raises:
        ConfigError: several processes train, of which none can score alone; or as `TrainingEvaluator` does.
    """
    parts, count = training.parts, jax.process_count()
    every = parts.config.eval.every
    if not every:
        return None
    remedy = f"not while {count} processes train: set it to 0, and score checkpoints with `drifting evaluate`"
    require(count == 1, "eval.every", every, remedy)
    config, decay = parts.config, str(ema_decay(parts.config))
    evaluator = TrainingEvaluator(config, parts.generator, parts.space, training.identity, workdir)
    diagnosis = None
    if config.eval.diagnose:
        from drifting.analysis.diagnose import Diagnosis  # which draws: nothing else in training does
        from drifting.analysis.subject import subject_of

        subject = subject_of(config.loss, parts.generator, training.source, parts.space, training.encoder)
        diagnosis = Diagnosis(subject, config.eval.alpha)

    def evaluate(step: int, state: TrainState) -> dict[str, float]:
        state = dataclasses.replace(state, ema=parts.layout.local(state.ema))
        return evaluator(step, state) | (diagnosis(state.ema[decay]) if diagnosis else {})

    return evaluate


def set_up(
    config: Config,
    space: SampleSpace,
    encoder: FeatureEncoder,
    num_classes: int,
    layout: Layout | None = None,
) -> tuple[Parts, Callable[[], TrainState]]:
    """The static parts of a step, and a jittable function that makes the state before the first, banks still empty.

    `layout`: None is one device.
    """
    layout = layout or sharding.one_device()
    generator, init_params = build.generator(config.model, space.shape, num_classes, config.train.seed)
    optimizer = build.optimizer(config.optimizer, config.train.steps)
    objective = build.objective(config)
    parts = Parts(config, generator, space, encoder.features, objective, optimizer, num_classes, layout)

    def empty_state() -> TrainState:
        return create(
            init_params(),
            optimizer,
            ema_decays=config.train.ema_decays,
            banks=empty_banks(config, space, num_classes, layout.replicas),
            neighbour_scale=jnp.zeros(num_classes) if config.loss.feature_scale == "neighbour" else None,
        )

    return parts, empty_state


def describe(
    parts: Parts, source: LabelledSource, encoder: FeatureEncoder, empty_state: Callable[[], TrainState]
) -> Iterator[str]:
    """What is about to be trained, in a few lines; only shapes of the state are looked at."""
    config, shape = parts.config, parts.space.shape
    loss = config.loss
    maps = jax.eval_shape(encoder.features, encoder.params, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
    positions = sum(f.shape[1] for f in maps.values())
    encoders = ", ".join(f"{name} {getattr(config.features, name)}" for name in config.features.encoders)
    yield loop.describe_model(config.model.name, jax.eval_shape(empty_state).params)
    yield loop.describe_data(source)
    yield f"real samples: {_drawn_from(config)}"
    if parts.space.vae is not None:
        yield f"samples: latents of {'x'.join(map(str, shape))}, of {config.data.vae}"
    yield f"loss: {loss.objective}, {loss.kernel} kernel of width {', '.join(f'{width:g}' for width in loss.widths)}"
    yield f"features: {encoders or 'the samples themselves'}: {len(maps)} maps, {positions} drift problems a label"


def _drawn_from(config: Config) -> str:
    """What a step draws its real samples from."""
    if has_banks(config):
        any_class = f" and {config.bank.unconditional} of any" if config.loss.unconditional else ""
        return f"out of banks of {config.bank.per_class} a class{any_class}, {config.bank.push} new ones a step"
    places = {"device": "out of all, on the device", "host": "out of all, in the host's memory"}
    return places.get(config.data.resident or "", "out of all, read for each step")


def make_feed(config: Config, source: LabelledSource, layout: Layout | None = None) -> Feed:
    """What a step is fed with: new samples for the banks, its own real samples, or all there are, on the device.

    Raises:
        ConfigError: a class has no samples.
        ValueError: resident data cannot be read.
    """
    layout = layout or sharding.one_device()
    loss, seed, reading = config.loss, config.train.seed, build.reading(config.data, layout)
    try:
        counts = np.array([len(members) for members in members_of(source)])
    except ValueError as error:
        path = f", data.path={config.data.path!r}" if config.data.path else ""
        raise ConfigError(f"data.name={config.data.name!r}{path}: {error}") from error
    few = int((counts < loss.positives).sum())
    if few:
        logger.warning(
            "data: %d of %d classes have fewer than loss.positives=%d samples; theirs are drawn with replacement",
            few, len(counts), loss.positives,
        )  # fmt: skip
    if has_banks(config):
        return Pipeline(source, min(config.bank.push, len(source)), seed, **reading)
    if config.data.resident == "device":
        return Constant({"resident": resident.load(source, config.data.flip, layout.batch, layout.devices)})
    if config.data.resident == "host":
        source = resident.InMemory(source, config.data.flip)
    return ClassBalanced(source, loss.labels, loss.positives, seed, unconditional=loss.unconditional, **reading)


def empty_banks(config: Config, space: SampleSpace, num_classes: int, sets: int = 1) -> dict[str, bank.Bank]:
    """The banks of `config` for samples of `space`, without samples; their first axis is that of the `sets`."""
    if not has_banks(config):
        return {}
    kept = space.record

    def several(one: bank.Bank) -> bank.Bank:
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (sets, *x.shape)), one)

    banks = {"class": several(bank.create(num_classes, config.bank.per_class, kept.shape, kept.dtype))}
    if config.loss.unconditional:
        banks["unconditional"] = several(bank.create(1, config.bank.unconditional, kept.shape, kept.dtype))
    return banks


def fill_banks(parts: Parts, source: LabelledSource, feed: Feed, state: TrainState, frozen: build.Params) -> TrainState:
    """Pushes batches until every class can give its positives without repeating one, but for one epoch of each bank.

    Raises:
        ValueError: a class has no samples at all.
    """
    if not state.banks:
        return state
    config, sets = parts.config, parts.layout.replicas
    placed = state_shardings(parts.layout, state)

    def push(state: TrainState, batch: Batch, frozen: build.Params) -> tuple[TrainState, dict[str, Array]]:
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


def named_metrics(widths: tuple[float, ...], metrics: dict[str, Any]) -> dict[str, float]:
    """Flat names and numbers of a step's metrics: `gap/NAME` for a feature map, `field_norm/NAME/WIDTH` for a width."""
    maps: dict[str, MapMetrics] = metrics["maps"]
    flat = {name: float(value) for name, value in metrics.items() if name != "maps"}
    for name, m in maps.items():
        flat |= {f"loss/{name}": float(m.loss), f"gap/{name}": float(m.gap), f"scale/{name}": float(m.scale)}
        flat |= {f"field_norm/{name}/{width:g}": float(norm) for width, norm in zip(widths, m.field_norm, strict=True)}
    return flat


class CollapseWatch:
    """Warns when the generator comes to draw nearly one image for each class, from a tenth of the run on."""

    def __init__(self, steps: int) -> None:
        self._from, self._warned = min(1000, max(steps // 10, 10)), False

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        """Looks at the metric `collapse`."""
        collapsed = step >= self._from and values["collapse"] < COLLAPSED
        if collapsed and not self._warned:
            logger.warning(
                "collapse %.2f at step %d: generated samples of a class are nearly alike (1 is right); "
                "try other loss.widths or more loss.generated",
                values["collapse"], step,
            )  # fmt: skip
        self._warned = collapsed


class GridDrawer:
    """Draws `samples/step_N.png` with the averaged parameters: a row for each class, always the same seeds."""

    def __init__(self, parts: Parts, workdir: Path) -> None:
        rows = min(parts.num_classes, GRID_CLASSES)
        self._labels = np.repeat(np.arange(rows, dtype=np.int32), GRID_COLUMNS)
        self._sampler = Sampler(parts.generator, parts.space, len(self._labels))
        self._config, self._workdir, self._layout = parts.config, workdir, parts.layout

    def __call__(self, step: int, state: TrainState) -> None:
        """Draws the state after `step`."""
        seeds, params = np.arange(len(self._labels)), state.ema[str(ema_decay(self._config))]
        images = self._sampler(self._layout.local(params), self._labels, seeds, self._config.eval.alpha)
        if is_writer():
            save_grid(images, self._workdir / "samples" / f"step_{step:07d}.png", GRID_COLUMNS)
