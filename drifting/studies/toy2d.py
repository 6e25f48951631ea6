"""`toy2d`: one-step generators of shapes in the plane, and how their samples move (Figure 8 of "A Unified View")."""

import logging

import jax
import numpy as np
from jax import Array
from matplotlib.figure import Figure

from drifting.errors import one_of
from drifting.method.kernels import KERNELS
from drifting.method.objective import Objective
from drifting.studies import plots
from drifting.studies.settings import Toy2dSettings, Toy2dStudy
from drifting.studies.study import Claim, Result, Table, TableCell
from drifting.studies.targets import TARGETS, PointSampler
from drifting.studies.toy_training import Start, ToyRecipe, rbf_mmd, sliced_wasserstein, train_toy

logger = logging.getLogger("drifting")

ANIMATED_STARTS = {
    "middle": Start((0.0, 0.0), 0.15),
    "far away": Start((0.0, 3.0), 0.15),
    "collapsed": Start((-1.0, 0.0), 0.15),
}
"""Where the animated distributions start: between the modes at (-1, 0) and (1, 0), far from both, on one of them."""

ANIMATED_TARGET = "two_modes"


def recipe(config: Toy2dSettings, steps: int) -> ToyRecipe:
    """How the generators are trained."""
    return ToyRecipe(
        steps=steps, batch=config.batch, learning_rate=config.learning_rate, hidden_size=config.hidden_size
    )


def objective(name: str, kernel: str) -> Objective:
    """The field as it is, distances as they are: neither is normalised."""
    return Objective(name, KERNELS[kernel], normalise_field=False, feature_scale="none")


def width_of(config: Toy2dSettings, target: str) -> float:
    """The published widths: one for the ring, one for the others."""
    return config.ring_width if target == "ring" else config.width


def distances(config: Toy2dSettings, target: str, sample: PointSampler, seed: int) -> tuple[float, float]:
    """Sliced Wasserstein distance, its mean over `evaluations` draws, and MMD (bandwidth 0.2) of the first draw."""

    @jax.jit
    def one(key: Array) -> Array:
        keys = jax.random.split(key, 3)
        x, y = sample(keys[0], config.points), TARGETS[target](keys[1], config.points)
        return sliced_wasserstein(x, y, keys[2], config.projections)

    keys = jax.random.split(jax.random.key(seed), config.evaluations)
    swd = float(np.mean([one(key) for key in keys]))
    key_x, key_y = jax.random.split(keys[0])
    mmd = jax.jit(rbf_mmd)(sample(key_x, config.points), TARGETS[target](key_y, config.points), 0.2)
    return swd, float(mmd)


def run(settings: Toy2dStudy) -> Result:
    """Trains a generator for each target, objective and kernel; scores beside those of real samples; the evolution."""
    config = settings.study
    for target in config.targets:
        one_of("study.targets", target, TARGETS)
    rows: list[tuple[TableCell, ...]] = []
    claims, clouds, scores = [], {}, {}
    for target in config.targets:
        floor, floor_mmd = distances(config, target, TARGETS[target], config.seed + 1)
        rows.append((target, "real", "", floor, floor_mmd))
        for name in config.objectives:
            for kernel in config.kernels:
                trained = train_toy(
                    objective(name, kernel),
                    width_of(config, target),
                    TARGETS[target],
                    recipe(config, config.steps),
                    start=Start(0.0, config.start_scale),
                    seed=config.seed,
                )
                swd, mmd = distances(config, target, trained.sample, config.seed + 1)
                scores[target, name, kernel] = swd
                clouds[target, name, kernel] = np.asarray(trained.sample(jax.random.key(config.seed + 2), 2000))
                rows.append((target, plots.title(name), plots.title(kernel), swd, mmd))
                claims.append(Claim(f"{target}, {plots.title(name)}, {plots.title(kernel)}: SWD", swd, high=0.05))
                logger.info("%s, %s, %s: SWD %.4f", target, name, kernel, swd)
    for name in config.objectives:
        if {"laplace", "gaussian"} <= set(config.kernels):
            both = np.array([[scores[t, name, kernel] for kernel in ("laplace", "gaussian")] for t in config.targets])
            rows_of = [*zip(config.targets, both, strict=True), ("mean of the targets", both.mean(axis=0))]
            for target, pair in rows_of:
                text = f"{target}, {plots.title(name)}: larger SWD of Laplace and Gauss / smaller"
                claims.append(Claim(text, float(pair.max() / pair.min()), high=1.2))
    table = Table(("target", "objective", "kernel", "SWD", "MMD"), rows)
    figures: dict[str, Figure | plots.Animation] = {}
    for number, name in enumerate(config.objectives):
        figures[f"figure_{name}.png" if number else "figure.png"] = draw(config, name, clouds, scores)
    if config.frames > 1:
        figures["evolution.gif"] = animate(config)
    return Result(table, claims, figures)


@plots.style()
def draw(config: Toy2dSettings, name: str, clouds: dict, scores: dict) -> Figure:
    """Real samples on the left, then those of the generators trained with one objective."""
    figure, axes = plots.figure(
        len(config.targets), 1 + len(config.kernels), height=1.13 * len(config.targets), pictures=True
    )
    for row, target in zip(axes, config.targets, strict=True):
        real = np.asarray(TARGETS[target](jax.random.key(config.seed), 2000))
        extent = 1.15 * float(np.abs(real).max())
        row[0].plot(*real.T, ".", color=plots.REAL_COLOUR, markersize=0.7)
        for ax, kernel in zip(row[1:], config.kernels, strict=True):
            ax.plot(*clouds[target, name, kernel].T, ".", color=plots.GENERATED_COLOUR, markersize=0.7)
            text = f"{scores[target, name, kernel]:.3f}"
            ax.text(0.96, 0.05, text, transform=ax.transAxes, ha="right", fontsize=6, bbox=plots.LABEL_BOX)
        for ax in row:
            plots.plane(ax, extent, target.replace("_", " "))
    axes[0, 0].set_title("real")
    for ax, kernel in zip(axes[0, 1:], config.kernels, strict=True):
        ax.set_title(f"{plots.title(name)},\n{plots.title(kernel)}")
    return figure


def animate(config: Toy2dSettings) -> plots.Animation:
    """The generated distribution from its three starts towards two modes."""
    real = np.asarray(TARGETS[ANIMATED_TARGET](jax.random.key(config.seed), 1000))
    paths = {
        name: train_toy(
            objective(config.objectives[0], config.kernels[0]),
            config.animated_width,
            TARGETS[ANIMATED_TARGET],
            recipe(config, config.animated_steps),
            start=start,
            snapshots=config.frames,
            seed=config.seed,
        ).snapshots
        for name, start in ANIMATED_STARTS.items()
    }
    steps = np.linspace(0, config.animated_steps, config.frames).round().astype(int)
    return plots.Animation([draw_frame(real, paths, i, step) for i, step in enumerate(steps)])


@plots.style()
def draw_frame(real: np.ndarray, paths: dict[str, np.ndarray], i: int, step: int) -> np.ndarray:
    """One picture of the animation."""
    figure, axes = plots.figure(1, len(paths), height=1.95, pictures=True)
    for ax, (name, path) in zip(axes[0], paths.items(), strict=True):
        ax.plot(*real.T, ".", color=plots.ORANGE, markersize=1, label="real")
        ax.plot(*path[i].T, ".", color=plots.GENERATED_COLOUR, markersize=1, label="generated")
        ax.set_title(name)
        plots.bare(ax)
        ax.set(xlim=(-2.2, 2.2), ylim=(-1.2, 3.7))
    axes[0, 1].set_xlabel(f"step {step}")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, markerscale=4)
    return plots.pixels(figure)
