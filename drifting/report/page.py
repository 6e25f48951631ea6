"""The page: HTML with its style, script, charts and pictures inside, so that the one file is all there is."""

import datetime
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

from drifting import __version__
from drifting.report.charts import MARKERS, Series, axis, chart, legend, number
from drifting.report.data import DAMAGED, RunData, SweepData
from drifting.report.elements import (
    TITLES,
    details,
    image,
    number_cell,
    settings_table,
    switch,
    table,
    text_cell,
    tiles,
)
from drifting.scores import distance_name
from drifting.sweep import FAILED, FINISHED

LOWER_IS_BETTER = {"fid", "sfid", "frechet_distance"}
CURVES = {
    "gap": "log q# − log p# at generated samples, in the features of the loss; falls towards 0",
    "loss": "of all feature maps; with a normalised field and one width it is their number by construction",
    "field_norm": "root mean square of the field before it is normalised; falls",
    "collapse": "distance between generated samples of a class over that between real ones; near 1",
}
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
"""What the browser lets the page do: nothing that leaves the file."""
RAMP = 7
POINTS = 300
"""The most points of a curve that are drawn."""


def page(data: RunData | SweepData, version: str | None = None) -> str:
    """The whole HTML of a report.

    Args:
        version: of a page that is served: it asks now and then whether there is a newer one; None: a file.
    """
    if isinstance(data, SweepData):
        return frame(data.name, "A sweep of drifting generative models", _sweep(data), version)
    return frame(data.name, "A run of a drifting generative model", _run(data), version)


def frame(name: str, what: str, parts: Sequence[tuple[str, str]], version: str | None = None) -> str:
    """The whole HTML of a page: its sections, a title and HTML each, those without a title at the top.

    Args:
        name, what: for the head of the page. version: see `page`.
    """
    sections = [(title, body) for title, body in parts if body]
    links = "".join(f'<li><a href="#{_anchor(title)}">{escape(title)}</a></li>' for title, _ in sections if title)
    files = resources.files("drifting.report")
    style, script = ((files / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    body = "".join(
        f'<section id="{_anchor(title)}"><h2>{escape(title)}</h2>{content}</section>' if title else content
        for title, content in sections
    )
    when = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    served = "" if version is None else f' data-version="{escape(version)}"'
    policy = POLICY if version is None else f"{POLICY}; connect-src 'self'"
    return f"""<!doctype html>
<html lang="en"{served}>
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="generator" content="drifting {__version__}">
<link rel="icon" href="data:,">
<title>{escape(name)} · drifting</title>
<style>{style}</style>
</head>
<body>
<a class="skip" href="#main">To the content</a>
<div class="wrap">
<header><h1>{escape(name)}</h1><p>{escape(what)}, as of {when}</p>
<button type="button" id="theme" hidden aria-label="Switch between light and dark">Dark</button></header>
<nav aria-label="Contents"><ul>{links}</ul></nav>
<main id="main">{body}</main>
<footer>Written by drifting {__version__}. This file holds everything it shows and asks nothing of the network.</footer>
</div>
<div id="tip" role="status" hidden></div>
<script>{script}</script>
</body>
</html>
"""


def _anchor(title: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in title.lower())


# --- a sweep ----------------------------------------------------------------------------------------------------------


def _sweep(data: SweepData) -> list[tuple[str, str]]:
    finished = [run for run in data.runs if run.scores is not None and run.status == FINISHED]
    styles = {name: (f"s{i % 8}", MARKERS[i % len(MARKERS)]) for i, name in enumerate(_objectives(data.runs))}
    return [
        ("", _sweep_tiles(data, finished)),
        ("Scores against kernel width", _width_charts(finished, styles)),
        ("Best cell of each objective", _best_table(finished)),
        ("Training", _sweep_curves(data.runs)),
        ("Samples side by side", _samples(data.runs)),
        ("Settings that differ", _settings(data.runs)),
        ("All cells", _cells_table(data.rows)),
    ]


def _objectives(runs: Iterable[RunData]) -> list[str]:
    return list(dict.fromkeys(run.objective for run in runs))


def _sweep_tiles(data: SweepData, finished: Sequence[RunData]) -> str:
    states = [row["status"] for row in data.rows]
    problems = [f"{states.count(state)} {state}" for state in (FAILED, DAMAGED) if state in states]
    progress = ", ".join(problems) or "none failed"
    shown = [("Cells finished", f"{states.count(FINISHED)} of {len(states)}", progress)]
    if finished:
        distance = _distance(finished)
        best = min(finished, key=lambda run: _score(run, distance))
        shown.append((f"Lowest {TITLES[distance]}", number(_score(best, distance)), _label(best)))
        by_f1 = [run for run in finished if "f1" in (run.scores or {})]
        if by_f1:
            best = max(by_f1, key=lambda run: _score(run, "f1"))
            shown.append(("Highest F1", number(_score(best, "f1")), _label(best)))
    return tiles(shown)


def _distance(runs: Sequence[RunData]) -> str:
    return distance_name(runs[0].scores or {})


def _score(run: RunData, name: str) -> float:
    return float((run.scores or {})[name])


def _width(run: RunData) -> str:
    return ", ".join(f"{width:g}" for width in run.widths)


def _label(run: RunData) -> str:
    return f"{run.objective}, width {_width(run)}"


def _width_charts(finished: Sequence[RunData], styles: Mapping[str, tuple[str, str]]) -> str:
    """The paper's Figure 4: each score against the width, a line for each objective; several seeds are averaged."""
    placed = [run for run in finished if len(run.widths) == 1]
    if not placed:
        return '<p class="lead">No finished cell has a single kernel width yet.</p>'
    names = [name for name in (_distance(placed), "precision", "recall", "f1") if name in (placed[0].scores or {})]
    widths = sorted({run.widths[0] for run in placed})
    x = axis("kernel width", widths, log=len(widths) > 1 and widths[0] > 0, ticks=widths)
    figures = []
    for name in names:
        series = []
        for objective in _objectives(placed):
            style, marker = styles[objective]
            points, notes = _against_width([run for run in placed if run.objective == objective], name)
            series.append(Series(objective, points, style, marker, notes))
        y = axis(TITLES[name], [py for line in series for _, py in line.points])
        better = "lower is better" if name in LOWER_IS_BETTER else "higher is better"
        caption = f"<figcaption>{TITLES[name]} <small>{better}{', logarithmic' if y.log else ''}</small></figcaption>"
        title = f"{TITLES[name]} against kernel width"
        figures.append(f'<figure data-chart="{name}">{caption}{chart(title, x, y, series)}</figure>')
    keys = legend([(name, *styles[name]) for name in _objectives(placed)])
    lead = "Each point is a cell, or the mean of its seeds. Choose a point with the tab and arrow keys to read it."
    return f'<p class="lead">{lead}</p><div data-figures>{keys}<div class="figures">{"".join(figures)}</div></div>'


def _against_width(runs: Sequence[RunData], name: str) -> tuple[list[tuple[float, float]], list[str]]:
    """Mean score at each width, and what to say of it."""
    points, notes = [], []
    for width in sorted({run.widths[0] for run in runs}):
        values = [_score(run, name) for run in runs if run.widths[0] == width]
        mean = sum(values) / len(values)
        points.append((width, mean))
        seeds = f" (mean of {len(values)} runs: {', '.join(map(number, values))})" if len(values) > 1 else ""
        notes.append(f"{runs[0].objective}, width {width:g}: {TITLES[name]} {number(mean)}{seeds}")
    return points, notes


SCORES = ("fid", "frechet_distance", "sfid", "inception_score", "precision", "recall", "f1", "class_accuracy", "alpha")


def _best_table(finished: Sequence[RunData]) -> str:
    """The paper's Table 2: of each objective the cell with the lowest distance."""
    if not finished:
        return ""
    distance = _distance(finished)
    best = [
        min((run for run in finished if run.objective == name), key=lambda run: _score(run, distance))
        for name in _objectives(finished)
    ]
    names = [name for name in SCORES if name in (finished[0].scores or {})]
    rows: list[str] = []
    for run in sorted(best, key=lambda run: _score(run, distance)):
        cells = "".join(number_cell(name, (run.scores or {}).get(name)) for name in names)
        first = ' class="best"' if not rows else ""
        rows.append(f'<tr{first}><th scope="row">{escape(run.objective)}</th>{text_cell(_width(run), "n")}{cells}</tr>')
    heads = ["Objective", "Width", *(TITLES[name] for name in names)]
    lead = f"The cell with the lowest {TITLES[distance]}; the first row is the best of all."
    return f'<p class="lead">{escape(lead)}</p>{table(heads, rows, "best", text=1)}'


def _sweep_curves(runs: Sequence[RunData]) -> str:
    """Curves of every cell: a switch for the metric, a chart for each objective, a line for each width."""
    shown = [(name, text) for name, text in CURVES.items() if any(run.curve(name) for run in runs)]
    if not shown:
        return ""
    widths = sorted({run.widths for run in runs})
    tones = {w: f"r{round(i * (RAMP - 1) / max(len(widths) - 1, 1))}" for i, w in enumerate(widths)}
    panels = []
    for name, text in shown:
        figures = [_curves_figure(name, objective, runs, tones) for objective in _objectives(runs)]
        panels.append(
            f'<p class="lead"><b>{name}</b>: {escape(text)}.</p><div class="figures">{"".join(figures)}</div>'
        )
    keys = legend([(_widths_name(w), tones[w], None) for w in widths])
    return f"<div data-figures>{keys}{switch('metric', [name for name, _ in shown], panels)}</div>"


def _widths_name(widths: Sequence[float]) -> str:
    return f"width {', '.join(f'{w:g}' for w in widths)}"


def _curves_figure(name: str, objective: str, runs: Sequence[RunData], tones: Mapping[tuple[float, ...], str]) -> str:
    series = [
        Series(_widths_name(run.widths), _thinned(run.curve(name)), tones[run.widths])
        for run in sorted(runs, key=lambda run: run.widths)
        if run.objective == objective
    ]
    drawn = _curve_chart(f"{name} of {objective}", name, [line for line in series if line.points])
    return f"<figure><figcaption>{escape(objective)}</figcaption>{drawn}</figure>"


def _curve_chart(title: str, name: str, series: Sequence[Series]) -> str:
    values = [v for line in series for _, v in line.points if v == v]
    if not values:
        return '<p class="lead">nothing yet</p>'
    x = axis("step", [0.0, max(step for line in series for step, _ in line.points)], log=False)
    return chart(title, x, axis(name, values), series, cursor=True)


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    stride = -(-len(points) // POINTS) or 1
    return [*points[:-1:stride], points[-1]] if points else []


# --- pictures and settings --------------------------------------------------------------------------------------------


def _samples(runs: Sequence[RunData]) -> str:
    drawn = [run for run in runs if run.grids]
    if not drawn:
        return ""
    gallery = []
    for number_, run in enumerate(drawn):
        step, path = run.grids[-1]
        shown = image(path, f"Samples of {_label(run)} at step {step:,}, a class each row")
        caption = f"<figcaption><strong>{escape(_label(run))}</strong><br>{escape(_score_line(run))}</figcaption>"
        gallery.append(f'<figure id="cell-{number_}">{shown}{caption}</figure>')
    options = [f'<option value="cell-{i}">{escape(run.name)}</option>' for i, run in enumerate(drawn)]
    sides = []
    scored = [i for i, run in enumerate(drawn) if run.scores is not None]
    best = min(scored, key=lambda i: _score(drawn[i], distance_name(drawn[i].scores or {})), default=0)
    other = len(drawn) - 1 if best < len(drawn) - 1 else 0
    for side, chosen in (("left", best), ("right", other)):
        marked = [o.replace("<option", "<option selected", 1) if i == chosen else o for i, o in enumerate(options)]
        select = f'<select data-side="{side}" aria-label="Cell on the {side}">{"".join(marked)}</select>'
        sides.append(f'<figure>{select}<div class="shown" aria-live="polite"></div></figure>')
    lead = "All cells draw the same seeds: an image has the same place, class and noise in each. Choose two to compare."
    return (
        f'<p class="lead">{lead}</p><div class="pair">{"".join(sides)}</div>'
        f'<details open><summary>All cells</summary><div class="gallery">{"".join(gallery)}</div></details>'
    )


def _score_line(run: RunData) -> str:
    if run.scores is None:
        return run.error or run.status or "not scored yet"
    names = (distance_name(run.scores), "precision", "recall")
    return ", ".join(f"{TITLES[name]} {number(run.scores[name])}" for name in names if name in run.scores)


def _settings(runs: Sequence[RunData]) -> str:
    return settings_table({run.name: run.config for run in runs}) if len(runs) > 1 else ""


def _cells_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Every row of `sweep.csv`, with the numbers as they stand there."""
    names = list(dict.fromkeys(name for row in rows for name in row if name not in ("index", "error")))
    names = [*(name for name in names if "." in name), *(name for name in SCORES if name in names), *names]
    keys = [name for name in dict.fromkeys(names) if name not in ("cell", "status")]
    errors = any(row["error"] for row in rows)
    out = []
    for row in rows:
        state = f'<td class="state {row["status"]}">{row["status"]}</td>'
        cells = [_csv_cell(key, row.get(key, "")) for key in keys]
        error = f'<td class="wide">{escape(str(row["error"]))}</td>' if errors else ""
        head = f'<tr data-cell="{escape(row["cell"])}"><th scope="row">{escape(row["cell"])}</th>'
        out.append(f"{head}{state}{''.join(cells)}{error}</tr>")
    heads = ["Cell", "State", *(TITLES.get(key, key) for key in keys), *(["Error"] if errors else [])]
    return table(heads, out, "cells", text=2, sort=True)


def _csv_cell(key: str, value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number_cell(key, value)
    return f'<td data-key="{escape(key)}" data-value="{escape(str(value))}">{escape(str(value))}</td>'


# --- one run ----------------------------------------------------------------------------------------------------------


def _run(run: RunData) -> list[tuple[str, str]]:
    last = run.metrics[-1] if run.metrics else {}
    shown = [("Objective", run.objective, f"width {_width(run)}"),
             ("Step", f"{last.get('step', 0):,}", f"of {run.config['train']['steps']:,}")]  # fmt: skip
    for name in SCORES if run.scores else ():
        if name in (run.scores or {}) and name != "alpha":
            held = (run.scores or {}).get(f"{name}_heldout")
            shown.append((TITLES[name], number(_score(run, name)), f"held-out {number(held)}" if held else ""))
    return [
        ("", tiles(shown)),
        ("Training", _run_curves(run)),
        ("Samples", _run_samples(run)),
        ("Scores", _run_scores(run)),
        ("Settings", f'<div class="card">{details("All settings", run.config)}</div>'),
    ]


def _run_curves(run: RunData) -> str:
    figures = []
    scored = dict.fromkeys(name for row in run.metrics for name in row if name.startswith("eval/"))
    wanted = [f"eval/{name}" for name in SCORES if f"eval/{name}" in scored]
    for name in (*wanted, *CURVES, "grad_norm", "learning_rate"):
        points = _thinned(run.curve(name))
        if points:
            drawn = _curve_chart(name, name, [Series(name, points, "s0")])
            small = f" <small>{escape(CURVES[name])}</small>" if name in CURVES else ""
            figures.append(f'<figure data-chart="{name}"><figcaption>{name}{small}</figcaption>{drawn}</figure>')
    return f'<div class="figures" data-figures>{"".join(figures)}</div>' if figures else ""


def _run_samples(run: RunData) -> str:
    grids = run.grids if len(run.grids) <= 12 else [run.grids[i * (len(run.grids) - 1) // 11] for i in range(12)]
    if not grids:
        return ""
    pictures = "".join(
        f'<figure data-step="{step}">{image(path, f"Samples at step {step:,}, a class each row")}'
        f"<figcaption>step {step:,}</figcaption></figure>"
        for step, path in grids
    )
    last = len(grids) - 1
    slider = f'<input type="range" min="0" max="{last}" value="{last}" data-steps aria-label="Step of the samples">'
    lead = "The same seeds as training goes on."
    return (
        f'<p class="lead">{lead}</p><div class="step">{slider}<output></output></div><div class="pair">{pictures}</div>'
    )


def _run_scores(run: RunData) -> str:
    if run.scores is None:
        return '<p class="lead">Not scored yet: <code>drifting evaluate</code>.</p>'
    numbers = {k: v for k, v in run.scores.items() if isinstance(v, int | float)}
    rows = [f'<tr><th scope="row">{escape(TITLES.get(k, k))}</th>{number_cell(k, v)}</tr>' for k, v in numbers.items()]
    return table(["Score", "Value"], rows, "scores", text=1)
