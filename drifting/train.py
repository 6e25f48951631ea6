"""Training a generator: set up the parts, fill the banks, run the loop."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from drifting import bank, build, loop
from drifting.config import Config
from drifting.data.pipeline import BatchIterator, ClassBalanced, Pipeline
from drifting.data.source import LabelledSource
from drifting.evaluator import TrainingEvaluator
from drifting.frozen import FeatureEncoder, SampleSpace, feature_encoder, source_space
from drifting.losses import MapMetrics
from drifting.monitor import save_grid
from drifting.sample import Sampler
from drifting.state import TrainState, create
from drifting.step import Batch, Parts, encode_batch, push_batch, train_step
from drifting.trained import ema_decay
from drifting.validate import check, check_sizes, require

logger = logging.getLogger("drifting")

# Below this ratio of distances among generated to distances among real samples, images of a class are nearly one image.
COLLAPSED = 0.3
GRID_COLUMNS = 10
GRID_CLASSES = 10
FILL = 2**32 - 1  # where a step's number goes into the key: no step has this one


def train(config: Config, workdir: Path) -> int:
    """Trains a generator in `workdir`, going on from its latest checkpoint; returns the step reached.

    Raises:
        ConfigError: the settings cannot work, do not fit the data, or are not those of the run in `workdir`.
        loop.TrainingError: the loss is not finite, or a batch cannot be read.
    """
    check(config)
    source = build.source(config.data)
    config, space = build.named_vae(config, source), source_space(config.data.vae, source)
    check_sizes(config, space.shape, source.num_classes)
    encoder = feature_encoder(config.features, space)
    parts, empty_state = set_up(config, space, encoder, source.num_classes)
    widths = jnp.asarray(config.loss.widths, jnp.float32)
    key = jax.random.key(config.train.seed)
    jitted = jax.jit(partial(train_step, parts), donate_argnums=0)
    identity = build.data_facts(source) | {"sample_shape": list(space.shape)}
    identity |= {"weights": encoder.checksums | space.checksums}
    every = config.eval.every
    with closing(make_pipeline(config, source)) as pipeline:
        step, _ = loop.run(
            workdir=workdir,
            config=config,
            pipeline=pipeline,
            empty=empty_state,
            initial=lambda: fill_banks(config, space, source, pipeline, jax.jit(empty_state)(), key),
            step_fn=lambda state, batch: jitted(state, batch, encoder.params, widths, key),
            callbacks=loop.Callbacks(
                flatten=partial(named_metrics, config.loss.widths),
                shown=("gap", "collapse", "loss"),
                watch=CollapseWatch(config.train.steps),
                draw=GridDrawer(parts, workdir),
                evaluate=TrainingEvaluator(config, parts.generator, space, identity, workdir) if every else None,
                evaluate_every=every,
            ),
            identity=identity,
            label="train",
            about=describe(parts, source, encoder, empty_state),
        )
    return step


def set_up(
    config: Config, space: SampleSpace, encoder: FeatureEncoder, num_classes: int
) -> tuple[Parts, Callable[[], TrainState]]:
    """The static parts of a step, and a jittable function that makes the state before the first, banks still empty."""
    generator, init_params = build.generator(config.model, space.shape, num_classes, config.train.seed)
    optimizer = build.optimizer(config.optimizer, config.train.steps)
    parts = Parts(config, generator, space, encoder.features, build.objective(config), optimizer, num_classes)

    def empty_state() -> TrainState:
        return create(
            init_params(),
            optimizer,
            ema_decays=config.train.ema_decays,
            banks=empty_banks(config, space.shape, num_classes),
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
    if parts.space.vae is not None:
        yield f"samples: latents of {'x'.join(map(str, shape))}, of {config.data.vae}"
    yield f"loss: {loss.objective}, {loss.kernel} kernel of width {', '.join(f'{width:g}' for width in loss.widths)}"
    yield f"features: {encoders or 'the samples themselves'}: {len(maps)} maps, {positions} drift problems a label"


def make_pipeline(config: Config, source: LabelledSource) -> BatchIterator:
    """Batches of the new samples for the banks, or without banks class-balanced batches of the positives.

    Raises:
        ConfigError: without banks, a class has too few samples.
    """
    loss, seed = config.loss, config.train.seed
    augment = build.reading(config.data)
    if config.bank.per_class:
        batch = min(config.bank.push, len(source))
        return Pipeline(source, batch, seed, **augment)
    counts = np.bincount(source.labels, minlength=source.num_classes)
    fewest = int(counts.argmin())
    remedy = f"exceeds the {counts[fewest]} samples of class {source.class_names[fewest]!r}: use fewer, or a bank"
    require(loss.positives <= counts[fewest], "loss.positives", loss.positives, remedy)
    return ClassBalanced(source, loss.labels, loss.positives, seed, **augment)


def empty_banks(config: Config, shape: tuple[int, int, int], num_classes: int) -> dict[str, bank.Bank]:
    """The banks of `config` for samples of `shape`, without samples."""
    if config.bank.per_class == 0:
        return {}
    banks = {"class": bank.create(num_classes, config.bank.per_class, shape)}
    if config.loss.unconditional:
        banks["unconditional"] = bank.create(1, config.bank.unconditional, shape)
    return banks


def fill_banks(
    config: Config,
    space: SampleSpace,
    source: LabelledSource,
    pipeline: BatchIterator,
    state: TrainState,
    key: Array,
) -> TrainState:
    """Pushes batches until every class can give its positives without repeating one, but for one epoch at most.

    Raises:
        ValueError: a class has no samples at all.
    """
    if not state.banks:
        return state

    def encode_and_push(state: TrainState, batch: Batch, frozen: build.Params, number: int) -> TrainState:
        return push_batch(state, encode_batch(space, frozen, batch, jax.random.fold_in(fill_key, number)))

    fill_key = jax.random.fold_in(key, FILL)
    push = jax.jit(encode_and_push, donate_argnums=0)
    for number in range(-(-len(source) // pipeline.batch_size)):
        state = push(state, next(pipeline), space.params, number)
        counts = np.asarray(bank.fill(state.banks["class"]))
        unconditional = state.banks.get("unconditional")
        enough = unconditional is None or int(bank.fill(unconditional)[0]) >= config.loss.unconditional
        if enough and counts.min() >= config.loss.positives:
            break
    bank.check_filled(counts, 1, source.class_names)
    few = int((counts < config.loss.positives).sum())
    if few:
        logger.warning(
            "bank: %d of %d classes have fewer than loss.positives=%d samples; theirs are drawn with replacement",
            few, len(counts), config.loss.positives,
        )  # fmt: skip
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
        self._config, self._workdir = parts.config, workdir

    def __call__(self, step: int, state: TrainState) -> None:
        """Draws the state after `step`."""
        seeds, params = np.arange(len(self._labels)), state.ema[str(ema_decay(self._config))]
        images = self._sampler(params, self._labels, seeds, self._config.eval.alpha)
        save_grid(images, self._workdir / "samples" / f"step_{step:07d}.png", GRID_COLUMNS)
