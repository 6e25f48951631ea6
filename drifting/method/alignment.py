"""How well two drift fields, or a field and the score, point the same way."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from drifting.method.fields import Affinities, Pairs, displace, mean_shift, score
from drifting.method.kernels import Kernel


class Alignment(NamedTuple):
    """How the mean shift `V` of a kernel relates to its score `s`, over the queries; float32 scalars.

    With `a(x)` the kernel-weighted mean of `k / kb` (for Laplace `width` times the distance, for Gauss `width^2`),
    Theorem 2 reads `V = a s + delta`. Differences are p's value minus q's.

    Attributes:
        scale: `C*`, the number that makes `C* ds` nearest to `dV`.
        error: `E|dV - C* ds|^2`, and `relative_error` the same over `E|dV|^2`.
        cosine: mean over the queries of the cosine of the angle between `dV` and `ds`.
        preconditioner_ratio: `E a_p / E a_q`.
        theory_ratio: `C* / C` with the theory's `C = (E a_p + E a_q) / 2`.
        residual_gap: `E|delta_p - delta_q|^2`.
        field_norm: `(E|dV|^2)^(1/2)`.
        effective_pos, effective_neg: mean over the queries of the effective sample size `1 / sum w^2`.
    """

    scale: Array
    error: Array
    relative_error: Array
    cosine: Array
    preconditioner_ratio: Array
    theory_ratio: Array
    residual_gap: Array
    field_norm: Array
    effective_pos: Array
    effective_neg: Array


class Side(NamedTuple):
    """One distribution as the queries see it: `V` and `s` `[N, D]`, pre-conditioner and effective sample size `[N]`."""

    mean_shift: Array
    score: Array
    preconditioner: Array
    effective: Array


def sides(pairs: Pairs, x: Array, y_pos: Array, y_neg: Array, kernel: Kernel, width: ArrayLike) -> tuple[Side, Side]:
    """Both sides of one problem. Coordinates are centred by the caller, as for `fields.displace`."""
    shift, smooth = mean_shift(pairs, kernel, width), score(pairs, kernel, width)

    def move(pos: Array, neg: Array) -> Array:
        return displace(Affinities(pos, neg), x, y_pos, y_neg)

    def side(d: Array, weights: Array, v: Array, s: Array) -> Side:
        per_pair = jnp.exp(kernel.log_k(d, width) - kernel.log_flat(jnp.maximum(d, 1e-12), width))
        effective = 1 / jnp.sum(jnp.square(weights), axis=1)
        return Side(v, s, jnp.sum(weights * per_pair, axis=1), effective)

    none_pos, none_neg = jnp.zeros_like(shift.pos), jnp.zeros_like(shift.neg)
    p = side(pairs.d_pos, shift.pos, move(shift.pos, none_neg), move(smooth.pos, none_neg))
    q = side(pairs.d_neg, -shift.neg, move(none_pos, -shift.neg), move(none_pos, -smooth.neg))
    return p, q


def compare(p: Side, q: Side) -> Alignment:
    """The quantities of App. C.2 from both sides, the leading axes of which are queries."""
    v, s = p.mean_shift - q.mean_shift, p.score - q.score

    def inner(a: Array, b: Array) -> Array:
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
