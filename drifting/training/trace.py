"""A trace of some steps of a training, for TensorBoard's profiler, XProf and Perfetto."""

import logging
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax

from drifting.runs.growing import GrowingFolder

logger = logging.getLogger("drifting")

PROFILE_FOLDER = "profile"
"""Where in a run's folder traces are written, a folder each."""


class Trace:
    """Writes what `jax.profiler` sees of the steps from a first to a last one; the steps before have then finished."""

    def __init__(self, folder: Path, steps: tuple[int, ...]) -> None:
        """Begins when the first step does.

        Args:
            folder: where the trace is written, by every process.
            steps: the first and the last step, counted from 1; (): there is no trace.
        """
        self._folder, self._steps, self._running = folder, steps, False

    def before(self, step: int, metrics: dict[str, Any] | None) -> None:
        """Called before each step, with what the one before gave; a run that resumes between the two begins here."""
        if self._steps and not self._running and self._steps[0] <= step <= self._steps[1]:
            jax.block_until_ready(metrics)
            self._written = GrowingFolder(self._folder)
            options = jax.profiler.ProfileOptions()
            # Python's own calls are left out: to see them it hooks into every thread, those of the libraries too, which
            # come and go meanwhile, and a crash there would take the run with it.
            options.python_tracer_level = 0
            jax.profiler.start_trace(str(self._written.here), profiler_options=options)
            self._running = True

    def after(self, step: int, metrics: dict[str, Any]) -> None:
        """Called after each step, with what it gives."""
        if self._running and step == self._steps[1]:
            jax.block_until_ready(metrics)
            self._stop()
            logger.info("profile: steps %d to %d in %s", *self._steps, self._folder)

    def _stop(self) -> None:
        self._running = False
        jax.profiler.stop_trace()
        self._written.close()

    def __enter__(self) -> Self:
        """The trace, not yet begun."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends a trace whose last step did not come."""
        if self._running:
            self._stop()
