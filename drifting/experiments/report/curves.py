"""Curves of the training: of one run, and of all runs of a sweep on the same axes."""

from collections.abc import Sequence
from html import escape

from drifting.experiments.report.charts import LEAST_RANGE, Axis, Series, axis, chart, legend, side_by_side
from drifting.experiments.report.data import RunData
from drifting.experiments.report.elements import switch
from drifting.experiments.report.groups import kinds, width_text

CURVE_TITLES = {
    "gap": "log q# − log p# at generated samples, in the features of the loss; falls towards 0",
    "loss": "of all feature maps; with a normalised field and one width it is their number by construction",
    "field_norm": "root mean square of the field before it is normalised; falls",
    "collapse": "distance between generated samples of a class over that between real ones; near 1",
}

ENCODER_CURVES = {
    "recon_loss": "squared error of masked tokens; falls",
    "accuracy": "share of images whose class the classifier finds; rises at the end",
    "loss": "all that is minimised; jumps where the classifier joins",
}

LINEAR_CURVES = ("learning_rate",)
"""Curves that a logarithmic axis would turn into a wall."""

CURVE_POINTS = 300
"""The most points of a curve that are drawn."""


def sweep_curves(runs: Sequence[RunData]) -> str:
    """Curves of every cell: a switch for the metric, a chart for each kind, a line for each run."""
    shown = [(name, text) for name, text in CURVE_TITLES.items() if any(run.curve(name) for run in runs)]
    if not shown:
        return ""
    widths = sorted({run.widths for run in runs})
    tones = {w: f"{100 * i / max(len(widths) - 1, 1):.0f}%" for i, w in enumerate(widths)}
    panels = []
    for name, text in shown:
        lines = {
            kind: [
                Series(_name(run), _thinned(run.curve(name)), tones[run.widths], entry=_width(run))
                for run in sorted(runs, key=lambda run: (run.widths, run.seed or 0))
                if run.kind == kind and run.curve(name)
            ]
            for kind in kinds(runs)
        }
        # The same axes for all, so that charts side by side compare.
        axes = _axes(name, [line for of_kind in lines.values() for line in of_kind])
        figures = [
            f"<figure><figcaption>{escape(kind)}</figcaption>{_drawn(f'{name} of {kind}', axes, series)}</figure>"
            for kind, series in lines.items()
        ]
        panels.append(
            f'<p class="lead"><b>{name}</b>: {"; ".join(filter(None, (escape(text), _scale(axes))))}.</p>'
            f"{side_by_side(figures)}"
        )
    keys = legend([(f"width {width_text(w)}", tones[w], None) for w in widths])
    return f"<div data-figures>{keys}{switch('metric', [name for name, _ in shown], panels)}</div>"


def run_curves(run: RunData, names: Sequence[str]) -> str:
    """Curves of one run, a chart for each of the metrics `names` that it has."""
    figures = []
    for name in names:
        points = _thinned(run.curve(name))
        if points:
            series = [Series(name, points, "s0")]
            axes = _axes(name, series)
            known = ENCODER_CURVES if run.is_encoder else CURVE_TITLES
            about = "; ".join(filter(None, (escape(known.get(name, "")), _scale(axes))))
            small = f" <small>{about}</small>" if about else ""
            drawn = f"<figcaption>{name}{small}</figcaption>{_drawn(name, axes, series)}"
            figures.append(f'<figure data-chart="{name}">{drawn}</figure>')
    return f"<div data-figures>{side_by_side(figures)}</div>" if figures else ""


def _width(run: RunData) -> str:
    return f"width {width_text(run.widths)}"


def _name(run: RunData) -> str:
    return _width(run) if run.seed is None else f"{_width(run)}, seed {run.seed}"


def _axes(name: str, series: Sequence[Series]) -> tuple[Axis, Axis] | None:
    """Axes on which all lines find room; None: there is no finite value yet."""
    values = [v for line in series for _, v in line.points if v == v]
    if not values:
        return None
    y = axis(name, values, log=False if name in LINEAR_CURVES else None, least=LEAST_RANGE)
    return axis("step", [0.0, max(step for line in series for step, _ in line.points)], log=False), y


def _scale(axes: tuple[Axis, Axis] | None) -> str:
    return axes[1].scale if axes else ""


def _drawn(title: str, axes: tuple[Axis, Axis] | None, series: Sequence[Series]) -> str:
    if axes is None or not series:
        return '<p class="lead">nothing yet</p>'
    return chart(title, *axes, series, cursor=True)


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    stride = -(-len(points) // CURVE_POINTS) or 1
    return [*points[:-1:stride], points[-1]] if points else []
