"""`links`: what the papers leave open. Other links than the logarithm, and training at small kernel widths.

"Drifting Fields are not Conservative" (Section 6) proposes links `g` other than the logarithm, the inverse radial
profile among them, and leaves open whether the trouble of log-KDE at small widths is numerical.

Fields that are not normalised differ in length by orders of magnitude, and with them the learning rate that suits them:
at the rate that suits log-KDE, MMD throws its samples to where its field has decayed to nothing. So everything is
trained at each of a few rates, and the best is what counts.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from drifting.config.schema import DataConfig
from drifting.data import sources
from drifting.errors import one_of
from drifting.method.kernels import KERNELS, centred_distance, pairwise_distance
from drifting.method.objective import Objective
from drifting.scoring.metrics.frechet import frechet_distance
from drifting.scoring.metrics.precision_recall import f1, precision_recall
from drifting.studies import plots, small_widths
from drifting.studies.settings import LinksSettings, LinksStudy
from drifting.studies.study import Result, Table, TableCell
from drifting.studies.targets import TARGETS, PointSampler
from drifting.studies.toy_training import Start, ToyRecipe, sliced_wasserstein, train_toy

logger = logging.getLogger("drifting")

SMALL_WIDTH_OBJECTIVES = (("log_kde", "gaussian"), ("log_kde", "laplace"), ("drift", "laplace"))
"""Objectives that are trained at small widths."""


def textbook_distance(x: Array, y: Array) -> Array:
    """Distances by `|x|^2 + |y|^2 - 2 x.y` of the points as they are: `[N, D]` and `[M, D]` to `[N, M]`."""
    return centred_distance(x, y)  # it relies on its caller to have centred the points


POINT_DISTANCES = {"centred": pairwise_distance, "textbook": textbook_distance}
"""Distances as the package takes them, which centres the points first, and without that."""


class Digits(NamedTuple):
    """Scanned digits as points, `[N, 64]` float32, in units of the mean distance between two of them."""

    train: np.ndarray
    heldout: np.ndarray


def load_digits() -> Digits:
    """The digits of scikit-learn."""
    splits = [sources.source(DataConfig(name="digits"), split=split) for split in ("train", "heldout")]
    train, heldout = (s.__getitems__(range(len(s)))[0].reshape(len(s), -1) for s in splits)
    sample = jnp.asarray(train[:500])
    unit = float(jnp.sum(pairwise_distance(sample, sample)) / (500 * 499))
    return Digits(np.asarray(train, np.float32) / unit, np.asarray(heldout, np.float32) / unit)


def resample(points: Array) -> PointSampler:
    """Draws rows of `points` with replacement."""
    return lambda key, n: points[jax.random.randint(key, (n,), 0, points.shape[0])]


def scores(points: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """Fréchet distance to the reference, and F1 of precision and recall (k = 3)."""
    gaussians = [
        (a.mean(axis=0, dtype=np.float64), np.cov(a, rowvar=False, dtype=np.float64)) for a in (points, reference)
    ]
    return frechet_distance(*gaussians[0], *gaussians[1]), f1(*precision_recall(reference, points))


def best(score: Callable[[float], tuple[float, ...]], rates: Sequence[float]) -> tuple[tuple[float, ...], float]:
    """The scores at the learning rate with the smallest distance to the real samples, their first; and that rate."""
    return min((score(rate), rate) for rate in rates)


def on_toy(config: LinksSettings, name: str, kernel: str, width: float, rate: float) -> tuple[float]:
    """Sliced Wasserstein distance of a generator of `target`."""
    recipe = ToyRecipe(config.toy_steps, config.batch, rate, config.hidden_size)
    objective = Objective(name, KERNELS[kernel], normalise_field=False, feature_scale="none")
    target = TARGETS[config.target]
    trained = train_toy(objective, width, target, recipe, start=Start(0.0, 0.7), seed=config.seed)
    keys = jax.random.split(jax.random.key(config.seed + 1), 3)
    return (float(sliced_wasserstein(trained.sample(keys[0], 5000), target(keys[1], 5000), keys[2])),)


def on_digits(
    config: LinksSettings,
    name: str,
    kernel: str,
    width: float,
    rate: float,
    *,
    real: PointSampler,
    offset: np.ndarray,
    distance: str,
) -> np.ndarray:
    """Digits drawn by a generator trained on `real`, which are `offset` away from where they belong; `[N, 64]`."""
    recipe = ToyRecipe(config.digits_steps, config.batch, rate, 2 * config.hidden_size)
    objective = Objective(name, KERNELS[kernel], normalise_field=True, feature_scale="none")
    start = Start(tuple(offset.tolist()), 0.1)
    trained = train_toy(
        objective, width, real, recipe, dimension=64, start=start, distance=POINT_DISTANCES[distance], seed=config.seed
    )
    return np.asarray(trained.sample(jax.random.key(config.seed + 1), config.samples)) - offset


def run(settings: LinksStudy) -> Result:
    """Links on the toy and on the digits, small widths with both kinds of distances, and accuracy by itself."""
    config = settings.study
    one_of("study.target", config.target, TARGETS)
    data = load_digits()
    rows: list[tuple[TableCell, ...]] = []
    curves: dict[tuple[str, ...], list[float]] = {}

    def note(what: str, name: str, kernel: str, distance: str, width: float, score: Callable, rates: tuple) -> None:
        (distance_to, *others), rate = best(score, rates)
        measured = (distance_to, None, None) if what == "toy" else (None, distance_to, *others)
        rows.append((what, plots.title(name), plots.title(kernel), distance, width, rate, *measured))
        curves.setdefault((what, name, kernel, distance), []).append(distance_to)
        text = "%s, %s, %s, %s distances, width %g: %.4g at rate %g"
        logger.info(text, what, name, kernel, distance, width, distance_to, rate)

    for name in config.objectives:
        for kernel in config.kernels:
            for width in config.toy_widths:
                score = partial(on_toy, config, name, kernel, width)
                note("toy", name, kernel, "centred", width, score, config.toy_learning_rates)
    floor = scores(data.heldout, data.train)
    rows.append(("digits", "held-out real", "", "", None, None, None, *floor))

    def note_digits(what: str, name: str, kernel: str, distance: str, width: float) -> None:
        real, offset = places[what]

        def score(rate: float) -> tuple[float, float]:
            drawn = on_digits(config, name, kernel, width, rate, real=real, offset=offset, distance=distance)
            return scores(drawn, data.train)

        note(what, name, kernel, distance, width, score, config.digits_learning_rates)

    offsets = {"digits": np.zeros(64, np.float32), "far digits": np.full(64, config.offset / 8, np.float32)}
    # One sampler for each: a training is compiled anew for another.
    places = {what: (resample(jnp.asarray(data.train + offset)), offset) for what, offset in offsets.items()}
    for name in config.objectives:
        for kernel in config.kernels:
            for width in config.digits_widths:
                note_digits("digits", name, kernel, "centred", width)
    for name, kernel in SMALL_WIDTH_OBJECTIVES:
        for distance in POINT_DISTANCES:
            for width in config.small_widths:
                note_digits("far digits", name, kernel, distance, width)
    columns = ("data", "objective", "kernel", "distances", "width", "rate", "SWD", "Fréchet", "F1")
    figures, more = {"figure.png": draw(config, curves, floor[0])}, {}
    if config.accuracy:
        errors = small_widths.measure_all()
        figures["small_widths.png"], more = small_widths.draw(errors), small_widths.tables(errors)
    return Result(Table(columns, rows), [], figures, more)


@plots.style()
def draw(config: LinksSettings, curves: dict[tuple[str, ...], list[float]], floor: float) -> Figure:
    """Toy, digits, and digits far from the origin; distance to the real samples against kernel width."""
    figure, axes = plots.figure(3, max(len(config.kernels), len(POINT_DISTANCES)), height=4.9, sharey="row")

    def finish(ax: Axes, title: str, widths: tuple[float, ...]) -> None:
        ax.set(xscale="log", yscale="log", xlabel="kernel width", title=title)
        ax.set_xticks(widths, [f"{w:g}" for w in widths], minor=False)
        ax.minorticks_off()

    rows = (("toy", config.target.replace("_", " "), config.toy_widths), ("digits", "digits", config.digits_widths))
    for row, (what, title, widths) in zip(axes, rows, strict=False):
        for ax, kernel in zip(row, config.kernels, strict=False):
            for name, marker, line in plots.styled(config.objectives):
                ax.plot(widths, curves[what, name, kernel, "centred"], marker + line, label=plots.title(name))
            if what == "digits":
                ax.axhline(floor, color="0.6", linewidth=0.8, zorder=0)
            finish(ax, f"{title}, {plots.title(kernel)}", widths)
    for ax, distance in zip(axes[2], POINT_DISTANCES, strict=False):
        for (name, kernel), look, colour in zip(
            SMALL_WIDTH_OBJECTIVES, ("^-", "v--", "D:"), plots.COLOUR_CYCLE[3:6], strict=False
        ):
            y = curves["far digits", name, kernel, distance]
            label = f"{plots.title(name)}, {plots.title(kernel)}"
            ax.plot(config.small_widths, y, look, color=colour, label=label)
        ax.axhline(floor, color="0.6", linewidth=0.8, zorder=0)
        finish(ax, f"offset {config.offset:g}, {distance}", config.small_widths)
    for ax in axes.flat:
        ax.set_visible(bool(ax.lines))
    for row, label in zip(axes, ("SWD", "Fréchet", "Fréchet"), strict=True):
        row[0].set_ylabel(label)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    figure.legend(*axes[2, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, handlelength=1.6)
    return figure
