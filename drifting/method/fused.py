"""The passes of the loss as kernels, each one program for a problem: no array of pairs is ever in memory.

Every pass forms a problem's distances anew, from some channels at a time. Fields and potentials are those of `FIELDS`
and `LOSSES`, called inside the kernels. They are in Pallas, for GPUs by way of Triton; what all else has is
`drifting.method.loss.Chunked`, the reference.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Bool, Float, Float32, Int32

from drifting.method.fields import FIELDS, Affinities, Pairs
from drifting.method.kernels import KERNELS
from drifting.method.objective import Objective
from drifting.method.potentials import identity_link, log_link, potential
from drifting.method.problems import DISTANCE_FLOOR, PerChunk, Problems, Units

CHANNELS = 32
"""Channels that a program has at a time. With 64, registers do not suffice for 64 x (80 + 64) pairs."""

WARPS = 8
"""Groups of 32 threads of a program: 64 x (128 + 64) pairs are 48 numbers a thread."""

MOST_PAIRS = 2**14
"""The most pairs of a program, whose tiles are powers of two."""

FAR = 1e9
"""The distance, in kernel widths, of targets that only fill a tile. In a sum over targets it is nothing."""

# Those that are here now: of a kernel or a field of somebody else nobody knows whether Triton has its operations.
_KERNELS = tuple(KERNELS.values())

_FIELDS = tuple(FIELDS.values())

_LINKS = (log_link, identity_link)

Refs = tuple[Any, ...]
"""References to arrays, as Pallas gives them to a kernel."""

Pair = tuple[Float32[Array, "queries negatives"], Float32[Array, "queries positives"]]
"""A number for each pair of a query with a negative, and with a positive."""

OfProblem = Float32[Array, "chunks problems"]
"""A number of each problem."""


class Sizes(NamedTuple):
    """The samples of a problem, for which a kernel is made. Its tiles are powers of two, filled up."""

    generated: int
    unconditional: int
    positives: int
    channels: int
    widths: int

    @property
    def negatives(self) -> int:
        """Generated and unconditional samples."""
        return self.generated + self.unconditional

    @property
    def tiles(self) -> tuple[int, int, int]:
        """Rows of the tiles of queries, negatives and positives. Products need 16."""
        counts = self.generated, self.negatives, self.positives
        rows = [max(16, pl.next_power_of_2(count)) for count in counts]
        return rows[0], rows[1], rows[2]


class SomePoints(NamedTuple):
    """Some channels of a problem's samples, the origin among them."""

    generated: Float32[Array, "queries channels"]
    negatives: Float32[Array, "negatives channels"]
    positives: Float32[Array, "positives channels"]


def is_covered(objective: Objective, features: tuple[Float[Array, "labels _samples positions channels"], ...]) -> bool:
    """Whether these problems are computed by the kernels: they are asked for, and know the objective and its kernel."""
    (_, n, _, channels), (_, u, *_), (_, p, *_) = (x.shape for x in features)
    queries, negatives, positives = Sizes(n, u, p, channels, 1).tiles
    known = objective.field in _FIELDS if objective.link is None else objective.link in _LINKS
    fits = queries * (negatives + positives) <= MOST_PAIRS
    return objective.fused is not None and known and fits and objective.kernel in _KERNELS


class Fused:
    """The passes of the loss over all problems at once."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        (_, n, _, channels), (_, u, *_), (_, p, *_) = (x.shape for x in problems.features)
        self._sizes = Sizes(n, u, p, channels, len(problems.widths))
        # An array of nothing has no block; what stands in its place is not read.
        self._features = tuple(x if x.shape[1] else problems.features[0] for x in problems.features)
        self._weights = tuple(w if w.shape[1] else problems.weights[0] for w in problems.weights)

    def scales(self) -> tuple[OfProblem, OfProblem]:
        """Each problem's weighted sum of distances, the mean over its queries; and the sum of its weights."""
        weighted, weights = self._call(_scales, (), [(), ()])
        return weighted, weights

    def norms(self, units: Units, measure: Bool[Array, ""] | None) -> tuple[PerChunk, PerChunk, PerChunk]:
        """Of each problem and width the potential (0 of a field), the gap (NaN where it is not asked for; None: it is)
        and the mean square of the field."""
        arguments, shape = (self._problems.widths, *units), (self._sizes.widths,)

        def found(measured: bool) -> tuple[PerChunk, PerChunk, PerChunk]:
            kernel = partial(_norms, objective=self._problems.objective)
            values, squares, *gaps = self._call(kernel, arguments, [shape] * (3 if measured else 2))
            return values, gaps[0] if gaps else jnp.full_like(values, jnp.nan), squares

        if measure is None:
            return found(True)
        return jax.lax.cond(measure, lambda: found(True), lambda: found(False))

    def gradient(
        self, units: Units, factors: PerChunk, slope: OfProblem
    ) -> tuple[Float[Array, "labels generated positions channels"], OfProblem]:
        """`slope` times the sum over the widths of the fields times their `factors`, as an array of the generated
        samples; and each problem's mean square of that sum."""
        arguments = (self._problems.widths, *units, factors, slope)
        gradient, squares = self._call(
            partial(_gradient, objective=self._problems.objective), arguments, [(), self._problems.features[0]]
        )[::-1]
        return gradient, squares

    def _call(self, kernel: Callable[..., None], arguments: Refs, outputs: list[Any]) -> list[Any]:
        """Runs a kernel, one program for each label and position.

        Args:
            kernel: takes the sizes and references to features, weights, arguments and outputs of its problem.
            arguments: `[widths]`, or `[chunks, problems, ...]`.
            outputs: what of a problem's numbers has that shape; or an array like which one is made.
        """
        problems = self._problems
        labels, _, positions, channels = problems.features[0].shape

        def features(x: Any) -> pl.BlockSpec:
            return pl.BlockSpec((None, x.shape[1], None, channels), lambda label, place: (label, 0, place, 0))

        def numbers(*rest: int) -> pl.BlockSpec:
            return pl.BlockSpec((None, None, *rest), lambda label, place: (label, place, *(0 for _ in rest)))

        weights = [pl.BlockSpec((None, w.shape[1]), lambda label, place: (label, 0)) for w in self._weights]
        laid = [x if x.ndim == 1 else x.reshape(labels, positions, *x.shape[2:]) for x in arguments]
        widths = pl.BlockSpec((self._sizes.widths,), lambda label, place: (0,))
        given = [widths if x.ndim == 1 else numbers(*x.shape[2:]) for x in laid]
        made = [numbers(*x) if isinstance(x, tuple) else features(x) for x in outputs]
        interpreted = problems.objective.fused == "interpreted"
        found = pl.pallas_call(
            partial(kernel, self._sizes, _product(interpreted)),
            grid=(labels, positions),
            in_specs=[*map(features, self._features), *weights, *given],
            out_specs=made,
            out_shape=[
                jax.ShapeDtypeStruct((labels, positions, *x), jnp.float32)
                if isinstance(x, tuple)
                else jax.ShapeDtypeStruct(x.shape, x.dtype)
                for x in outputs
            ],
            compiler_params=triton.CompilerParams(num_warps=WARPS, num_stages=2),
            interpret=interpreted,
            name=f"loss{kernel.func.__name__ if isinstance(kernel, partial) else kernel.__name__}",
        )(*self._features, *self._weights, *laid)
        return [
            x.reshape(1, labels * positions, *shape) if isinstance(shape, tuple) else x
            for x, shape in zip(found, outputs, strict=True)
        ]


Product = Callable[[Float32[Array, "a b"], Float32[Array, "b c"]], Float32[Array, "a c"]]
"""A product of matrices inside a kernel."""


def _product(interpreted: bool) -> Product:
    """On GPUs six products of bfloat16 parts, which keep float32's digits, as `HIGHEST` has them on TPUs."""
    precision = jax.lax.Precision.HIGHEST if interpreted else jax.lax.DotAlgorithmPreset.BF16_BF16_F32_X6
    return partial(jnp.matmul, precision=precision)


# --- what a program has of its problem --------------------------------------------------------------------------------


def _points(sizes: Sizes, features: Refs, first: Int32[Array, ""] | int) -> SomePoints:
    """The points of a problem in the channels from `first` on. Rows that fill a tile lie anywhere."""
    generated, unconditional, positives = features
    channels = first + jax.lax.broadcasted_iota(jnp.int32, (1, CHANNELS), 1)
    queries, negatives, targets = sizes.tiles

    def load(ref: Any, rows: int, count: int, after: int = 0) -> Float32[Array, "rows channels"]:
        own = jax.lax.broadcasted_iota(jnp.int32, (rows, 1), 0) - after
        mask = (own >= 0) & (own < count) & (channels < sizes.channels)
        at = tuple(jnp.broadcast_to(index, mask.shape) for index in (own, channels))
        found = triton.load(ref.at[at], mask=mask, other=0)
        return found.astype(jnp.float32)

    gen, pos = load(generated, queries, sizes.generated), load(positives, targets, sizes.positives)
    neg = load(generated, negatives, sizes.generated)
    if sizes.unconditional:
        neg = neg + load(unconditional, negatives, sizes.unconditional, sizes.generated)
    origin = jnp.sum(pos, axis=0, keepdims=True) / sizes.positives
    return SomePoints(gen - origin, neg - origin, pos - origin)


def _weights(sizes: Sizes, weights: Refs) -> tuple[Float32[Array, "negatives"], Float32[Array, "positives"]]:
    """Weights of the negatives and of the positives; what fills a tile has none."""
    generated, unconditional, positives = weights
    _, negatives, targets = sizes.tiles

    def load(ref: Any, rows: int, count: int, after: int = 0) -> Float32[Array, "rows"]:
        own = jax.lax.iota(jnp.int32, rows) - after
        return jnp.asarray(triton.load(ref.at[own], mask=(own >= 0) & (own < count), other=0.0), jnp.float32)

    neg = load(generated, negatives, sizes.generated)
    if sizes.unconditional:
        neg = neg + load(unconditional, negatives, sizes.unconditional, sizes.generated)
    return neg, load(positives, targets, sizes.positives)


def _is_self(sizes: Sizes) -> Bool[Array, "queries negatives"]:
    shape = sizes.tiles[:2]
    return jax.lax.broadcasted_iota(jnp.int32, shape, 0) == jax.lax.broadcasted_iota(jnp.int32, shape, 1)


def _over_channels(sizes: Sizes, add: Callable[[Any, Any], Any], start: Any) -> Any:
    """`add(first channel, total)` for every `CHANNELS` of them."""
    trips = pl.cdiv(sizes.channels, CHANNELS)
    return jax.lax.fori_loop(0, trips, lambda i, total: add(i * CHANNELS, total), start)


def _distances(sizes: Sizes, product: Product, features: Refs) -> Pair:
    """Raw distances of all pairs."""
    queries, negatives, positives = sizes.tiles

    def add(first: Int32[Array, ""], total: Pair) -> Pair:
        points = _points(sizes, features, first)
        x = points.generated

        def squared(y: Float32[Array, "targets channels"]) -> Float32[Array, "queries targets"]:
            return jnp.sum(x * x, axis=1)[:, None] + jnp.sum(y * y, axis=1)[None] - 2 * product(x, y.T)

        return total[0] + squared(points.negatives), total[1] + squared(points.positives)

    zeros = jnp.zeros((queries, negatives), jnp.float32), jnp.zeros((queries, positives), jnp.float32)
    squares = _over_channels(sizes, add, zeros)
    d_neg, d_pos = (jnp.sqrt(jnp.maximum(square, DISTANCE_FLOOR**2)) for square in squares)
    return jnp.where(_is_self(sizes), DISTANCE_FLOOR, d_neg), d_pos


def _mean(sizes: Sizes, x: Float32[Array, "queries"]) -> Float32[Array, ""]:
    """The mean over the queries, without what fills their tile."""
    real = jax.lax.iota(jnp.int32, sizes.tiles[0]) < sizes.generated
    return jnp.sum(jnp.where(real, x, 0.0)) / sizes.generated


class _Problem(NamedTuple):
    """The pairs of a problem, in raw distances."""

    sizes: Sizes
    objective: Objective
    d: Pair
    weights: tuple[Float32[Array, "negatives"], Float32[Array, "positives"]]
    unit: Float32[Array, ""]
    coordinate: Float32[Array, ""]

    def pairs(self, width: Float32[Array, ""]) -> Pairs:
        """As fields and potentials take them. What fills a tile is far from all else."""

        def placed(d: Float32[Array, "queries targets"], count: int) -> Float32[Array, "queries targets"]:
            rows, columns = (jax.lax.broadcasted_iota(jnp.int32, d.shape, axis) for axis in (0, 1))
            return jnp.where((rows < self.sizes.generated) & (columns < count), d / self.unit, FAR * width)

        d_neg, d_pos = placed(self.d[0], self.sizes.negatives), placed(self.d[1], self.sizes.positives)
        return Pairs(d_pos, d_neg, self.weights[1], self.weights[0], _is_self(self.sizes))

    def affinities(self, pairs: Pairs, width: Float32[Array, ""]) -> Affinities:
        """Those whose product with the targets is the field: what a query weighs itself is among them."""
        pos, neg = self.objective.affinities(pairs, width)
        own = jnp.sum(pos, axis=1, keepdims=True) + jnp.sum(neg, axis=1, keepdims=True)
        return Affinities(pos / self.coordinate, (neg - jnp.where(pairs.is_self, own, 0.0)) / self.coordinate)


# --- the kernels ------------------------------------------------------------------------------------------------------


def _scales(sizes: Sizes, product: Product, *refs: Any) -> None:
    """See `Fused.scales`."""
    features, weights, (weighted, total) = refs[:3], refs[3:6], refs[6:]
    (d_neg, d_pos), (w_neg, w_pos) = _distances(sizes, product, features), _weights(sizes, weights)
    weighted[...] = _mean(sizes, jnp.sum(d_neg * w_neg, axis=1) + jnp.sum(d_pos * w_pos, axis=1))
    total[...] = jnp.sum(w_neg) + jnp.sum(w_pos)


def _norms(sizes: Sizes, product: Product, *refs: Any, objective: Objective) -> None:
    """See `Fused.norms`. Without a reference to put them, the gaps are not computed."""
    features, (widths, unit, coordinate), (values, squares, *gaps) = refs[:3], refs[6:9], refs[9:]
    d, weights = _distances(sizes, product, features), _weights(sizes, refs[3:6])
    problem = _Problem(sizes, objective, d, weights, unit[...], coordinate[...])

    def one(i: Int32[Array, ""], nothing: None) -> None:
        width = widths[i]
        pairs = problem.pairs(width)
        b = problem.affinities(pairs, width)

        def add(first: Int32[Array, ""], total: Float32[Array, "queries"]) -> Float32[Array, "queries"]:
            points = _points(sizes, features, first)
            field = product(b.neg, points.negatives) + product(b.pos, points.positives)
            return total + jnp.sum(field * field, axis=1)

        total = _over_channels(sizes, add, jnp.zeros(sizes.tiles[0], jnp.float32))
        squares[i] = _mean(sizes, total) / sizes.channels
        value = jnp.float32(0)
        if objective.is_scalar and objective.link is not None:
            value = _mean(sizes, potential(pairs, objective.kernel, width, objective.link))
        values[i] = value
        if gaps:
            gaps[0][i] = _mean(sizes, potential(pairs, objective.kernel, width, log_link))

    jax.lax.fori_loop(0, sizes.widths, one, None)


def _gradient(sizes: Sizes, product: Product, *refs: Any, objective: Objective) -> None:
    """See `Fused.gradient`."""
    features, (widths, unit, coordinate, factors, slope), (squares, gradient) = refs[:3], refs[6:11], refs[11:]
    d, weights = _distances(sizes, product, features), _weights(sizes, refs[3:6])
    problem = _Problem(sizes, objective, d, weights, unit[...], coordinate[...])
    by, (queries, negatives, positives) = slope[...], sizes.tiles

    def one(i: Int32[Array, ""], total: Affinities) -> Affinities:
        b, factor = problem.affinities(problem.pairs(widths[i]), widths[i]), factors[i]
        return Affinities(total.pos + factor * b.pos, total.neg + factor * b.neg)

    zeros = Affinities(jnp.zeros((queries, positives), jnp.float32), jnp.zeros((queries, negatives), jnp.float32))
    b = jax.lax.fori_loop(0, sizes.widths, one, zeros)

    def put(first: Int32[Array, ""], total: Float32[Array, "queries"]) -> Float32[Array, "queries"]:
        points = _points(sizes, features, first)
        field = product(b.neg, points.negatives) + product(b.pos, points.positives)
        rows, channels = (jax.lax.broadcasted_iota(jnp.int32, field.shape, axis) for axis in (0, 1))
        mask = (rows < sizes.generated) & (first + channels < sizes.channels)
        triton.store(gradient.at[rows, first + channels], (by * field).astype(gradient.dtype), mask=mask)
        return total + jnp.sum(field * field, axis=1)

    total = _over_channels(sizes, put, jnp.zeros(queries, jnp.float32))
    squares[...] = _mean(sizes, total) / sizes.channels
