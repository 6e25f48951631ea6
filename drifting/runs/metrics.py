"""The metrics of a run in files: `metrics.jsonl`, `timings.jsonl`, TensorBoard, Weights & Biases.

Nothing here knows the method; a loop hands over names, numbers and pictures. With several processes only the first one
writes. `metrics.jsonl` holds what a run computes, which is the same to the last bit however often it was stopped; how
long it took is measured, differs each time, and goes everywhere else.
"""

import datetime
import importlib
import json
import logging
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, SupportsFloat

import numpy as np
from PIL import Image

from drifting.errors import ArgumentError, ConfigError, InputError, MachineError, one_line, while_reading
from drifting.runs.event_file import EventFile
from drifting.runs.files import atomic_path, exists
from drifting.runs.growing import GrowingFile
from drifting.runs.places import is_stored, local_copy, place

logger = logging.getLogger("drifting")

METRICS_FILE = "metrics.jsonl"

TIMINGS_FILE = "timings.jsonl"
"""A line for each start of the run, with what it said of itself, and one for each logged step, with its timings."""

FIRST_BYTES = b'{"step": '
"""How every line of metrics begins, also one that a crash has cut short."""

WANDB_ID_FILE = "wandb_id"
"""Names the W&B run of a folder."""


@dataclass(frozen=True)
class WandbRun:
    """Where a run is shown on Weights & Biases.

    Attributes:
        project, entity, group, tags: as W&B calls them; None and (): its own defaults.
        settings: the settings of the run, by which W&B filters and groups.
    """

    project: str
    entity: str | None = None
    group: str | None = None
    tags: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


def truncate_metrics(path: str | Path, last_step: int) -> None:
    """Drops from a metrics file every line after `last_step`, and a last line that a crash cut short.

    A run that resumes at a checkpoint writes the later steps again; afterwards the file reads as if it had never
    stopped. The file is replaced atomically, and left alone if there is nothing to drop or it does not exist.

    Args:
        path: a file of `MetricsWriter`.
        last_step: the step of the checkpoint.

    Raises:
        InputError: a line is no metrics line, and not the last, which a crash may have cut short.
    """
    path = place(path)
    if not path.exists():
        return
    lines, torn = _whole_lines(path)
    kept = [line for step, line in lines if step <= last_step]
    if torn:
        logger.warning("%s: dropped its last line, which was cut short", path)
    if torn or len(kept) < len(lines):
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            file.writelines(kept)
            file.flush()
            os.fsync(file.fileno())


def check_metrics(workdir: Path) -> None:
    """Checks the metrics of a run before it goes on, which needs all of them.

    Raises:
        ArgumentError: a line is no metrics line, and not the last, which a crash may have cut short.
        MachineError: the file cannot be read now.
    """
    path = workdir / METRICS_FILE
    if exists(path):
        try:
            _whole_lines(path)
        except InputError as error:
            raise ArgumentError("workdir", workdir, str(error).removeprefix(f"{workdir}/")) from error


def last_metrics_step(directory: str | Path) -> int | None:
    """The step of the last whole line of a run's metrics; None where there is none.

    Raises:
        InputError: as `truncate_metrics` does.
    """
    path = place(directory) / METRICS_FILE
    lines = _whole_lines(path)[0] if path.exists() else []
    return lines[-1][0] if lines else None


def _whole_lines(path: Path) -> tuple[list[tuple[int, bytes]], bool]:
    """The lines of a metrics file, each behind its step; and whether a crash has cut short a further, last one."""
    with while_reading(path):
        lines = path.read_bytes().splitlines(keepends=True)
    found = []
    for number, line in enumerate(lines, start=1):
        step = _step_of(line)
        if step is not None and line.endswith(b"\n"):
            found.append((step, line))
        elif number == len(lines) and (found or line[: len(FIRST_BYTES)] == FIRST_BYTES[: len(line)]):
            return found, True
        else:
            raise InputError(f"{path}: line {number} is not a metrics line; repair it, or move the file away")
    return found, False


def _step_of(line: bytes) -> int | None:
    """The step of a metrics line; None of anything else."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return step if type(step) is int else None


def plain_number(value: SupportsFloat) -> int | float:
    """The Python number in a Python, NumPy or JAX scalar; the value is kept exactly."""
    return value if isinstance(value, int) else float(value)


class MetricsWriter:
    """Appends metrics to `metrics.jsonl` in the run directory, and to TensorBoard and W&B where asked.

    A line is one JSON object, `step` first and then the names in order. Numbers are written so that reading them gives
    the same float; values that are not finite appear as `NaN` and `Infinity`, as Python's `json` reads them. Each line
    is flushed, so a run that is killed loses nothing it had reported.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        tensorboard: bool = True,
        wandb: WandbRun | None = None,
        last_step: int | None = None,
        about: Sequence[str] = (),
    ) -> None:
        """Opens the files, creating the directory.

        Args:
            directory: the run directory; the files are `metrics.jsonl` and `timings.jsonl`, TensorBoard's are under
                `tensorboard/`.
            tensorboard: write event files.
            wandb: where W&B shows the run; None = off. A resumed directory continues its W&B run.
            last_step: the run resumes after this step: whatever was written of later ones is dropped. None = append.
            about: what the run says of itself at this start, a line each.

        Raises:
            ConfigError: W&B is asked for, and is not installed or does not start.
        """
        self.directory = place(directory)
        library = import_wandb() if wandb else None
        self.directory.mkdir(parents=True, exist_ok=True)
        if last_step is not None:
            truncate_metrics(self.directory / METRICS_FILE, last_step)
        self._file = GrowingFile(self.directory / METRICS_FILE)
        self._timings = GrowingFile(self.directory / TIMINGS_FILE, prompt=False)
        self._began = time.monotonic()
        now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        self._write_timings({"step": last_step or 0, "started": now, "about": list(about)})
        self._tensorboard: EventFile | None = None
        self._wandb: Any = None
        if tensorboard:
            purge_step = None if last_step is None else last_step + 1
            self._tensorboard = EventFile(self.directory / "tensorboard", purge_step)
        if library is not None and wandb is not None:
            self._library, self._wandb = library, _start_wandb(library, wandb, self.directory)

    def write(
        self, step: int, metrics: Mapping[str, SupportsFloat], measured: Mapping[str, SupportsFloat] | None = None
    ) -> None:
        """Writes the metrics of one step.

        Args:
            step: the training step.
            metrics: name → scalar (Python, NumPy or JAX; a JAX one is fetched). `step` is not a name.
            measured: the same of what was measured rather than computed: it goes everywhere but `metrics.jsonl`.

        Raises:
            ValueError: if a metric is called `step`.
        """
        if "step" in metrics:
            raise ValueError('metrics: the name "step" is taken by the step itself; rename the metric')
        step = int(step)
        values = {name: plain_number(metrics[name]) for name in sorted(metrics)}
        timings = {name: plain_number(value) for name, value in (measured or {}).items()}
        self._file.append(json.dumps({"step": step, **values}))
        self._write_timings({"step": step, "seconds": round(time.monotonic() - self._began, 3), **timings})
        if self._tensorboard is not None:
            self._tensorboard.scalars(step, values | timings)
        if self._wandb is not None:
            self._wandb.log(values | timings, step=step)

    def show(self, step: int, name: str, picture: Path) -> None:
        """Shows a picture of one step in TensorBoard and W&B; in the directory it is already.

        Args:
            step: the training step.
            name: what it is called there.
            picture: an image file.
        """
        if self._tensorboard is not None:
            with picture.open("rb") as file, Image.open(file) as image:
                pixels = np.asarray(image.convert("RGBA"))
            self._tensorboard.image(int(step), name, pixels)
        if self._wandb is not None:
            self._wandb.log({name: self._library.Image(str(local_copy(picture)))}, step=int(step))

    def _write_timings(self, line: Mapping[str, Any]) -> None:
        self._timings.append(json.dumps(line))

    def close(self) -> None:
        """Flushes and closes every sink; closing twice is harmless."""
        for lines in (self._file, self._timings):
            with suppress(OSError):  # a line could not be written, which has been told
                lines.close()
        if self._tensorboard is not None:
            file, self._tensorboard = self._tensorboard, None
            with suppress(MachineError):
                file.close()
        if self._wandb is not None:
            self._wandb.finish()
            self._wandb = None

    def __enter__(self) -> Self:
        """The writer itself; it is closed at the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the writer."""
        self.close()


def import_wandb() -> Any:
    """The library of Weights & Biases.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module("wandb")
    except ImportError as error:
        remedy = "pip install wandb, or leave it out"
        raise ConfigError(f"train.wandb_project: wandb is not installed; {remedy}") from error


def _start_wandb(library: Any, run: WandbRun, directory: Path) -> Any:
    try:
        return library.init(
            project=run.project,
            entity=run.entity,
            group=run.group,
            tags=list(run.tags) or None,
            config=dict(run.settings),
            name=directory.name,
            dir=None if is_stored(directory) else str(directory),
            id=_wandb_id(directory / WANDB_ID_FILE),
            resume="allow",
        )
    except Exception as error:  # network, account and service each raise kinds of their own
        remedy = "log in with `wandb login`, or set WANDB_MODE=offline and `wandb sync` it later"
        raise ConfigError(
            f"train.wandb_project={run.project!r}: W&B does not start ({one_line(error)}); {remedy}"
        ) from error


def _wandb_id(path: Path) -> str:
    """The W&B run of this directory, made up once: a copied or moved directory stays the same run."""
    if not path.exists():
        with atomic_path(path) as temporary:
            temporary.write_text(uuid.uuid4().hex[:12] + "\n", encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()
