"""An event file, which TensorBoard reads."""

import importlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drifting.runs.files import while_writing
from drifting.runs.growing import GrowingFolder


class EventFile:
    """Numbers and pictures by step, on disk when a call returns.

    The library's own writer has a thread of its own, which a full disk ends: the training would wait for it for ever.

    Args:
        folder: where the file is written, next to those of earlier starts.
        purge_step: TensorBoard hides what the earlier ones have from this step on; None: nothing.

    Raises:
        MachineError: it cannot be written; so do the methods.
    """

    def __init__(self, folder: Path, purge_step: int | None) -> None:
        self._folder = folder
        self._protocol = importlib.import_module("tensorboardX.proto.event_pb2")
        self._summary = importlib.import_module("tensorboardX.summary")
        writer = importlib.import_module("tensorboardX.event_file_writer").EventsWriter
        with while_writing(folder):
            self._growing = GrowingFolder(folder)
            self._writer = writer(str(self._growing.here / "events"))
        if purge_step is not None:
            session = self._protocol.SessionLog
            self._write(self._protocol.Event(step=purge_step, session_log=session(status=session.START)))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes numbers by name."""
        self._write(*(self._event(step, self._summary.scalar(name, value)) for name, value in values.items()))

    def image(self, step: int, name: str, pixels: NDArray[np.uint8]) -> None:
        """Writes a picture `[H, W, 3 or 4]`."""
        self._write(self._event(step, self._summary.image(name, pixels, dataformats="HWC")))

    def close(self) -> None:
        """Closes the file."""
        with while_writing(self._folder):
            self._writer.close()
            self._growing.close()

    def _event(self, step: int, summary: Any) -> Any:
        return self._protocol.Event(step=step, wall_time=time.time(), summary=summary)

    def _write(self, *events: Any) -> None:
        with while_writing(self._folder):
            for event in events:
                self._writer.write_event(event)
            self._writer.flush()
            self._growing.grown()
