"""The progress bar of everything that takes minutes."""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self, SupportsFloat

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

WINDOW_SECONDS = 60.0

REDRAW_SECONDS = 0.25
"""A bar does not change more often, however short its steps are."""


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
        self._note = ""
        self._drawn = -math.inf
        self._bar: Bar | None = None
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TimeElapsedColumn(),  # it moves while a step takes long
                TextColumn("{task.fields[text]}"),
                console=self._console,
                refresh_per_second=1 / REDRAW_SECONDS,
            )
            self._task = self._bar.add_task(label, total=total, completed=start, text="")

    def update(self, step: int, metrics: Mapping[str, SupportsFloat] | None = None, note: str | None = None) -> None:
        """Reports that `step` steps are done; cheap enough to be called after each.

        Args:
            step: steps done.
            metrics: name → scalar to show, in this order; those last given stay without it.
            note: what is shown after all else; the one last given stays without it.
        """
        now = self._clock()
        self._step = step
        if metrics is not None:
            self._metrics = {name: float(value) for name, value in metrics.items()}
        if note is not None:
            self._note = note
        self._seen.append((now, step))
        while len(self._seen) > 2 and now - self._seen[0][0] > WINDOW_SECONDS:
            self._seen.popleft()
        if self._bar is not None:
            if metrics is not None or now - self._drawn >= REDRAW_SECONDS:
                self._draw(now)
        elif self._last_line is None or now - self._last_line >= self._interval:
            self._print_line(now)

    def advance(self, count: int) -> None:
        """Reports that `count` more steps are done."""
        self.update(self._step + count)

    def _draw(self, now: float) -> None:
        assert self._bar is not None
        self._drawn = now
        self._bar.update(self._task, completed=self._step, text=self._text())

    def _text(self) -> str:
        """Metrics, rate, time left and the note."""
        (first_time, first_step), (last_time, last_step) = self._seen[0], self._seen[-1]
        elapsed, done = last_time - first_time, last_step - first_step
        rate = done / elapsed if elapsed > 0 else 0.0
        left = (self._total - self._step) / rate if rate > 0 else math.inf
        parts = [f"{name} {value:.4g}" for name, value in self._metrics.items()]
        if rate > 0:
            parts += [f"{rate:.3g} {self._unit}/s", f"ETA {duration(left)}"]
        return "  ".join([*parts, *filter(None, [self._note])])

    def _print_line(self, now: float) -> None:
        self._last_line = now
        self._printed = self._step
        line = "  ".join(filter(None, [f"{self._label} {self._step}/{self._total}", self._text()]))
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
            if self._seen:
                self._draw(self._clock())
            self._bar.stop()
        elif self._last_line is not None and self._printed != self._step:
            self._print_line(self._clock())
