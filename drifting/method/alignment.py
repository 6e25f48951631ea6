"""How well two drift fields, or a field and the score, point the same way."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Float32

from drifting.method.fields import Affinities, Pairs, displace, mean_shift, smoothed_score
from drifting.method.kernels import Kernel, Width


class Alignment(NamedTuple):
    """How the mean shift `V` of a kernel relates to its score `s`, over the queries.

    With `a(x)` the kernel-weighted mean of `k / kb` (for Laplace `width` times the distance, for Gauss `width^2`),
    Theorem 2 reads `V = a s + delta`. Differences are p's value minus q's.

    Attributes:
        scale: `C*`, the number that makes `C* ds` nearest to `dV`.
        error: `E|dV - C* ds|^2`.
        relative_error: the error over `E|dV|^2`.
        cosine: mean over the queries of the cosine of the angle between `dV` and `ds`.
        preconditioner_ratio: `E a_p / E a_q`.
        theory_ratio: `C* / C` with the theory's `C = (E a_p + E a_q) / 2`.
        residual_gap: `E|delta_p - delta_q|^2`.
        field_norm: `(E|dV|^2)^(1/2)`.
        effective_pos: mean over the queries of the effective sample size `1 / sum w^2` of the positives.
        effective_neg: the same of the negatives.
    """

    scale: Float32[Array, ""]
    error: Float32[Array, ""]
    relative_error: Float32[Array, ""]
    cosine: Float32[Array, ""]
    preconditioner_ratio: Float32[Array, ""]
    theory_ratio: Float32[Array, ""]
    residual_gap: Float32[Array, ""]
    field_norm: Float32[Array, ""]
    effective_pos: Float32[Array, ""]
    effective_neg: Float32[Array, ""]


class Side(NamedTuple):
    """One distribution as the queries see it; there may be more axes of queries than one.

    Attributes:
        mean_shift: `V`, and `score` is `s`.
        preconditioner: `a`, the kernel-weighted mean of `k / kb`.
        effective: effective sample size `1 / sum w^2`.
    """

    mean_shift: Float32[Array, "*queries dims"]
    score: Float32[Array, "*queries dims"]
    preconditioner: Float32[Array, "*queries"]
    effective: Float32[Array, "*queries"]


def sides(
    pairs: Pairs,
    x: Float32[Array, "queries dims"],
    y_pos: Float32[Array, "positives dims"],
    y_neg: Float32[Array, "negatives dims"],
    kernel: Kernel,
    width: Width,
) -> tuple[Side, Side]:
    """Both sides of one problem. The caller centres the coordinates, as for `fields.displace`."""
    shift, smooth = mean_shift(pairs, kernel, width), smoothed_score(pairs, kernel, width)

    def move(
        pos: Float32[Array, "queries positives"], neg: Float32[Array, "queries negatives"]
    ) -> Float32[Array, "queries dims"]:
        return displace(Affinities(pos, neg), x, y_pos, y_neg)

    def side(
        d: Float32[Array, "queries targets"],
        weights: Float32[Array, "queries targets"],
        v: Float32[Array, "queries dims"],
        s: Float32[Array, "queries dims"],
    ) -> Side:
        per_pair = jnp.exp(kernel.log_k(d, width) - kernel.log_flat(jnp.maximum(d, 1e-12), width))
        effective = 1 / jnp.sum(jnp.square(weights), axis=1)
        return Side(v, s, jnp.sum(weights * per_pair, axis=1), effective)

    none_pos, none_neg = jnp.zeros_like(shift.pos), jnp.zeros_like(shift.neg)
    p = side(pairs.d_pos, shift.pos, move(shift.pos, none_neg), move(smooth.pos, none_neg))
    q = side(pairs.d_neg, -shift.neg, move(none_pos, -shift.neg), move(none_pos, -smooth.neg))
    return p, q


def compare(p: Side, q: Side) -> Alignment:
    """The quantities of App. C.2 from both sides."""
    v, s = p.mean_shift - q.mean_shift, p.score - q.score

    def inner(a: Float[Array, "*queries dims"], b: Float[Array, "*queries dims"]) -> Float[Array, "*queries"]:
        return jnp.sum(a * b, axis=-1)

    energy = jnp.mean(inner(v, v))
    scale = jnp.mean(inner(v, s)) / jnp.mean(inner(s, s))
    rest = v - scale * s
    error = jnp.mean(inner(rest, rest))
    norms = jnp.sqrt(inner(v, v) * inner(s, s))
    cosines = jnp.where(norms > 0, inner(v, s) / jnp.where(norms > 0, norms, 1), 0)
    a_p, a_q = jnp.mean(p.preconditioner), jnp.mean(q.preconditioner)
    delta_p, delta_q = (side.mean_shift - side.preconditioner[..., None] * side.score for side in (p, q))
    gap = delta_p - delta_q
    return Alignment(
        scale=scale,
        error=error,
        relative_error=error / energy,
        cosine=jnp.mean(cosines),
        preconditioner_ratio=a_p / a_q,
        theory_ratio=scale / (0.5 * (a_p + a_q)),
        residual_gap=jnp.mean(inner(gap, gap)),
        field_norm=jnp.sqrt(energy),
        effective_pos=jnp.mean(p.effective),
        effective_neg=jnp.mean(q.effective),
    )
