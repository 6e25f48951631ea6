"""`alignment`: mean shift and score become parallel in high dimension ("A Unified View", Figures 3 and 7, App. C)."""

import logging
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from matplotlib.figure import Figure

from drifting.errors import one_of, require
from drifting.method.alignment import Alignment, compare, sides
from drifting.method.fields import Pairs
from drifting.method.kernels import KERNELS, Kernel, pairwise_distance
from drifting.studies import plots
from drifting.studies.settings import AlignmentSettings, AlignmentStudy
from drifting.studies.study import Claim, Result, Table, TableCell, loglog_slope
from drifting.studies.targets import MIXTURE_PAIRS

logger = logging.getLogger("drifting")


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
    p, q = MIXTURE_PAIRS[mixture](oracle, dimension)
    drawn = q(keys[0], config.queries), p(keys[1], config.references), q(keys[2], config.references)
    x, y_pos, y_neg = (jnp.pad(a, ((0, 0), (0, max(config.dimensions) - dimension))) for a in drawn)
    return x, y_pos, y_neg


def measure_alignment(config: AlignmentSettings, mixture: str) -> Alignment:
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
        one_of("study.mixtures", mixture, MIXTURE_PAIRS)
    found = {mixture: measure_alignment(config, mixture) for mixture in config.mixtures}
    rows: list[tuple[TableCell, ...]] = []
    slopes: list[tuple[TableCell, ...]] = []
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
