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

from drifting import bank, build, loop
from drifting.config import Config
from drifting.data.pipeline import BatchIterator, ClassBalanced, Pipeline
from drifting.data.sources import LabelledSource
from drifting.losses import MapMetrics
from drifting.monitor import save_grid
from drifting.sample import Sampler, ema_decay
from drifting.state import TrainState, create
from drifting.step import Parts, push_batch, train_step
from drifting.validate import check, check_sizes, require

logger = logging.getLogger("drifting")

# Below this ratio of distances among generated to distances among real samples, images of a class are nearly one image.
COLLAPSED = 0.3
GRID_COLUMNS = 10
GRID_CLASSES = 10


def train(config: Config, workdir: Path) -> int:
    """Trains a generator in `workdir`, going on from its latest checkpoint; returns the step reached.

    Raises:
        ConfigError: the settings cannot work, do not fit the data, or are not those of the run in `workdir`.
        loop.TrainingError: the loss is not finite, or a batch cannot be read.
    """
    check(config)
    source = build.source(config.data)
    check_sizes(config, source.shape, source.num_classes)
    encoder = build.feature_encoder(config.features, source.shape)
    generator, init_params = build.generator(config.model, source.shape, source.num_classes, config.train.seed)
    optimizer = build.optimizer(config.optimizer, config.train.steps)
    parts = Parts(config, generator, encoder.features, build.objective(config), optimizer, source.num_classes)

    def empty_state() -> TrainState:
        return create(
            init_params(),
            optimizer,
            ema_decays=config.train.ema_decays,
            banks=empty_banks(config, source),
            neighbour_scale=jnp.zeros(source.num_classes) if config.loss.feature_scale == "neighbour" else None,
        )

    widths = jnp.asarray(config.loss.widths, jnp.float32)
    key = jax.random.key(config.train.seed)
    jitted = jax.jit(partial(train_step, parts), donate_argnums=0)
    with closing(make_pipeline(config, source)) as pipeline:
        step, _ = loop.run(
            workdir=workdir,
            config=config,
            pipeline=pipeline,
            empty=empty_state,
            initial=lambda: fill_banks(config, source, pipeline, jax.jit(empty_state)()),
            step_fn=lambda state, batch: jitted(state, batch, encoder.params, widths, key),
            callbacks=loop.Callbacks(
                flatten=partial(named_metrics, config.loss.widths),
                shown=("gap", "collapse", "loss"),
                watch=CollapseWatch(config.train.steps),
                draw=GridDrawer(config, generator, source.num_classes, workdir),
            ),
            identity=build.data_facts(source) | {"encoder": encoder.checksum},
            label="train",
            about=describe(config, source, encoder, init_params),
        )
    return step


def describe(
    config: Config, source: LabelledSource, encoder: build.FeatureEncoder, init: Callable[[], build.Params]
) -> Iterator[str]:
    """What is about to be trained, in a few lines. `init` makes the parameters, of which only the shapes count."""
    loss = config.loss
    sample = jax.ShapeDtypeStruct((1, *source.shape), jnp.float32)
    maps = jax.eval_shape(encoder.features, encoder.params, sample)
    positions = sum(f.shape[1] for f in maps.values())
    origin = "the samples themselves" if config.features.encoder == "none" else config.features.path
    yield loop.describe_model(config.model.name, jax.eval_shape(init))
    yield loop.describe_data(source)
    yield f"loss: {loss.objective}, {loss.kernel} kernel of width {', '.join(f'{width:g}' for width in loss.widths)}"
    yield f"features: {origin}, {len(maps)} maps, {positions} drift problems a label"


def make_pipeline(config: Config, source: LabelledSource) -> BatchIterator:
    """Batches of the new samples for the banks, or without banks class-balanced batches of the positives.

    Raises:
        ConfigError: without banks, a class has too few samples.
    """
    data, loss, seed = config.data, config.loss, config.train.seed
    if config.bank.per_class:
        batch = min(config.bank.push, len(source))
        return Pipeline(source, batch, seed, flip=data.flip, prefetch=data.prefetch)
    counts = np.bincount(source.labels, minlength=source.num_classes)
    fewest = int(counts.argmin())
    remedy = f"exceeds the {counts[fewest]} samples of class {source.class_names[fewest]!r}: use fewer, or a bank"
    require(loss.positives <= counts[fewest], "loss.positives", loss.positives, remedy)
    return ClassBalanced(source, loss.labels, loss.positives, seed, flip=data.flip, prefetch=data.prefetch)


def empty_banks(config: Config, source: LabelledSource) -> dict[str, bank.Bank]:
    """The banks of `config`, without samples."""
    if config.bank.per_class == 0:
        return {}
    banks = {"class": bank.create(source.num_classes, config.bank.per_class, source.shape)}
    if config.loss.unconditional:
        banks["unconditional"] = bank.create(1, config.bank.unconditional, source.shape)
    return banks


def fill_banks(config: Config, source: LabelledSource, pipeline: BatchIterator, state: TrainState) -> TrainState:
    """Pushes batches until every class can give its positives without repeating one, but for one epoch at most.

    Raises:
        ValueError: a class has no samples at all.
    """
    if not state.banks:
        return state
    push = jax.jit(push_batch, donate_argnums=0)
    for _ in range(-(-len(source) // pipeline.batch_size)):
        state = push(state, next(pipeline))
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
        self._from, self._warned = min(1000, steps // 10), False

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

    def __init__(self, config: Config, generator: build.Generator, num_classes: int, workdir: Path) -> None:
        rows = min(num_classes, GRID_CLASSES)
        self._labels = np.repeat(np.arange(rows, dtype=np.int32), GRID_COLUMNS)
        self._sampler = Sampler(generator, len(self._labels))
        self._config, self._workdir = config, workdir

    def __call__(self, step: int, state: TrainState) -> None:
        """Draws the state after `step`."""
        seeds, params = np.arange(len(self._labels)), state.ema[str(ema_decay(self._config))]
        images = self._sampler(params, self._labels, seeds, self._config.eval.alpha)
        save_grid(images, self._workdir / "samples" / f"step_{step:07d}.png", GRID_COLUMNS)
