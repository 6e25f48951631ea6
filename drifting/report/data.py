"""What a report shows, read from the files of runs and sweeps; nothing is loaded that needs an accelerator."""

import base64
import io
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from drifting.checkpoint import CONFIG_FILE, read_config
from drifting.config import Config, ConfigError, to_dict
from drifting.monitor import METRICS_FILE
from drifting.scores import latest_scores
from drifting.sweep import FAILED, SWEEP_FILE, collect, read_cells

LARGEST = 960
"""Pixels along the side of a picture; larger ones are shrunk."""
NAMES = {"log_kde": "log-KDE", "mean_shift": "mean shift", "drift": "two-axis drift", "mmd_kde": "MMD"}
KERNELS = {"gaussian": "Gauss", "laplace": "Laplace", "rational_quadratic": "rational quadratic"}


@dataclass(frozen=True)
class RunData:
    """A run. Attributes:

    name: of its folder. config: its settings. metrics: rows of `metrics.jsonl`. scores: the latest, or None.
    status, error: of a sweep's cell. grids: step and file of its sample grids, in order.
    """

    name: str
    config: dict[str, dict[str, Any]]
    metrics: list[dict[str, float]]
    scores: dict[str, Any] | None
    status: str
    error: str | None
    grids: list[tuple[int, Path]]

    @property
    def objective(self) -> str:
        """What it minimises, as a person calls it: `log-KDE, Gauss`."""
        loss = self.config["loss"]
        name, kernel = loss["objective"], loss["kernel"]
        return f"{NAMES.get(name, name)}, {KERNELS.get(kernel, kernel)}"

    @property
    def widths(self) -> tuple[float, ...]:
        """Its kernel widths."""
        return tuple(self.config["loss"]["widths"])

    def curve(self, name: str) -> list[tuple[float, float]]:
        """Step and value of a metric wherever it was logged; what is not finite is NaN."""
        rows = [(row["step"], row[name]) for row in self.metrics if name in row]
        return [(step, value if math.isfinite(value) else math.nan) for step, value in rows]


@dataclass(frozen=True)
class SweepData:
    """A sweep: its cells that have begun, and the rows of `sweep.csv`."""

    name: str
    runs: list[RunData]
    rows: list[dict[str, Any]]


def read(workdir: Path) -> RunData | SweepData:
    """The run or sweep in a folder.

    Raises:
        ConfigError: there is neither.
    """
    if (workdir / SWEEP_FILE).is_file():
        cells = read_cells(workdir)
        rows = collect(cells, workdir)
        states = {row["cell"]: (row["status"], row["error"] or None) for row in rows}
        begun = [cell for cell in cells if (cell.folder(workdir) / CONFIG_FILE).is_file()]
        return SweepData(workdir.name, [read_run(cell.folder(workdir), *states[cell.name]) for cell in begun], rows)
    if not (workdir / CONFIG_FILE).is_file():
        raise ConfigError(
            f"--workdir={workdir}: holds no run and no sweep; give a folder of `drifting train` or `sweep`"
        )
    return read_run(workdir)


def read_run(folder: Path, status: str = "", error: str | None = None) -> RunData:
    """A run of `drifting train`.

    Raises:
        ConfigError: there is none.
    """
    config = read_config(folder, Config)
    grids = []
    for path in sorted((folder / "samples").glob("step_*.png")):
        if match := re.fullmatch(r"step_(\d+)\.png", path.name):
            grids.append((int(match[1]), path))
    scores = None if status == FAILED else latest_scores(folder)
    return RunData(folder.name, _plain(to_dict(config)), _metrics(folder), scores, status, error, grids)


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _metrics(folder: Path) -> list[dict[str, float]]:
    path = folder / METRICS_FILE
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:  # the last line of a run that goes on may be half written
            continue
    return rows


def picture(path: Path) -> tuple[str, int, int]:
    """An image file as a data URI, with its width and height; large ones are shrunk."""
    with Image.open(path) as image:
        image.load()
    if max(image.size) > LARGEST:
        image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    out, kind = io.BytesIO(), "png"
    image.save(out, format="PNG", optimize=True)
    if out.tell() > 400_000:  # photographs
        out, kind = io.BytesIO(), "jpeg"
        image.convert("RGB").save(out, format="JPEG", quality=85, optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}", *image.size
