"""The passes of the loss as kernels, each one program for a problem: no array of pairs is ever in memory.

Every pass forms a problem's distances anew. Fields and potentials are those of `FIELDS` and `LOSSES`, called inside the
kernels. They are in Pallas, for GPUs by way of Triton and for TPUs by way of Mosaic, which differ in how a program has
its samples: Triton in tiles of powers of two, filled up, some channels at a time; Mosaic all of them, as they are. What
all else has is `drifting.method.loss.Chunked`, the reference.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu, triton
from jaxtyping import Bool, Float, Float32, Int32

from drifting.method.fields import FIELDS, Affinities, Pairs
from drifting.method.kernels import EXACT_PRODUCT, KERNELS
from drifting.method.objective import Objective
from drifting.method.potentials import identity_link, log_link, potential
from drifting.method.problems import DISTANCE_FLOOR, PerChunk, Problems, Units

CHANNELS = 32
"""Channels that a program for GPUs has at a time. With 64, registers do not suffice for 64 x (80 + 64) pairs."""

WARPS = 8
"""Groups of 32 threads of a program for GPUs: 64 x (128 + 64) pairs are 48 numbers a thread."""

MOST_PAIRS = 2**14
"""The most pairs of a program."""

MOST_NUMBERS = 2**19
"""The most numbers of a problem's samples on a TPU, in whose fast memory they are several times over."""

SUBLANES = 8
"""Rows of float32 that a TPU has side by side: arrays are joined at multiples of it."""

FAR = 1e9
"""The distance, in kernel widths, of targets that only fill a tile. In a sum over targets it is nothing."""

# Those that are here now: of a kernel or a field of somebody else nobody knows whether there are its operations.
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
    """The samples of a problem, for which a kernel is made; and the platform, `gpu` or `tpu`."""

    generated: int
    unconditional: int
    positives: int
    channels: int
    widths: int
    platform: str

    @property
    def negatives(self) -> int:
        """Generated and unconditional samples."""
        return self.generated + self.unconditional

    @property
    def tiles(self) -> tuple[int, int, int]:
        """Rows of the tiles of queries, negatives and positives. Triton's are powers of two, its products need 16."""
        counts = self.generated, self.negatives, self.positives
        if self.platform == "tpu":
            return counts
        rows = [max(16, pl.next_power_of_2(count)) for count in counts]
        return rows[0], rows[1], rows[2]

    def are_covered(self) -> bool:
        """Whether a program has room for so many, and can join them."""
        queries, negatives, positives = self.tiles
        fits = queries * (negatives + positives) <= MOST_PAIRS
        if self.platform == "gpu":
            return fits
        joined = not self.unconditional or self.generated % SUBLANES == 0
        return fits and joined and (negatives + positives) * self.channels <= MOST_NUMBERS


class SomeSamples(NamedTuple):
    """Some channels of a problem's samples."""

    generated: Float32[Array, "queries channels"]
    negatives: Float32[Array, "negatives channels"]
    positives: Float32[Array, "positives channels"]


def is_covered(objective: Objective, counts: tuple[int, int, int], channels: int) -> bool:
    """Whether problems are computed by the kernels: they are asked for, and know the objective and its kernel.

    `counts`: generated, unconditional and positive samples of a problem.
    """
    known = objective.field in _FIELDS if objective.link is None else objective.link in _LINKS
    asked = objective.fused is not None and known and objective.kernel in _KERNELS
    return asked and _sizes(objective, counts, channels).are_covered()


def _sizes(objective: Objective, counts: tuple[int, int, int], channels: int, widths: int = 1) -> Sizes:
    return Sizes(*counts, channels, widths, str(objective.fused).partition("-")[0])


class Fused:
    """The passes of the loss over all problems at once."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        generated, real = problems.features
        self._sizes = _sizes(problems.objective, problems.counts, real.shape[3], len(problems.widths))
        self._on_tpu = self._sizes.platform == "tpu"
        self._features: tuple[Array, ...] = (generated, real)
        if self._on_tpu:
            # A block of a TPU has whole rows, from the first on; one of a GPU steps over the other positions.
            unconditional, positives = real[:, : problems.unconditional], real[:, problems.unconditional :]
            # An array of nothing has no block; what stands in its place is not read.
            features = (generated, unconditional if problems.unconditional else generated, positives)
            self._features = tuple(rearrange(x, "l n f c -> l f n c") for x in features)
        negatives = self._sizes.negatives
        self._weights = (problems.weights[:, None, :negatives], problems.weights[:, None, negatives:])

    def scales(self) -> tuple[OfProblem, OfProblem]:
        """Each problem's weighted sum of distances, the mean over its queries; and the sum of its weights."""
        weighted, weights = self._call(_scales, (), [1, 1])
        return weighted[..., 0], weights[..., 0]

    def norms(self, units: Units, measure: Bool[Array, ""] | None) -> tuple[PerChunk, PerChunk, PerChunk]:
        """Of each problem and width the potential (0 of a field), the gap (NaN where it is not asked for; None: it is)
        and the mean square of the field."""
        arguments, count = (self._problems.widths, *units), self._sizes.widths

        def found(measured: bool) -> tuple[PerChunk, PerChunk, PerChunk]:
            values, squares, *gaps = self._call(_norms, arguments, [count] * (3 if measured else 2))
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
        squares, gradient = self._call(_gradient, arguments, [1, self._features[0]])
        gradient = rearrange(gradient, "l f n c -> l n f c") if self._on_tpu else gradient
        return gradient, squares[..., 0]

    def _call(self, kernel: Callable[..., None], arguments: Refs, outputs: list[Any]) -> list[Any]:
        """Runs a kernel, one program for each label and position.

        Args:
            kernel: takes a `_Program`, and references to arguments and outputs; numbers are rows, `[1, count]`.
            arguments: `[widths]`, or `[chunks, problems]` and perhaps more.
            outputs: how many numbers of a problem it is; or an array of features like which one is made.
        """
        labels, _, positions, _ = self._problems.features[0].shape
        objective, on_tpu = self._problems.objective, self._on_tpu
        interpreted = str(objective.fused).endswith("-interpreted")
        scalars: dict[str, Any] = {"memory_space": tpu.SMEM} if on_tpu else {}

        def features(x: Any) -> pl.BlockSpec:
            if on_tpu:
                return pl.BlockSpec((None, None, *x.shape[2:]), lambda label, place: (label, place, 0, 0))
            return pl.BlockSpec((None, x.shape[1], None, x.shape[3]), lambda label, place: (label, 0, place, 0))

        def numbers(count: int) -> pl.BlockSpec:
            return pl.BlockSpec((None, 1, count), lambda label, place: (label * positions + place, 0, 0), **scalars)

        def made(x: Any) -> jax.ShapeDtypeStruct:
            if isinstance(x, int):
                return jax.ShapeDtypeStruct((labels * positions, 1, x), jnp.float32)
            return jax.ShapeDtypeStruct(x.shape, x.dtype)

        weights = [pl.BlockSpec((None, *w.shape[1:]), lambda label, place: (label, 0, 0)) for w in self._weights]
        widths = pl.BlockSpec((1, self._sizes.widths), lambda label, place: (0, 0), **scalars)
        rows = [x[None] if x.ndim == 1 else x.reshape(labels * positions, 1, -1) for x in arguments]
        given = [widths if x.ndim == 2 else numbers(x.shape[2]) for x in rows]

        def program(*refs: Any) -> None:
            first, rest = len(self._features), len(self._features) + len(self._weights)
            kernel(_Program(self._sizes, objective, interpreted, refs[:first], refs[first:rest]), *refs[rest:])

        found = pl.pallas_call(
            program,
            grid=(labels, positions),
            in_specs=[*map(features, self._features), *weights, *given],
            out_specs=[numbers(x) if isinstance(x, int) else features(x) for x in outputs],
            out_shape=[made(x) for x in outputs],
            compiler_params=None if on_tpu else triton.CompilerParams(num_warps=WARPS, num_stages=2),
            interpret=interpreted,
            name=f"loss{kernel.__name__}",
        )(*self._features, *self._weights, *rows)
        return [
            x.reshape(1, labels * positions, count) if isinstance(count, int) else x
            for x, count in zip(found, outputs, strict=True)
        ]


class _Program(NamedTuple):
    """What a program has of its problem: references to its samples and weights."""

    sizes: Sizes
    objective: Objective
    interpreted: bool
    features: Refs
    weights: Refs

    @property
    def on_tpu(self) -> bool:
        return self.sizes.platform == "tpu"

    def product(self, a: Float32[Array, "a b"], b: Float32[Array, "b c"]) -> Float32[Array, "a c"]:
        """Six products of bfloat16 parts, which keep float32's digits: on a TPU that is the highest precision."""
        exact = jax.lax.DotAlgorithmPreset.BF16_BF16_F32_X6
        return jnp.matmul(a, b, precision=EXACT_PRODUCT if self.on_tpu or self.interpreted else exact)

    def points(self, first: Int32[Array, ""] | int) -> SomeSamples:
        """The samples in the channels from `first` on, the origin among them. Rows that fill a tile lie anywhere."""
        gen, neg, pos = self._whole() if self.on_tpu else self._tiles(first)
        origin = jnp.sum(pos, axis=0, keepdims=True) / self.sizes.positives
        return SomeSamples(gen - origin, neg - origin, pos - origin)

    def _whole(self) -> SomeSamples:
        gen, unc, pos = (ref[...].astype(jnp.float32) for ref in self.features)
        return SomeSamples(gen, jnp.concatenate([gen, unc], axis=0) if self.sizes.unconditional else gen, pos)

    def _tiles(self, first: Int32[Array, ""] | int) -> SomeSamples:
        sizes, (generated, real) = self.sizes, self.features
        queries, negatives, targets = sizes.tiles
        channels = first + jax.lax.broadcasted_iota(jnp.int32, (1, CHANNELS), 1)

        def load(ref: Any, rows: int, count: int, after: int = 0, start: int = 0) -> Float32[Array, "rows channels"]:
            """`count` samples of `ref` from `start` on, behind `after` rows of zeros."""
            own = jax.lax.broadcasted_iota(jnp.int32, (rows, 1), 0) - after
            mask = (own >= 0) & (own < count) & (channels < sizes.channels)
            at = tuple(jnp.broadcast_to(index, mask.shape) for index in (own + start, channels))
            return triton.load(ref.at[at], mask=mask, other=0).astype(jnp.float32)

        neg = load(generated, negatives, sizes.generated)
        if sizes.unconditional:
            neg = neg + load(real, negatives, sizes.unconditional, after=sizes.generated)
        pos = load(real, targets, sizes.positives, start=sizes.unconditional)
        return SomeSamples(load(generated, queries, sizes.generated), neg, pos)

    def over_channels(self, add: Callable[[Any, Any], Any], start: Any) -> Any:
        """`add(first channel, total)` for as many channels as a program has at a time."""
        if self.on_tpu:
            return add(0, start)
        trips = pl.cdiv(self.sizes.channels, CHANNELS)
        return jax.lax.fori_loop(0, trips, lambda i, total: add(i * CHANNELS, total), start)

    def each_weight(self) -> tuple[Float32[Array, "negatives"], Float32[Array, "positives"]]:
        """Weights of the negatives and of the positives; what fills a tile has none."""
        if self.on_tpu:
            negatives, positives = (ref[0] for ref in self.weights)
            return negatives, positives

        def load(ref: Any, rows: int, count: int) -> Float32[Array, "rows"]:
            own = jax.lax.iota(jnp.int32, rows)
            return triton.load(ref.at[0, own], mask=own < count, other=0.0).astype(jnp.float32)

        (_, negatives, positives), sizes = self.sizes.tiles, self.sizes
        return load(self.weights[0], negatives, sizes.negatives), load(self.weights[1], positives, sizes.positives)

    def is_self(self) -> Bool[Array, "queries negatives"]:
        """Whether a negative is the query itself."""
        shape = self.sizes.tiles[:2]
        return jax.lax.broadcasted_iota(jnp.int32, shape, 0) == jax.lax.broadcasted_iota(jnp.int32, shape, 1)

    def distances(self) -> Pair:
        """Raw distances of all pairs."""
        queries, negatives, positives = self.sizes.tiles

        def add(first: Int32[Array, ""] | int, total: Pair) -> Pair:
            points = self.points(first)
            x = points.generated

            def squared(y: Float32[Array, "targets channels"]) -> Float32[Array, "queries targets"]:
                return jnp.sum(x * x, axis=1)[:, None] + jnp.sum(y * y, axis=1)[None] - 2 * self.product(x, y.T)

            return total[0] + squared(points.negatives), total[1] + squared(points.positives)

        zeros = jnp.zeros((queries, negatives), jnp.float32), jnp.zeros((queries, positives), jnp.float32)
        squares = self.over_channels(add, zeros)
        d_neg, d_pos = (jnp.sqrt(jnp.maximum(square, DISTANCE_FLOOR**2)) for square in squares)
        return jnp.where(self.is_self(), DISTANCE_FLOOR, d_neg), d_pos

    def mean(self, x: Float32[Array, "queries"]) -> Float32[Array, ""]:
        """The mean over the queries, without what fills their tile."""
        if self.sizes.tiles[0] > self.sizes.generated:
            x = jnp.where(jax.lax.iota(jnp.int32, self.sizes.tiles[0]) < self.sizes.generated, x, 0.0)
        return jnp.sum(x) / self.sizes.generated

    def pairs(self, d: Pair, unit: Float32[Array, ""], width: Float32[Array, ""]) -> Pairs:
        """The pairs as fields and potentials take them. What fills a tile is far from all else."""

        def placed(d: Float32[Array, "queries targets"], count: int) -> Float32[Array, "queries targets"]:
            if d.shape == (self.sizes.generated, count):
                return d / unit
            rows, columns = (jax.lax.broadcasted_iota(jnp.int32, d.shape, axis) for axis in (0, 1))
            return jnp.where((rows < self.sizes.generated) & (columns < count), d / unit, FAR * width)

        w_neg, w_pos = self.each_weight()
        return Pairs(
            placed(d[1], self.sizes.positives), placed(d[0], self.sizes.negatives), w_pos, w_neg, self.is_self()
        )

    def affinities(self, pairs: Pairs, width: Float32[Array, ""], coordinate: Float32[Array, ""]) -> Affinities:
        """Those whose product with the targets is the field: what a query weighs itself is among them."""
        pos, neg = self.objective.affinities(pairs, width)
        own = jnp.sum(pos, axis=1, keepdims=True) + jnp.sum(neg, axis=1, keepdims=True)
        return Affinities(pos / coordinate, (neg - jnp.where(pairs.is_self, own, 0.0)) / coordinate)

    def field(self, b: Affinities, points: SomeSamples) -> Float32[Array, "queries channels"]:
        """The field of these affinities, in some channels."""
        return self.product(b.neg, points.negatives) + self.product(b.pos, points.positives)

    def put(self, ref: Any, first: Int32[Array, ""] | int, x: Float32[Array, "queries channels"]) -> None:
        """Writes an array of the generated samples, in the channels from `first` on."""
        if self.on_tpu:
            ref[...] = x.astype(ref.dtype)
            return
        rows, channels = (jax.lax.broadcasted_iota(jnp.int32, x.shape, axis) for axis in (0, 1))
        mask = (rows < self.sizes.generated) & (first + channels < self.sizes.channels)
        triton.store(ref.at[rows, first + channels], x.astype(ref.dtype), mask=mask)


# --- the kernels ------------------------------------------------------------------------------------------------------


def _scales(program: _Program, weighted: Any, total: Any) -> None:
    """See `Fused.scales`."""
    (d_neg, d_pos), (w_neg, w_pos) = program.distances(), program.each_weight()
    weighted[0, 0] = program.mean(jnp.sum(d_neg * w_neg, axis=1) + jnp.sum(d_pos * w_pos, axis=1))
    total[0, 0] = jnp.sum(w_neg) + jnp.sum(w_pos)


def _norms(
    program: _Program, widths: Any, unit: Any, coordinate: Any, values: Any, squares: Any, gaps: Any = None
) -> None:
    """See `Fused.norms`. Without a reference to put them, the gaps are not computed."""
    objective, d = program.objective, program.distances()

    def one(i: Int32[Array, ""], nothing: None) -> None:
        width = widths[0, i]
        pairs = program.pairs(d, unit[0, 0], width)
        b = program.affinities(pairs, width, coordinate[0, 0])

        def add(first: Int32[Array, ""] | int, total: Float32[Array, "queries"]) -> Float32[Array, "queries"]:
            return total + jnp.sum(jnp.square(program.field(b, program.points(first))), axis=1)

        total = program.over_channels(add, jnp.zeros(program.sizes.tiles[0], jnp.float32))
        squares[0, i] = program.mean(total) / program.sizes.channels
        value = jnp.float32(0)
        if objective.is_scalar and objective.link is not None:
            value = program.mean(potential(pairs, objective.kernel, width, objective.link))
        values[0, i] = value
        if gaps is not None:
            gaps[0, i] = program.mean(potential(pairs, objective.kernel, width, log_link))

    jax.lax.fori_loop(0, program.sizes.widths, one, None)


def _gradient(
    program: _Program, widths: Any, unit: Any, coordinate: Any, factors: Any, slope: Any, squares: Any, gradient: Any
) -> None:
    """See `Fused.gradient`."""
    d, (queries, negatives, positives) = program.distances(), program.sizes.tiles

    def one(i: Int32[Array, ""], total: Affinities) -> Affinities:
        width, factor = widths[0, i], factors[0, i]
        b = program.affinities(program.pairs(d, unit[0, 0], width), width, coordinate[0, 0])
        return Affinities(total.pos + factor * b.pos, total.neg + factor * b.neg)

    zeros = Affinities(jnp.zeros((queries, positives), jnp.float32), jnp.zeros((queries, negatives), jnp.float32))
    b = jax.lax.fori_loop(0, program.sizes.widths, one, zeros)

    def add(first: Int32[Array, ""] | int, total: Float32[Array, "queries"]) -> Float32[Array, "queries"]:
        field = program.field(b, program.points(first))
        program.put(gradient, first, slope[0, 0] * field)
        return total + jnp.sum(jnp.square(field), axis=1)

    total = program.over_channels(add, jnp.zeros(queries, jnp.float32))
    squares[0, 0] = program.mean(total) / program.sizes.channels
