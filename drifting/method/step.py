"""One training step: the page to read first.

Take in the new real samples, draw class labels, draw positives and unconditional negatives, draw the guidance scale,
generate, extract features, compute the loss, update the parameters and their averages. Pure and jitted; everything
random follows from the run's key, the step number and the purpose.
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
from jaxtyping import Float, Float32, Int32, Key, Shaped

from drifting.method.encoders import FeatureFn
from drifting.method.features import Features
from drifting.method.guidance import GuidancePrior, unconditional_weight
from drifting.method.loss import Flag, objective_loss
from drifting.method.micro_batches import FORWARD_SHARE, in_micro_batches, micro_batched_gradient
from drifting.method.objective import MetricsByMap, Objective
from drifting.method.placement import ONE_DEVICE, Placement
from drifting.method.pool import Batch, OpenPool, Pool
from drifting.method.space import SampleSpace
from drifting.method.spread import collapse_ratio, neighbour_distance
from drifting.method.state import Optimizer, TrainState, apply_gradients
from drifting.networks.network import Generator, Params, as_used

NoiseBatch = dict[str, Shaped[Array, "samples ..."]]
"""The noise of samples, as their generator draws it."""

Inputs = tuple[NoiseBatch, Int32[Array, "samples"], Float32[Array, "samples"]]
"""Noise, labels and guidance scales: what the generator makes samples of."""

Samples = Float32[Array, "labels _count height width channels"]
"""Samples for each label."""

GeneratedSamples = Float32[Array, "samples height width channels"]
"""Generated samples, those of one label together."""

RealFeatures = dict[str, Float[Array, "labels real _positions _channels"]]
"""Feature maps of the real samples of each label, unconditional ones and then positives, as the loss has them."""


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
class Recipe:
    """The numbers of a step.

    Attributes:
        objective: the loss.
        guidance: the prior of the guidance scale.
        labels: class labels of a step.
        generated: generated samples of each label.
        positives: real samples of the label's class.
        unconditional: real samples of any class for each label; 0 is no guidance.
        micro_batch: generated samples whose activations exist at a time, a divisor of their number; 0 is all of them.
        no_op_steps: number of first steps that update nothing.
        neighbours: number of nearest neighbours that the length unit of a class is made of; the feature scale
            'neighbour' uses it.
        neighbour_decay: decay of the moving average of that unit.
    """

    objective: Objective
    guidance: GuidancePrior
    labels: int
    generated: int
    positives: int
    unconditional: int
    micro_batch: int = 0
    no_op_steps: int = 0
    neighbours: int = 5
    neighbour_decay: float = 0.99


@dataclass(frozen=True)
class StepParts:
    """Everything static that a step is made of.

    Attributes:
        recipe: the numbers.
        generator: the network that is trained, without its parameters.
        space: says what a sample is.
        features: maps samples into the feature space in which they drift.
        optimizer: clipping, AdamW and schedule.
        pool: opens the pool that real samples are drawn from.
        placement: says where arrays lie.
    """

    recipe: Recipe
    generator: Generator
    space: SampleSpace
    features: FeatureFn
    optimizer: Optimizer
    pool: OpenPool
    placement: Placement = ONE_DEVICE


class Draw(NamedTuple):
    """Everything random that one step's loss depends on.

    Attributes:
        labels: class labels.
        positives: real samples of each label's class.
        unconditional: real samples of any class.
        alpha: guidance scale of each label.
        noise: the noise of all generated samples, those of one label together.
    """

    labels: Int32[Array, "labels"]
    positives: Samples
    unconditional: Samples
    alpha: Float32[Array, "labels"]
    noise: NoiseBatch


def train_step(
    parts: StepParts,
    state: TrainState,
    batch: Batch,
    frozen: Params,
    widths: Float[Array, "widths"],
    key: Key[Array, ""],
    measure: Flag = True,
) -> tuple[TrainState, dict[str, Any]]:
    """One step of training by drifting ("Generative Modeling via Drifting", Algorithm 1, with any objective).

    Args:
        parts: static; `jax.jit` it with `functools.partial`, the state donated.
        state: parameters, optimiser, averages, banks.
        batch: real samples as the pool takes them, see `drifting.method.pool`.
        frozen: parameters of the frozen networks: feature encoders, and the VAE of latents.
        widths: kernel widths, in units of the feature scale.
        key: the run's key; the step number is folded in.
        measure: whether the gap is wanted, which the loss does not need; where it is not, it is NaN.

    Returns:
        The next state, and metrics: float32 scalars, and under `maps` a `MapMetrics` for each feature map.
    """
    recipe, placement = parts.recipe, parts.placement
    pool, draw = begin_step(parts, state, batch, frozen, key)
    scale, lengths = neighbour_scale(recipe, state.neighbour_scale, draw)
    state = dataclasses.replace(state, banks=pool.kept(), neighbour_scale=scale)
    real = real_features(parts, draw, frozen)

    def features_of(params: Params, inputs: Inputs) -> tuple[Features, GeneratedSamples]:
        return features_and_samples(parts, params, inputs, frozen)

    def loss_of(features: Features) -> tuple[Float32[Array, ""], MetricsByMap]:
        return step_loss(recipe.objective, features, real, draw, widths, lengths, placement, measure)

    params = gathered(parts.generator, state.params, placement)
    (loss, maps), samples, gradient = micro_batched_gradient(
        features_of, loss_of, params, generator_inputs(draw), recipe.micro_batch, placement
    )
    state, update_metrics = apply_gradients(state, placement.scatter(gradient), parts.optimizer, recipe.no_op_steps)
    positives = draw.positives.reshape(*draw.positives.shape[:2], -1)
    metrics = {
        "loss": loss,
        "gap": maps.gap,
        "field_norm": jnp.mean(maps.field_norm),
        "collapse": collapse_ratio(samples.reshape(len(draw.labels), -1, positives.shape[-1]), positives),
        "alpha": jnp.mean(draw.alpha),
        "bank_fill": pool.fill(),
        "param_norm": optax.tree.norm(state.params),
        "maps": maps,
    }
    return state, metrics | update_metrics


def begin_step(
    parts: StepParts, state: TrainState, batch: Batch, frozen: Params, key: Key[Array, ""]
) -> tuple[Pool, Draw]:
    """The pool of a step, with the batch's real samples in it, and everything random; arguments as of `train_step`."""
    pool = open_pool(parts, state, batch, frozen)
    return pool, draw_samples(parts, pool, state.params, frozen, jax.random.fold_in(key, state.step))


def open_pool(parts: StepParts, state: TrainState, batch: Batch, frozen: Params) -> Pool:
    """The pool of a step, with the batch's real samples in it."""
    return parts.pool(state.banks, batch, partial(parts.space.records, frozen, placement=parts.placement))


def draw_samples(parts: StepParts, pool: Pool, params: Params, frozen: Params, key: Key[Array, ""]) -> Draw:
    """Labels, real samples, guidance scales and noise of one step; `key` is the step's own."""
    recipe, spread = parts.recipe, parts.placement.spread
    keys = {purpose: jax.random.fold_in(key, purpose) for purpose in Purpose}
    # Whole on every device, or the few that are kept of a spread permutation are sent to each device by itself.
    labels = parts.placement.gather(pool.labels(keys[Purpose.LABELS], recipe.labels))
    positives = pool.of_class(keys[Purpose.POSITIVES], labels, recipe.positives)
    unconditional = pool.of_any(keys[Purpose.UNCONDITIONAL], labels, recipe.unconditional)
    labels, positives, unconditional = spread((labels, positives, unconditional))
    records = jnp.concatenate([positives, unconditional], axis=1)
    real = parts.space.draw(frozen, records.reshape(-1, *records.shape[2:]), keys[Purpose.POSTERIOR])
    real = real.reshape(*records.shape[:2], *parts.space.shape)
    alpha = recipe.guidance.draw(keys[Purpose.ALPHA], keys[Purpose.ALPHA_ONE], recipe.labels)
    samples = jnp.arange(recipe.labels * recipe.generated)
    noise_keys = jax.vmap(partial(jax.random.fold_in, keys[Purpose.NOISE]))(samples)
    noise = parts.generator.sample_noise(params, noise_keys)
    return spread(Draw(labels, real[:, : recipe.positives], real[:, recipe.positives :], alpha, noise))


def gathered(generator: Generator, params: Params, placement: Placement) -> Params:
    """The generator's parameters whole on every device, float32; what travels is rounded as the network rounds it."""
    whole = placement.gather(as_used(generator.graphdef, params))
    return jax.tree.map(lambda x, kept: x.astype(kept.dtype), whole, params)


def generator_inputs(draw: Draw) -> Inputs:
    """The noise, labels and guidance scales of all generated samples, those of one label together."""
    generated = jax.tree.leaves(draw.noise)[0].shape[0] // len(draw.labels)
    return draw.noise, jnp.repeat(draw.labels, generated), jnp.repeat(draw.alpha, generated)


def features_and_samples(
    parts: StepParts, params: Params, inputs: Inputs, frozen: Params
) -> tuple[Features, GeneratedSamples]:
    """The features of generated samples, and the samples."""
    with jax.named_scope("generator"):
        samples = parts.generator(params, *inputs)
    with jax.named_scope("encoder"):
        return parts.features(frozen, samples), samples


def real_features(parts: StepParts, draw: Draw, frozen: Params) -> RealFeatures:
    """The features of the drawn positives and unconditional samples, for which no activation is kept."""
    real = jnp.concatenate([draw.unconditional, draw.positives], axis=1)
    samples, size = real.reshape(-1, *real.shape[2:]), parts.recipe.micro_batch
    # In two at least: what compilers join with the loss is rounded in another way on each mesh.
    count = max(2, -(-len(samples) // (FORWARD_SHARE * size))) if size else 1

    def part(frozen: Params, samples: Float32[Array, "samples height width channels"]) -> tuple[Features, tuple[()]]:
        with jax.named_scope("encoder"):
            return in_micro_batches(lambda x: parts.features(frozen, x), samples, count), ()

    features, _ = parts.placement.each(part, frozen, samples)
    return jax.lax.stop_gradient({name: f.reshape(*real.shape[:2], *f.shape[1:]) for name, f in features.items()})


def step_loss(
    objective: Objective,
    features: Features,
    real: RealFeatures,
    draw: Draw,
    widths: Float[Array, "widths"],
    lengths: Float32[Array, "labels"] | None = None,
    placement: Placement = ONE_DEVICE,
    measure: Flag = True,
) -> tuple[Float32[Array, ""], MetricsByMap]:
    """The loss of generated samples against the drawn real ones, in feature space.

    Args:
        objective: what to compute.
        features: feature maps of the generated samples, those of one label together.
        real: the same maps of the drawn real samples, as `real_features` gives them.
        draw: what was drawn.
        widths: kernel widths, in units of the feature scale.
        lengths: length unit of each label's class (the neighbour scale), or None.
        placement: where arrays lie.
        measure: whether the gap is wanted.

    Returns:
        The loss, differentiable in `features`, and the metrics of every feature map.
    """
    labels, n_unc = draw.unconditional.shape[:2]
    unit = 1.0 if lengths is None else lengths[:, None, None, None]
    generated = {name: f.reshape(labels, -1, *f.shape[1:]) / unit for name, f in features.items()}
    unconditional = {name: f[:, :n_unc] / unit for name, f in real.items()}
    positives = {name: f[:, n_unc:] / unit for name, f in real.items()}
    n_gen = jax.tree.leaves(generated)[0].shape[1]
    w_unc = unconditional_weight(draw.alpha, n_gen, n_unc)
    return objective_loss(objective, widths, generated, positives, unconditional, w_unc, placement, measure)


def neighbour_scale(
    recipe: Recipe, old: Float32[Array, "classes"] | None, draw: Draw
) -> tuple[Float32[Array, "classes"] | None, Float32[Array, "labels"] | None]:
    """Per-class neighbour scale: its moving average brought up to date, and its value for each drawn label.

    The first batch of a class sets its scale; afterwards `beta old + (1 - beta) new` ("Drifting Fields are not
    Conservative", Section 5). Labels are distinct within a step. Both are None where the recipe has no such scale.
    """
    if old is None:
        return None, None
    new = neighbour_distance(draw.positives.reshape(*draw.positives.shape[:2], -1), recipe.neighbours)
    before, beta = old[draw.labels], recipe.neighbour_decay
    lengths = jnp.where(before == 0, new, beta * before + (1 - beta) * new)
    return old.at[draw.labels].set(lengths), lengths
