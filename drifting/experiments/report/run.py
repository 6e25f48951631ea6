"""The sections of the page about one run: what it is, its curves, pictures, scores and settings."""

import statistics
from html import escape

from drifting.experiments.report.charts import number
from drifting.experiments.report.curves import CURVE_TITLES, ENCODER_CURVES, run_curves
from drifting.experiments.report.data import RunData
from drifting.experiments.report.elements import (
    details,
    heldout_note,
    image,
    number_cell,
    score_title,
    table,
    text_cell,
    tiles,
)
from drifting.experiments.report.groups import score_of, width_text
from drifting.runs.progress import duration
from drifting.runs.stopwatch import spoken
from drifting.scoring.metrics import HELDOUT_SUFFIX, compared_scores

SHOWN_GRIDS = 12
"""The most pictures of a run, evenly spread over its steps."""


def run_sections(run: RunData) -> list[tuple[str, str]]:
    """The sections, a title and HTML each."""
    curves, pictures = ("Training", _curves(run)), ("Reconstructions" if run.is_encoder else "Samples", _pictures(run))
    scores = [] if run.is_encoder else [("Scores", _scores(run))]
    settings = f'<div class="card">{details("All settings", run.config)}</div>'
    return [("", tiles(_tiles(run))), curves, pictures, *scores, ("The run", _facts(run)), ("Settings", settings)]


def _tiles(run: RunData) -> list[tuple[str, str, str]]:
    last = run.metrics[-1] if run.metrics else {}
    steps = ("Step", f"{last.get('step', 0):,}", f"of {run.config['train']['steps']:,}")
    time = [] if run.seconds is None else [("Time", duration(run.seconds), _pace(run))]
    if run.is_encoder:
        names = {"recon_loss": "Reconstruction error", "accuracy": "Accuracy"}
        found = [(title, number(last[name]), "of the last step") for name, title in names.items() if name in last]
        return [steps, *found, *time]
    shown = [("Objective", run.objective, f"width {width_text(run.widths)}"), steps, *time]
    scores = run.scores or {}
    for name in (name for name in compared_scores() if name in scores):
        value = score_of(run, name)
        shown.append((score_title(name), number(value), heldout_note(name, value, scores.get(name + HELDOUT_SUFFIX))))
    return shown


def _pace(run: RunData) -> str:
    steps = [row["speed/seconds_per_step"] for row in run.timings if "speed/seconds_per_step" in row]
    return f"{statistics.median(steps):.3g} s a step" if steps else ""


def _facts(run: RunData) -> str:
    """What the run said of itself, and how fast its latest steps were."""
    rows = [*run.about]
    latest = next((row for row in reversed(run.timings) if "speed/seconds_per_step" in row), None)
    if latest is not None:
        rows.append(("latest steps", ", ".join(spoken(latest).split("  "))))
    starts = [str(row["started"]) for row in run.timings if "started" in row]
    if starts:
        more = f", {len(starts)} starts in all" if len(starts) > 1 else ""
        rows.append(("started", f"{starts[0].replace('T', ' ')}{more}"))
    cells = [f'<tr><th scope="row">{escape(title)}</th>{text_cell(text, "wide")}</tr>' for title, text in rows]
    return table(["What", "Value"], cells, "facts", text=2) if cells else ""


def _curves(run: RunData) -> str:
    if run.is_encoder:
        return run_curves(run, [*ENCODER_CURVES, "grad_norm", "learning_rate"])
    logged = {name for row in run.metrics for name in row}
    scores = [f"eval/{name}" for name in compared_scores() if f"eval/{name}" in logged]
    return run_curves(run, [*scores, *CURVE_TITLES, "grad_norm", "learning_rate"])


def _pictures(run: RunData) -> str:
    grids, most = run.grids, SHOWN_GRIDS - 1
    if not grids:
        return ""
    if len(grids) > SHOWN_GRIDS:
        grids = [grids[i * (len(grids) - 1) // most] for i in range(SHOWN_GRIDS)]
    what = "Images, masked, and reconstructed" if run.is_encoder else "Samples, a class each row,"
    pictures = "".join(
        f'<figure data-step="{step}">{image(path, f"{what} at step {step:,}")}'
        f"<figcaption>step {step:,}</figcaption></figure>"
        for step, path in grids
    )
    last = len(grids) - 1
    slider = f'<input type="range" min="0" max="{last}" value="{last}" data-steps aria-label="Step of the pictures">'
    lead = (
        "The same images and masks as training goes on; what is masked is what the encoder has to make up."
        if run.is_encoder
        else "The same seeds as training goes on."
    )
    return (
        f'<p class="lead">{lead}</p><div class="step">{slider}<output></output></div><div class="pair">{pictures}</div>'
    )


def _scores(run: RunData) -> str:
    if run.scores is None:
        return '<p class="lead">Not scored yet: <code>drifting evaluate</code>.</p>'
    numbers = {k: v for k, v in run.scores.items() if isinstance(v, int | float)}
    heldout = [k for k in numbers if k.endswith(HELDOUT_SUFFIX)]
    rows = []
    for key, value in numbers.items():
        if key not in heldout:
            beside = number_cell(key + HELDOUT_SUFFIX, numbers.get(key + HELDOUT_SUFFIX)) if heldout else ""
            rows.append(f'<tr><th scope="row">{escape(score_title(key))}</th>{number_cell(key, value)}{beside}</tr>')
    heads = ["Score", "Generated", "Held-out"] if heldout else ["Score", "Value"]
    return table(heads, rows, "scores", text=1)
