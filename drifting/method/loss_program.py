"""What a program of the loss's kernels does with its problem: distances, fields, norms, gradient.

Kernels call the fields and potentials of `FIELDS` and `LOSSES` themselves. On a GPU samples are in tiles of powers of
two, filled up, some channels at a time; on a TPU all of them are there, as they are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Bool, Float32, Int32

from drifting.method.fields import Affinities, Pairs
from drifting.method.kernels import EXACT_PRODUCT, safe_sqrt
from drifting.method.objective import Objective
from drifting.method.potentials import log_link, potential
from drifting.method.problems import DISTANCE_FLOOR

CHANNELS = 32
"""Channels that a program for GPUs has at a time. With 16 an H100 takes half as long again, with 64 (and
256 threads) a tenth less."""

MOST_PAIRS = 2**14
"""The most pairs of a program."""

MOST_NUMBERS = 2**19
"""The most numbers of a problem's samples on a TPU, in whose fast memory they are several times over."""

MOST_COUNTED = 2**31
"""The numbers of an array must be fewer: a program for GPUs counts them in 32 bits."""

SUBLANES = 8
"""Rows of float32 that a TPU has side by side: arrays are joined at multiples of it."""

FAR = 1e18
"""The distance, in kernel widths, of targets that only fill a tile: in a sum over targets it is nothing, and its square
is finite."""

Refs = tuple[Any, ...]
"""References to arrays, as Pallas gives them to a kernel."""

Pair = tuple[Float32[Array, "queries negatives"], Float32[Array, "queries positives"]]
"""A number for each pair of a query with a negative, and with a positive."""


class Sizes(NamedTuple):
    """The samples of a problem, for which a kernel is made; and the platform, `gpu` or `tpu`."""

    generated: int
    unconditional: int
    positives: int
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

    @property
    def pairs(self) -> int:
        """Pairs of a program, those of the tiles."""
        queries, negatives, positives = self.tiles
        return queries * (negatives + positives)

    def are_covered(self, problems: int, channels: int) -> bool:
        """Whether a program has room for so many, of so many channels, and can join them; and whether the numbers of
        all problems can be counted."""
        fits = self.pairs <= MOST_PAIRS
        if self.platform == "gpu":
            samples = max(self.generated, self.unconditional + self.positives)
            return fits and problems * samples * channels < MOST_COUNTED
        joined = not self.unconditional or self.generated % SUBLANES == 0
        return fits and joined and (self.negatives + self.positives) * channels <= MOST_NUMBERS


class SomeSamples(NamedTuple):
    """Some channels of a problem's samples."""

    generated: Float32[Array, "queries channels"]
    negatives: Float32[Array, "negatives channels"]
    positives: Float32[Array, "positives channels"]


@dataclass(frozen=True, repr=False)
class ProblemNumbers:
    """Those of an array that belong to a problem: `ref` has them from `first` on."""

    ref: Any
    first: Int32[Array, ""] | int = 0

    def __getitem__(self, i: Int32[Array, ""] | int) -> Float32[Array, ""]:
        return self.ref[self.first + i]

    def __setitem__(self, i: Int32[Array, ""] | int, x: Float32[Array, ""]) -> None:
        self.ref[self.first + i] = x


@dataclass(frozen=True, repr=False)
class Program:
    """What a program has of its problem, and computes of it.

    Attributes:
        sizes: how many samples a problem has.
        objective: whose field or potential it is.
        features: references to features of generated and real samples.
        weights: references to weights of negatives and positives.
        widths: how many kernel widths there are.
        channels: how many a feature has.
    """

    sizes: Sizes
    objective: Objective
    features: Refs
    weights: Refs
    widths: int
    channels: Int32[Array, ""] | int

    def product(self, a: Float32[Array, "a b"], b: Float32[Array, "b c"]) -> Float32[Array, "a c"]:
        """A product that keeps float32's digits."""
        return jnp.matmul(a, b, precision=EXACT_PRODUCT)

    def points(self, first: Int32[Array, ""] | int) -> SomeSamples:
        """The samples in the channels from `first` on, the origin among them. Rows that fill a tile lie anywhere."""
        gen, neg, pos = self.samples(first)
        origin = jnp.sum(pos, axis=0, keepdims=True) / self.sizes.positives
        return SomeSamples(gen - origin, neg - origin, pos - origin)

    def samples(self, first: Int32[Array, ""] | int) -> SomeSamples:
        """The samples in the channels from `first` on; zeros fill the tiles."""
        raise NotImplementedError

    def over_channels(self, add: Callable[[Any, Any], Any], start: Any) -> Any:
        """`add(first channel, total)` for as many channels as a program has at a time."""
        raise NotImplementedError

    def each_weight(self) -> tuple[Float32[Array, "negatives"], Float32[Array, "positives"]]:
        """Weights of the negatives and of the positives; what fills a tile has none."""
        raise NotImplementedError

    def put(self, ref: Any, first: Int32[Array, ""] | int, x: Float32[Array, "queries channels"]) -> None:
        """Writes an array of the generated samples, in the channels from `first` on."""
        raise NotImplementedError

    def is_self(self) -> Bool[Array, "queries negatives"]:
        """Whether a negative is the query itself. What fills a tile is none."""
        rows, columns = (jax.lax.broadcasted_iota(jnp.int32, self.sizes.tiles[:2], axis) for axis in (0, 1))
        return (rows == columns) & (rows < self.sizes.generated)

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
        d_neg, d_pos = (safe_sqrt(square, DISTANCE_FLOOR) for square in squares)
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
        d_pos, d_neg = placed(d[1], self.sizes.positives), placed(d[0], self.sizes.negatives)
        return Pairs(d_pos, d_neg, w_pos, w_neg, self.is_self(), DISTANCE_FLOOR / unit)

    def affinities(self, pairs: Pairs, width: Float32[Array, ""], coordinate: Float32[Array, ""]) -> Affinities:
        """Those whose product with the targets is the field: what a query weighs itself is among them."""
        pos, neg = self.objective.affinities(pairs, width)
        if not self.objective.is_balanced:
            own = jnp.sum(pos, axis=1, keepdims=True) + jnp.sum(neg, axis=1, keepdims=True)
            neg -= jnp.where(pairs.is_self, own, 0.0)
        return Affinities(pos / coordinate, neg / coordinate)

    def field(self, b: Affinities, points: SomeSamples) -> Float32[Array, "queries channels"]:
        """The field of these affinities, in some channels."""
        return self.product(b.neg, points.negatives) + self.product(b.pos, points.positives)


class WholeProgram(Program):
    """A program for TPUs: features of generated, unconditional and positive samples, `[samples, channels]` each."""

    def samples(self, first: Int32[Array, ""] | int) -> SomeSamples:
        """All of them, in all channels."""
        gen, unc, pos = (ref[...].astype(jnp.float32) for ref in self.features)
        return SomeSamples(gen, jnp.concatenate([gen, unc], axis=0) if self.sizes.unconditional else gen, pos)

    def over_channels(self, add: Callable[[Any, Any], Any], start: Any) -> Any:
        """All at a time."""
        return add(0, start)

    def each_weight(self) -> tuple[Float32[Array, "negatives"], Float32[Array, "positives"]]:
        """As they are."""
        negatives, positives = (ref[0] for ref in self.weights)
        return negatives, positives

    def put(self, ref: Any, first: Int32[Array, ""] | int, x: Float32[Array, "queries channels"]) -> None:
        """Writes the array."""
        ref[...] = x.astype(ref.dtype)


@dataclass(frozen=True, repr=False)
class TiledProgram(Program):
    """A program for GPUs: features of generated samples, and of unconditional and positive ones, of all problems.

    The arrays are flat, and what differs between maps is a number that is read: then one kernel serves all maps.

    Attributes:
        label, place: the problem's label and position.
        positions: how many there are.
        filled: whether channels are a multiple of `CHANNELS`.
        interpreted: whether there is no GPU.
    """

    label: Int32[Array, ""]
    place: Int32[Array, ""]
    positions: Int32[Array, ""]
    filled: bool
    interpreted: bool

    def product(self, a: Float32[Array, "a b"], b: Float32[Array, "b c"]) -> Float32[Array, "a c"]:
        """Six products of bfloat16 parts, which keep float32's digits."""
        if self.interpreted:
            return super().product(a, b)
        return jnp.matmul(a, b, precision=jax.lax.DotAlgorithmPreset.BF16_BF16_F32_X6)

    def samples(self, first: Int32[Array, ""] | int) -> SomeSamples:
        """Tiles of them, `CHANNELS` wide."""
        sizes, (generated, real) = self.sizes, self.features
        queries, negatives, targets = sizes.tiles
        reals = sizes.unconditional + sizes.positives

        def load(
            ref: Any, samples: int, rows: int, count: int, after: int = 0, start: int = 0
        ) -> Float32[Array, "rows channels"]:
            """`count` of `samples` samples of `ref` from `start` on, behind `after` rows of zeros."""
            own = jax.lax.broadcasted_iota(jnp.int32, (rows, 1), 0) - after
            at, mask = self._places(own + start, samples, first)
            return triton.load(ref.at[at], mask=mask & (own >= 0) & (own < count), other=0).astype(jnp.float32)

        neg = load(generated, sizes.generated, negatives, sizes.generated)
        if sizes.unconditional:
            neg = neg + load(real, reals, negatives, sizes.unconditional, after=sizes.generated)
        pos = load(real, reals, targets, sizes.positives, start=sizes.unconditional)
        return SomeSamples(load(generated, sizes.generated, queries, sizes.generated), neg, pos)

    def _places(
        self, sample: Int32[Array, "rows 1"], samples: int, first: Int32[Array, ""] | int
    ) -> tuple[Int32[Array, "rows channels"], Bool[Array, "rows channels"]]:
        """Where an array of so many samples a problem has these, in some channels; and which of the channels it has."""
        channels = first + jax.lax.broadcasted_iota(jnp.int32, (sample.shape[0], CHANNELS), 1)
        row = (self.label * samples + sample) * self.positions + self.place
        return row * self.channels + channels, (channels < self.channels) | self.filled

    def over_channels(self, add: Callable[[Any, Any], Any], start: Any) -> Any:
        """`CHANNELS` at a time, the last perhaps fewer."""
        trips = pl.cdiv(self.channels, CHANNELS)
        return jax.lax.fori_loop(0, trips, lambda i, total: add(i * CHANNELS, total), start)

    def each_weight(self) -> tuple[Float32[Array, "negatives"], Float32[Array, "positives"]]:
        """Those of the tiles' rows."""

        def load(ref: Any, rows: int, count: int) -> Float32[Array, "rows"]:
            own = jax.lax.iota(jnp.int32, rows)
            return triton.load(ref.at[self.label * count + own], mask=own < count, other=0.0).astype(jnp.float32)

        (_, negatives, positives), sizes = self.sizes.tiles, self.sizes
        return load(self.weights[0], negatives, sizes.negatives), load(self.weights[1], positives, sizes.positives)

    def put(self, ref: Any, first: Int32[Array, ""] | int, x: Float32[Array, "queries channels"]) -> None:
        """Writes the rows and channels that there are."""
        own = jax.lax.broadcasted_iota(jnp.int32, (x.shape[0], 1), 0)
        at, mask = self._places(own, self.sizes.generated, first)
        triton.store(ref.at[at], x.astype(ref.dtype), mask=mask & (own < self.sizes.generated))


# --- the kernels ------------------------------------------------------------------------------------------------------


def scales(program: Program, weighted: ProblemNumbers, total: ProblemNumbers) -> None:
    """See `drifting.method.fused.Fused.scales`."""
    (d_neg, d_pos), (w_neg, w_pos) = program.distances(), program.each_weight()
    weighted[0] = program.mean(jnp.sum(d_neg * w_neg, axis=1) + jnp.sum(d_pos * w_pos, axis=1))
    total[0] = jnp.sum(w_neg) + jnp.sum(w_pos)


def norms(
    program: Program,
    widths: ProblemNumbers,
    asked: ProblemNumbers,
    unit: ProblemNumbers,
    coordinate: ProblemNumbers,
    values: ProblemNumbers,
    gaps: ProblemNumbers,
    squares: ProblemNumbers,
) -> None:
    """See `drifting.method.fused.Fused.norms`. The gaps are 0 unless they are asked for."""
    objective, d = program.objective, program.distances()

    def one(i: Int32[Array, ""], nothing: None) -> None:
        width = widths[i]
        pairs = program.pairs(d, unit[0], width)
        b = program.affinities(pairs, width, coordinate[0])

        def add(first: Int32[Array, ""] | int, total: Float32[Array, "queries"]) -> Float32[Array, "queries"]:
            return total + jnp.sum(jnp.square(program.field(b, program.points(first))), axis=1)

        total = program.over_channels(add, jnp.zeros(program.sizes.tiles[0], jnp.float32))
        squares[i] = program.mean(total) / program.channels
        value = jnp.float32(0)
        if objective.is_scalar and objective.link is not None:
            value = program.mean(potential(pairs, objective.kernel, width, objective.link))
        values[i] = value
        gaps[i] = jnp.float32(0)

        @pl.when(asked[0] > 0)
        def _() -> None:
            gaps[i] = program.mean(potential(pairs, objective.kernel, width, log_link))

    jax.lax.fori_loop(0, program.widths, one, None)


def gradient(
    program: Program,
    widths: ProblemNumbers,
    unit: ProblemNumbers,
    coordinate: ProblemNumbers,
    factors: ProblemNumbers,
    slope: ProblemNumbers,
    squares: ProblemNumbers,
    gradient: Any,
) -> None:
    """See `drifting.method.fused.Fused.gradient`."""
    d, (queries, negatives, positives) = program.distances(), program.sizes.tiles

    def one(i: Int32[Array, ""], total: Affinities) -> Affinities:
        width, factor = widths[i], factors[i]
        b = program.affinities(program.pairs(d, unit[0], width), width, coordinate[0])
        return Affinities(total.pos + factor * b.pos, total.neg + factor * b.neg)

    zeros = Affinities(jnp.zeros((queries, positives), jnp.float32), jnp.zeros((queries, negatives), jnp.float32))
    b = jax.lax.fori_loop(0, program.widths, one, zeros)

    def add(first: Int32[Array, ""] | int, total: Float32[Array, "queries"]) -> Float32[Array, "queries"]:
        field = program.field(b, program.points(first))
        program.put(gradient, first, slope[0] * field)
        return total + jnp.sum(jnp.square(field), axis=1)

    total = program.over_channels(add, jnp.zeros(queries, jnp.float32))
    squares[0] = program.mean(total) / program.channels
