"""The figures of the results on MNIST: scores against kernel width, samples, and gap against distance."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from drifting.runs.files import exists
from drifting.sampling.generator import TrainedGenerator
from drifting.sampling.grid import save_grid
from drifting.studies import plots
from scripts.mnist_tables import CELL, REAL, TITLES, Row, best_widths, cells

CURVE_SCORES = {"frechet_distance": "Fréchet distance", "precision": "precision", "recall": "recall"}

LABELLED_WIDTHS = (0.025, 0.1, 0.5)
"""Those between which there is room for a label."""

DIGITS = range(10)


def draw(rows: Sequence[Row], curves: Sequence[Row], workdir: Path, out: Path) -> None:
    """Writes `mnist_widths.png`, `mnist_gap.png` and, where the best cells are there, `mnist_samples.png`."""
    plots.save(width_figure(rows), out / "mnist_widths.png")
    if curves:
        plots.save(gap_figure(curves), out / "mnist_gap.png")
    folders = {
        objective: workdir / f"{'-'.join(objective)}-width{width}-seed0"
        for objective, width in best_widths(rows).items()
    }
    there = {objective: folder for objective, folder in folders.items() if exists(folder)}
    images = [TrainedGenerator.from_run(folder).sample([*DIGITS, *DIGITS]) for folder in there.values()]
    if images:
        names = [TITLES[objective] for objective in there]
        save_grid(np.concatenate(images), out / "mnist_samples.png", 2 * len(DIGITS), scale=2, names=names)


@plots.style()
def width_figure(rows: Sequence[Row]) -> plots.Figure:
    """Distance, precision and recall of the five objectives against width: means over seeds, and each seed a dot.

    The distance of the test set is left out: it is so far below that the objectives would not be told apart.
    """
    figure, axes = plots.figure(1, len(CURVE_SCORES), height=2.3)
    real = next((row for row in rows if row["objective"] == REAL), None)
    tried = sorted({float(row["width"]) for row in rows if row["objective"] != REAL})
    for plot, (score, title) in zip(axes[0], CURVE_SCORES.items(), strict=True):
        for (objective, by_width), marker, line in plots.styled(cells(rows).items()):
            widths = [float(width) for width in by_width]
            means = [np.mean([float(row[score]) for row in seeds]) for seeds in by_width.values()]
            (drawn,) = plot.plot(widths, means, linestyle=line, marker=marker, label=TITLES[objective])
            for width, seeds in zip(widths, by_width.values(), strict=True):
                values = [float(row[score]) for row in seeds]
                plot.plot([width] * len(values), values, linestyle="", marker=".", color=drawn.get_color())
        plot.set(xscale="log", xlabel="kernel width", title=title)
        plot.set_xticks(LABELLED_WIDTHS, [f"{width:g}" for width in LABELLED_WIDTHS])
        plot.set_xticks(tried, [""] * len(tried), minor=True)
        if score == "frechet_distance":
            plot.set(yscale="log")
            plots.log_ticks(plot.yaxis)
        elif real is not None:
            plot.axhline(float(real[score]), color=plots.REAL_COLOUR, linewidth=0.6, label="real test images")
    figure.legend(*axes[0][-1].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


@plots.style()
def gap_figure(curves: Sequence[Row]) -> plots.Figure:
    """Distance against the gap in the course of all cells, with their rank correlation at the last step.

    Gaps that are not positive have no place on the axis and are left out of the lines, not of the correlation.
    """
    figure, axes = plots.figure(height=2.8)
    plot, ends = axes[0, 0], last_steps(curves)
    for objective, marker, line in plots.styled(TITLES):
        own: dict[tuple[str, str], list[Row]] = {}
        for row in curves:
            if (row["objective"], row["kernel"]) == objective and float(row["gap"]) > 0:
                own.setdefault((row["width"], row["seed"]), []).append(row)
        colour = None
        for course in own.values():
            gaps, distances = ([float(row[name]) for row in course] for name in ("gap", "frechet_distance"))
            label = TITLES[objective] if colour is None else None
            (drawn,) = plot.plot(
                gaps, distances, linestyle=line, marker=marker, color=colour, label=label, linewidth=0.6
            )
            colour = drawn.get_color()
    title = f"rank correlation over the last steps of {len(ends)} cells: {rank_correlation(ends):.2f}"
    plot.set(xscale="log", yscale="log", xlabel="gap", ylabel="Fréchet distance", title=title if len(ends) > 2 else "")
    plots.log_ticks(plot.xaxis)
    plots.log_ticks(plot.yaxis)
    figure.legend(*plot.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def last_steps(curves: Sequence[Row]) -> list[tuple[float, float]]:
    """Gap and distance of each cell at its last step."""
    last = {tuple(row[name] for name in CELL): row for row in sorted(curves, key=lambda row: int(row["step"]))}
    return [(float(row["gap"]), float(row["frechet_distance"])) for row in last.values()]


def rank_correlation(pairs: Sequence[tuple[float, float]]) -> float:
    """Spearman's rank correlation; NaN of less than three pairs."""
    return float(spearmanr(*zip(*pairs, strict=True)).statistic) if len(pairs) > 2 else float("nan")
