"""A run, put together from its settings: data, space of samples, feature space, generator, objective, compiled step."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from drifting.assembly import networks, recipe, spaces
from drifting.assembly.banks import fill_banks
from drifting.assembly.spaces import feature_encoder, source_space
from drifting.config.checks import check, check_layout, check_sizes
from drifting.config.schema import Config, has_banks
from drifting.data import fingerprint, sources
from drifting.data.batches import Feed
from drifting.data.source import LabelledSource
from drifting.devices import mesh
from drifting.devices.mesh import Layout
from drifting.devices.mesh import shardings as state_shardings
from drifting.method import bank
from drifting.method.encoders import FeatureEncoder
from drifting.method.space import SampleSpace
from drifting.method.state import TrainState, create
from drifting.method.step import Batch, Parts, train_step
from drifting.networks.network import Params


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
    frozen: Params
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
        return fingerprint.data_facts(self.source) | {"sample_shape": list(space.shape), "weights": weights}


def prepare(config: Config) -> Training:
    """Reads data and frozen networks, and sets up the step.

    Raises:
        ConfigError: the settings cannot work, do not fit the data or the devices, or something named is not there.
    """
    check(config)
    source = sources.source(config.data)
    config, space = spaces.named_vae(config, source), source_space(config.data.vae, source)
    check_sizes(config, space.shape, source.num_classes)
    layout = mesh.layout(config.mesh, config.bank.per_device)
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
    layout = layout or mesh.one_device()
    generator, init_params = networks.generator(config.model, space.shape, num_classes, config.train.seed)
    optimizer = recipe.optimizer(config.optimizer, config.train.steps)
    objective = recipe.objective(config)
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
