"""What a report shows, read from the files of runs and sweeps; neither JAX nor a trainer is loaded for it."""

import base64
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from drifting.config.schema import Config, PretrainConfig, command_of, to_dict
from drifting.errors import ArgumentError, DriftingError, while_reading
from drifting.experiments.grid import FINISHED, SWEEP_FILE, read_cells, rows_of
from drifting.runs.directory import CONFIG_FILE, read_config
from drifting.runs.files import exists, read_json
from drifting.runs.metrics import METRICS_FILE, TIMINGS_FILE
from drifting.sampling.labels import ROWS_TEXT
from drifting.scoring.results import latest_scores

DAMAGED_STATUS = "damaged"
"""The state of a cell whose settings cannot be read."""

LARGEST_SIDE = 960
"""Pixels along the side of a picture; larger ones are shrunk."""

LARGEST_PNG = 400_000
"""Bytes of a picture above which it is compressed as photographs are."""

OBJECTIVE_TITLES = {"log_kde": "log-KDE", "mean_shift": "mean shift", "drift": "two-axis drift", "mmd_kde": "MMD"}

PLACED_SETTINGS = ("loss.objective", "loss.kernel", "loss.widths", "train.seed")
"""Settings that a sweep's page has a place for; runs that differ in others are of different kinds."""

KERNEL_TITLES = {"gaussian": "Gauss", "laplace": "Laplace", "rational_quadratic": "rational quadratic"}


@dataclass(frozen=True)
class RunData:
    """A run of `drifting train` or `pretrain`.

    Attributes:
        name: the name of its folder.
        config: the settings of the run.
        metrics: the rows of `metrics.jsonl`.
        timings: the rows of `timings.jsonl`; runs of earlier versions have none.
        scores: the latest ones, or None.
        status, error: how far a sweep's cell is, and why it failed.
        grids: step and file of its sample grids, in order.
        varied: the settings of a sweep's cell that vary besides `PLACED_SETTINGS`, by the last part of their key.
        seed: the seed of training, where a sweep has several.
    """

    name: str
    config: dict[str, dict[str, Any]]
    metrics: list[dict[str, float]]
    scores: dict[str, Any] | None
    status: str
    error: str | None
    grids: list[tuple[int, Path]]
    varied: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    timings: Sequence[Mapping[str, Any]] = ()

    @property
    def is_encoder(self) -> bool:
        """Whether it trains a feature encoder."""
        return command_of(self.config) == "pretrain"

    @property
    def about(self) -> list[tuple[str, str]]:
        """What the run said of itself at its latest start, each with its title: `("data", "digits, 1,400 samples")`."""
        said = [row["about"] for row in self.timings if row.get("about")]
        lines = [str(line).partition(": ") for line in (said[-1] if said else ())]
        return [(title, text) for title, _, text in lines if text]

    @property
    def seconds(self) -> float | None:
        """How long it has run, over all its starts, up to the last step of each that was logged; None: not known."""
        starts: list[float] = []
        for row in self.timings:
            if "started" in row:
                starts.append(0.0)
            elif starts and "seconds" in row:
                starts[-1] = row["seconds"]
        return sum(starts) if starts else None

    @property
    def objective(self) -> str:
        """What it minimises, as a person calls it: `log-KDE, Gauss`."""
        loss = self.config["loss"]
        name, kernel = loss["objective"], loss["kernel"]
        return f"{OBJECTIVE_TITLES.get(name, name)}, {KERNEL_TITLES.get(kernel, kernel)}"

    @property
    def kind(self) -> str:
        """What it is but for its widths and its seed: `log-KDE, Gauss, learning_rate 0.001`."""
        return ", ".join([self.objective, *(f"{key} {short(value)}" for key, value in self.varied.items())])

    @property
    def widths(self) -> tuple[float, ...]:
        """The kernel widths of the run."""
        return tuple(self.config["loss"]["widths"])

    def curve(self, name: str) -> list[tuple[float, float]]:
        """Step and value of a metric wherever it was logged; what is not finite is NaN."""
        rows = [(row["step"], row[name]) for row in self.metrics if name in row]
        return [(step, value if math.isfinite(value) else math.nan) for step, value in rows]


@dataclass(frozen=True)
class SweepData:
    """A sweep: its cells that have begun and can be read, and rows as those of `sweep.csv`."""

    name: str
    runs: list[RunData]
    rows: list[dict[str, Any]]


def read_folder(workdir: Path) -> RunData | SweepData:
    """The run or sweep in a folder, which is left as it is.

    Raises:
        DriftingError: there is neither, or what there is cannot be read.
    """
    if exists(workdir / SWEEP_FILE):
        return _read_sweep(workdir)
    if not exists(workdir / CONFIG_FILE):
        remedy = "holds no run and no sweep; give a folder of `drifting train` or `sweep`"
        raise ArgumentError("workdir", workdir, remedy)
    return _read_run(workdir, latest_scores(workdir))


def _read_sweep(workdir: Path) -> SweepData:
    cells = read_cells(workdir)
    rows, runs = rows_of(cells, workdir), []
    varying = [key for key in cells[0].values if any(cell.values[key] != cells[0].values[key] for cell in cells)]
    others = [key for key in varying if key not in PLACED_SETTINGS]
    lasts = [key.rpartition(".")[2] for key in others]
    names = {key: last if lasts.count(last) == 1 else key for key, last in zip(others, lasts, strict=True)}
    for cell, row in zip(cells, rows, strict=True):
        folder = cell.folder(workdir)
        if not exists(folder / CONFIG_FILE):
            continue
        scores = cell.scores(workdir) if row["status"] == FINISHED else None
        try:
            run = _read_run(folder, scores, row["status"], row["error"] or None)
        except DriftingError as error:  # the others are worth a page
            row |= {"status": DAMAGED_STATUS, "error": f"{row['error']} {error}".strip()}
            continue
        varied = {name: cell.values[key] for key, name in names.items()}
        seed = cell.values["train.seed"] if "train.seed" in varying else None
        runs.append(replace(run, varied=varied, seed=seed))
    return SweepData(workdir.name, runs, rows)


def _read_run(folder: Path, scores: dict[str, Any] | None, status: str = "", error: str | None = None) -> RunData:
    encoder = command_of(read_json(folder / CONFIG_FILE)) == "pretrain" if exists(folder / CONFIG_FILE) else False
    config = read_config(folder, PretrainConfig if encoder else Config)
    grids, samples = [], folder / "samples"
    with while_reading(samples):  # a pattern would match nothing in a folder that may not be read
        found_there = sorted(samples.iterdir()) if exists(samples) else []
    for path in found_there:
        if match := re.fullmatch(r"step_(\d+)\.png", path.name):
            grids.append((int(match[1]), path))
    found = _plain(to_dict(config)), _lines(folder / METRICS_FILE), scores, status, error, grids
    return RunData(folder.name, *found, timings=_lines(folder / TIMINGS_FILE))


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _lines(path: Path) -> list[dict[str, Any]]:
    rows = []
    with while_reading(path):
        lines = path.read_bytes().splitlines() if path.is_file() else []
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # the last line of a run that goes on may be half written
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def short(value: Any) -> str:
    """A setting's value for a person."""
    if isinstance(value, list | tuple):
        return ", ".join(map(short, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Picture:
    """An image file, as a page holds it.

    Attributes:
        source: a data URI.
        width, height: its size in pixels.
        names: what each of its rows shows, where the file says so; the page sets them in its own type.
    """

    source: str
    width: int
    height: int
    names: Sequence[str] = ()


def picture(path: Path) -> Picture:
    """An image file; large ones are shrunk, and names that are written into it are cut off.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file, Image.open(file) as opened:
        opened.load()
    image, names = _without_names(opened)
    if max(image.size) > LARGEST_SIDE:
        image.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.LANCZOS)
    out, kind = io.BytesIO(), "png"
    image.save(out, format="PNG", optimize=True)
    if out.tell() > LARGEST_PNG:  # photographs
        out, kind = io.BytesIO(), "webp"
        image.convert("RGBA").save(out, format="WEBP", quality=88)
    return Picture(f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}", *image.size, names)


def _without_names(image: Image.Image) -> tuple[Image.Image, list[str]]:
    try:
        rows = json.loads(getattr(image, "text", {})[ROWS_TEXT])
        left, names = int(rows["left"]), [str(name) for name in rows["names"]]
    except (KeyError, ValueError, TypeError):  # an earlier version wrote it, or somebody else
        return image, []
    return image.crop((left, 0, *image.size)), names
