"""From feature maps to a scalar loss: normalisation, fields and potentials, and their gradient in closed form.

Every feature map gives one loss term. It holds one drift problem for each class label and position; the problems share
the feature scale and the field normalisation, both reductions over the whole (global) batch, as the released recipe has
it. Targets are constants of the gradient, so the gradient with respect to the generated features is known without
differentiating anything: it is attached to the loss by `attach_gradient`, and no activation of the loss is kept.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import Array
from jaxtyping import Float, Float32, Int32

from drifting.method.fields import FIELDS, Affinities, Pairs, displace
from drifting.method.kernels import Kernel, Width, centred_distance, kernel_of
from drifting.method.potentials import LOSSES, log_link, potential, potential_affinities

# Constants of the released recipe: raw distances are at least DISTANCE_FLOOR; the feature scale is clamped below by
# SCALE_FLOOR, separately for distances and for coordinates; the mean square of a field by FIELD_FLOOR.
DISTANCE_FLOOR = 1e-4

SCALE_FLOOR = 1e-3

FIELD_FLOOR = 1e-8

FEATURE_SCALES = ("per_map", "per_problem", "neighbour", "none")


@dataclass(frozen=True, init=False)
class Objective:
    """The static part of a loss; kernel widths are traced and apart.

    Attributes:
        name: a key of `FIELDS` (trained through the stop-gradient objective) or of `LOSSES` (a potential).
        kernel: the radial kernel, or its name in `KERNELS`.
        normalise_field: divide each width's field by its root mean square over the map. A potential's gradient is
            normalised the same way and then trained through the stop-gradient objective.
        feature_scale: 'per_map' (one scale for all problems of a map: the released recipe), 'per_problem', or 'none'
            and 'neighbour' (features are used as they come; 'neighbour' means the caller divided them by the
            per-class neighbour scale).
        chunk: numbers in the arrays of the problems that are computed at a time, over all devices; the default is a
            gigabyte.

    Raises:
        ValueError: the name, the kernel or the feature scale is none of these.
    """

    name: str
    kernel: Kernel
    normalise_field: bool = True
    feature_scale: str = "per_map"
    chunk: int = 2**28

    def __init__(
        self,
        name: str,
        kernel: str | Kernel,
        normalise_field: bool = True,
        feature_scale: str = "per_map",
        chunk: int = 2**28,
    ) -> None:
        given = dict(name=name, kernel=kernel_of(kernel), normalise_field=normalise_field)
        for key, value in (given | dict(feature_scale=feature_scale, chunk=chunk)).items():
            object.__setattr__(self, key, value)  # a frozen dataclass sets its fields so
        if self.name not in LOSSES and self.name not in FIELDS:
            raise ValueError(f"objective={self.name!r}: use one of {', '.join([*LOSSES, *FIELDS])}")
        if self.feature_scale not in FEATURE_SCALES:
            raise ValueError(f"feature_scale={self.feature_scale!r}: use one of {', '.join(FEATURE_SCALES)}")

    def affinities(self, pairs: Pairs, width: Width) -> Affinities:
        """Affinities of the objective's field for one problem and one width."""
        if self.name in LOSSES:
            return potential_affinities(pairs, self.kernel, width, LOSSES[self.name])
        return FIELDS[self.name](pairs, self.kernel, width)

    @property
    def is_scalar(self) -> bool:
        """Whether the loss is the potential itself (and not the square of a field)."""
        return self.name in LOSSES and not self.normalise_field


class MapMetrics(NamedTuple):
    """What one feature map tells about training, reduced over its problems and the widths.

    Attributes:
        loss: this map's term of the loss. With one width and field normalisation it is 1 by construction.
        gap: `mean(log q# - log p#)`, the log-KDE gap, whatever the objective: it falls towards 0 as the sets agree.
        field_norm: root mean square of the field of each width before any normalisation.
        scale: the feature scale (its mean, if there is one for each problem).
    """

    loss: Float32[Array, ""]
    gap: Float32[Array, ""]
    field_norm: Float32[Array, "widths"]
    scale: Float32[Array, ""]


@jax.custom_vjp
def attach_gradient(
    x: Float[Array, "*shape"], value: Float[Array, ""], gradient: Float[Array, "*shape"]
) -> Float[Array, ""]:
    """`value`, whose derivative with respect to `x` is declared to be `gradient`."""
    return value


def _attach_forward(
    x: Float[Array, "*shape"], value: Float[Array, ""], gradient: Float[Array, "*shape"]
) -> tuple[Float[Array, ""], Float[Array, "*shape"]]:
    return value, gradient.astype(x.dtype)


def _attach_backward(
    gradient: Float[Array, "*shape"], cotangent: Float[Array, ""]
) -> tuple[Float[Array, "*shape"], None, None]:
    return (cotangent * gradient).astype(gradient.dtype), None, None


attach_gradient.defvjp(_attach_forward, _attach_backward)


class Units(NamedTuple):
    """What the distances and the coordinates of each problem of a chunk are divided by; of several chunks at first."""

    distance: Float32[Array, "*chunks problems 1 1"]
    coordinate: Float32[Array, "*chunks problems 1 1"]


Chunk = int | Int32[Array, ""]
"""Number of a chunk."""

PerProblem = Float32[Array, "problems"]
"""A number for each problem."""

PerWidth = Float32[Array, "widths problems"]
"""A number for each width and problem."""

Coordinates = Float32[Array, "problems _samples channels"]
"""Samples of each problem of a chunk, the origin among them."""


@dataclass(frozen=True)
class _Problems:
    """The drift problems of one map, some positions (a chunk) at a time; a chunk has `labels * size` problems.

    Attributes:
        objective: what to compute.
        widths: kernel widths, in units of the feature scale.
        features: the map of generated, positive and unconditional samples, see `map_loss`.
        w_pos: weights of the positives of a chunk's problems.
        w_neg: weights of their negatives.
        size: positions of a chunk.
    """

    objective: Objective
    widths: Float[Array, "widths"]
    features: tuple[Float[Array, "labels _samples positions channels"], ...]
    w_pos: Float[Array, "problems positives"]
    w_neg: Float[Array, "problems negatives"]
    size: int

    def coordinates(self, chunk: Chunk) -> tuple[Coordinates, Coordinates, Coordinates]:
        """Samples, positives and negatives of a chunk's problems."""
        slices = (jax.lax.dynamic_slice_in_dim(a, chunk * self.size, self.size, axis=2) for a in self.features)
        x, y_pos, y_unc = (rearrange(a.astype(jnp.float32), "l n f c -> (l f) n c") for a in slices)
        centre = jnp.mean(y_pos, axis=1, keepdims=True)
        x, y_pos, y_unc = x - centre, y_pos - centre, y_unc - centre
        return x, y_pos, jnp.concatenate([x, y_unc], axis=1)

    def distances(
        self,
        x: Float32[Array, "problems queries channels"],
        y_pos: Float32[Array, "problems positives channels"],
        y_neg: Float32[Array, "problems negatives channels"],
    ) -> tuple[Float32[Array, "problems queries positives"], Float32[Array, "problems queries negatives"]]:
        """Distances from the samples to positives and negatives."""
        distance = jax.vmap(partial(centred_distance, floor=DISTANCE_FLOOR))
        is_self = jnp.eye(x.shape[1], y_neg.shape[1], dtype=bool)
        return distance(x, y_pos), jnp.where(is_self, DISTANCE_FLOOR, distance(x, y_neg))

    def units(self, count: int) -> tuple[Units, Float32[Array, "..."]]:
        """The units of the problems of each of `count` chunks, and the feature scale they are made of."""
        kind, channels = self.objective.feature_scale, self.features[0].shape[3]
        shape = (count, self.w_pos.shape[0], 1, 1)
        if kind in ("none", "neighbour"):
            return Units(jnp.ones(shape), jnp.ones(shape)), jnp.ones(())

        def weighted(chunk: Chunk) -> PerProblem:
            return _weighted_distance(self.distances(*self.coordinates(chunk)), self.w_pos, self.w_neg)

        distances = weighted(0)[None] if count == 1 else jax.lax.map(weighted, jnp.arange(count))
        weights = jnp.sum(self.w_pos, axis=1) + jnp.sum(self.w_neg, axis=1)
        scale = _feature_scale(kind, distances, weights)[..., None, None]
        coordinate = jnp.maximum(scale / jnp.sqrt(jnp.float32(channels)), SCALE_FLOOR)
        pair = (jnp.maximum(scale, SCALE_FLOOR), coordinate)
        return Units(*(jnp.broadcast_to(unit, shape) for unit in pair)), scale

    def norm(self, mean_square: Float32[Array, "*widths"]) -> Float32[Array, "*widths"]:
        """What a width's field is multiplied by."""
        if not self.objective.normalise_field:
            return jnp.ones_like(mean_square)
        return jax.lax.rsqrt(jnp.maximum(mean_square, FIELD_FLOOR))

    def fields(
        self, chunk: Chunk, units: Units, norms: Float[Array, "widths"] | None
    ) -> tuple[Float32[Array, "problems queries channels"], tuple[PerWidth, PerWidth, PerWidth]]:
        """A chunk's fields, summed over widths with these norms (None: those of the chunk itself).

        With them come, for each width and problem: potential (0 for a field), gap and mean square of the field.
        """
        objective, points = self.objective, self.coordinates(chunk)
        d_pos, d_neg = (d / units.distance for d in self.distances(*points))
        is_self = jnp.eye(d_neg.shape[1], d_neg.shape[2], dtype=bool)
        pairs = Pairs(d_pos, d_neg, self.w_pos, self.w_neg, is_self)
        scaled = [y / units.coordinate for y in points]
        each_problem = partial(jax.vmap, in_axes=(Pairs(0, 0, 0, 0, None),))  # type: ignore[arg-type]

        def add(
            total: Float32[Array, "problems queries channels"], given: tuple[Float[Array, ""], Float[Array, ""]]
        ) -> tuple[Float32[Array, "problems queries channels"], tuple[PerProblem, PerProblem, PerProblem]]:
            width, norm = given
            affinities = each_problem(partial(objective.affinities, width=width))(pairs)
            field = jax.vmap(displace)(affinities, *scaled)
            square = jnp.mean(jnp.square(field), axis=(1, 2))
            potential_of = partial(potential, kernel=objective.kernel, width=width)
            gap = jnp.mean(each_problem(partial(potential_of, link=log_link))(pairs), axis=1)
            value = jnp.zeros_like(gap)
            if objective.is_scalar:
                value = jnp.mean(each_problem(partial(potential_of, link=LOSSES[objective.name]))(pairs), axis=1)
            norm = self.norm(jnp.mean(square)) if norms is None else norm
            return total + norm * field, (value, gap, square)

        # A loop, not its unrolling: less to compile, and one width's affinities at a time in memory.
        return jax.lax.scan(add, jnp.zeros_like(scaled[0]), (self.widths, self.widths if norms is None else norms))

    def gradient(
        self, total: Float32[Array, "problems queries channels"], units: Units
    ) -> tuple[Float[Array, "labels queries {self.size} channels"], PerProblem]:
        """Gradient of the loss at a chunk's samples, and the mean square of each problem's field."""
        gen = self.features[0]
        labels, n, positions, _ = gen.shape
        if self.objective.is_scalar:
            gradient = -total * (units.coordinate / jnp.square(units.distance)) / (labels * positions * n)
        else:
            # As a float: the count exceeds 32-bit integers in the ImageNet recipes.
            gradient = -2 * total / units.coordinate / float(gen.size)
        gradient = rearrange(gradient, "(l f) n c -> l n f c", l=labels).astype(gen.dtype)
        return gradient, jnp.mean(jnp.square(total), axis=(1, 2))


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

    Where a map has very many problems they are computed some positions at a time (`Objective.chunk`), in three passes
    that hold nothing of the whole map but its gradient: for the feature scale, for the norms of the fields, for the
    gradient. Otherwise each is computed once.

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
    size = _positions_at_a_time(objective.chunk, gen.shape, pos.shape[1], unc.shape[1])
    features = tuple(jax.lax.stop_gradient(a) for a in (gen, pos, unc))
    w_neg = jnp.repeat(jnp.concatenate([w_gen, w_unc], axis=1), size, axis=0)
    problems = _Problems(objective, widths, features, jnp.repeat(w_pos, size, axis=0), w_neg, size)
    count = gen.shape[2] // size
    units, scale = problems.units(count)

    if count == 1:
        only = Units(units.distance[0], units.coordinate[0])
        total, (values, gaps, squares) = problems.fields(0, only, None)
        gradient, square = problems.gradient(total, only)
    else:

        def statistics_of(chunk: tuple[Int32[Array, ""], Units]) -> tuple[PerWidth, PerWidth, PerWidth]:
            return problems.fields(chunk[0], chunk[1], jnp.ones_like(widths))[1]

        def gradient_of(
            chunk: tuple[Int32[Array, ""], Units],
        ) -> tuple[Float[Array, "labels queries size channels"], PerProblem]:
            return problems.gradient(problems.fields(chunk[0], chunk[1], norms)[0], chunk[1])

        chunks = (jnp.arange(count), units)
        values, gaps, squares = (jnp.mean(a, axis=0) for a in jax.lax.map(statistics_of, chunks))
        norms = problems.norm(jnp.mean(squares, axis=1))
        gradient, square = jax.lax.map(gradient_of, chunks)
        gradient = rearrange(gradient, "k l n f c -> l n (k f) c")
    value = jnp.sum(jnp.mean(values, axis=1)) if objective.is_scalar else jnp.mean(square)
    metrics = MapMetrics(value, jnp.mean(gaps), jnp.sqrt(jnp.mean(squares, axis=1)), jnp.mean(scale))
    return attach_gradient(gen, value, gradient), metrics


def _positions_at_a_time(chunk: int, gen: tuple[int, ...], positives: int, unconditional: int) -> int:
    """Positions whose problems are computed together: the largest divisor of their number within `chunk`."""
    labels, n, positions, channels = gen
    # Coordinates and distances of the problems at one position.
    numbers = labels * (2 * n + positives + unconditional) * (n + channels)
    return max(size for size in range(1, positions + 1) if positions % size == 0 and size <= max(1, chunk // numbers))


def _weighted_distance(
    distances: tuple[Float32[Array, "problems queries positives"], Float32[Array, "problems queries negatives"]],
    w_pos: Float[Array, "problems positives"],
    w_neg: Float[Array, "problems negatives"],
) -> Float32[Array, "problems"]:
    """Sum of each problem's weighted distances over its targets, the diagonal included; mean over queries."""
    d_pos, d_neg = distances
    total = jnp.sum(d_pos * w_pos[:, None], axis=2) + jnp.sum(d_neg * w_neg[:, None], axis=2)
    return jnp.mean(total, axis=1)


def _feature_scale(
    kind: str, distances: Float32[Array, "chunks problems"], weights: Float32[Array, "problems"]
) -> Float32[Array, "chunks problems"] | Float32[Array, "1 1"]:
    """Weighted mean distance, of each problem or of all of them.

    Released recipe: `mean(w_j d_ij) / mean(w_j)`, both over all problems of the map. One label's scale then depends on
    the others in the batch; 'per_problem' is the version without that coupling.

    Args:
        kind: a feature scale of `Objective`.
        distances: `_weighted_distance` of each problem.
        weights: sums of the targets' weights, the same for every chunk.
    """
    if kind == "per_problem":
        return distances / weights
    return jnp.mean(distances, keepdims=True) / jnp.mean(weights)


def objective_loss(
    objective: Objective,
    widths: Float[Array, "widths"],
    gen: dict[str, Float[Array, "labels generated _positions _channels"]],
    pos: dict[str, Float[Array, "labels positives _positions _channels"]],
    unc: dict[str, Float[Array, "labels unconditional _positions _channels"]],
    w_unc: Float[Array, "labels"],
) -> tuple[Float32[Array, ""], dict[str, MapMetrics]]:
    """The training loss: the sum over feature maps of each map's loss.

    Args:
        objective: what to compute.
        widths: kernel widths, in units of the feature scale.
        gen: feature maps of the generated samples, the only argument that carries gradient.
        pos: the same maps of the positives.
        unc: the same maps of the unconditional samples.
        w_unc: weight of each label's unconditional negatives (`guidance.unconditional_weight`).

    Returns:
        The loss and the metrics of every map.
    """
    total, metrics = jnp.float32(0), {}
    for name, x in gen.items():
        y_pos, y_unc = pos[name], unc[name]
        weights = (jnp.ones(x.shape[:2]), jnp.ones(y_pos.shape[:2]), jnp.broadcast_to(w_unc[:, None], y_unc.shape[:2]))
        loss, metrics[name] = map_loss(objective, widths, x, y_pos, y_unc, *weights)
        total += loss
    return total, metrics
