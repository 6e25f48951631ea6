"""The passes of the loss as kernels, each one program for a problem: no array of pairs is ever in memory.

Every pass forms a problem's distances anew. Kernels are in Pallas, for GPUs by way of Triton and for TPUs by way of
Mosaic; what a program does is in `drifting.method.loss_program`. What all else has is `drifting.method.loss.Chunked`,
the reference.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu, triton
from jaxtyping import Bool, Float32

from drifting.method.fields import FIELDS
from drifting.method.kernels import KERNELS
from drifting.method.loss_program import (
    CHANNELS,
    ProblemNumbers,
    Sizes,
    TiledProgram,
    WholeProgram,
    gradient,
    norms,
    scales,
)
from drifting.method.objective import Objective
from drifting.method.potentials import identity_link, log_link
from drifting.method.problems import MapGradients, PerChunk, Problems, Units

PROGRAMS = [512 * 16**k for k in range(7)]
"""How many programs a kernel for GPUs has: the least that suffices for its problems. The others end at once."""

WARPS = 4
"""Groups of 32 threads of a program for GPUs: of these an H100 has two programs at a time, which together take four
fifths of the time that one of 8 takes, although more registers are spilled."""

# Those that are here now: of a kernel or a field of somebody else nobody knows whether there are its operations.
_KERNELS = tuple(KERNELS.values())

_FIELDS = tuple(FIELDS.values())

_LINKS = (log_link, identity_link)

Outputs = list[int | None]

OfProblem = Float32[Array, "chunks problems"]
"""A number of each problem."""


def is_covered(objective: Objective, counts: tuple[int, int, int], channels: int, problems: int = 1) -> bool:
    """Whether problems are computed by the kernels: they are asked for, and know the objective and its kernel.

    Args:
        objective: what to compute.
        counts: generated, unconditional and positive samples of a problem.
        channels: of a feature.
        problems: how many there are on a device.
    """
    known = objective.field in _FIELDS if objective.link is None else objective.link in _LINKS
    asked = objective.fused is not None and known and objective.kernel in _KERNELS
    return asked and sizes_of(objective, counts).are_covered(problems, channels)


def sizes_of(objective: Objective, counts: tuple[int, int, int]) -> Sizes:
    """The samples of a problem, as the kernels have them that the objective asks for."""
    return Sizes(*counts, str(objective.fused).partition("-")[0])


class Fused:
    """The passes of the loss over all problems at once."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self._sizes = sizes_of(problems.objective, problems.counts)
        self._interpreted = str(problems.objective.fused).endswith("-interpreted")
        negatives = self._sizes.negatives
        self._weights = (problems.weights[:, :negatives], problems.weights[:, negatives:])
        self._call = self._on_tpu if self._sizes.platform == "tpu" else self._on_gpu

    def scales(self) -> tuple[OfProblem, OfProblem]:
        """Each problem's weighted sum of distances, the mean over its queries; and the sum of its weights."""
        weighted, weights = self._call(scales, (), [1, 1])
        return weighted[..., 0], weights[..., 0]

    def norms(self, units: Units, measure: Bool[Array, ""] | None) -> tuple[PerChunk, PerChunk, PerChunk]:
        """Of each problem and width the potential (0 of a field), the gap (NaN where it is not asked for; None: it is)
        and the mean square of the field."""
        count = len(self._problems.widths)
        # Decided by the kernel: of two kernels each would have to be compiled.
        asked = jnp.ones(1) if measure is None else measure.astype(jnp.float32)[None]
        values, gaps, squares = self._call(norms, (self._problems.widths, asked, *units), [count] * 3)
        return values, jnp.where(asked > 0, gaps, jnp.nan), squares

    def gradient(self, units: Units, factors: PerChunk, slope: OfProblem) -> tuple[MapGradients, OfProblem]:
        """`slope` times the sum over the widths of the fields times their `factors`, as arrays of the generated
        samples; and each problem's mean square of that sum."""
        arguments = (self._problems.widths, *units, factors, slope)
        squares, found = self._call(gradient, arguments, [1, None])
        return self._problems.by_map(found, 2), squares[..., 0]

    def _on_gpu(self, kernel: Callable[..., None], arguments: tuple[Any, ...], outputs: Outputs) -> list[Any]:
        """Runs a kernel by way of Triton.

        A kernel has no shape of a map in it, and every one as many programs: what is compiled once serves all maps,
        for XLA keeps a module's kernels by their text.

        Args:
            kernel: takes a `Program`, and `ProblemNumbers` of arguments and outputs.
            arguments: `[widths]`, or `[chunks, problems]` and perhaps more.
            outputs: how many numbers of a problem it is; None: an array like the features of generated samples.
        """
        generated, real = self._problems.features
        labels, _, positions, channels = generated.shape
        problems, features = labels * positions, (generated.reshape(-1), real.reshape(-1))
        # That channels fill tiles is known to a kernel: it reads many numbers at a time then.
        granule = 1 if channels % CHANNELS else CHANNELS
        shape = jnp.asarray([problems, positions, channels // granule], jnp.int32)
        weights, given = [x.reshape(-1) for x in self._weights], [x.reshape(-1) for x in arguments]
        # A number of each problem, or so many; widths are all problems' own.
        counts = [*(0 if x.ndim == 1 else x.size // problems for x in arguments), *outputs]
        objective, widths = self._problems.objective, len(self._problems.widths)

        def program(shape: Any, *refs: Any) -> None:
            problem, (count_of_all, places, granules) = pl.program_id(0), (shape[i] for i in range(3))
            common = (self._sizes, objective, refs[:2], refs[2:4], widths, granules * granule)
            place = problem // places, problem % places, places
            own = TiledProgram(*common, *place, granule == CHANNELS, self._interpreted)
            found = zip(refs[4:], counts, strict=True)
            numbers = [ref if count is None else ProblemNumbers(ref, problem * count) for ref, count in found]
            # A loop over problems would need fewer kernels yet, but keeps so much in registers that others are spilled.
            pl.when(problem < count_of_all)(lambda: kernel(own, *numbers))

        def made(count: int | None) -> jax.ShapeDtypeStruct:
            if count is None:
                return jax.ShapeDtypeStruct((generated.size,), generated.dtype)
            return jax.ShapeDtypeStruct((problems * count,), jnp.float32)

        # Where it begins is all that a kernel should have of an array; the interpreter keeps to what is in the block.
        begin = pl.BlockSpec() if self._interpreted else pl.BlockSpec((1,), lambda _: (0,))
        found = pl.pallas_call(
            program,
            grid=(next(count for count in PROGRAMS if count >= problems),),
            in_specs=[pl.BlockSpec(), *[begin] * (4 + len(given))],
            out_specs=[begin] * len(outputs),
            out_shape=[made(count) for count in outputs],
            compiler_params=triton.CompilerParams(num_warps=WARPS, num_stages=2),
            interpret=self._interpreted,
            name=f"loss_{kernel.__name__}",
        )(shape, *features, *weights, *given)
        rows = [generated.shape if count is None else (1, problems, count) for count in outputs]
        return [x.reshape(row) for x, row in zip(found, rows, strict=True)]

    def _on_tpu(self, kernel: Callable[..., None], arguments: tuple[Any, ...], outputs: Outputs) -> list[Any]:
        """Runs a kernel by way of Mosaic, one program for each label and position; see `_on_gpu`."""
        generated, real = self._problems.features
        (labels, _, positions, channels), widths = generated.shape, len(self._problems.widths)
        # A block of a TPU has whole rows, from the first on, so that the positions have to come before the samples.
        unconditional, positives = real[:, : self._sizes.unconditional], real[:, self._sizes.unconditional :]
        # An array of nothing has no block; what stands in its place is not read.
        apart = (generated, unconditional if self._sizes.unconditional else generated, positives)
        features = [rearrange(x, "l n f c -> l f n c") for x in apart]

        def block(x: Any) -> pl.BlockSpec:
            return pl.BlockSpec((None, None, *x.shape[2:]), lambda label, place: (label, place, 0, 0))

        def of_all(x: Any) -> pl.BlockSpec:
            return pl.BlockSpec(x.shape, lambda label, place: (0, 0), memory_space=tpu.SMEM)

        def numbers(count: int) -> pl.BlockSpec:
            at = lambda label, place: (label * positions + place, 0, 0)  # noqa: E731
            return pl.BlockSpec((None, 1, count), at, memory_space=tpu.SMEM)

        def made(count: int | None) -> jax.ShapeDtypeStruct:
            if count is None:
                return jax.ShapeDtypeStruct(features[0].shape, generated.dtype)
            return jax.ShapeDtypeStruct((labels * positions, 1, count), jnp.float32)

        weights = [pl.BlockSpec((None, 1, x.shape[1]), lambda label, place: (label, 0, 0)) for x in self._weights]
        rows = [x[None] if x.ndim == 1 else x.reshape(labels * positions, 1, -1) for x in arguments]
        given = [of_all(x) if x.ndim == 2 else numbers(x.shape[2]) for x in rows]
        counts = [*(x.shape[-1] for x in rows), *outputs]

        def program(*refs: Any) -> None:
            own = WholeProgram(self._sizes, self._problems.objective, refs[:3], refs[3:5], widths, channels)
            found = zip(refs[5:], counts, strict=True)
            kernel(own, *(ref if count is None else ProblemNumbers(ref.at[0]) for ref, count in found))

        found = pl.pallas_call(
            program,
            grid=(labels, positions),
            in_specs=[*map(block, features), *weights, *given],
            out_specs=[block(features[0]) if count is None else numbers(count) for count in outputs],
            out_shape=[made(count) for count in outputs],
            interpret=self._interpreted,
            name=f"loss_{kernel.__name__}",
        )(*features, *(x[:, None] for x in self._weights), *rows)
        return [
            rearrange(x, "l f n c -> l n f c") if count is None else x.reshape(1, labels * positions, count)
            for x, count in zip(found, outputs, strict=True)
        ]
