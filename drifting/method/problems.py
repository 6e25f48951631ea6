"""The drift problems of feature maps, one for each label and position: their points, distances, affinities and fields.

Arrays of pairs are made a chunk of problems at a time; what the chunks have in common is a number for each map.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax import Array
from jaxtyping import Float, Float32, Int32

from drifting.method.fields import Pairs, StoredPairs
from drifting.method.kernels import EXACT_PRODUCT, safe_sqrt, squared_norms
from drifting.method.objective import Objective
from drifting.method.placement import Placement
from drifting.method.potentials import log_link, potential

# Constants of the released recipe: raw distances are at least DISTANCE_FLOOR; the feature scale is clamped below by
# SCALE_FLOOR, separately for distances and for coordinates.
DISTANCE_FLOOR = 1e-4

SCALE_FLOOR = 1e-3

Chunk = tuple[Int32[Array, ""] | int, Int32[Array, ""] | int]
"""The first label and the first position of a chunk."""

TargetPoints = Float32[Array, "problems _samples channels"]
"""Samples of each problem of a chunk, the origin among them."""

PairDistances = Float32[Array, "problems queries targets"]
"""PairDistances of each problem of a chunk; the targets are the negatives and then the positives."""

PerProblem = Float32[Array, "problems"]
"""A number for each problem of a chunk."""

PerWidth = Float32[Array, "problems widths"]
"""A number for each problem of a chunk and each width."""

MapGradients = list[Float[Array, "labels generated _positions channels"]]
"""A gradient for each map, like its features of generated samples."""

PerChunk = Float32[Array, "chunks problems widths"]
"""A number for each problem of each chunk and each width."""


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["widths", "features", "weights"],
    meta_fields=["objective", "unconditional", "sizes", "labels", "positions"],
)
@dataclass(frozen=True)
class Problems:
    """The drift problems of some maps of equal channels, one for each label and position, computed a chunk at a time.

    Attributes:
        objective: what to compute.
        widths: kernel widths, in units of the feature scale.
        features: generated and real samples, the maps one after the other along the positions. Of the real ones the
            unconditional come first, then the positives.
        weights: the weights of the same samples.
        unconditional: how many unconditional samples there are.
        sizes: positions of each map.
        labels: labels of a chunk.
        positions: positions of a chunk; it has `labels * positions` problems.
    """

    objective: Objective
    widths: Float[Array, "widths"] = dataclasses.field(repr=False)
    features: tuple[Float[Array, "labels _samples positions channels"], ...] = dataclasses.field(repr=False)
    weights: Float[Array, "labels targets"] = dataclasses.field(repr=False)
    unconditional: int
    sizes: tuple[int, ...]
    labels: int
    positions: int

    @property
    def counts(self) -> tuple[int, int, int]:
        """Generated, unconditional and positive samples of a problem."""
        return self.queries, self.unconditional, self.features[1].shape[1] - self.unconditional

    @property
    def queries(self) -> int:
        """Generated samples of a problem."""
        return self.features[0].shape[1]

    @property
    def negatives(self) -> int:
        """Generated and unconditional samples of a problem."""
        return self.queries + self.unconditional

    @property
    def parts(self) -> tuple[int, int]:
        """Along labels and along positions, how many chunks there are."""
        labels, _, positions, _ = self.features[0].shape
        return labels // self.labels, positions // self.positions

    def each(self, function: Callable[..., Any], *kept: Any) -> Any:
        """`function(chunk, *kept)` for every chunk; results and `kept` have a leading axis, that of the chunks."""
        rows, columns = self.parts
        if rows * columns == 1:
            return jax.tree.map(lambda x: x[None], function((0, 0), *jax.tree.map(lambda x: x[0], kept)))
        # Not `jax.lax.map`: nothing says when its empty results are made, so a compiler makes those of all maps first.
        # Made of a number that the pass needs, whatever it is, they cannot be before the pass before is done.
        filling = jax.tree.leaves((kept, self.features))[0].ravel()[0]

        def one(number: Int32[Array, ""] | int) -> Any:
            chunk = (number // columns * self.labels, number % columns * self.positions)
            return function(chunk, *jax.tree.map(lambda x: x[number], kept))

        def with_one(number: Int32[Array, ""], found: Any) -> Any:
            put = partial(jax.lax.dynamic_update_index_in_dim, index=number, axis=0)
            return jax.tree.map(put, found, one(number))

        shapes = jax.eval_shape(one, 0)
        results = jax.tree.map(lambda x: jnp.broadcast_to(filling.astype(x.dtype), (rows * columns, *x.shape)), shapes)
        return jax.lax.fori_loop(0, rows * columns, with_one, results)

    def by_position(self, x: Float32[Array, "chunks problems *rest"]) -> Float32[Array, "labels positions *rest"]:
        """What the chunks have for their problems, by label and position."""
        rows, columns = self.parts
        return rearrange(x, "(a b) (l f) ... -> (a l) (b f) ...", a=rows, b=columns, l=self.labels)

    def by_map(self, x: Float[Array, "*shape"], axis: int) -> list[Float[Array, "*_shape"]]:
        """What there is for the positions of each map; `axis` is that of the positions."""
        return jnp.split(x, np.cumsum(self.sizes)[:-1].tolist(), axis=axis)

    def by_chunk(self, x: Float32[Array, "labels positions *rest"]) -> Float32[Array, "chunks problems *rest"]:
        """Inverse of `by_position`."""
        return rearrange(x, "(a l) (b f) ... -> (a b) (l f) ...", l=self.labels, f=self.positions)

    def map_means(
        self, x: Float32[Array, "chunks problems *rest"], placement: Placement
    ) -> Float32[Array, "maps *rest"]:
        """The mean over the problems of each map, those of all devices."""
        by_position = jnp.mean(self.by_position(x), axis=0)
        ends = np.cumsum(self.sizes)[:, None]
        place = np.arange(ends[-1, 0])
        own = (place >= ends - np.asarray(self.sizes)[:, None]) & (place < ends)
        # One sum for all maps, and not a product: what is not finite in one of them would be in all.
        own = own.reshape(own.shape + (1,) * (by_position.ndim - 1))
        total = jnp.sum(jnp.where(own, by_position, 0.0), axis=1)
        sizes = jnp.asarray(self.sizes, jnp.float32).reshape(-1, *(1 for _ in total.shape[1:]))
        return placement.mean(total) / sizes

    def of_maps(self, x: Float32[Array, "maps *rest"]) -> Float32[Array, "chunks problems *rest"]:
        """What each map has, for each of its problems."""
        labels = self.features[0].shape[0]
        whole = jnp.concatenate([jnp.broadcast_to(x[i], (size, *x.shape[1:])) for i, size in enumerate(self.sizes)])
        return self.by_chunk(jnp.broadcast_to(whole, (labels, *whole.shape)))

    def points(self, chunk: Chunk) -> TargetPoints:
        """All samples of a chunk's problems; the generated ones come first, then the other targets."""
        generated, real, origin = self.samples(chunk)
        return jnp.concatenate([generated, real], axis=1) - origin

    def samples(self, chunk: Chunk) -> tuple[TargetPoints, TargetPoints, TargetPoints]:
        """The generated and the real samples of a chunk's problems, and the mean of the positives."""

        def part(x: Float[Array, "labels samples positions channels"]) -> TargetPoints:
            (_, n, _, c), (first, place) = x.shape, chunk
            if self.parts != (1, 1):
                x = jax.lax.dynamic_slice(x, (first, 0, place, 0), (self.labels, n, self.positions, c))
            return rearrange(x, "l n f c -> (l f) n c").astype(jnp.float32)

        generated, real = (part(x) for x in self.features)
        return generated, real, jnp.mean(real[:, self.unconditional :], axis=1, keepdims=True)

    def target_weights(self, chunk: Chunk) -> Float[Array, "problems targets"]:
        """The weights of a chunk's targets."""
        weights = self.weights
        if self.parts[0] > 1:
            weights = jax.lax.dynamic_slice_in_dim(weights, chunk[0], self.labels)
        return jnp.repeat(weights, self.positions, axis=0)

    def distances(self, chunk: Chunk) -> tuple[PairDistances, PerProblem, PerProblem]:
        """Raw distances of a chunk; each problem's weighted sum over its targets, the mean over its queries; and the
        sum of its weights."""
        (generated, real, origin), weights = self.samples(chunk), self.target_weights(chunk)
        # Not of the points: the samples may be of a smaller dtype.
        norms = squared_norms(origin - generated), squared_norms(real - origin)
        product = jnp.matmul(generated - origin, self.points(chunk).mT, precision=EXACT_PRODUCT)
        d = safe_sqrt(norms[0][:, :, None] + jnp.concatenate(norms, axis=1)[:, None] - 2 * product, DISTANCE_FLOOR)
        d = jnp.where(jnp.eye(d.shape[1], d.shape[2], dtype=bool), DISTANCE_FLOOR, d)
        return d, jnp.mean(jnp.sum(d * weights[:, None], axis=2), axis=1), jnp.sum(weights, axis=1)

    def fields(
        self, chunk: Chunk, d: PairDistances, units: "Units"
    ) -> tuple[Float32[Array, "problems widths queries channels"], PerWidth]:
        """A chunk's field of each width; and the potential (0 for a field) of each problem."""
        points = self.points(chunk)
        b, value = self.affinities(chunk, d, units)
        # All widths in one product: their targets are the same.
        field = self.moved(b.reshape(b.shape[0], -1, b.shape[3]), points).reshape(*b.shape[:3], -1)
        return field, value

    def summed_field(
        self, chunk: Chunk, d: PairDistances, units: "Units", factors: PerWidth
    ) -> Float32[Array, "problems queries channels"]:
        """The sum over the widths of a chunk's fields, each times its factor."""
        b = jnp.sum(factors[:, :, None, None] * self.affinities(chunk, d, units)[0], axis=1)
        return self.moved(b, self.points(chunk))

    @staticmethod
    def moved(b: Float32[Array, "problems rows targets"], points: TargetPoints) -> TargetPoints:
        """The targets of each problem, weighed by its affinities and added up."""
        return jnp.matmul(b, points, precision=EXACT_PRODUCT)

    def affinities(
        self, chunk: Chunk, d: PairDistances, units: "Units"
    ) -> tuple[Float32[Array, "problems widths queries targets"], PerWidth]:
        """What a chunk's targets weigh in the field of each width; and the potential (0 for a field) of each problem.

        A query moves by `sum_j b_ij (y_j - x_i)`, in the unit of the coordinates. The queries are the first targets, so
        that what each of them weighs itself takes up the second part: no array of fields is gone through for it. Where
        a query's affinities sum to zero there is none.
        """
        objective = self.objective

        def of_problem(
            pairs: Pairs, width: Float[Array, ""]
        ) -> tuple[Float32[Array, "queries targets"], Float32[Array, ""]]:
            affinities = objective.affinities(pairs, width)
            value = jnp.zeros(())
            if objective.is_scalar and objective.link is not None:
                value = jnp.mean(potential(pairs, objective.kernel, width, objective.link))
            neg = affinities.neg
            if not objective.is_balanced:
                # Summed side by side: what is joined would be written, read for the sums, and written again.
                own = sum(jnp.sum(side, axis=1, keepdims=True) for side in affinities)
                neg -= jnp.where(pairs.is_self, own, 0.0)
            return jnp.concatenate([neg, affinities.pos], axis=1), value

        b, value = self.by_width(of_problem, chunk, d, units)
        return b / units.coordinate[:, None, None, None], value

    def gaps(self, chunk: Chunk, d: PairDistances, units: "Units") -> PerWidth:
        """The log-KDE gap of each problem of a chunk."""

        def of_problem(pairs: Pairs, width: Float[Array, ""]) -> Float32[Array, ""]:
            return jnp.mean(potential(pairs, self.objective.kernel, width, log_link))

        found: PerWidth = self.by_width(of_problem, chunk, d, units)
        return found

    def by_width(self, of_problem: Callable[..., Any], chunk: Chunk, d: PairDistances, units: "Units") -> Any:
        """`of_problem(pairs, width)` for each problem of a chunk and each width."""
        m, reciprocal, weights = self.negatives, 1 / units.distance, self.target_weights(chunk)
        is_self = jnp.eye(self.queries, m, dtype=bool)
        kind = StoredPairs if self.objective.room.remade else Pairs

        def of_pairs(
            d: Float32[Array, "queries targets"],
            d_self: Float32[Array, ""],
            w: Float[Array, "targets"],
            width: Float[Array, ""],
        ) -> Any:
            return of_problem(kind(d[:, m:], d[:, :m], w[m:], w[:m], is_self, d_self), width)

        of_widths = jax.vmap(of_pairs, in_axes=(None, None, None, 0))
        # Not divided: that takes so long that a compiler would rather write the result.
        d, d_self = d * reciprocal[:, None, None], DISTANCE_FLOOR * reciprocal
        return jax.vmap(of_widths, in_axes=(0, 0, 0, None))(d, d_self, weights, self.widths)


class Units(NamedTuple):
    """What the distances and the coordinates of each problem of a chunk are divided by; of several chunks at first."""

    distance: Float32[Array, "*chunks problems"]
    coordinate: Float32[Array, "*chunks problems"]


def units_of(
    problems: Problems,
    weighted: Float32[Array, "chunks problems"],
    weights: Float32[Array, "chunks problems"],
    placement: Placement,
) -> tuple[Units, Float32[Array, "chunks problems"]]:
    """The units of the problems of each chunk, and the feature scale they are made of: a weighted mean distance.

    Released recipe: `mean(w_j d_ij) / mean(w_j)`, both over all problems of the map. One label's scale then depends on
    the others in the batch; 'per_problem' is the version without that coupling.

    Args:
        problems: the problems.
        weighted: each problem's weighted sum of distances, the mean over its queries.
        weights: the sum of each problem's weights.
        placement: see `objective_loss`.
    """
    kind, channels = problems.objective.feature_scale, problems.features[0].shape[3]
    if kind in ("none", "neighbour"):
        ones = jnp.ones_like(weighted)
        return Units(ones, ones), ones
    if kind == "per_problem":
        scale = weighted / weights
    else:
        means = problems.map_means(jnp.stack([weighted, weights], axis=2), placement)
        scale = problems.of_maps(means[:, 0] / means[:, 1])
    coordinate = jnp.maximum(scale / jnp.sqrt(jnp.float32(channels)), SCALE_FLOOR)
    return Units(jnp.maximum(scale, SCALE_FLOOR), coordinate), scale
