"""Heartbeats of the processes of a run, by which one that is stuck is noticed and named."""

import json
import logging
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import jax

from drifting.runs.files import atomic_path

logger = logging.getLogger("drifting")

WATCH_FOLDER = "processes"

WATCH_SECONDS = 10.0
"""Seconds between two signs of a process."""

STUCK_EXIT_CODE = 3
"""Exit code of a process that ends because one is stuck."""


class Watch:
    """Ends this process with a message when no step was finished for too long, and names who is behind.

    Each process writes where it is to `WORKDIR/processes/INDEX.json`. One that has died is noticed sooner, by JAX; this
    finds one that lives and does nothing, while the others wait for it in a collective.

    Args:
        workdir: the run's directory, which all processes see.
        seconds: how long is too long; 0 never.
    """

    def __init__(self, workdir: Path, seconds: float) -> None:
        self._folder, self._seconds = workdir / WATCH_FOLDER, seconds
        self._step, self._since = 0, time.monotonic()
        self._first_sign = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Watch":
        if self._seconds and jax.process_count() > 1:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._first_sign = self._write(0.0) or 0.0
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def finished(self, step: int) -> None:
        """Tells that a step is done."""
        self._step, self._since = step, time.monotonic()

    def _run(self) -> None:
        while not self._ended.wait(min(WATCH_SECONDS, self._seconds / 4)):
            waited = time.monotonic() - self._since
            self._write(waited)
            if waited > self._seconds:
                logger.error("%s", self._verdict(waited))
                logging.shutdown()
                os._exit(STUCK_EXIT_CODE)

    def _write(self, waited: float) -> float | None:
        """Says where this process is; returns the time by the clock of the folder's file system."""
        path = self._folder / f"{jax.process_index()}.json"
        facts = {"host": socket.gethostname(), "step": self._step, "seconds": round(waited)}
        try:
            with atomic_path(path) as temporary:
                temporary.write_text(json.dumps(facts), encoding="utf-8")
            return path.stat().st_mtime
        except OSError as error:
            logger.warning("%s: cannot be written (%s)", path, error.strerror)
            return None

    def _verdict(self, waited: float) -> str:
        """A line that names the processes that are furthest behind."""
        found: dict[int, dict[str, Any]] = {}
        for index in range(jax.process_count()):
            path = self._folder / f"{index}.json"
            try:
                facts = json.loads(path.read_text(encoding="utf-8"))
                old = path.stat().st_mtime < self._first_sign - 2 * WATCH_SECONDS  # an earlier call wrote it
            except (OSError, ValueError):
                old = True
            found[index] = {"host": "an unknown host", "step": -1} if old else facts
        last = min(facts["step"] for facts in found.values())
        behind = [f"process {index} on {facts['host']}" for index, facts in found.items() if facts["step"] == last]
        where = f"after step {last}" if last >= 0 else "without a sign since the start"
        return (
            f"no step was finished for {waited:.0f} s; furthest behind, {where}: {', '.join(behind)}; "
            "ending, the same command goes on from the last checkpoint"
        )
