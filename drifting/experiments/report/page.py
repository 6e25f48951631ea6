"""The page: HTML with its style, script, charts and pictures inside, so that the one file is all there is."""

import datetime
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

from drifting import __version__
from drifting.experiments.grid import FAILED, FINISHED
from drifting.experiments.report.charts import (
    LEAST_RANGE,
    MARKER_SHAPES,
    Series,
    axis,
    chart,
    legend,
    number,
    side_by_side,
)
from drifting.experiments.report.curves import sweep_curves
from drifting.experiments.report.data import DAMAGED_STATUS, RunData, SweepData
from drifting.experiments.report.elements import (
    heldout_note,
    image,
    number_cell,
    score_title,
    settings_table,
    table,
    text_cell,
    tiles,
)
from drifting.experiments.report.groups import (
    Group,
    best_first,
    group_runs,
    kinds,
    ranking,
    scored,
    width_text,
)
from drifting.experiments.report.run import run_sections
from drifting.scoring.metrics import HELDOUT_SUFFIX, compared_scores, ranked_by

CONTENT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
"""What the browser lets the page do: nothing that leaves the file."""

LEVEL_REACH = 3.0
"""A chart grows to at most so many times the range of its values to show that of held-out images."""


def page(data: RunData | SweepData, version: str | None = None) -> str:
    """The whole HTML of a report.

    Args:
        data: what the page shows.
        version: what a page that is served is known by: it asks now and then whether there is a newer one; None: it is
            a file.
    """
    if isinstance(data, SweepData):
        return page_html(data.name, "A sweep of drifting generative models", _sweep(data), version)
    what = "The training of a feature encoder" if data.is_encoder else "A run of a drifting generative model"
    return page_html(data.name, what, run_sections(data), version)


def page_html(name: str, what: str, parts: Sequence[tuple[str, str]], version: str | None = None) -> str:
    """The whole HTML of a page: its sections, a title and HTML each, those without a title at the top.

    Args:
        name, what: the title at the head of the page and what it is of.
        parts: the sections in order.
        version: see `page`.
    """
    sections = [(title, body) for title, body in parts if body]
    links = "".join(f'<li><a href="#{_anchor(title)}">{escape(title)}</a></li>' for title, _ in sections if title)
    files = resources.files("drifting.experiments.report")
    style, script = ((files / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    body = "".join(
        f'<section id="{_anchor(title)}"><h2>{escape(title)}</h2>{content}</section>' if title else content
        for title, content in sections
    )
    when = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    served = "" if version is None else f' data-version="{escape(version)}"'
    policy = CONTENT_POLICY if version is None else f"{CONTENT_POLICY}; connect-src 'self'"
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
    groups = group_runs(run for run in data.runs if run.scores is not None)
    styles = {kind: (f"s{i % 8}", MARKER_SHAPES[i % len(MARKER_SHAPES)]) for i, kind in enumerate(kinds(data.runs))}
    return [
        ("", _sweep_tiles(data, groups)),
        ("Scores against kernel width", _width_charts(groups, styles)),
        ("Best cell of each objective", _best_table(groups)),
        ("Training", sweep_curves(data.runs)),
        ("Samples side by side", _samples(data.runs, groups)),
        ("Settings that differ", _settings(data.runs)),
        ("All cells", _cells_table(data.rows)),
    ]


def _sweep_tiles(data: SweepData, groups: Sequence[Group]) -> str:
    states = [row["status"] for row in data.rows]
    problems = [f"{states.count(state)} {state}" for state in (FAILED, DAMAGED_STATUS) if state in states]
    progress = ", ".join(problems) or "none failed"
    shown = [("Cells finished", f"{states.count(FINISHED)} of {len(states)}", progress)]
    for name in scored(groups, _top([ranking(groups)])) if groups else ():
        best, means = best_first(groups, name)[0], {group.mean(name) for group in groups}
        if means == {0.0} or len(means) < min(len(groups), 2):  # none is better than another
            continue
        beside = heldout_note(name, best.mean(name), _heldout(groups, name))
        shown.append((_best_title(name), number(best.mean(name)), "; ".join(filter(None, (best.label, beside)))))
    return tiles(shown)


def _top(first: Sequence[str]) -> list[str]:
    """The names of scores that stand at the top: `first`, and those that always do."""
    return list(dict.fromkeys([*first, *(name for name, score_of in compared_scores().items() if score_of.headline)]))


def _best_title(name: str) -> str:
    """`Lowest FID`."""
    score = compared_scores()[name]
    return f"{'Lowest' if score.better == 'lower' else 'Highest'} {score.title}"


def _label(run: RunData) -> str:
    seed = "" if run.seed is None else f", seed {run.seed}"
    return f"{run.kind}, width {width_text(run.widths)}{seed}"


def _width_charts(groups: Sequence[Group], styles: Mapping[str, tuple[str, str]]) -> str:
    """The paper's Figure 4: each score against the width, a line for each kind; several seeds are averaged."""
    placed = sorted((group for group in groups if len(group.widths) == 1), key=lambda group: group.widths)
    if not placed:
        return '<p class="lead">No finished cell has a single kernel width yet.</p>'
    widths = sorted({group.widths[0] for group in placed})
    x = axis("kernel width", widths, log=len(widths) > 1 and widths[0] > 0, ticks=widths)
    present = [kind for kind in styles if kind in kinds(placed)]
    figures = []
    for name in scored(placed, compared_scores()):
        metric = compared_scores()[name]
        series = [_against_width([g for g in placed if g.kind == kind], name, *styles[kind]) for kind in present]
        values = [value for group in placed for value in group.values(name)]
        heldout = _heldout(placed, name)
        level = heldout if heldout is not None and _in_reach(heldout, values) else None
        y = axis(metric.title, values if level is None else [*values, level], least=LEAST_RANGE)
        beside = "" if heldout is None else f"held-out {number(heldout)}"
        about = "; ".join(filter(None, (f"{metric.better} is better", beside, y.scale)))
        line = None if level is None else ("held-out", level)
        drawn = chart(f"{metric.title} against kernel width", x, y, series, level=line)
        caption = f"<figcaption>{escape(metric.title)} <small>{about}</small></figcaption>"
        figures.append(f'<figure data-chart="{name}">{caption}{drawn}</figure>')
    keys = legend([(kind, *styles[kind]) for kind in present])
    several = any(len(group.runs) > 1 for group in placed)
    point = "the mean of its seeds, with a line from the lowest to the highest" if several else "a cell"
    lead = f"Each point is {point}. Choose a point with the tab and arrow keys to read it."
    return f'<p class="lead">{lead}</p><div data-figures>{keys}{side_by_side(figures)}</div>'


def _heldout(groups: Sequence[Group], name: str) -> float | None:
    """The score of held-out real images, where all runs have the same."""
    found = {(run.scores or {}).get(f"{name}{HELDOUT_SUFFIX}") for group in groups for run in group.runs}
    return found.pop() if len(found) == 1 else None


def _in_reach(level: float, values: Sequence[float]) -> bool:
    low, high = min(values), max(values)
    return max(high, level) - min(low, level) <= LEVEL_REACH * (high - low)


def _against_width(groups: Sequence[Group], name: str, style: str, marker: str) -> Series:
    """The mean score of groups of one kind, in order of their widths, and what to say of each."""
    points, notes, spans = [], [], []
    for group in groups:
        values, mean = group.values(name), group.mean(name)
        points.append((group.widths[0], mean))
        spans.append((min(values), max(values)))
        seeds = f" (mean of {len(values)} seeds: {', '.join(map(number, values))})" if len(values) > 1 else ""
        notes.append(f"{group.kind}, width {group.widths[0]:g}: {score_title(name)} {number(mean)}{seeds}")
    return Series(groups[0].kind, points, style, marker, notes, spans)


def _best_table(groups: Sequence[Group]) -> str:
    """The paper's Table 2: of each kind the cell that ranks first, on average over its seeds."""
    if not groups:
        return ""
    name = ranking(groups)
    ranked = best_first(groups, name)
    best = [next(group for group in ranked if group.kind == kind) for kind in kinds(ranked)]
    several = any(len(group.runs) > 1 for group in best)
    names = scored(best, [*compared_scores(), "alpha"])
    rows: list[str] = []
    for group in best:
        cells = [text_cell(width_text(group.widths), "n")]
        cells += [number_cell("seeds", len(group.runs))] if several else []
        cells += [_mean_cell(group, score_of) for score_of in names]
        first = ' class="best"' if not rows else ""
        rows.append(f'<tr{first}><th scope="row">{escape(group.kind)}</th>{"".join(cells)}</tr>')
    heads = ["Objective", "Width", *(["Seeds"] if several else []), *map(score_title, names)]
    means = "Means over the seeds, with the lowest and the highest. " if several else ""
    end = _best_title(name).split()[0].lower()
    lead = f"{means}The cell with the {end} {score_title(name)}; the first row is the best of all."
    return f'<p class="lead">{escape(lead)}</p>{table(heads, rows, "best", text=1)}'


def _mean_cell(group: Group, name: str) -> str:
    values = group.values(name)
    low, high = min(values), max(values)
    note = f" {number(low)}–{number(high)}" if low < high else ""
    return number_cell(name, group.mean(name), note)


# --- pictures and settings --------------------------------------------------------------------------------------------


def _samples(runs: Sequence[RunData], groups: Sequence[Group]) -> str:
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
    ranked = best_first(groups, ranking(groups)) if groups else []
    best = next((drawn.index(run) for group in ranked for run in group.runs if run in drawn), 0)
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
    names = [name for name in _top([ranked_by(run.scores)]) if name in run.scores]
    return ", ".join(f"{score_title(name)} {number(run.scores[name])}" for name in names)


def _settings(runs: Sequence[RunData]) -> str:
    return settings_table({run.name: run.config for run in runs}) if len(runs) > 1 else ""


def _cells_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Every row of `sweep.csv`, with the numbers as they stand there."""
    names = list(dict.fromkeys(name for row in rows for name in row if name not in ("index", "error")))
    names = [
        *(name for name in names if "." in name),
        *(name for name in [*compared_scores(), "alpha"] if name in names),
        *names,
    ]
    keys = [name for name in dict.fromkeys(names) if name not in ("cell", "status")]
    errors = any(row["error"] for row in rows)
    out = []
    for row in rows:
        state = f'<td class="state {row["status"]}">{row["status"]}</td>'
        cells = [_csv_cell(key, row.get(key, "")) for key in keys]
        error = f'<td class="wide">{escape(str(row["error"]))}</td>' if errors else ""
        head = f'<tr data-cell="{escape(row["cell"])}"><th scope="row">{escape(row["cell"])}</th>'
        out.append(f"{head}{state}{''.join(cells)}{error}</tr>")
    heads = ["Cell", "State", *map(score_title, keys), *(["Error"] if errors else [])]
    return table(heads, out, "cells", text=2, sort=True)


def _csv_cell(key: str, value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number_cell(key, value)
    return f'<td data-key="{escape(key)}" data-value="{escape(str(value))}">{escape(str(value))}</td>'
