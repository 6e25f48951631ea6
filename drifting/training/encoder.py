"""Pre-training the feature encoder: a masked autoencoder, optionally finished with a classifier."""

import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

from drifting.assembly import networks, spaces
from drifting.assembly.feed import reading
from drifting.assembly.names import check_settings
from drifting.assembly.recipe import optimizer_of
from drifting.assembly.spaces import source_space
from drifting.config.checks import check_layout, check_sizes
from drifting.config.schema import MAEConfig, PretrainConfig
from drifting.data import fingerprint, sources
from drifting.data.batches import Pipeline
from drifting.data.source import LabelledSource, read
from drifting.devices import mesh
from drifting.devices.mesh import Layout, shardings
from drifting.devices.processes import is_writer
from drifting.errors import require
from drifting.method.micro_batches import accumulated_gradient
from drifting.method.space import SampleSpace
from drifting.method.state import Optimizer, TrainState, apply_gradients, create
from drifting.networks.layers import unpatchify
from drifting.networks.mae import draw_mask, mae_loss
from drifting.networks.network import Params
from drifting.runs.checkpoints import abstract
from drifting.sampling.grid import save_grid
from drifting.training import loop
from drifting.weights.artifact import save_artifact

logger = logging.getLogger("drifting")

ARTIFACT = "encoder"

GRID_IMAGES = 10


def pretrain(config: PretrainConfig, workdir: Path) -> int:
    """Trains a masked autoencoder in `workdir`, going on from its latest checkpoint; returns the step reached.

    At the end the averaged parameters are written as an artifact to `workdir/encoder`, which `features.mae` of a
    generator's configuration names.

    Raises:
        ConfigError: the settings cannot work, do not fit the data, or are not those of the run in `workdir`.
        loop.TrainingError: the loss is not finite, or a batch cannot be read.
    """
    check_settings(config)
    source = sources.source(config.data)
    config, space = spaces.named_vae(config, source), source_space(config.data.vae, source)
    check_sizes(config, space.shape, source.num_classes)
    train, layout = config.train, mesh.layout(config.mesh.data, config.mesh.fsdp)
    check_layout(config, layout.devices, jax.process_count(), len(source))
    arguments = networks.mae_arguments(config.mae, space.shape[2], source.num_classes)
    key = jax.random.key(train.seed)
    graphdef, _ = nnx.split(nnx.eval_shape(lambda: networks.autoencoder(arguments, key)))
    optimizer = optimizer_of(config.optimizer, train.steps)

    def empty_state() -> TrainState:
        params = nnx.to_pure_dict(nnx.state(networks.autoencoder(arguments, key)))
        return create(params, optimizer, ema_decays=train.ema_decays)

    shapes = jax.eval_shape(empty_state)
    placed = shardings(layout, shapes)
    frozen = layout.put(space.params)
    run_key = jax.jit(jax.random.key, out_shardings=layout.replicated)(train.seed)
    function = partial(pretrain_step, graphdef, space, optimizer, config, layout)
    step_fn = jax.jit(function, donate_argnums=0, out_shardings=(placed, layout.replicated))
    batch_size = min(train.batch_size, len(source))
    remedy = f"must divide the {batch_size} samples of a batch, which are all there are"
    fits = train.micro_batch == 0 or batch_size % train.micro_batch == 0
    require(fits, "train.micro_batch", train.micro_batch, remedy)
    batches = Pipeline(source, batch_size, train.seed, **reading(config.data, layout))
    with closing(batches) as feed:
        step, state = loop.run(
            workdir=workdir,
            config=config,
            feed=feed,
            initial=jax.jit(empty_state, out_shardings=placed),
            step_fn=lambda state, batch: step_fn(state, batch, frozen, run_key),
            callbacks=loop.Callbacks(
                flatten=lambda metrics: {name: float(value) for name, value in metrics.items()},
                shown=("recon_loss", "accuracy", "loss") if config.mae.lambda_cls else ("recon_loss", "loss"),
                watch=lambda step, values: None,
                draw=ReconstructionDrawer(config, graphdef, space, source, workdir, layout),
                remedy="try a lower optimizer.learning_rate in another folder",
            ),
            identity=fingerprint.data_facts(source) | {"weights": space.checksums},
            label="pretrain",
            about=describe(config, source, lambda: empty_state().params),
            packing=loop.whole(abstract(shapes, placed)),
        )
    if step >= train.steps:
        decay = train.ema_decays[0]
        params = jax.device_get(layout.local(state.ema[str(decay)]))
    if step >= train.steps and is_writer():
        save_artifact(
            workdir / ARTIFACT,
            kind="mae",
            model_config=arguments,
            params=params,
            step=step,
            ema_decay=decay,
            extra={"data": source.name, "class_names": list(source.class_names), "vae": config.data.vae},
        )
        logger.info("pretrain: the encoder is features.mae=%s", workdir / ARTIFACT)
    return step


def describe(config: PretrainConfig, source: LabelledSource, init: Callable[[], Any]) -> Iterator[str]:
    """What is about to be trained, in a few lines. `init` makes the parameters, of which only the shapes count."""
    mae = config.mae
    yield loop.describe_model("mae", jax.eval_shape(init))
    yield loop.describe_data(source)
    finish = f", a classifier in the last {mae.cls_steps} steps" if mae.lambda_cls else ""
    yield f"loss: squared error of masked tokens{finish}"


def pretrain_step(
    graphdef: Any,
    space: SampleSpace,
    optimizer: Optimizer,
    config: PretrainConfig,
    layout: Layout,
    state: TrainState,
    batch: dict[str, Array],
    frozen: Params,
    key: Array,
) -> tuple[TrainState, dict[str, Array]]:
    """One update of the masked autoencoder; mask and latents follow from the run's key and the step number.

    Args:
        graphdef, space, optimizer, config, layout: static.
        state: parameters, optimiser and averages.
        batch: `image` `[B, ...]` as the source delivers it, `label` `[B]` int32.
        frozen: `space.params`. key: the run's key.

    Returns:
        The next state, and float32 scalar metrics, means over the batch.
    """
    mask_key, posterior_key = jax.random.split(jax.random.fold_in(key, state.step))
    samples, labels = space.draw(frozen, space.records(frozen, batch["image"]), posterior_key), batch["label"]
    mask = masks(config.mae, mask_key, samples.shape)
    weight = classifier_weight(config, state.step)

    def losses(params: Any, inputs: tuple[Array, Array, Array]) -> tuple[Array, dict[str, Array]]:
        outputs = nnx.merge(graphdef, params)(*inputs)
        names = ("recon_loss", "cls_loss", "accuracy", "mask_ratio")
        return mae_loss(outputs, weight), {name: outputs[name] for name in names if name in outputs}

    inputs, mean = (samples, labels, mask), jnp.full(len(labels), 1 / len(labels))
    count = len(labels) // (config.train.micro_batch or len(labels))

    def part(params: Any, batch: tuple[Any, Array]) -> Any:
        return accumulated_gradient(losses, params, *batch, count)

    (loss, outputs), gradient = layout.each(part, layout.gather(state.params), (inputs, mean))
    gradient = layout.scatter(gradient)
    metrics = {name: jnp.mean(value) for name, value in (outputs | {"loss": loss}).items()}
    state, update_metrics = apply_gradients(state, gradient, optimizer, config.optimizer.no_op_steps)
    return state, metrics | update_metrics | {"param_norm": optax.tree.norm(state.params)}


def masks(mae: MAEConfig, key: Array, shape: tuple[int, ...]) -> Array:
    """Masks for images of `shape` `[B, H, W, C]`: see `drifting.models.mae.draw_mask`."""
    height, width = (size // mae.input_patch_size for size in shape[1:3])
    return draw_mask(key, shape[0], height, width, mae.patch_size, mae.mask_ratio_min, mae.mask_ratio_max)


def classifier_weight(config: PretrainConfig, step: Array) -> Array:
    """Weight of the classifier's loss at a step: 0, then over the last `cls_steps` ramped up to `lambda_cls`."""
    start = config.train.steps - config.mae.cls_steps
    ramp = (step - start) / max(config.mae.cls_ramp_steps, 1)
    return config.mae.lambda_cls * jnp.clip(ramp, 0.0, 1.0)


class ReconstructionDrawer:
    """Draws `samples/step_N.png`: images, the same images masked, and their reconstruction, a row each."""

    def __init__(
        self,
        config: PretrainConfig,
        graphdef: Any,
        space: SampleSpace,
        source: LabelledSource,
        workdir: Path,
        layout: Layout,
    ) -> None:
        indices = np.arange(min(GRID_IMAGES, len(source)))
        images, labels = read(source, indices, np.zeros(len(indices), bool), None)
        key = jax.random.key(config.train.seed)
        samples = jax.jit(lambda frozen, x: space.draw(frozen, space.records(frozen, x), key))(space.params, images)
        self._inputs = (samples, labels, masks(config.mae, key, samples.shape))
        self._workdir, self._decay = workdir, str(config.train.ema_decays[0])
        self._space, self._patch, self._graphdef = space, config.mae.input_patch_size, graphdef
        self._draw, self._layout = jax.jit(self._rows), layout

    def _rows(self, params: Any, frozen: Params, samples: Array, labels: Array, mask: Array) -> Array:
        """All images of the grid, row by row: the samples, masked, and with the masked parts reconstructed."""
        p = self._patch
        recon = unpatchify(nnx.merge(self._graphdef, params)(samples, labels, mask)["recon"], p)
        mask = jnp.repeat(jnp.repeat(mask, p, axis=1), p, axis=2)
        rows = [samples, samples * (1 - mask), samples * (1 - mask) + recon * mask]
        return self._space.decode(frozen, jnp.concatenate(rows))

    def __call__(self, step: int, state: TrainState) -> None:
        """Draws the state after `step`, masked parts replaced by their reconstruction."""
        params = self._layout.local(state.ema[self._decay])
        images = self._draw(params, self._space.params, *self._inputs)
        columns = len(self._inputs[0])
        if is_writer():
            save_grid(np.asarray(images), self._workdir / "samples" / f"step_{step:07d}.png", columns)
