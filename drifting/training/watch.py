"""What a person follows while a generator trains: named numbers, a warning of collapse, pictures."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from drifting.assembly.run import Run
from drifting.config.schema import ema_decay
from drifting.devices.processes import is_writer
from drifting.method.loss import MapMetrics
from drifting.method.state import TrainState
from drifting.sampling.grid import save_grid
from drifting.sampling.sampler import Sampler

logger = logging.getLogger("drifting")

# Below this ratio of distances among generated to distances among real samples, images of a class are nearly one image.
COLLAPSED_RATIO = 0.3

GRID_COLUMNS = 10

GRID_CLASSES = 10


def named_metrics(widths: tuple[float, ...], metrics: dict[str, Any]) -> dict[str, float]:
    """Flat names and numbers of a step's metrics: `gap/NAME` for a feature map, `field_norm/NAME/WIDTH` for a width."""
    maps: dict[str, MapMetrics] = metrics["maps"]
    flat = {name: float(value) for name, value in metrics.items() if name != "maps"}
    for name, m in maps.items():
        flat |= {f"loss/{name}": float(m.loss), f"gap/{name}": float(m.gap), f"scale/{name}": float(m.scale)}
        flat |= {f"field_norm/{name}/{width:g}": float(norm) for width, norm in zip(widths, m.field_norm, strict=True)}
    return flat


class CollapseWatch:
    """Warns when the generator comes to draw nearly one image for each class, from a tenth of the run on."""

    def __init__(self, steps: int) -> None:
        self._from, self._warned = min(1000, max(steps // 10, 10)), False

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        """Looks at the metric `collapse`."""
        collapsed = step >= self._from and values["collapse"] < COLLAPSED_RATIO
        if collapsed and not self._warned:
            logger.warning(
                "collapse %.2f at step %d: generated samples of a class are nearly alike (1 is right); "
                "try other loss.widths or more loss.generated",
                values["collapse"], step,
            )  # fmt: skip
        self._warned = collapsed


class GridDrawer:
    """Draws `samples/step_N.png` with the averaged parameters: a row for each class, always the same seeds."""

    def __init__(self, run: Run, workdir: Path) -> None:
        rows = min(run.source.num_classes, GRID_CLASSES)
        self._labels = np.repeat(np.arange(rows, dtype=np.int32), GRID_COLUMNS)
        self._sampler = Sampler(run.parts.generator, run.parts.space, len(self._labels))
        self._config, self._workdir, self._layout = run.config, workdir, run.layout

    def __call__(self, step: int, state: TrainState) -> None:
        """Draws the state after `step`."""
        seeds, params = np.arange(len(self._labels)), state.ema[str(ema_decay(self._config))]
        images = self._sampler(self._layout.local(params), self._labels, seeds, self._config.eval.alpha)
        if is_writer():
            save_grid(images, self._workdir / "samples" / f"step_{step:07d}.png", GRID_COLUMNS)
