"""One training step: the page to read first.

Push the new real samples into the banks, draw class labels, draw positives and unconditional negatives, draw the
guidance scale, generate, extract features, compute the loss, update the parameters and their averages. Pure and jitted;
everything random follows from the run's key, the step number and the purpose.
"""

import dataclasses
import enum
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from drifting.config.schema import Config
from drifting.devices.mesh import Layout
from drifting.method import all_samples, bank
from drifting.method.encoders import FeatureFn
from drifting.method.guidance import draw_alpha, unconditional_weight
from drifting.method.loss import MapMetrics, Objective, objective_loss
from drifting.method.micro_batches import in_micro_batches, micro_batched_gradient
from drifting.method.pool import _push, _sample
from drifting.method.space import SampleSpace
from drifting.method.spread import collapse_ratio, neighbour_distance
from drifting.method.state import Optimizer, TrainState, apply_gradients
from drifting.networks.network import Generator, Params

Batch = dict[str, Any]

Inputs = tuple[dict[str, Array], Array, Array]
"""What the generator is given: noise, labels, guidance scales."""


class Purpose(enum.IntEnum):
    """What a random stream of a step is for. Numbers are part of a run's reproducibility: append, never renumber."""

    LABELS = 0
    POSITIVES = 1
    UNCONDITIONAL = 2
    ALPHA = 3
    ALPHA_ONE = 4
    NOISE = 5
    POSTERIOR = 6


@dataclass(frozen=True)
class Parts:
    """The static parts of a step."""

    config: Config
    generator: Generator
    space: SampleSpace
    features: FeatureFn
    objective: Objective
    optimizer: Optimizer
    num_classes: int
    layout: Layout


class Draw(NamedTuple):
    """Everything random that one step's loss depends on.

    Attributes:
        labels: `[L]` int32 class labels.
        positives: `[L, P, H, W, C]` real samples of each label's class.
        unconditional: `[L, U, H, W, C]` real samples of any class.
        alpha: `[L]` guidance scales.
        noise: generator noise of `L * N` samples, those of one label together.
    """

    labels: Array
    positives: Array
    unconditional: Array
    alpha: Array
    noise: dict[str, Array]


def train_step(
    parts: Parts, state: TrainState, batch: Batch, frozen: Params, widths: Array, key: Array
) -> tuple[TrainState, dict[str, Any]]:
    """One step of training by drifting ("Generative Modeling via Drifting", Algorithm 1, with any objective).

    Args:
        parts: static; `jax.jit` it with `functools.partial`, the state donated.
        state: parameters, optimiser, averages, banks.
        batch: new real samples for the banks: `image` `[B, ...]` as the source delivers them, `label` `[B]` int32 and
            `id` `[B]` uint32. Without banks: all real samples, `resident`; or `image` and `label` of this step's own,
            for each label its positives and then its unconditional negatives.
        frozen: parameters of the frozen networks: feature encoders, and the VAE of latents.
        widths: `[W]` kernel widths.
        key: the run's key; the step number is folded in.

    Returns:
        The next state, and metrics: float32 scalars, and under `maps` a `MapMetrics` for each feature map.
    """
    key = jax.random.fold_in(key, state.step)
    state = push_batch(parts.space, frozen, state, batch)
    draw = draw_samples(parts, state, batch, frozen, key)
    state, lengths = update_neighbour_scale(parts, state, draw)

    def features_of(params: Params, inputs: Inputs) -> tuple[dict[str, Array], Array]:
        return features_and_samples(parts, params, inputs, frozen)

    def loss_fn(features: dict[str, Array]) -> tuple[Array, dict[str, MapMetrics]]:
        return drift_loss(parts, features, real, draw, widths, lengths)

    real = real_features(parts, draw, frozen)
    inputs, size = generator_inputs(draw), parts.config.train.micro_batch
    params = parts.layout.gather(state.params)
    (loss, maps), samples, gradient = micro_batched_gradient(
        features_of, loss_fn, params, inputs, size, parts.layout.each
    )
    gradient = parts.layout.scatter(gradient)
    state, update_metrics = apply_gradients(state, gradient, parts.optimizer, parts.config.optimizer.no_op_steps)
    positives = draw.positives.reshape(*draw.positives.shape[:2], -1)
    metrics = {
        "loss": loss,
        "gap": jnp.mean(jnp.stack([m.gap for m in maps.values()])),
        "field_norm": jnp.mean(jnp.stack([m.field_norm for m in maps.values()])),
        "collapse": collapse_ratio(samples.reshape(len(draw.labels), -1, positives.shape[-1]), positives),
        "alpha": jnp.mean(draw.alpha),
        "bank_fill": bank_fill(state),
        "param_norm": optax.tree.norm(state.params),
        "maps": maps,
    }
    return state, metrics | update_metrics


def push_batch(space: SampleSpace, frozen: Params, state: TrainState, batch: Batch) -> TrainState:
    """The state with the new real samples in its banks, if it has any."""
    if not state.banks:
        return state
    records, ids = space.keep(frozen, batch["image"]), batch["id"]
    banks = {"class": _push(state.banks["class"], records, batch["label"], ids)}
    if "unconditional" in state.banks:
        banks["unconditional"] = _push(state.banks["unconditional"], records, jnp.zeros_like(batch["label"]), ids)
    return dataclasses.replace(state, banks=banks)


def draw_samples(parts: Parts, state: TrainState, batch: Batch, frozen: Params, key: Array) -> Draw:
    """Labels, real samples, guidance scales and noise of one step; `key` is the step's own."""
    loss, guidance = parts.config.loss, parts.config.guidance
    keys = {purpose: jax.random.fold_in(key, purpose) for purpose in Purpose}
    labels, positives, unconditional = parts.layout.spread(draw_records(parts, state, batch, keys))
    records = jnp.concatenate([positives, unconditional], axis=1)
    real = parts.space.draw(frozen, records.reshape(-1, *records.shape[2:]), keys[Purpose.POSTERIOR])
    real = real.reshape(*records.shape[:2], *parts.space.shape)
    alpha = draw_alpha(
        jax.random.uniform(keys[Purpose.ALPHA], (loss.labels,)),
        jax.random.uniform(keys[Purpose.ALPHA_ONE], (loss.labels,)),
        alpha_min=guidance.alpha_min,
        alpha_max=guidance.alpha_max,
        exponent=guidance.exponent,
        p_one=guidance.p_one,
    )
    samples = jnp.arange(loss.labels * loss.generated)
    noise_keys = jax.vmap(partial(jax.random.fold_in, keys[Purpose.NOISE]))(samples)
    noise = parts.generator.sample_noise(state.params, noise_keys)
    return parts.layout.spread(Draw(labels, real[:, : loss.positives], real[:, loss.positives :], alpha, noise))


def draw_records(
    parts: Parts, state: TrainState, batch: Batch, keys: dict[Purpose, Array]
) -> tuple[Array, Array, Array]:
    """Class labels `[L]`, and records of positives `[L, P, ...]` and of unconditional negatives `[L, U, ...]`.

    From the banks; from all real samples, where they are on the device; or as the batch groups them.
    """
    loss = parts.config.loss
    if not state.banks and "resident" not in batch:
        groups = batch["image"].reshape(loss.labels, loss.positives + loss.unconditional, *batch["image"].shape[1:])
        labels = batch["label"].reshape(loss.labels, -1)[:, 0]
        return labels, groups[:, : loss.positives], groups[:, loss.positives :]
    labels = draw_labels(keys[Purpose.LABELS], loss.labels, parts.num_classes)
    of_class, of_any = keys[Purpose.POSITIVES], keys[Purpose.UNCONDITIONAL]
    if state.banks:
        positives = _sample(state.banks["class"], of_class, labels, loss.positives)
    else:
        positives = all_samples.sample(batch["resident"], of_class, labels, loss.positives, parts.layout.take)
    if not loss.unconditional:
        return labels, positives, positives[:, :0]
    if state.banks:
        anything = jnp.zeros_like(labels)
        return labels, positives, _sample(state.banks["unconditional"], of_any, anything, loss.unconditional)
    any_of = partial(all_samples.sample_any, batch["resident"], of_any, loss.labels, loss.unconditional)
    return labels, positives, any_of(take=parts.layout.take)


def draw_labels(key: Array, count: int, num_classes: int) -> Array:
    """`count` class labels `[count]` int32, as evenly as can be: each class once in every pass over the classes."""
    passes = -(-count // num_classes)
    keys = jax.random.split(key, passes)
    return jax.vmap(lambda k: jax.random.permutation(k, num_classes))(keys).reshape(-1)[:count].astype(jnp.int32)


def generator_inputs(draw: Draw) -> Inputs:
    """The noise, labels and guidance scales of all samples, those of one label together, `[L * N, ...]`."""
    generated = jax.tree.leaves(draw.noise)[0].shape[0] // len(draw.labels)
    return draw.noise, jnp.repeat(draw.labels, generated), jnp.repeat(draw.alpha, generated)


def features_and_samples(
    parts: Parts, params: Params, inputs: Inputs, frozen: Params
) -> tuple[dict[str, Array], Array]:
    """Generated samples `[B, H, W, C]` float32 and their features, `{name: [B, F, C]}`."""
    samples = parts.generator(params, *inputs)
    return parts.features(frozen, samples), samples


def real_features(parts: Parts, draw: Draw, frozen: Params) -> dict[str, Array]:
    """Features `[L, P + U, F, C]` of the drawn positives and unconditional samples, for which no activation is kept."""
    real = jnp.concatenate([draw.positives, draw.unconditional], axis=1)
    samples, size = real.reshape(-1, *real.shape[2:]), parts.config.train.micro_batch
    count = -(-len(samples) // size) if size else 1

    def part(frozen: Params, samples: Array) -> tuple[dict[str, Array], Any]:
        return in_micro_batches(lambda x: parts.features(frozen, x), samples, count), ()

    features, _ = parts.layout.each(part, frozen, samples)
    return jax.lax.stop_gradient({name: f.reshape(*real.shape[:2], *f.shape[1:]) for name, f in features.items()})


def drift_loss(
    parts: Parts,
    features: dict[str, Array],
    real: dict[str, Array],
    draw: Draw,
    widths: Array,
    lengths: Array | None = None,
) -> tuple[Array, dict[str, MapMetrics]]:
    """The loss of generated samples against the drawn real ones, in feature space.

    Args:
        features: maps of the generated samples, `{name: [L * N, F, C]}`, those of one label together.
        real: the same maps of the drawn real samples, of `real_features`.
        lengths: `[L]` length unit of each label's class (the neighbour scale), or None.

    Returns:
        The loss, float32 scalar, differentiable in `features`; and the metrics of every feature map.
    """
    labels, n_pos = draw.positives.shape[:2]
    unit = 1.0 if lengths is None else lengths[:, None, None, None]
    generated = {name: f.reshape(labels, -1, *f.shape[1:]) / unit for name, f in features.items()}
    positives = {name: f[:, :n_pos] / unit for name, f in real.items()}
    unconditional = {name: f[:, n_pos:] / unit for name, f in real.items()}
    n_gen = jax.tree.leaves(generated)[0].shape[1]
    w_unc = unconditional_weight(draw.alpha, n_gen, draw.unconditional.shape[1])
    return objective_loss(parts.objective, widths, generated, positives, unconditional, w_unc)


def update_neighbour_scale(parts: Parts, state: TrainState, draw: Draw) -> tuple[TrainState, Array | None]:
    """Per-class neighbour scale: its moving average brought up to date, and its value for each drawn label.

    The first batch of a class sets its scale; afterwards `beta old + (1 - beta) new` ("Drifting Fields are not
    Conservative", Section 5). Labels are distinct within a step.
    """
    if state.neighbour_scale is None:
        return state, None
    loss = parts.config.loss
    new = neighbour_distance(draw.positives.reshape(*draw.positives.shape[:2], -1), loss.neighbours)
    old = state.neighbour_scale[draw.labels]
    lengths = jnp.where(old == 0, new, loss.neighbour_decay * old + (1 - loss.neighbour_decay) * new)
    scale = state.neighbour_scale.at[draw.labels].set(lengths)
    return dataclasses.replace(state, neighbour_scale=scale), lengths


def bank_fill(state: TrainState) -> Array:
    """Mean share of the class bank that holds samples, in [0, 1]; 1 without banks."""
    if not state.banks:
        return jnp.float32(1)
    return jnp.mean(bank.fill(state.banks["class"])) / state.banks["class"].capacity
