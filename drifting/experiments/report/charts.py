"""Charts as inline SVG: lines and points on linear or logarithmic axes, readable at the width of a phone.

Colours, dashes and dark mode are the style sheet's: classes `s0`, `s1`, ... for series of different kinds, and a ramp
of as many tones as are needed, on which a series has a percentage. Every chart says in words what it shows, and every
point what it is.
"""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 360, 250

LEFT, RIGHT, TOP, BOTTOM = 56, 14, 12, 42

AXIS_TICKS = 5

LOG_RATIO = 30.0
"""Where the largest value is so many times the smallest, an axis is logarithmic."""

LINEAR_PART = 1e-3
"""Where a logarithmic axis must have values below 0, it is linear up to so much of the largest value."""

FLAT_RANGE = 1e-4
"""Values that differ by less than so much of the largest are drawn as one and the same."""

CHARACTER_WIDTH = 7.0
"""Width of a digit."""

LEAST_RANGE = 0.1
"""An axis of scores or curves spans at least so much of the largest value."""

TICK_SLACK = 0.12
"""By so much of a step a value may lie beyond the last tick."""

MARKER_SHAPES = ("circle", "square", "triangle", "diamond", "cross")


@dataclass(frozen=True)
class Series:
    """A line.

    Attributes:
        name: what it is called.
        points: `(x, y)`, in order of x.
        style: the class that gives it its colour, or a percentage of the ramp.
        marker: the one of `MARKER_SHAPES` that is drawn at each point; None: none is.
        notes: what each point is, in words; points with notes can be reached with the keyboard.
        spans: lowest and highest y at each point.
        entry: the entry of the legend that shows and hides it. '': its name.
    """

    name: str
    points: Sequence[tuple[float, float]]
    style: str
    marker: str | None = None
    notes: Sequence[str] = field(default_factory=tuple)
    spans: Sequence[tuple[float, float]] = field(default_factory=tuple)
    entry: str = ""


@dataclass(frozen=True)
class Axis:
    """An axis.

    Attributes:
        label: what it shows.
        low, high: the ends of the axis.
        log: whether it is logarithmic.
        ticks: where it is labelled.
        linear: the size up to which a logarithmic axis with values below 0 is linear. 0: all values are positive.
    """

    label: str
    low: float
    high: float
    log: bool
    ticks: Sequence[float]
    linear: float = 0.0

    @property
    def scale(self) -> str:
        """What a reader has to know of it: '', or that it is logarithmic."""
        return f"logarithmic axis{', linear around 0' if self.linear else ''}" if self.log else ""

    def shows(self, value: float) -> bool:
        """Whether a value has a place."""
        return math.isfinite(value) and (value > 0 or not self.log or self.linear > 0)

    def place(self, value: float) -> float:
        """Where a value lies between the ends, in [0, 1]."""
        low, high = self.low, self.high
        if self.linear:
            low, high, value = (math.asinh(v / self.linear) for v in (low, high, value))
        elif self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return (value - low) / (high - low)


def axis(
    label: str,
    values: Sequence[float],
    log: bool | None = None,
    ticks: Sequence[float] | None = None,
    least: float = 0.0,
) -> Axis:
    """An axis for some finite values.

    Args:
        label: what it shows.
        values: what has to find room.
        log: whether it is logarithmic; None: where they span more than `LOG_RATIO`, or most of those around 0.
        ticks: where it is labelled; None: at round numbers.
        least: a linear axis spans at least so much of the largest value, lest noise look like a slope.
    """
    low, high = min(values), max(values)
    if log is None:
        usual = statistics.median(map(abs, values))
        if low <= 0 < usual and high > LOG_RATIO * max(-low, usual):
            return _signed_axis(label, low, high)
        log = low > 0 and high / low > LOG_RATIO
    if log:
        pad = max((high / low) ** 0.06, 1.05)
        low, high = low / pad, high * pad
        return Axis(label, low, high, True, ticks or _log_ticks(low, high))
    if high - low <= FLAT_RANGE * max(abs(low), abs(high)):
        low, high = (0.0, 1.0) if low == 0 else (low - abs(low) / 2, high + abs(high) / 2)
    elif (lacking := least * max(abs(low), abs(high)) - (high - low)) > 0:
        low, high = low - lacking / 2, high + lacking / 2
    step = _nice((high - low) / AXIS_TICKS)
    # An end that is hardly beyond a tick does not get another one.
    first, last = math.floor(low / step + TICK_SLACK), math.ceil(high / step - TICK_SLACK)
    marks = ticks or [i * step for i in range(first, last + 1)]
    return Axis(label, min(low, first * step), max(high, last * step), False, marks)


def _signed_axis(label: str, low: float, high: float) -> Axis:
    linear = high * LINEAR_PART
    first, last = math.ceil(math.log10(linear)), math.floor(math.log10(high))
    powers = [10.0**power for power in range(first, last + 1)]
    ticks = [*(-power for power in reversed(powers) if -power >= low), 0.0, *powers]
    return Axis(label, low, high * 1.1, True, ticks, linear)


def _nice(step: float) -> float:
    """The next larger of 1, 2, 2.5 and 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= step * (1 - 1e-9))


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        ticks = [factor * 10.0**power for power in powers for factor in factors if low <= factor * 10.0**power <= high]
        if len(ticks) <= AXIS_TICKS + 1:
            break
    return ticks if len(ticks) > 1 else [low, high]


def number(value: float) -> str:
    """A number for an axis or a table: four significant digits at most."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e5 or size < 1e-3:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:,.0f}" if size >= 1000 else f"{value:.4g}"


def chart(
    title: str, x: Axis, y: Axis, series: Sequence[Series], cursor: bool = False, level: tuple[str, float] | None = None
) -> str:
    """The SVG of some lines; values that are not finite break them.

    Args:
        title: what is shown, in a few words; with the series it is what a screen reader says.
        x, y: the axes.
        series: the lines.
        cursor: whether values can be read off under a line that the pointer and the arrow keys move; x must not be
            logarithmic.
        level: name and value of a dashed line across, within `y`.
    """

    def at(point: tuple[float, float]) -> tuple[float, float]:
        across, up = x.place(point[0]), y.place(point[1])
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    said = escape(f"{title}. {y.label} against {x.label}: {', '.join(s.name for s in series)}.")
    ends = f' data-x="{LEFT} {WIDTH - RIGHT} {x.low:g} {x.high:g}"' if cursor else ""
    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="group" aria-label="{said}"{ends}>']
    parts += _grid(x, y)
    if level is not None:
        parts.append(_level(level[0], at((x.low, level[1]))[1]))
    for line in series:
        values = json.dumps([(px, number(py)) for px, py in line.points if math.isfinite(py)])
        data = f' data-values="{escape(values)}"' if cursor else ""
        names = f'data-series="{escape(line.entry or line.name)}" data-name="{escape(line.name)}"'
        parts.append(f"<g {_paint(line.style)} {names}{data}>")
        for piece in _pieces(line.points, x, y):
            path = " ".join(f"{px:.1f},{py:.1f}" for px, py in map(at, piece))
            parts.append(f'<polyline class="line" points="{path}"/>')
        for (px, _), (low, high) in zip(line.points, line.spans, strict=False):
            if low < high and _shown((px, low), x, y):
                (place, bottom), (_, top) = at((px, low)), at((px, high))
                parts.append(f'<path class="span" d="M{place:.1f} {bottom:.1f}V{top:.1f}"/>')
        notes = list(line.notes) or [""] * len(line.points)
        for point, note in zip(line.points, notes, strict=True):
            if line.marker and _shown(point, x, y):
                parts.append(_mark(line.marker, *at(point), note))
        parts.append("</g>")
    if cursor:
        parts.append(f'<line class="cursor" y1="{TOP}" y2="{HEIGHT - BOTTOM}" x1="0" x2="0"/>')
    return "".join([*parts, "</svg>"])


def _paint(style: str) -> str:
    if style.endswith("%"):
        return f'class="series ramp" style="--t: {style}"'
    return f'class="series {style}"'


def _level(name: str, py: float) -> str:
    right = WIDTH - RIGHT
    line = f'<line class="level" x1="{LEFT}" x2="{right}" y1="{py:.1f}" y2="{py:.1f}"/>'
    return f'{line}<text x="{right}" y="{py - 4:.1f}" text-anchor="end" aria-hidden="true">{escape(name)}</text>'


def _shown(point: tuple[float, float], x: Axis, y: Axis) -> bool:
    return x.shows(point[0]) and y.shows(point[1])


def _pieces(points: Sequence[tuple[float, float]], x: Axis, y: Axis) -> list[list[tuple[float, float]]]:
    pieces: list[list[tuple[float, float]]] = [[]]
    for point in points:
        if _shown(point, x, y):
            pieces[-1].append(point)
        elif pieces[-1]:
            pieces.append([])
    return [piece for piece in pieces if piece]


def _grid(x: Axis, y: Axis) -> list[str]:
    bottom, right, middle = HEIGHT - BOTTOM, WIDTH - RIGHT, (LEFT + WIDTH - RIGHT) / 2
    parts = ['<g class="axes" aria-hidden="true">']
    for tick in y.ticks:
        py = bottom - y.place(tick) * (bottom - TOP)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{py:.1f}" y2="{py:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{py + 4:.1f}" text-anchor="end">{number(tick)}</text>')
    taken = 0.0
    for tick in x.ticks:
        px = LEFT + x.place(tick) * (right - LEFT)
        parts.append(f'<line class="tick" x1="{px:.1f}" x2="{px:.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
        anchor = "end" if px > right - 8 and len(number(tick)) > 2 else "middle"
        edge = WIDTH - 2 if anchor == "end" else px
        width = CHARACTER_WIDTH * len(number(tick))
        left_end = edge - (width if anchor == "end" else width / 2)
        if left_end < taken:  # no room for its number beside the one before
            continue
        taken = left_end + width + CHARACTER_WIDTH
        parts.append(f'<text x="{edge:.1f}" y="{bottom + 17}" text-anchor="{anchor}">{number(tick)}</text>')
    parts.append(f'<line class="base" x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    parts.append(f'<text class="name" x="{middle:.1f}" y="{HEIGHT - 5}" text-anchor="middle">{escape(x.label)}</text>')
    return [*parts, "</g>"]


def _mark(marker: str, px: float, py: float, note: str) -> str:
    shape = marker_shape(marker, px, py, 4.5)
    if not note:
        return f'<g class="mark">{shape}</g>'
    target = f'<circle class="target" cx="{px:.1f}" cy="{py:.1f}" r="13"/>'
    return f'<g class="mark point" tabindex="-1" role="img" aria-label="{escape(note)}">{target}{shape}</g>'


def marker_shape(marker: str, px: float, py: float, r: float) -> str:
    """The SVG of a marker around a place."""
    if marker == "circle":
        return f'<circle cx="{px:.1f}" cy="{py:.1f}" r="{r}"/>'
    if marker == "cross":
        d = r * 0.9
        lines = (
            f"M{px - d:.1f} {py - d:.1f}L{px + d:.1f} {py + d:.1f}M{px - d:.1f} {py + d:.1f}L{px + d:.1f} {py - d:.1f}"
        )
        return f'<path class="stroked" d="{lines}"/>'
    corners = {
        "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        "triangle": [(0, -1.2), (1.1, 0.8), (-1.1, 0.8)],
        "diamond": [(0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)],
    }[marker]
    points = " ".join(f"{px + cx * r:.1f},{py + cy * r:.1f}" for cx, cy in corners)
    return f'<polygon points="{points}"/>'


def side_by_side(figures: Sequence[str]) -> str:
    """Figures in rows of two or three, so that few are left over in the last; one below the other on a phone."""
    columns = 2 if len(figures) in (1, 2, 4) else 3
    return f'<div class="figures" style="--columns: {columns}">{"".join(figures)}</div>'


def legend(series: Sequence[tuple[str, str, str | None]]) -> str:
    """Names, styles and markers as buttons that show and hide their series in all charts of the same figure."""
    items = []
    for name, style, marker in series:
        shape = marker_shape(marker, 14, 7, 4.5) if marker else ""
        mark = f'<g class="mark">{shape}</g>' if shape else ""
        line = f'<polyline class="line" points="1,7 27,7"/>{mark}'
        swatch = f'<svg viewBox="0 0 28 14" aria-hidden="true"><g {_paint(style)}>{line}</g></svg>'
        press = f'<button type="button" aria-pressed="true" data-series="{escape(name)}">'
        items.append(f"<li>{press}{swatch}{escape(name)}</button></li>")
    return f'<ul class="legend" aria-label="Series: press to show or hide">{"".join(items)}</ul>'
