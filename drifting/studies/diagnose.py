"""`diagnose`: the quantities of `alignment` on a trained generator, in the feature space of its loss.

"A Unified View", Section 4.2 and Appendix B.3: how far mean shift and score agree in each feature map, and the two
deviations of the implementation from the population's field, the softmax over queries and the finite pools.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from drifting.errors import one_of, require
from drifting.method.alignment import Alignment, sides
from drifting.method.exact_pairs import independent_pairs
from drifting.method.kernels import KERNELS, Kernel
from drifting.scoring.diagnosis import (
    BLOCK_NAMES,
    BLOCK_QUANTITIES,
    LOGGED_QUANTITIES,
    BlockMeans,
    Gathering,
    Problem,
    measures_of,
)
from drifting.studies import plots
from drifting.studies.settings import DiagnoseStudy
from drifting.studies.study import Result, Table, TableCell
from drifting.studies.subject import subject

logger = logging.getLogger("drifting")

WIDTHS_APART = 0.5
"""How far the markers of a map's first and last width lie apart, in rows."""


def run(
    settings: DiagnoseStudy, *, run: Path | None = None, weights: str | None = None, vae: str | None = None
) -> Result:
    """Every quantity for each feature map and width, and a picture of each map."""
    config = settings.study
    require(config.generated > 1, "study.generated", config.generated, "use 2 or more: none is a negative of its own")
    trained, found = subject(settings, run, weights, vae)
    alpha = trained.alpha(None if config.alpha is None else config.alpha)
    kernel_name = config.kernel or found.loss.kernel
    one_of("study.kernel", kernel_name, KERNELS)
    kernel = KERNELS[kernel_name]
    if kernel_name == "gaussian":
        logger.info("with Gauss, mean shift and score are equal up to a factor: try study.kernel=laplace")
    widths = config.widths or found.loss.widths
    rows: list[tuple[TableCell, ...]] = []
    figures: dict[str, Figure] = {}
    for name, maps in Gathering(found, config, alpha)(trained.params).items():
        own, scale, quantities = measures_of(found, maps, kernel, widths, alpha)
        for width, norm, (alignment, blocks) in zip(widths, own.field_norm, quantities, strict=True):
            numbers = [float(value) for value in (*alignment, *blocks.effective, *blocks.symmetry, *blocks.pool)]
            rows.append((name, maps.x.shape[-1], float(width), float(norm), float(own.gap), scale, *numbers))
        figures[f"map_{name.replace('/', '_')}.png"] = draw_map(name, maps, kernel, widths, scale, quantities)
        logger.info("%s: cosine %s", name, ", ".join(f"{float(a.cosine):.4f}" for a, _ in quantities))
    first = ("map", "channels", "width", "own field norm", "own gap", "feature scale")
    by_block = [f"{quantity}, {block}" for quantity in BLOCK_QUANTITIES for block in BLOCK_NAMES]
    table = Table([*first, *Alignment._fields, *by_block], rows)
    shown = dict(zip(LOGGED_QUANTITIES, ("relative error", "cosine", "ratio", "gap"), strict=True))
    picked = Table(("map", "width", *shown.values(), "own field norm"), table.of("map", "width", *shown, first[3]))
    of_blocks = [
        table.of("map", "width", *(f"{quantity}, {block}" for quantity in BLOCK_QUANTITIES)) for block in BLOCK_NAMES
    ]
    by_map = zip(*of_blocks, strict=True)
    long = [(*row[:2], block, *row[2:]) for same in by_map for block, row in zip(BLOCK_NAMES, same, strict=True)]
    more = {"blocks.csv": Table(("map", "width", "block", *BLOCK_QUANTITIES), long)}
    overview = {"figure.png": draw(table, plots.title(kernel_name))}
    return Result(picked, [], {**overview, **figures}, more, table)


@plots.style()
def draw(table: Table, kernel: str) -> Figure:
    """The four quantities of the paper's Figure 5 for each map, a marker for each width."""
    labels = ("relative error", "cosine", "$\\bar\\alpha_p/\\bar\\alpha_q$", "$E|\\delta_p-\\delta_q|^2$")
    names = list(dict.fromkeys(str(row[0]) for row in table.rows))
    widths = list(dict.fromkeys(row[2] for row in table.rows))
    figure, axes = plots.figure(2, 2, height=1.5 + 0.26 * len(names), sharey=True)
    for ax, quantity, label in zip(axes.flat, LOGGED_QUANTITIES, labels, strict=True):
        for place, (width, marker, _) in enumerate(plots.styled(widths)):
            values = [row[table.columns.index(quantity)] for row in table.rows if row[2] == width]
            # Below one another: the widths of a map are often alike, and would hide each other.
            beside = (place - (len(widths) - 1) / 2) * WIDTHS_APART / max(len(widths) - 1, 1)
            ax.plot(values, np.arange(len(names)) + beside, marker, label=f"width {width:g}")
        ax.set(yticks=range(len(names)), yticklabels=names)
        ax.set_title(label)
        ax.grid(axis="y", color="0.9", linewidth=0.6)
        if quantity == "residual_gap" and all(float(gap or 0) > 0 for (gap,) in table.of(quantity)):
            ax.set_xscale("log")
            plots.log_ticks(ax.xaxis)
    axes[0, 0].set_ylim(len(names) - 0.5, -0.5)
    figure.suptitle(f"{kernel} kernel", fontsize=7)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


@plots.style()
def draw_map(
    name: str,
    maps: Problem,
    kernel: Kernel,
    widths: Sequence[float],
    scale: float,
    measured: Sequence[tuple[Alignment, BlockMeans]],
) -> Figure:
    """One problem of a map, real and generated samples and the mean shift between them; effective sample sizes."""
    problem = Problem(*(a[0, :, 0] / scale for a in maps))
    real = jnp.concatenate([problem.pos, problem.ref_p])
    x, real, fake = (a - jnp.mean(real, axis=0) for a in (problem.x, real, problem.ref_q))
    pairs = independent_pairs(x, real, fake)
    p, q = sides(pairs, x, real, fake, kernel, widths[len(widths) // 2])
    figure, axes = plots.figure(1, 2, height=2.3, width_ratios=(1.25, 1))
    left, right = axes[0]
    draw_plane(left, name, *(np.asarray(a) for a in (real, x, p.mean_shift - q.mean_shift)))
    for i, (block, marker, _) in enumerate(plots.styled(BLOCK_NAMES)):
        right.plot(widths, [float(b.effective[i]) for _, b in measured], marker + "-", label=block)
    right.set(xlabel="kernel width", ylabel="effective sample size", xscale="log", ylim=(0, None))
    right.set_xticks(widths, [f"{w:g}" for w in widths], minor=False)
    right.minorticks_off()
    handles = [*left.get_legend_handles_labels()[0], *right.get_legend_handles_labels()[0]]
    labels = ["real", "generated", *(f"block {block}" for block in BLOCK_NAMES)]
    figure.legend(handles, labels, loc="outside lower center", ncols=3, handlelength=1.4)
    return figure


def draw_plane(ax: Axes, name: str, real: np.ndarray, fake: np.ndarray, v: np.ndarray) -> None:
    """Real and generated samples `[P, C]`, `[N, C]` and the mean shift `[N, C]` in the plane of the real samples' two
    main directions; of one channel, which has no plane, the mean shift by place."""
    if real.shape[1] == 1:
        ax.plot(real[:, 0], np.zeros(len(real)), "|", color=plots.ORANGE, markersize=7, alpha=0.6, label="real")
        ax.plot(fake[:, 0], v[:, 0], "o", color=plots.GENERATED_COLOUR, markersize=2, label="generated")
        ax.axhline(0, color="0.8", linewidth=0.6, zorder=0)
        ax.set(xlabel="the one channel", ylabel="mean shift", title=name)
        return
    main = np.linalg.svd(real, full_matrices=False)[2][:2].T
    real, fake, v = (a @ main for a in (real, fake, v))
    ax.plot(*real.T, "o", color=plots.ORANGE, markersize=2, alpha=0.6, label="real")
    ax.plot(*fake.T, "o", color=plots.GENERATED_COLOUR, markersize=2, label="generated")
    # The longest arrow is a quarter of the picture's width, whatever is left of the field.
    longest = float(np.linalg.norm(v, axis=1).max())
    ax.quiver(*fake.T, *v.T, color="0.2", width=0.007, angles="xy", scale=4 * longest, zorder=3)
    ax.margins(0.15)
    ax.set(xlabel="1st main direction", ylabel="2nd", title=f"{name}, longest arrow {longest:.2g}")
