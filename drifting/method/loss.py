"""From feature maps to a scalar loss: normalisation, fields and potentials, and their gradient in closed form.

Every feature map gives one loss term. It holds one drift problem for each class label and position; the problems share
the feature scale and the field normalisation, both reductions over the whole (global) batch, as the released recipe has
it. Targets are constants of the gradient, so the gradient with respect to the generated features is known without
differentiating anything: it is attached to the loss by `attach_gradient`, and no activation of the loss is kept.
"""

from collections.abc import Callable, Mapping
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax import Array
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Bool, Float, Float32

from drifting.method.fused import Fused, is_covered
from drifting.method.objective import LossMemory, MapMetrics, MetricsByMap, Objective, attach_gradient
from drifting.method.placement import ONE_DEVICE, Batched, Placement
from drifting.method.problems import (
    Chunk,
    MapGradients,
    PairDistances,
    PerChunk,
    PerWidth,
    Problems,
    Units,
    units_of,
)

FIELD_FLOOR = 1e-8
"""Of the released recipe: the mean square of a field is at least that."""

FeatureMaps = dict[str, Float[Array, "labels _samples _positions _channels"]]
"""Feature maps by name."""

ALONE_ABOVE = 0.75
"""Share of the numbers that may be joined: a map of more stays by itself, it would be copied for a few small ones."""

Numbers = Float32[Array, "maps numbers"]
"""The metrics of each map: loss, gap, scale and the field norm of each width. One array: there are many maps."""

Flag = Bool[Array, ""] | bool
"""What is decided as a program runs, or (a Python bool) as it is traced."""


# Traced once for all maps of one shape, of which the published encoders have many, and written out for each.
@partial(jax.jit, static_argnums=(1, 2), inline=True)
def _gradients(
    problems: Problems, keep: bool, placement: Placement, measure: Bool[Array, ""] | None
) -> tuple[MapGradients, Numbers]:
    """Gradients of the loss of some maps at the generated samples, and the numbers of each map.

    Three passes over the problems, for what is between them are means over all problems of a map.
    """
    objective, (labels, n, positions, channels) = problems.objective, problems.features[0].shape
    covered = is_covered(objective, problems.counts, channels, labels * positions)
    passes = Fused(problems) if covered else Chunked(problems, keep)
    units, scale = units_of(problems, *passes.scales(), placement)
    means = problems.map_means(jnp.stack(passes.norms(units, measure), axis=2), placement)
    values, gaps, squares = means[:, 0], means[:, 1], means[:, 2]
    norms = jax.lax.rsqrt(jnp.maximum(squares, FIELD_FLOOR)) if objective.normalise_field else jnp.ones_like(squares)
    # As floats: the counts exceed 32-bit integers in the ImageNet recipes.
    counts = jnp.asarray([float(labels * n * size * placement.devices) for size in problems.sizes], jnp.float32)
    count = problems.of_maps(counts)
    if objective.is_scalar:
        slope = -units.coordinate / jnp.square(units.distance) / count
    else:
        slope = -2 / units.coordinate / (count * channels)
    gradients, of_sum = passes.gradient(units, problems.of_maps(norms), slope)
    means = problems.map_means(jnp.stack([of_sum, scale], axis=2), placement)
    losses = jnp.sum(values, axis=1) if objective.is_scalar else means[:, 0]
    numbers = jnp.stack([losses, jnp.mean(gaps, axis=1), means[:, 1]], axis=1)
    return gradients, jnp.concatenate([numbers, jnp.sqrt(squares)], axis=1)


class Chunked:
    """The passes of the loss as operations of JAX, a chunk of problems at a time.

    One product of all pairs gives the distances, and one the fields of all widths: what a later pass needs is kept. If
    the fields are not to be kept, their sum over the widths takes one more.
    """

    def __init__(self, problems: Problems, keep: bool) -> None:
        self._problems, self._keep = problems, keep

    def scales(self) -> tuple[Float32[Array, "chunks problems"], Float32[Array, "chunks problems"]]:
        """See `Fused.scales`."""
        self._distances, weighted, weights = self._problems.each(self._problems.distances)
        return weighted, weights

    def norms(self, units: Units, measure: Bool[Array, ""] | None) -> tuple[PerChunk, PerChunk, PerChunk]:
        """See `Fused.norms`."""

        def found(chunk: Chunk, d: PairDistances, units: Units) -> tuple[Any, tuple[PerWidth, PerWidth, Any]]:
            fields, value = self._problems.fields(chunk, d, units)
            gap = if_asked(measure, lambda: self._problems.gaps(chunk, d, units))
            return fields if self._keep else (), (value, gap, mean_products(fields))

        self._fields, per_problem = self._problems.each(found, self._distances, units)
        values, gaps, self._products = per_problem
        return values, gaps, jnp.diagonal(self._products, axis1=2, axis2=3)

    def gradient(
        self, units: Units, factors: PerChunk, slope: Float32[Array, "chunks problems"]
    ) -> tuple[MapGradients, Float32[Array, "chunks problems"]]:
        """See `Fused.gradient`."""
        problems, weights = self._problems, slope[..., None]
        if self._keep:
            weights, fields = weights * factors, self._fields
        else:
            fields = problems.each(problems.summed_field, self._distances, units, factors)[:, :, None]
        # Each map's own at once, for each is read and written but once then.
        of_maps = (problems.by_map(problems.by_position(x), 1) for x in (weights, fields))
        gradients = [self._gradient_of_map(*own) for own in zip(*of_maps, strict=True)]
        # The mean square of the sum: it is not gone through a second time.
        return gradients, jnp.sum(factors[..., None] * self._products * factors[:, :, None], axis=(2, 3))

    def _gradient_of_map(
        self,
        weights: Float32[Array, "labels positions fields"],
        fields: Float32[Array, "labels positions fields generated channels"],
    ) -> Float[Array, "labels generated positions channels"]:
        """The weighted sum of the fields, as an array like the features of generated samples."""
        # Not a product: a sum is joined with what follows.
        total = reduce(jnp.add, (weights[:, :, i, None, None] * fields[:, :, i] for i in range(fields.shape[2])))
        total = rearrange(total, "l f n c -> l n f c").astype(self._problems.features[0].dtype)
        # As the axes are: a compiler would keep the positions before the samples, and copy all of it afterwards.
        return with_layout_constraint(total, Layout((0, 1, 2, 3)))


def mean_products(
    fields: Float32[Array, "problems widths queries channels"],
) -> Float32[Array, "problems widths widths"]:
    """The mean of the product of the fields of each two widths; on the diagonal their mean squares."""
    (_, count, n, channels), each = fields.shape, range(fields.shape[1])
    # Where a GPU's compiler writes the product itself, it would go through its result once for each of these sums.
    fields = jax.lax.optimization_barrier(fields)
    sums = {(i, j): jnp.sum(fields[:, i] * fields[:, j], axis=(1, 2)) for i in each for j in range(i + 1)}
    # Before they are arranged: so the fields are gone through once for all of them.
    sums = jax.lax.optimization_barrier(sums)
    rows = [jnp.stack([sums[max(i, j), min(i, j)] for j in each], axis=1) for i in range(count)]
    return jnp.stack(rows, axis=1) / (n * channels)


def if_asked(
    measure: Bool[Array, ""] | None, function: Callable[[], Float32[Array, "*shape"]]
) -> Float32[Array, "*shape"]:
    """What `function` gives if it is asked for (None: it is); and else NaN, at no cost."""
    if measure is None:
        return function()
    nothing = jax.eval_shape(function)
    return jax.lax.cond(measure, function, lambda: jnp.full(nothing.shape, jnp.nan, nothing.dtype))


def problem_numbers(positions: int, channels: int, counts: tuple[int, ...], widths: int) -> int:
    """How many numbers the arrays of one label's problems have: affinities, distances, coordinates and fields."""
    queries, targets = counts[0], sum(counts)
    return positions * ((1 + widths) * queries * targets + targets * channels + widths * queries * channels)


def keeps_fields(memory: LossMemory, problems: int, channels: int, counts: tuple[int, ...], widths: int) -> bool:
    """Whether the fields of so many problems are kept until their norms are known."""
    return widths * problems * counts[0] * channels <= memory.kept


class ChunkShape(NamedTuple):
    """Labels and positions of the problems of a chunk, and positions that are added to make up whole chunks."""

    labels: int
    positions: int
    added: int = 0


def chunk_shape(limit: int, labels: int, positions: int, numbers: int, joined: bool) -> ChunkShape:
    """The chunks of some maps.

    Args:
        limit: how many numbers may be there at a time.
        labels: how many labels there are.
        positions: how many positions there are.
        numbers: those of one problem.
        joined: whether positions may be added: several maps become one array anyway.
    """
    if joined and labels * numbers <= limit:
        chunks = -(-positions // (limit // (numbers * labels)))
        together = -(-positions // chunks)
        return ChunkShape(labels, together, together * chunks - positions)

    def largest(count: int, limit: int) -> int:
        return max(size for size in range(1, count + 1) if count % size == 0 and size <= max(1, limit))

    together = largest(positions, limit // (numbers * labels))
    return ChunkShape(labels if together > 1 else largest(labels, limit // numbers), together)


def map_loss(
    objective: Objective,
    widths: Float[Array, "widths"],
    gen: Float[Array, "labels generated positions channels"],
    pos: Float[Array, "labels positives positions channels"],
    unc: Float[Array, "labels unconditional positions channels"],
    w_gen: Float[Array, "labels generated"],
    w_pos: Float[Array, "labels positives"],
    w_unc: Float[Array, "labels unconditional"],
) -> tuple[Float32[Array, ""], MapMetrics]:
    """Loss of one feature map and its metrics.

    Args:
        objective: what to compute.
        widths: kernel widths, in units of the feature scale.
        gen: features of the generated samples, the only argument that carries gradient.
        pos: features of the positives.
        unc: features of the unconditional samples; there may be none.
        w_gen: weights of the generated samples as negatives.
        w_pos: weights of the positives.
        w_unc: weights of the unconditional samples.
    """
    constants, weights = jax.lax.stop_gradient(((gen, unc, pos), (w_gen, w_unc, w_pos)))
    maps = {"map": constants[0]}, {"map": jnp.concatenate(constants[1:], axis=1)}
    gradients, numbers = _loss_of_labels(objective, widths, *maps, weights, ONE_DEVICE, None)
    metrics = MetricsByMap(numbers, ("map",))["map"]
    return attach_gradient(gen, metrics.loss, gradients["map"]), metrics


def _loss_of_labels(
    objective: Objective,
    widths: Float[Array, "widths"],
    gen: FeatureMaps,
    real: FeatureMaps,
    weights: tuple[Float[Array, "labels _samples"], ...],
    placement: Placement,
    measure: Bool[Array, ""] | None,
) -> tuple[FeatureMaps, Numbers]:
    """Gradients and numbers of all maps, in the order of `gen`, of the labels that lie on this device.

    Of the real samples the unconditional come first, then the positives; `weights` are of these three.
    Small maps of equal channels are computed together, large ones some positions at a time, see `LossMemory`.
    """
    memory, widths = objective.room, jax.lax.stop_gradient(widths)
    counts = (weights[0].shape[1], weights[1].shape[1], weights[2].shape[1])
    joined_weights = jnp.concatenate(weights, axis=1)
    gradients: list[MapGradients] = []
    numbers: list[Numbers] = []
    groups = by_size(gen, maps_together(gen, counts, len(widths), memory))
    for names in groups:
        labels, _, _, channels = gen[names[0]].shape
        sizes = [gen[name].shape[2] for name in names]
        shape = ChunkShape(labels, sum(sizes))
        if not is_covered(objective, counts, channels, labels * sum(sizes)):
            of_problem = problem_numbers(1, channels, counts, len(widths))
            shape = chunk_shape(memory.chunk, labels, sum(sizes), of_problem, len(names) > 1)
        features = tuple(_joined([maps[name] for name in names], shape.added) for maps in (gen, real))
        # One after the other: the compilers would have the arrays of all of them in memory at a time.
        features, gradients, numbers = jax.lax.optimization_barrier((features, gradients, numbers))
        # What was added is as a map of its own.
        sizes += [shape.added] if shape.added else []
        problems = Problems(objective, widths, features, joined_weights, counts[1], tuple(sizes), *shape[:2])
        keep = keeps_fields(memory, labels * sum(sizes), channels, counts, len(widths))
        gradient, found = _gradients(problems, keep, placement, measure)
        gradients.append(gradient)
        numbers.append(found[: len(names)])
    # Numbers too: what they are made of would otherwise stay in memory until the step's end, where they are wanted.
    gradients, numbers = jax.lax.optimization_barrier((gradients, numbers))
    apart: FeatureMaps = {}
    for names, of_maps in zip(groups, gradients, strict=True):
        apart |= dict(zip(names, of_maps, strict=False))
    computed = [name for names in groups for name in names]
    order = np.asarray([computed.index(name) for name in gen])
    return {name: apart[name] for name in gen}, jnp.concatenate(numbers)[order]


def _joined(
    maps: list[Float[Array, "labels samples _positions channels"]], added: int
) -> Float[Array, "labels samples positions channels"]:
    """Maps one after the other along the positions, and then as many positions of zeros as are `added`."""
    if len(maps) == 1:
        return maps[0]
    labels, samples, _, channels = maps[0].shape
    zeros = [jnp.zeros((labels, samples, added, channels), maps[0].dtype)] if added else []
    return jnp.concatenate([*maps, *zeros], axis=2)


def maps_together(gen: Mapping[str, Any], counts: tuple[int, ...], widths: int, memory: LossMemory) -> list[list[str]]:
    """Names of the maps that are computed together: of equal channels and dtype, as far as there is room.

    Args:
        gen: the generated samples' feature maps `[labels, generated, positions, channels]`, or their shapes.
        counts: generated, unconditional and positive samples of a problem.
        widths: how many kernel widths there are.
        memory: how much room there is: for their problems, and for their fields, which are kept.

    Returns:
        The groups: a map joins the last one of its kind, or begins another. One that takes most of the room is alone,
        see `ALONE_ABOVE`.
    """
    limit = memory.chunk if memory.together is None else memory.together
    groups: list[list[str]] = []
    last: dict[Any, tuple[list[str], int]] = {}
    for name, x in gen.items():
        (labels, _, positions, channels), kind = x.shape, (x.shape[3], x.dtype)
        of_position = labels * problem_numbers(1, channels, counts, widths)
        if positions * of_position > ALONE_ABOVE * limit:
            groups.append([name])  # what comes next is joined with what came before
            continue
        group, held = last.get(kind, ([], 0))
        together = held + positions
        fits = together * of_position <= limit and keeps_fields(memory, labels * together, channels, counts, widths)
        if not group or not fits:
            group, together = [], positions
            groups.append(group)
        group.append(name)
        last[kind] = (group, together)
    return groups


def by_size(gen: Mapping[str, Any], groups: list[list[str]]) -> list[list[str]]:
    """Groups of maps as they are computed: the largest last, when the real features of the others are not needed."""
    return sorted(groups, key=lambda names: sum(gen[name].size for name in names))


def objective_loss(
    objective: Objective,
    widths: Float[Array, "widths"],
    gen: FeatureMaps,
    pos: FeatureMaps,
    unc: FeatureMaps,
    w_unc: Float[Array, "labels"],
    placement: Placement = ONE_DEVICE,
    measure: Flag = True,
) -> tuple[Float32[Array, ""], MetricsByMap]:
    """The training loss: the sum over feature maps of each map's loss.

    Args:
        objective: what to compute.
        widths: kernel widths, in units of the feature scale.
        gen: feature maps of the generated samples, the only argument that carries gradient.
        pos: the same maps of the positives.
        unc: the same maps of the unconditional samples.
        w_unc: weight of each label's unconditional negatives (`guidance.unconditional_weight`).
        placement: where arrays lie. Each device computes the problems of its own labels; nothing but numbers travels.
        measure: whether the metric is wanted that the loss does not need, the gap; where it is not, it is NaN.

    Returns:
        The loss and the metrics of every map.
    """

    def part(common: tuple[Float[Array, "widths"], Bool[Array, ""] | None], batch: Batched) -> tuple[Batched, Numbers]:
        (widths, asked), (gen, unc, pos, w_unc) = common, batch
        shapes = (next(iter(maps.values())).shape[:2] for maps in (gen, unc, pos))
        weights = tuple(jnp.broadcast_to(w, shape) for w, shape in zip((1.0, w_unc[:, None], 1.0), shapes, strict=True))
        real = {name: jnp.concatenate([unc[name], pos[name]], axis=1) for name in gen}
        gradients, numbers = _loss_of_labels(objective, widths, gen, real, weights, placement, asked)
        return gradients, numbers / placement.devices  # they are the same on every device, and their sum is taken

    constants = jax.lax.stop_gradient((gen, unc, pos, w_unc))
    with jax.named_scope("loss"):
        asked = None if measure is True else jnp.asarray(measure)
        gradients, numbers = placement.each(part, (widths, asked), constants)
    return attach_gradient(gen, jnp.sum(numbers[:, 0]), gradients), MetricsByMap(numbers, tuple(gen))
