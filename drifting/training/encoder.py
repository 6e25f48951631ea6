"""Pre-training the feature encoder: a masked autoencoder, optionally finished with a classifier."""

import logging
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from drifting.assembly.pretraining import Pretraining, prepare_pretraining
from drifting.assembly.start import check_start
from drifting.config.schema import PretrainConfig
from drifting.data.source import read_records
from drifting.devices.mesh import shardings
from drifting.devices.processes import is_writer
from drifting.errors import counted
from drifting.method.state import TrainState
from drifting.networks.layers import unpatchify
from drifting.networks.network import Params
from drifting.runs.checkpoints import Checkpoints, abstract
from drifting.runs.directory import ENCODER_FOLDER
from drifting.runs.places import place
from drifting.sampling.grid import save_grid
from drifting.training.course import Callbacks, Course, begun_with, describe_data, describe_model, whole
from drifting.training.loop import check_folder, run_loop
from drifting.weights.artifact import save_artifact, vae_facts

logger = logging.getLogger("drifting")

DRAWN_IMAGES = 10

RECONSTRUCTION_ROWS = ("image", "masked", "reconstructed")


def pretrain(config: PretrainConfig, workdir: str | Path) -> int:
    """Trains a masked autoencoder in `workdir`, going on from its latest checkpoint; returns the step reached.

    At the end the averaged parameters are written as an artifact to `workdir/encoder`, which a generator's settings
    name by `features.options.mae.weights`.

    Raises:
        ConfigError: the settings cannot work, do not fit the data, or are not those of the run in `workdir`.
        TrainingError: the loss is not finite, or a batch cannot be read.
    """
    workdir = place(workdir)
    check_folder(workdir, config)  # before anything is said of the data
    if Checkpoints(workdir).latest() is None:
        check_start(config.train, "mae")
    with prepare_pretraining(config) as run:
        config, shapes = run.config, jax.eval_shape(run.empty)
        began, told = begun_with(workdir, run)
        callbacks = Callbacks(
            flatten=lambda metrics: {name: float(value) for name, value in metrics.items()},
            shown=("recon_loss", "accuracy", "loss") if config.mae.lambda_cls else ("recon_loss", "loss"),
            watch=lambda step, values: None,
            draw=ReconstructionDrawer(run, workdir),
            remedy="try a lower optimizer.learning_rate in another folder",
            finish=partial(_save_encoder, run, workdir),
        )
        course = Course(
            workdir=workdir,
            config=config,
            feed=run.feed,
            initial=run.initial_state,
            step_fn=lambda state, batch, measure: run.step(state, batch),
            callbacks=callbacks,
            identity=run.identity | began,
            label="pretrain",
            about=chain(describe_pretraining(run), told),
            packing=whole(abstract(shapes, shardings(run.layout, shapes))),
            samples=run.feed.batch_size,
        )
        return run_loop(course)


def _save_encoder(run: Pretraining, workdir: Path, step: int, state: TrainState) -> None:
    """Writes the first average of the parameters as an artifact; what the run began with, its checkpoint knows."""
    decay, folder = run.config.train.ema_decays[0], workdir / ENCODER_FOLDER
    began = {} if run.config.train.start is None else Checkpoints(workdir).read_run(step)["identity"]
    params = jax.device_get(run.layout.local(state.ema[str(decay)]))
    if not is_writer():
        return
    source, vae = run.source, run.config.data.vae
    save_artifact(
        folder,
        kind="mae",
        model_config=run.arguments,
        params=params,
        step=step,
        ema_decay=decay,
        extra={"data": source.name, "class_names": list(source.class_names), "vae": vae}
        | vae_facts(run.parts.space.checksums)
        | {name: began[name] for name in ("start",) if name in began},
    )
    logger.info("pretrain: the encoder is features.options.mae.weights=%s", folder)


def describe_pretraining(run: Pretraining) -> Iterator[str]:
    """What is about to be trained, in a few lines; only shapes of the state are looked at."""
    mae = run.config.mae
    yield describe_model("mae", jax.eval_shape(run.empty).params)
    yield describe_data(run.source)
    finish = f", a classifier in the last {counted(mae.cls_steps, 'step')}" if mae.lambda_cls else ""
    yield f"loss: squared error of masked tokens{finish}"


class ReconstructionDrawer:
    """Draws `samples/step_N.png`: images, the same masked, and masked parts reconstructed, a row each."""

    def __init__(self, run: Pretraining, workdir: Path) -> None:
        indices = np.arange(min(DRAWN_IMAGES, len(run.source)))
        images, labels = read_records(run.source, indices, np.zeros(len(indices), bool), None)
        key, space, recipe = jax.random.key(run.config.train.seed), run.parts.space, run.parts.recipe
        samples = jax.jit(lambda frozen, x: space.draw(frozen, space.records(frozen, x), key))(space.params, images)
        self._inputs = (samples, labels, recipe.masks(key, samples.shape))
        self._workdir, self._decay = workdir, str(run.config.train.ema_decays[0])
        self._space, self._token_size, self._graphdef = space, recipe.token_size, run.parts.graphdef
        self._draw, self._layout = jax.jit(self._rows), run.layout

    def _rows(self, params: Params, frozen: Params, samples: Array, labels: Array, mask: Array) -> Array:
        """All images of the grid, row by row: the samples, masked, and with the masked parts reconstructed."""
        side = self._token_size
        recon = unpatchify(nnx.merge(self._graphdef, params)(samples, labels, mask)["recon"], side)
        mask = jnp.repeat(jnp.repeat(mask, side, axis=1), side, axis=2)
        rows = [samples, samples * (1 - mask), samples * (1 - mask) + recon * mask]
        return self._space.decode(frozen, jnp.concatenate(rows))

    def __call__(self, step: int, state: TrainState) -> Path | None:
        """Draws the state after `step`; returns the file, in the process that writes."""
        params = self._layout.local(state.ema[self._decay])
        images = self._draw(params, self._space.params, *self._inputs)
        if not is_writer():
            return None
        path = self._workdir / "samples" / f"step_{step:07d}.png"
        save_grid(np.asarray(images), path, len(self._inputs[0]), names=RECONSTRUCTION_ROWS)
        return path
