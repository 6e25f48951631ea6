"""Drift fields of one drift problem.

Every field of the papers is a signed sum of displacements,

    V_i = sum_j b_pos[i, j] (y_pos_j - x_i) + sum_j b_neg[i, j] (y_neg_j - x_i),

and its *affinities* `b_pos >= 0`, `b_neg <= 0` depend on distances and weights alone. So a field is one function from
`Pairs` to `Affinities` and one entry in `FIELDS`; `displace` turns affinities into vectors, in one place and in
float32. Fields are written for one problem and batched outside with `jax.vmap`.

Notation of the sources: positives are real samples of the class, negatives are the generated samples themselves (each
one's pair with itself excluded) followed by unconditional real samples of weight `w_u` (classifier-free guidance).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Float32

from drifting.method.arguments import floating_array, kernel_width, sample_weights
from drifting.method.kernels import EXACT_PRODUCT, Kernel, LogProfile, Width, kernel_of, pairwise_distance

# Two constants of the released recipe (Deng et al.): the distance added to a sample's pair with itself, and the floor
# under the product of the two softmaxes.
SELF_DISTANCE = 100.0

AFFINITY_FLOOR = 1e-6

LEAST_LOGIT = -3.4028234e38
"""Of float32 less is nothing but -inf: from that, where all terms are, no difference is formed."""


def log_sum_exp(
    logits: Float[Array, "*shape"], axis: int, factors: Float[Array, "*shape"] | None = None
) -> Float[Array, "*reduced"]:
    """`log sum factors exp(logits)` along an axis; two reductions, and the rest can be joined with what follows."""
    top = jax.lax.stop_gradient(jnp.maximum(jnp.max(logits, axis=axis, keepdims=True), LEAST_LOGIT))
    terms = jnp.exp(logits - top)
    return jnp.log(jnp.sum(terms if factors is None else factors * terms, axis=axis)) + jnp.squeeze(top, axis)


class Pairs(NamedTuple):
    """One drift problem as a kernel sees it; the queries are the generated samples.

    Attributes:
        d_pos: distances to the positives, in the units of the kernel width.
        d_neg: distances to the negatives.
        w_pos: weights of the positives (one each, unless stated).
        w_neg: weights of the negatives: 1 for generated, `w_u >= 0` for unconditional samples.
        is_self: whether the negative is the generated sample itself.
        d_self: the distance of a sample to itself.
    """

    d_pos: Float32[Array, "queries positives"]
    d_neg: Float32[Array, "queries negatives"]
    w_pos: Float32[Array, "positives"]
    w_neg: Float32[Array, "negatives"]
    is_self: Bool[Array, "queries negatives"]
    d_self: Float32[Array, ""] | float = 0.0

    def log_sum(
        self, logits: Float[Array, "*shape"], axis: int, factors: Float[Array, "*shape"] | None = None
    ) -> Float[Array, "*reduced"]:
        """`log_sum_exp` of an array of pairs."""
        return log_sum_exp(logits, axis, factors)

    def apart(self, *arrays: Any) -> Any:
        """The arrays, of which something is made that was made before, too: as they are, it is made once."""
        return arrays


class StoredPairs(Pairs):
    """The pairs of many problems, under `jax.vmap`, that an accelerator reads from its memory.

    It takes less time for an exponential than for its way to memory and back: distances are read as seldom as can be,
    and nothing of their shape is written but the affinities.
    """

    __slots__ = ()

    def log_sum(
        self, logits: Float[Array, "*shape"], axis: int, factors: Float[Array, "*shape"] | None = None
    ) -> Float[Array, "*reduced"]:
        """`log_sum_exp` of an array of pairs."""
        return log_sum_exp_in_one_pass(logits, axis, factors)

    def apart(self, *arrays: Any) -> Any:
        """The arrays, and the compiler does not know them again: what is made of these is made, and not kept."""
        return jax.lax.optimization_barrier(arrays)


def log_sum_exp_in_one_pass(
    logits: Float[Array, "*shape"], axis: int, factors: Float[Array, "*shape"] | None = None
) -> Float[Array, "*reduced"]:
    """`log_sum_exp` as one reduction of two numbers, the largest logit so far and the sum relative to it.

    It is not differentiable. Where all logits are -inf, so is the result.
    """
    Part = tuple[Float[Array, "..."], Float[Array, "..."]]

    def joined(one: Part, other: Part) -> Part:
        top = jnp.maximum(one[0], other[0])
        return top, one[1] * jnp.exp(one[0] - top) + other[1] * jnp.exp(other[0] - top)

    # The difference of two infinities is no number.
    parts = jnp.maximum(logits, LEAST_LOGIT), jnp.ones_like(logits) if factors is None else factors.astype(logits.dtype)
    nothing = jnp.asarray(LEAST_LOGIT, logits.dtype), jnp.zeros((), logits.dtype)
    top, total = jax.lax.reduce(parts, nothing, joined, (axis % logits.ndim,))
    return jnp.where(top <= LEAST_LOGIT, -jnp.inf, jnp.log(total) + top)


class Affinities(NamedTuple):
    """Signed weights of the displacements: `pos >= 0` and `neg <= 0`."""

    pos: Float32[Array, "queries positives"]
    neg: Float32[Array, "queries negatives"]


Sides = list[Float[Array, "queries _targets"]]
"""What negatives have, and what positives have."""

Field = Callable[[Pairs, Kernel, Width], Affinities]

LogSum = Callable[[Float[Array, "queries targets"], int, Float[Array, "queries targets"] | None], Float[Array, "_any"]]
"""`log_sum_exp`, or what stands for it, see `Pairs`."""


def log_density(
    log_kernel: Float[Array, "queries targets"],
    weights: Float[Array, "targets"],
    excluded: Bool[Array, "queries targets"] | None = None,
    log_sum: LogSum = log_sum_exp,
    factors: Float[Array, "queries targets"] | None = None,
) -> Float[Array, "queries"]:
    """Logarithm of a weighted kernel density estimate at each query.

    `log sum_j w_j k_ij - log sum_j w_j`, both sums over the targets that are not `excluded`; `k_ij` is
    `exp(log_kernel)`, times its factor if there are any. Weights of zero are allowed. "Drifting Fields are not
    Conservative", Definition 2 and Algorithm 1, with weights for guidance.
    """
    # Logarithms of the weights are one for each target, and added where `log_kernel` is made. A weight that multiplies
    # the exponentials would be in the way of the CPU's reductions: it took longer than they do.
    weighted = log_kernel + jnp.log(weights)
    if excluded is None:
        return log_sum(weighted, 1, factors) - jnp.log(jnp.sum(weights))
    total = jnp.sum(jnp.where(excluded, 0.0, weights), axis=1)
    return log_sum(jnp.where(excluded, -jnp.inf, weighted), 1, factors) - jnp.log(total)


def density_weights(
    log_kernel: Float[Array, "queries targets"],
    weights: Float[Array, "targets"],
    log_norm: Float[Array, "queries"],
    excluded: Bool[Array, "queries targets"] | None = None,
) -> Float[Array, "queries targets"]:
    """`w_j k_ij / (exp(log_norm_i) sum_j w_j)` over the targets not excluded (zero elsewhere).

    With `log_norm = log_density(log_kernel, ...)` each row sums to one: the kernel-weighted mean's weights.
    """
    w = jnp.broadcast_to(weights, log_kernel.shape)
    if excluded is not None:
        w = jnp.where(excluded, 0.0, w)
    # Not through the product: a target of weight zero may lie so near that its `exp` is infinite beside the norm.
    log_kernel = jnp.where(w > 0, log_kernel, -jnp.inf)
    return jnp.exp(log_kernel - log_norm[:, None]) * w / jnp.sum(w, axis=1, keepdims=True)


def _difference_of_means(
    pairs: Pairs, kernel: Kernel, width: Width, weigh: LogProfile, normalise: LogProfile | None
) -> Affinities:
    """`E_p[weigh (y - x)] / E_p[normalise] - E_q[weigh (y - x)] / E_q[normalise]`; `normalise=None` divides by one."""

    def side(
        d: Float[Array, "queries targets"], w: Float[Array, "targets"], excluded: Bool[Array, "queries targets"] | None
    ) -> Float[Array, "queries targets"]:
        if normalise is None:
            log_norm = jnp.zeros(d.shape[0], d.dtype)
        else:
            log_norm = log_density(normalise(d, width), w, excluded, pairs.log_sum)
        return density_weights(weigh(d, width), w, log_norm, excluded)

    return Affinities(side(pairs.d_pos, pairs.w_pos, None), -side(pairs.d_neg, pairs.w_neg, pairs.is_self))


def mean_shift(pairs: Pairs, kernel: Kernel, width: Width) -> Affinities:
    """Difference of the two kernel-weighted mean shifts: the field as defined, *Naive* in "Drifting Fields are not
    Conservative" (Eq. 3, Algorithm 2). Conservative for the Gaussian kernel alone."""
    return _difference_of_means(pairs, kernel, width, kernel.log_k, kernel.log_k)


def mmd(pairs: Pairs, kernel: Kernel, width: Width) -> Affinities:
    """The field without normalisation, `-grad [q# - p#]` (Eq. 8, Proposition 7): conservative, it vanishes in the
    tails."""
    return _difference_of_means(pairs, kernel, width, kernel.log_k, None)


def sharp(pairs: Pairs, kernel: Kernel, width: Width) -> Affinities:
    """The sharp-normalised field `grad log p# - grad log q#` (Definition 9, Eq. 18): conservative for every kernel."""
    return _difference_of_means(pairs, kernel, width, kernel.log_k, kernel.log_sharp)


def smoothed_score(pairs: Pairs, kernel: Kernel, width: Width) -> Affinities:
    """Difference of the kernel-smoothed scores, `grad log p - grad log q` ("A Unified View", Section 2.3)."""
    return _difference_of_means(pairs, kernel, width, _finite_flat(kernel), kernel.log_k)


def coulomb(pairs: Pairs, kernel: Kernel, width: Width) -> Affinities:
    """Gradient of the difference of the densities, `grad p - grad q` ("A Unified View", Table 1)."""
    return _difference_of_means(pairs, kernel, width, _finite_flat(kernel), None)


def _finite_flat(kernel: Kernel) -> LogProfile:
    """`log kb` with the cusp at zero taken out: a coincident pair has no displacement, so it contributes nothing."""

    def log_flat(d: Float[Array, "*shape"], width: Width) -> Float[Array, "*shape"]:
        apart = d > 0
        return jnp.where(apart, kernel.log_flat(jnp.where(apart, d, 1.0), width), -jnp.inf)

    return log_flat


def drift(pairs: Pairs, kernel: Kernel, width: Width) -> Affinities:
    """The two-axis field that was released and trained at scale (*Drifting-X*; Deng et al., Algorithm 2).

    The affinity of a pair is the geometric mean of a softmax over targets and a softmax over queries, floored at 1e-6
    before the root; the softmaxes are unweighted, the weights multiply afterwards. Not conservative.
    """
    logits = _logits(pairs, kernel, width)
    row, columns = _log_total(logits, pairs), [pairs.log_sum(side, 0) for side in logits]

    def unweighted(width: Width) -> Sides:
        # One exponential of the mean of both logarithms, in place of two softmaxes and a root.
        sides = zip(_logits(pairs, kernel, width), columns, strict=True)
        both = (side - 0.5 * (row[:, None] + column) for side, column in sides)
        return [jnp.maximum(jnp.exp(side), AFFINITY_FLOOR**0.5) for side in both]

    return _cross_weighted(unweighted, pairs, width)


def drift_row(pairs: Pairs, kernel: Kernel, width: Width) -> Affinities:
    """`drift` with the softmax over targets alone: `E[k k (y_pos - y_neg)] / (Z_p + Z_q)^2` where both sides count the
    same ("Drifting Fields are not Conservative", Eq. 21 and Appendix D)."""
    row = _log_total(_logits(pairs, kernel, width), pairs)[:, None]
    return _cross_weighted(lambda width: [jnp.exp(side - row) for side in _logits(pairs, kernel, width)], pairs, width)


def drift_raw(pairs: Pairs, kernel: Kernel, width: Width) -> Affinities:
    """`drift` with the kernel itself, not normalised at all (Deng et al., Table 11)."""
    return _cross_weighted(lambda width: [jnp.exp(side) for side in _logits(pairs, kernel, width)], pairs, width)


def _logits(pairs: Pairs, kernel: Kernel, width: Width) -> Sides:
    """`log k` of negatives and of positives; a sample's pair with itself is pushed far away."""
    neg, pos = (kernel.log_k(d, width) for d in (pairs.d_neg, pairs.d_pos))
    far = kernel.log_k(jnp.full((1, 1), pairs.d_self + SELF_DISTANCE, neg.dtype), width)
    return [jnp.where(pairs.is_self, far, neg), pos]


def _log_total(logits: Sides, pairs: Pairs) -> Float[Array, "queries"]:
    """The logarithm of each query's sum over the targets of both kinds."""
    negative, positive = (pairs.log_sum(side, 1) for side in logits)
    return jnp.logaddexp(negative, positive)


def _cross_weighted(unweighted: Callable[[Width], Sides], pairs: Pairs, width: Width) -> Affinities:
    """Each side's affinities times the other side's total: those of each query sum to zero, see `BALANCED`."""

    def weighted(width: Width) -> Sides:
        a_neg, a_pos = unweighted(width)
        return [a_neg * pairs.w_neg, a_pos * pairs.w_pos]

    totals = [jnp.sum(side, axis=1, keepdims=True) for side in weighted(width)]
    width, (total_neg, total_pos) = pairs.apart(width, totals)
    a_neg, a_pos = weighted(width)
    return Affinities(a_pos * total_neg, -a_neg * total_pos)


FIELDS: dict[str, Field] = {
    "mean_shift": mean_shift,
    "drift": drift,
    "drift_row": drift_row,
    "drift_raw": drift_raw,
    "mmd": mmd,
    "sharp": sharp,
    "score": smoothed_score,
    "coulomb": coulomb,
}


BALANCED: tuple[Field, ...] = (drift, drift_row, drift_raw)
"""Fields whose affinities sum to zero for each query, whatever rounding does to its logarithms: where the query itself
lies takes no part in them. (Those of `mean_shift` sum to zero as far as exponentials of large logarithms are exact.)"""


def displace(
    affinities: Affinities,
    x: Float32[Array, "queries dims"],
    y_pos: Float32[Array, "positives dims"],
    y_neg: Float32[Array, "negatives dims"],
) -> Float32[Array, "queries dims"]:
    """`V_i = sum_j b_ij (y_j - x_i)` over both kinds of targets, in the units of the coordinates.

    V does not depend on the origin of the coordinates, but its rounding error does: put the origin among the points.
    """
    b = jnp.concatenate(affinities, axis=1)
    targets = jnp.concatenate([y_pos, y_neg], axis=0)
    return jnp.matmul(b, targets, precision=EXACT_PRODUCT) - jnp.sum(b, axis=1, keepdims=True) * x


def drift_field(
    x: Float[Array | np.ndarray, "queries dims"],
    positives: Float[Array | np.ndarray, "positives dims"],
    negatives: Float[Array | np.ndarray, "negatives dims"] | None = None,
    *,
    width: Width,
    field: str = "drift",
    kernel: str | Kernel = "gaussian",
    w_pos: Float[Array | np.ndarray, "positives"] | None = None,
    w_neg: Float[Array | np.ndarray, "negatives"] | None = None,
) -> Float32[Array, "queries dims"]:
    """The direction in which a drift field moves each of the points `x`, for one problem given by its samples.

    Args:
        x: query points.
        positives: samples that attract.
        negatives: samples that repel. None: the queries themselves, each of them without itself.
        width: kernel width in the units of `x`.
        field: a key of `FIELDS`.
        kernel: a key of `KERNELS` or a `Kernel`; make it once, for the first call with a new one compiles.
        w_pos: weights of the positives, 0 or more; None is one each.
        w_neg: weights of the negatives, 0 or more; None is one each.

    Raises:
        ValueError: shapes or values do not fit, or there is no field or kernel of that name.
    """
    kernel = kernel_of(kernel)
    if not isinstance(field, str) or field not in FIELDS:
        raise ValueError(f"field={field!r}: use one of {', '.join(FIELDS)}")
    x, y_pos = floating_array("x", x), floating_array("positives", positives)
    y_neg = x if negatives is None else floating_array("negatives", negatives)
    for name, points in {"x": x, "positives": y_pos, "negatives": y_neg}.items():
        dims = x.shape[-1] if x.ndim == 2 and x.shape[-1] else "dimensions"
        if points.ndim == 2 and points.shape[1] and not len(points):
            raise ValueError(f"{name}: has shape {points.shape}, give at least one sample, [samples, {dims}]")
        if points.ndim != 2 or not points.shape[1] or points.shape[1] != x.shape[-1]:
            raise ValueError(f"{name}: has shape {points.shape}, give [samples, {dims}]")
    w_pos, w_neg = sample_weights("w_pos", w_pos, len(y_pos)), sample_weights("w_neg", w_neg, len(y_neg))
    width = kernel_width("width", width, (0,), "one kernel width")
    x, y_pos, y_neg = (a.astype(jnp.float32) for a in (x, y_pos, y_neg))
    return _field_of(FIELDS[field], kernel, negatives is None, x, y_pos, y_neg, w_pos, w_neg, width)


# One program: the first call would compile each operation by itself, which takes ten times as long.
@partial(jax.jit, static_argnums=(0, 1, 2), inline=True)
def _field_of(
    field: Field,
    kernel: Kernel,
    among_themselves: bool,
    x: Float32[Array, "queries dims"],
    y_pos: Float32[Array, "positives dims"],
    y_neg: Float32[Array, "negatives dims"],
    w_pos: Float[Array, "positives"],
    w_neg: Float[Array, "negatives"],
    width: Width,
) -> Float32[Array, "queries dims"]:
    """`drift_field` of arguments that fit; `among_themselves`: the negatives are the queries."""
    n, m = x.shape[0], y_neg.shape[0]
    pairs = Pairs(
        d_pos=pairwise_distance(x, y_pos),
        d_neg=pairwise_distance(x, y_neg),
        w_pos=w_pos,
        w_neg=w_neg,
        is_self=jnp.eye(n, m, dtype=bool) if among_themselves else jnp.zeros((n, m), bool),
    )
    centre = jnp.mean(y_pos, axis=0)
    return displace(field(pairs, kernel, width), x - centre, y_pos - centre, y_neg - centre)
