"""One look for every figure: as wide as a column of text, and legible there without colours too.

Figures are made without pyplot, so nothing global is kept: `figure(...)`, draw, `save`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, TypeVar

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from PIL import Image

from drifting.runs.files import atomic_path

_Item = TypeVar("_Item")

COLUMN_INCHES = 3.3  # inches: a column of a two-column page

FIGURE_DPI = 300

# Okabe & Ito's palette, told apart with every kind of colour blindness.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442",
)  # fmt: skip

COLOUR_CYCLE = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY, "#000000", YELLOW)

LINE_STYLES = ("-", "--", ":", "-.")

PLOT_MARKERS = "osD^vPX*"

REAL_COLOUR, GENERATED_COLOUR = "0.55", BLUE

DIVERGING_COLOURS = "PuOr"

LABEL_BOX = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.8}

FIGURE_STYLE: dict[Any, Any] = {
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.titlepad": 4,  # clear of the frame, descenders too
    "axes.labelsize": 7,
    "xtick.labelsize": 6,
    "ytick.labelsize": 6,
    "legend.fontsize": 6,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 3,
    "axes.prop_cycle": cycler(color=COLOUR_CYCLE),
}

PLOT_TITLES = {
    "gaussian": "Gauss",
    "laplace": "Laplace",
    "rational_quadratic": "rat. quadratic",
    "mean_shift": "mean shift",
    "drift_row": "drift, row",
    "drift_raw": "drift, raw",
    "mmd": "MMD",
    "log_kde": "log-KDE",
    "mmd_kde": "MMD-KDE",
    "inverse_profile_kde": "inverse profile",
}


@dataclass(frozen=True)
class Animation:
    """Pictures `[H, W, 3]` uint8 of one size, shown `seconds` each, over and over."""

    frames: Sequence[np.ndarray]
    seconds: float = 0.15


def title(name: str) -> str:
    """A registry's name as it is read."""
    return PLOT_TITLES.get(name, name.replace("_", " "))


def styled(items: Iterable[_Item]) -> Iterator[tuple[_Item, str, str]]:
    """Items, each with its marker and its line, from the first again where those run out."""
    return zip(items, cycle(PLOT_MARKERS), cycle(LINE_STYLES))


def style() -> Any:
    """The look: a context manager for a block, or a decorator of a function that draws."""
    return mpl.rc_context(FIGURE_STYLE)


def figure(
    rows: int = 1, columns: int = 1, height: float = 2.2, pictures: bool = False, **arguments: Any
) -> tuple[Figure, np.ndarray]:
    """A figure of a column's width and its axes, an array `[rows, columns]`; call it within `style`.

    Args:
        rows, columns: how many axes there are.
        height: the height of the figure in inches.
        pictures: whether the axes keep their aspect, as in `plane`.
        arguments: further arguments of `Figure.subplots`.
    """
    figure = Figure(figsize=(COLUMN_INCHES, height), layout="compressed" if pictures else "constrained", dpi=FIGURE_DPI)
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.04, h_pad=0.04, wspace=0.05, hspace=0.03)  # type: ignore[union-attr, call-arg]
    return figure, figure.subplots(rows, columns, squeeze=False, **arguments)


def bare(axes: Axes) -> None:
    """A picture of the plane: square, framed, without ticks."""
    axes.set(aspect="equal", xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(True)


def plane(axes: Axes, extent: float, name: str = "") -> None:
    """A picture of the square `[-extent, extent]^2`, framed; coordinates and the row's `name` at the outer sides."""
    bare(axes)
    axes.set(xlim=(-extent, extent), ylim=(-extent, extent), xlabel="$x_1$", ylabel=f"{name}\n$x_2$".strip())
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(2, steps=[1, 2, 5, 10]))
    axes.label_outer()


def log_ticks(axis: Axis) -> None:
    """Labels a logarithmic axis, once all is drawn, at more than one place, however little of a decade it shows."""
    low, high = axis.get_view_interval()
    some = LogLocator(subs=(1.0, 2.0, 5.0)) if high > 3 * low else MaxNLocator(3)
    axis.set_major_locator(LogLocator() if high > 30 * low else some)
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def pixels(figure: Figure, dpi: int = 150) -> np.ndarray:
    """A figure as a picture `[H, W, 3]` uint8."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    with style():
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save(figure: Figure | Animation, path: Path) -> None:
    """Writes a PNG, or an animation as a GIF of at most 64 colours."""
    with atomic_path(path) as temporary:
        if isinstance(figure, Animation):
            first, *others = (Image.fromarray(frame).quantize(64, dither=Image.Dither.NONE) for frame in figure.frames)
            wait = [1000 * figure.seconds] * len(others) + [2000]
            first.save(
                temporary, format="GIF", save_all=True, append_images=others, duration=wait, loop=0, optimize=True
            )
        else:
            with style():
                figure.savefig(temporary, format="png", dpi=FIGURE_DPI)
