"""`fields2d`: every field on the same pair of distributions, score against mean shift ("A Unified View", Figure 1)."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from drifting.method.fields import FIELDS, drift_field
from drifting.studies import plots
from drifting.studies.settings import Fields2dSettings, Fields2dStudy
from drifting.studies.study import Claim, Result, Table, TableCell
from drifting.studies.targets import circle, mixture


def turned_mixtures(config: Fields2dSettings) -> tuple[Array, Array]:
    """Positives and negatives, `[samples, 2]` each."""
    keys = jax.random.split(jax.random.key(config.seed))
    angles = (jnp.pi / 2, jnp.pi / 2 + config.angle)
    p, q = (
        mixture(circle(3, 1.0, angle), config.noise)(key, config.samples)
        for key, angle in zip(keys, angles, strict=True)
    )
    return p, q


def cosine(a: Array, b: Array) -> float:
    """Cosine of the angle between two fields `[N, D]`, as long vectors."""
    return float(jnp.sum(a * b) / (jnp.linalg.norm(a) * jnp.linalg.norm(b)))


def best_scale(a: Array, b: Array) -> tuple[float, float]:
    """The `C` that makes `C b` nearest to `a`, and what is left, `|a - C b|^2 / |a|^2`."""
    scale = jnp.sum(a * b) / jnp.sum(b * b)
    return float(scale), float(jnp.sum((a - scale * b) ** 2) / jnp.sum(a**2))


def run(settings: Fields2dStudy) -> Result:
    """Length of each field, how it lies to the score, and whether it changes sign with p and q exchanged."""
    config = settings.study
    p, q = turned_mixtures(config)
    side = jnp.linspace(-config.extent, config.extent, config.grid)
    points = jnp.stack(jnp.meshgrid(side, side), axis=-1).reshape(-1, 2)
    rows: list[list[TableCell]] = []
    claims, values = [], {}
    for kernel in config.kernels:
        for name in FIELDS:
            compute = jax.jit(
                lambda a, b, name=name, kernel=kernel: drift_field(
                    points, a, b, field=name, kernel=kernel, width=config.width
                )
            )
            v, exchanged = compute(p, q), compute(q, p)
            values[name, kernel] = v
            odd = float(jnp.linalg.norm(v + exchanged) / jnp.linalg.norm(v))
            rows.append([plots.title(kernel), plots.title(name), float(jnp.sqrt(jnp.mean(v**2))), odd])
            claims.append(Claim(f"{plots.title(name)}, {plots.title(kernel)}: |V(p,q) + V(q,p)| / |V|", odd, high=1e-4))
        for row, name in zip(rows[-len(FIELDS) :], FIELDS, strict=True):
            scale, rest = best_scale(values[name, kernel], values["score", kernel])
            row += [cosine(values[name, kernel], values["score", kernel]), scale, rest]
    if "gaussian" in config.kernels:
        scale, rest = best_scale(values["mean_shift", "gaussian"], values["score", "gaussian"])
        claims.append(Claim("mean shift, Gauss: C / width^2 of C score", scale / config.width**2, 0.9999, 1.0001))
        claims.append(Claim("mean shift, Gauss: what C score leaves", rest, high=1e-8))
    columns = ("kernel", "field", "rms", "|V(p,q)+V(q,p)|/|V|", "cosine to score", "C", "|V-C score|²/|V|²")
    figure = draw(config, points, {key: np.asarray(v) for key, v in values.items()}, np.asarray(p), np.asarray(q))
    return Result(Table(columns, rows), claims, {"figure.png": figure})


@plots.style()
def draw(
    config: Fields2dSettings,
    points: Array,
    values: dict[tuple[str, str], np.ndarray],
    p: np.ndarray,
    q: np.ndarray,
) -> Figure:
    """The fields of the last kernel, and for each kernel mean shift and score on top of each other."""
    shown = list(FIELDS)
    rows = (len(shown) + 1) // 2 + (len(config.kernels) + 1) // 2
    figure, axes = plots.figure(rows, 2, height=1.62 * rows, pictures=True)
    x, last = np.asarray(points), config.kernels[-1]

    def arrows(ax: Axes, v: np.ndarray, colour: str, width: float) -> None:
        length = np.linalg.norm(v, axis=1, keepdims=True)
        # Directions at their true angle; lengths grow like the square root, which keeps the tails visible.
        v = v / np.sqrt(np.maximum(length, 1e-30) * length.max())
        ax.quiver(*x.T, *v.T, color=colour, width=width, scale=14, headwidth=4)

    def ground(ax: Axes, text: str) -> None:
        ax.plot(*p[:300].T, ".", color=plots.ORANGE, markersize=1, alpha=0.7)
        ax.plot(*q[:300].T, ".", color=plots.SKY, markersize=1, alpha=0.7)
        ax.set_title(text)
        plots.plane(ax, config.extent * 1.08)

    panels = list(axes.flat)
    for ax, name in zip(panels, shown, strict=False):
        ground(ax, f"{plots.title(name)}, {plots.title(last)}")
        arrows(ax, values[name, last], "0.15", 0.006)
    for ax, kernel in zip(panels[len(shown) + len(shown) % 2 :], config.kernels, strict=False):
        ground(ax, f"{plots.title(kernel)}: both directions")
        arrows(ax, values["mean_shift", kernel], plots.BLUE, 0.012)
        arrows(ax, values["score", kernel], plots.RED, 0.005)
    for ax in panels:
        ax.set_visible(bool(ax.collections))
    handles = [
        Line2D([], [], marker="o", linestyle="", color=plots.ORANGE, label="p"),
        Line2D([], [], marker="o", linestyle="", color=plots.SKY, label="q"),
        Line2D([], [], color=plots.BLUE, linewidth=2.5, label="mean shift"),
        Line2D([], [], color=plots.RED, label="score"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure
