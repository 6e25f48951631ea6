"""`alignment`: mean shift and score become parallel in high dimension ("A Unified View", Figures 3 and 7, App. C)."""

import logging
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from matplotlib.figure import Figure

from drifting.analysis import plots
from drifting.analysis.settings import AlignmentSettings, AlignmentStudy
from drifting.analysis.study import Cell, Claim, Result, Table, loglog_slope
from drifting.analysis.targets import PAIRS
from drifting.fields import Affinities, Pairs, displace, mean_shift, score
from drifting.kernels import KERNELS, Kernel, pairwise_distance
from drifting.validate import one_of, require

logger = logging.getLogger("drifting")


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


@partial(jax.jit, static_argnames="kernel")
def align(x: Array, y_pos: Array, y_neg: Array, kernel: Kernel, width: ArrayLike) -> Alignment:
    """The quantities for queries `[N, D]` and independent references of p and q, `[P, D]` and `[M, D]`; float32."""
    centre = jnp.mean(y_pos, axis=0)
    x, y_pos, y_neg = x - centre, y_pos - centre, y_neg - centre
    d_pos, d_neg = pairwise_distance(x, y_pos), pairwise_distance(x, y_neg)
    w_pos, w_neg = jnp.ones(len(y_pos)), jnp.ones(len(y_neg))
    pairs = Pairs(d_pos, d_neg, w_pos, w_neg, jnp.zeros(d_neg.shape, bool))
    return compare(*sides(pairs, x, y_pos, y_neg, kernel, width))


def one_trial(config: AlignmentSettings, mixture: str, dimension: int, key: Array) -> tuple[Array, Array, Array]:
    """Oracles drawn anew and their samples: queries and references from q, references from p. Zeros fill them up to the
    largest of the dimensions: they change no distance and no field, and one compilation serves all."""
    oracle, *keys = jax.random.split(key, 4)
    p, q = PAIRS[mixture](oracle, dimension)
    drawn = q(keys[0], config.queries), p(keys[1], config.references), q(keys[2], config.references)
    x, y_pos, y_neg = (jnp.pad(a, ((0, 0), (0, max(config.dimensions) - dimension))) for a in drawn)
    return x, y_pos, y_neg


def measure(config: AlignmentSettings, mixture: str) -> Alignment:
    """Means over the trials, `[dimensions]` each."""

    def compute(x: Array, y_pos: Array, y_neg: Array) -> Alignment:
        width = config.width * jnp.mean(jnp.linalg.norm(x, axis=1))
        return align(x, y_pos, y_neg, KERNELS[config.kernel], width)

    found = []
    for dimension in config.dimensions:
        keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), dimension), config.trials)
        trials = [compute(*one_trial(config, mixture, dimension, key)) for key in keys]
        found.append(jax.tree.map(lambda *values: np.mean(values), *trials))
        logger.info("%s, %d dimensions: relative error %.4g", mixture, dimension, found[-1].relative_error)
    return jax.tree.map(lambda *values: np.asarray(values), *found)


def slope_from(first: int, dimensions: Sequence[int], values: ArrayLike) -> float:
    """Slope of `log value` against `log D` over the dimensions from `first` on."""
    kept = np.asarray(dimensions) >= first
    return loglog_slope(np.asarray(dimensions)[kept], np.asarray(values)[kept])


def run(settings: AlignmentStudy) -> Result:
    """All quantities for each mixture and dimension, the slope of the errors, and the paper's two figures as one."""
    config = settings.study
    ordered = len(config.dimensions) > 1 and list(config.dimensions) == sorted(set(config.dimensions))
    require(ordered, "study.dimensions", config.dimensions, "give two or more, rising")
    usable = sum(dimension >= config.fit_from for dimension in config.dimensions)
    require(usable > 1, "study.fit_from", config.fit_from, "two or more of study.dimensions must reach it")
    for mixture in config.mixtures:
        one_of("study.mixtures", mixture, PAIRS)
    found = {mixture: measure(config, mixture) for mixture in config.mixtures}
    rows: list[tuple[Cell, ...]] = []
    slopes: list[tuple[Cell, ...]] = []
    claims = []
    for mixture, values in found.items():
        rows += [(mixture, *row) for row in zip(config.dimensions, *(v.tolist() for v in values), strict=True)]
        for first in config.dimensions[:-1]:
            fits = (slope_from(first, config.dimensions, v) for v in (values.relative_error, values.error))
            slopes.append((mixture, first, *fits))
        slope = slope_from(config.fit_from, config.dimensions, values.relative_error)
        text = f"{mixture}: slope of the relative error, D from {config.fit_from} on"
        claims.append(Claim(text, slope, -1.15, -0.85))
        last = f"{mixture}, D = {config.dimensions[-1]}"
        claims.append(Claim(f"{last}: cosine", float(values.cosine[-1]), low=0.99))
        claims.append(Claim(f"{last}: C* / C of the theory", float(values.theory_ratio[-1]), 0.98, 1.02))
    more = {"slopes.csv": Table(("mixture", "D from", "slope, relative error", "slope, error"), slopes)}
    table = Table(("mixture", "D", *(name.replace("_", " ") for name in Alignment._fields)), rows)
    return Result(table, claims, {"figure.png": draw(config, found)}, more)


@plots.style()
def draw(config: AlignmentSettings, found: dict[str, Alignment]) -> Figure:
    """Figures 3 and 7 of the paper."""
    panels = (
        ("error", "$E|\\Delta - C^*\\Delta s|^2$", "log"),
        ("relative_error", "relative error", "log"),
        ("cosine", "1 − cosine", "log"),
        ("preconditioner_ratio", "$\\bar\\alpha_p/\\bar\\alpha_q$", "linear"),
        ("residual_gap", "$E|\\delta_p-\\delta_q|^2$", "log"),
        ("theory_ratio", "$C^*/C_{\\mathrm{theory}}$", "linear"),
    )
    figure, axes = plots.figure(3, 2, height=4.4, sharex=True)
    x = np.asarray(config.dimensions, float)
    for ax, (name, label, scale) in zip(axes.flat, panels, strict=True):
        for row, ((mixture, values), marker, line) in enumerate(plots.styled(found.items())):
            y = np.asarray(getattr(values, name))
            y = 1 - y if name == "cosine" else y
            (drawn,) = ax.plot(x, y, marker + line, label=mixture.capitalize())
            if scale == "log":
                slope = f"slope {slope_from(config.fit_from, config.dimensions, y):.2f}"
                ax.text(0.05, 0.05 + 0.11 * row, slope, color=drawn.get_color(), fontsize=6, transform=ax.transAxes)
                ax.plot(x, y[-1] * x[-1] / x, color="0.75", linewidth=0.6, zorder=0, label="$1/D$" if row == 0 else "")
        ax.set(xscale="log", yscale=scale, ylabel=label)
        if scale == "linear":
            ax.axhline(1, color="0.7", linewidth=0.8, zorder=0)
    for ax in axes[-1]:
        ax.set_xlabel("dimension $D$")
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=3,
        title=f"slopes: fitted from $D = {config.fit_from}$ on",
        title_fontsize=6,
    )
    return figure
