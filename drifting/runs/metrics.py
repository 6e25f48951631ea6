"""The metrics of a run in files: `metrics.jsonl`, TensorBoard, Weights & Biases.

Nothing here knows the method; a loop hands over names and numbers. With several processes only the first one writes.
"""

import importlib
import json
import logging
import os
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, SupportsFloat

from drifting.errors import ConfigError, InputError
from drifting.runs.files import atomic_path

logger = logging.getLogger("drifting")

METRICS_FILE = "metrics.jsonl"


def truncate_metrics(path: str | Path, last_step: int) -> None:
    """Drops from a metrics file every line after `last_step`, and a last line that a crash cut short.

    A run that resumes at a checkpoint writes the later steps again; afterwards the file reads as if it had never
    stopped. The file is replaced atomically, and left alone if there is nothing to drop or it does not exist.

    Args:
        path: a file of `MetricsWriter`.
        last_step: the step of the checkpoint.

    Raises:
        InputError: a line before the last is not a metrics line.
    """
    path = Path(path)
    if not path.exists():
        return
    text = path.read_bytes()
    lines = text.splitlines(keepends=True)
    kept = []
    for number, line in enumerate(lines, start=1):
        try:
            step = json.loads(line)["step"]
        except (ValueError, KeyError, TypeError) as error:
            if number < len(lines):
                raise InputError(f"{path}: line {number} is not a metrics line; repair it or move the file") from error
            logger.warning("%s: dropped its last line, which was cut short", path)
            continue
        if not line.endswith(b"\n"):  # complete but for its newline: as torn as any other
            continue
        if step <= last_step:
            kept.append(line)
    if len(kept) < len(lines):
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            file.writelines(kept)
            file.flush()
            os.fsync(file.fileno())


def last_metrics_step(directory: str | Path) -> int | None:
    """The step of the last whole line of a run's metrics; None where there is none."""
    path = Path(directory) / METRICS_FILE
    if not path.exists():
        return None
    for line in reversed(path.read_bytes().splitlines(keepends=True)):
        if line.endswith(b"\n"):
            with suppress(ValueError, KeyError, TypeError):
                return int(json.loads(line)["step"])
    return None


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
        wandb_project: str | None = None,
        last_step: int | None = None,
    ) -> None:
        """Opens the files, creating the directory.

        Args:
            directory: the run directory; the file is `metrics.jsonl`, TensorBoard's are under `tensorboard/`.
            tensorboard: write event files.
            wandb_project: project for Weights & Biases; None = off. A resumed directory continues its W&B run.
            last_step: the run resumes after this step: whatever was written of later ones is dropped. None = append.

        Raises:
            ConfigError: w&B is asked for and is not installed.
        """
        self.directory = Path(directory)
        wandb = _import_wandb() if wandb_project else None
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / METRICS_FILE
        if last_step is not None:
            truncate_metrics(path, last_step)
        self._file = path.open("a", encoding="utf-8")
        self._tensorboard: Any = None
        self._wandb: Any = None
        if tensorboard:
            writer = importlib.import_module("tensorboardX").SummaryWriter
            purge_step = None if last_step is None else last_step + 1
            self._tensorboard = writer(str(self.directory / "tensorboard"), purge_step=purge_step)
        if wandb is not None:
            self._wandb = wandb.init(
                project=wandb_project,
                name=self.directory.name,
                dir=str(self.directory),
                id=_wandb_id(self.directory / "wandb_id"),
                resume="allow",
            )

    def write(self, step: int, metrics: Mapping[str, SupportsFloat]) -> None:
        """Writes the metrics of one step.

        Args:
            step: the training step.
            metrics: name → scalar (Python, NumPy or JAX; a JAX one is fetched). `step` is not a name.

        Raises:
            ValueError: if a metric is called `step`.
        """
        if "step" in metrics:
            raise ValueError('metrics: the name "step" is taken by the step itself; rename the metric')
        values = {name: plain_number(metrics[name]) for name in sorted(metrics)}
        self._file.write(json.dumps({"step": int(step), **values}) + "\n")
        self._file.flush()
        if self._tensorboard is not None:
            for name, value in values.items():
                self._tensorboard.add_scalar(name, value, int(step))
        if self._wandb is not None:
            self._wandb.log(values, step=int(step))

    def close(self) -> None:
        """Flushes and closes every sink; closing twice is harmless."""
        self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
            self._tensorboard = None
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


def _import_wandb() -> Any:
    try:
        return importlib.import_module("wandb")
    except ImportError as error:
        raise ConfigError(
            "wandb_project is set but wandb is not installed; pip install -e '.[wandb]' or unset it"
        ) from error


def _wandb_id(path: Path) -> str:
    """The W&B run of this directory, made up once: a copied or moved directory stays the same run."""
    if not path.exists():
        path.write_text(uuid.uuid4().hex[:12] + "\n", encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()
