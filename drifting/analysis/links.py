"""`links`: what the papers leave open. Other links than the logarithm, and training at small kernel widths.

"Drifting Fields are not Conservative" (Section 6) proposes links `g` other than the logarithm, the inverse radial
profile among them, and leaves open whether the trouble of log-KDE at small widths is numerical.
"""

import logging
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from drifting import build
from drifting.analysis import plots, small_widths
from drifting.analysis.generator import Recipe, Start, sliced_wasserstein, train
from drifting.analysis.settings import LinksSettings, LinksStudy
from drifting.analysis.study import Cell, Result, Table
from drifting.analysis.targets import TARGETS, Sampler
from drifting.config import DataConfig
from drifting.evaluate.frechet import frechet_distance
from drifting.evaluate.manifold import f1, precision_recall
from drifting.kernels import KERNELS, centred_distance, pairwise_distance
from drifting.losses import Objective
from drifting.validate import one_of

logger = logging.getLogger("drifting")

SMALL = (("log_kde", "gaussian"), ("log_kde", "laplace"), ("drift", "laplace"))
"""Objectives that are trained at small widths."""
DISTANCES = {"centred": pairwise_distance, "textbook": centred_distance}
"""Distances as the package takes them, and by the expansion `|x|^2 + |y|^2 - 2 x.y` of the points as they are."""


class Digits(NamedTuple):
    """Scanned digits as points, `[N, 64]` float32, in units of the mean distance between two of them."""

    train: np.ndarray
    heldout: np.ndarray


def digits() -> Digits:
    """The digits of scikit-learn."""
    splits = [build.source(DataConfig(name="digits"), split=split) for split in ("train", "heldout")]
    train, heldout = (s.__getitems__(range(len(s)))[0].reshape(len(s), -1) for s in splits)
    sample = jnp.asarray(train[:500])
    unit = float(jnp.sum(pairwise_distance(sample, sample)) / (500 * 499))
    return Digits(np.asarray(train, np.float32) / unit, np.asarray(heldout, np.float32) / unit)


def resample(points: Array) -> Sampler:
    """Draws rows of `points` with replacement."""
    return lambda key, n: points[jax.random.randint(key, (n,), 0, points.shape[0])]


def scores(points: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """Fréchet distance to the reference, and F1 of precision and recall (k = 3)."""
    gaussians = [
        (a.mean(axis=0, dtype=np.float64), np.cov(a, rowvar=False, dtype=np.float64)) for a in (points, reference)
    ]
    return frechet_distance(*gaussians[0], *gaussians[1]), f1(*precision_recall(reference, points))


def on_toy(config: LinksSettings, name: str, kernel: str, width: float) -> float:
    """Sliced Wasserstein distance of a generator of `target`."""
    recipe = Recipe(config.toy_steps, config.batch, config.toy_learning_rate, config.hidden_size)
    objective = Objective(name, KERNELS[kernel], normalise_field=False, feature_scale="none")
    target = TARGETS[config.target]
    trained = train(objective, width, target, recipe, start=Start(0.0, 0.7), seed=config.seed)
    keys = jax.random.split(jax.random.key(config.seed + 1), 3)
    return float(sliced_wasserstein(trained.sample(keys[0], 5000), target(keys[1], 5000), keys[2]))


def on_digits(
    config: LinksSettings, name: str, kernel: str, width: float, real: Sampler, offset: np.ndarray, distance: str
) -> np.ndarray:
    """Digits drawn by a generator trained on `real`, which are `offset` away from where they belong; `[N, 64]`."""
    recipe = Recipe(config.digits_steps, config.batch, config.digits_learning_rate, 2 * config.hidden_size)
    objective = Objective(name, KERNELS[kernel], normalise_field=True, feature_scale="none")
    start = Start(tuple(offset.tolist()), 0.1)
    trained = train(
        objective, width, real, recipe, dimension=64, start=start, distance=DISTANCES[distance], seed=config.seed
    )
    return np.asarray(trained.sample(jax.random.key(config.seed + 1), config.samples)) - offset


def run(settings: LinksStudy) -> Result:
    """Links on the toy and on the digits, small widths with both kinds of distances, and accuracy by itself."""
    config = settings.study
    one_of("study.target", config.target, TARGETS)
    data = digits()
    rows: list[tuple[Cell, ...]] = []
    curves: dict[tuple[str, ...], list[float]] = {}

    def note(what: str, name: str, kernel: str, distance: str, width: float, distance_to: float, score: float) -> None:
        rows.append((what, plots.title(name), plots.title(kernel), distance, width, distance_to, score))
        curves.setdefault((what, name, kernel, distance), []).append(distance_to)
        logger.info("%s, %s, %s, %s distances, width %g: %.4g", what, name, kernel, distance, width, distance_to)

    for name in config.objectives:
        for kernel in config.kernels:
            for width in config.toy_widths:
                note("toy", name, kernel, "centred", width, on_toy(config, name, kernel, width), np.nan)
    floor = scores(data.heldout, data.train)
    rows.append(("digits", "held-out real", "", "", np.nan, *floor))
    here, there = np.zeros(64, np.float32), np.full(64, config.offset / 8, np.float32)
    real, far = resample(jnp.asarray(data.train)), resample(jnp.asarray(data.train + there))
    for name in config.objectives:
        for kernel in config.kernels:
            for width in config.digits_widths:
                drawn = on_digits(config, name, kernel, width, real, here, "centred")
                note("digits", name, kernel, "centred", width, *scores(drawn, data.train))
    for name, kernel in SMALL:
        for distance in DISTANCES:
            for width in config.small_widths:
                drawn = on_digits(config, name, kernel, width, far, there, distance)
                note("far digits", name, kernel, distance, width, *scores(drawn, data.train))
    columns = ("data", "objective", "kernel", "distances", "width", "SWD or Fréchet", "F1")
    figures, more = {"figure.png": draw(config, curves, floor[0])}, {}
    if config.accuracy:
        errors = small_widths.measure_all()
        figures["small_widths.png"], more = small_widths.draw(errors), small_widths.tables(errors)
    return Result(Table(columns, rows), [], figures, more)


@plots.style()
def draw(config: LinksSettings, curves: dict[tuple[str, ...], list[float]], floor: float) -> Figure:
    """Toy, digits, and digits far from the origin; distance to the real samples against kernel width."""
    kernels = config.kernels[:2]
    figure, axes = plots.figure(3, 2, height=4.9, sharey="row")

    def finish(ax: Axes, title: str, widths: tuple[float, ...]) -> None:
        ax.set(xscale="log", yscale="log", xlabel="kernel width", title=title)
        ax.set_xticks(widths, [f"{w:g}" for w in widths], minor=False)
        ax.minorticks_off()

    for ax, kernel in zip(axes[0], kernels, strict=False):
        for name, marker, line in zip(config.objectives, plots.MARKERS, plots.LINES, strict=False):
            ax.plot(config.toy_widths, curves["toy", name, kernel, "centred"], marker + line, label=plots.title(name))
        finish(ax, f"{config.target.replace('_', ' ')}, {plots.title(kernel)}", config.toy_widths)
    for ax, kernel in zip(axes[1], kernels, strict=False):
        for name, marker, line in zip(config.objectives, plots.MARKERS, plots.LINES, strict=False):
            y = curves["digits", name, kernel, "centred"]
            ax.plot(config.digits_widths, y, marker + line, label=plots.title(name))
        ax.axhline(floor, color="0.6", linewidth=0.8, zorder=0)
        finish(ax, f"digits, {plots.title(kernel)}", config.digits_widths)
    for ax, distance in zip(axes[2], DISTANCES, strict=True):
        for (name, kernel), marker, line, colour in zip(SMALL, "^vD", plots.LINES, plots.CYCLE[3:], strict=False):
            y = curves["far digits", name, kernel, distance]
            label = f"{plots.title(name)}, {plots.title(kernel)}"
            ax.plot(config.small_widths, y, marker + line, color=colour, label=label)
        ax.axhline(floor, color="0.6", linewidth=0.8, zorder=0)
        finish(ax, f"offset {config.offset:g}, {distance}", config.small_widths)
    for row, label in zip(axes, ("SWD", "Fréchet", "Fréchet"), strict=True):
        row[0].set_ylabel(label)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    figure.legend(*axes[2, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, handlelength=1.6)
    return figure
