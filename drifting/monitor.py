"""What a person sees of a run, and what is written of it: metrics, progress, image grids.

Nothing here knows the method; a loop hands over names and numbers. With several processes only the first one writes.
"""

import importlib
import json
import logging
import math
import os
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, SupportsFloat

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

logger = logging.getLogger("drifting")

METRICS_FILE = "metrics.jsonl"
LEGIBLE_PIXELS = 64
GRID_GAP = 2
WINDOW_SECONDS = 60.0


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well, and is removed when it does not."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")  # process numbers repeat on other machines
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


# --- metrics ----------------------------------------------------------------------------------------------------------


def truncate_metrics(path: str | Path, last_step: int) -> None:
    """Drops from a metrics file every line after `last_step`, and a last line that a crash cut short.

    A run that resumes at a checkpoint writes the later steps again; afterwards the file reads as if it had never
    stopped. The file is replaced atomically, and left alone if there is nothing to drop or it does not exist.

    Args:
      path: a file of `MetricsWriter`.
      last_step: the step of the checkpoint.

    Raises:
      ValueError: if a line before the last is not a metrics line.
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
                raise ValueError(f"{path}: line {number} is not a metrics line; repair it or move the file") from error
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
          ValueError: if W&B is asked for and is not installed.
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
        raise ValueError(
            "wandb_project is set but wandb is not installed; pip install -e '.[wandb]' or unset it"
        ) from error


def _wandb_id(path: Path) -> str:
    """The W&B run of this directory, made up once: a copied or moved directory stays the same run."""
    if not path.exists():
        path.write_text(uuid.uuid4().hex[:12] + "\n", encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()


# --- progress ---------------------------------------------------------------------------------------------------------


def duration(seconds: float) -> str:
    """`h:mm:ss` or `m:ss`; `-:--` where it is not known."""
    if not math.isfinite(seconds):
        return "-:--"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Progress:
    """A progress bar with the latest metrics, steps per second and time left; a plain line now and then in a log.

    On a terminal the bar redraws itself. Elsewhere a line is printed at the first update, at the end, and at most
    every `interval` seconds between. It writes to standard error, so that standard output keeps the results.
    """

    def __init__(
        self,
        total: int,
        *,
        start: int = 0,
        label: str = "train",
        unit: str = "steps",
        interval: float = 10.0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepares the display; use it as a context manager.

        Args:
          total: the last step.
          start: steps done before, of a resumed run.
          label: what is going on, in a word.
          unit: what the steps are.
          interval: seconds between plain lines.
          console: where to write; standard error without it.
          clock: seconds, monotonic.
        """
        self._total, self._step, self._label, self._interval, self._clock = total, start, label, interval, clock
        self._unit = unit
        self._console = console or Console(stderr=True)
        # Rate over the last minute, counted from the first update: that step was mostly compilation.
        self._seen: deque[tuple[float, int]] = deque()
        self._last_line: float | None = None
        self._printed = start
        self._metrics: dict[str, float] = {}
        self._bar: Bar | None = None
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TextColumn("{task.fields[text]}"),
                console=self._console,
                refresh_per_second=4,
            )
            self._task = self._bar.add_task(label, total=total, completed=start, text="")

    def update(self, step: int, metrics: Mapping[str, SupportsFloat] | None = None) -> None:
        """Reports that `step` steps are done.

        Args:
          step: steps done.
          metrics: name → scalar to show, in this order; those last given stay without it.
        """
        now = self._clock()
        self._step = step
        if metrics is not None:
            self._metrics = {name: float(value) for name, value in metrics.items()}
        self._seen.append((now, step))
        while len(self._seen) > 2 and now - self._seen[0][0] > WINDOW_SECONDS:
            self._seen.popleft()
        if self._bar is not None:
            self._bar.update(self._task, completed=step, text=self._text())
        elif self._last_line is None or now - self._last_line >= self._interval:
            self._print_line(now)

    def _text(self) -> str:
        """Metrics, rate and time left."""
        (first_time, first_step), (last_time, last_step) = self._seen[0], self._seen[-1]
        elapsed, done = last_time - first_time, last_step - first_step
        rate = done / elapsed if elapsed > 0 else 0.0
        left = (self._total - self._step) / rate if rate > 0 else math.inf
        parts = [f"{name} {value:.4g}" for name, value in self._metrics.items()]
        if rate > 0:
            parts += [f"{rate:.3g} {self._unit}/s", f"ETA {duration(left)}"]
        return "  ".join(parts)

    def _print_line(self, now: float) -> None:
        self._last_line = now
        self._printed = self._step
        line = f"{self._label} {self._step}/{self._total}  {self._text()}"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        """Shows the bar."""
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leaves the last state on the screen."""
        if self._bar is not None:
            self._bar.stop()
        elif self._last_line is not None and self._printed != self._step:
            self._print_line(self._clock())


# --- images -----------------------------------------------------------------------------------------------------------


def legible_scale(height: int, width: int) -> int:
    """Whole-number magnification that shows an image with at least 64 pixels along its longer side."""
    return max(1, math.ceil(LEGIBLE_PIXELS / max(height, width)))


def save_grid(images: ArrayLike, path: str | Path, columns: int, scale: int | None = None) -> None:
    """Writes images as one PNG, row by row, on a white ground with two pixels between them.

    The file appears whole or not at all. One channel is shown in grey, three as RGB; of more channels (latents) the
    first three are shown, of two the first.

    Args:
      images: `[N, H, W, C]` floats in `[-1, 1]`; values outside are clipped.
      path: a `.png` file; its folders are created.
      columns: images in a row.
      scale: nearest-neighbour magnification; without it tiny images are magnified until legible.

    Raises:
      ValueError: if the images are not `[N, H, W, C]` with N > 0, are not finite, or the path is not a PNG.
    """
    images, path = np.asarray(images, np.float32), Path(path)
    if images.ndim != 4 or 0 in images.shape or columns < 1:
        raise ValueError(
            f"images {images.shape} in {columns} columns cannot be shown; expected [N, H, W, C] and columns > 0"
        )
    if path.suffix != ".png":
        raise ValueError(f"{path}: a grid of images must end in .png")
    if not np.isfinite(images).all():
        raise ValueError(f"{path}: the images to show have a pixel that is not finite; the run has diverged")
    number, height, width, channels = images.shape
    images = images[..., : 3 if channels >= 3 else 1]
    scale = scale or legible_scale(height, width)
    columns = min(columns, number)
    rows = math.ceil(number / columns)
    tile_height, tile_width = height * scale + GRID_GAP, width * scale + GRID_GAP
    canvas = np.full((rows * tile_height + GRID_GAP, columns * tile_width + GRID_GAP, images.shape[-1]), 255, np.uint8)
    tiles = np.rint((np.clip(images, -1.0, 1.0) + 1.0) * 127.5).astype(np.uint8)
    for index, tile in enumerate(tiles.repeat(scale, axis=1).repeat(scale, axis=2)):
        top = index // columns * tile_height + GRID_GAP
        left = index % columns * tile_width + GRID_GAP
        canvas[top : top + height * scale, left : left + width * scale] = tile
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        Image.fromarray(canvas[..., 0] if canvas.shape[-1] == 1 else canvas).save(temporary, format="PNG")
