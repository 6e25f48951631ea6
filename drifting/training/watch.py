"""What a person follows while a generator trains: named numbers, a warning of collapse, pictures."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from drifting.assembly.run import Run
from drifting.config.schema import OptimizerConfig, ema_decay
from drifting.devices.processes import is_writer
from drifting.method.objective import MapMetrics
from drifting.method.state import TrainState
from drifting.sampling.grid import save_grid
from drifting.sampling.labels import titles
from drifting.sampling.sampler import Sampler

logger = logging.getLogger("drifting")

# Below this ratio of distances among generated to distances among real samples, images of a class are nearly one image.
COLLAPSED_RATIO = 0.3

LEAST_STEPS, PATIENCE_STEPS = 20, 1000

GRID_COLUMNS = 10

GRID_CLASSES = 10


def named_metrics(widths: tuple[float, ...], metrics: dict[str, Any]) -> dict[str, float]:
    """Flat names and numbers of a step's metrics: `gap/NAME` for a feature map, `field_norm/NAME/WIDTH` for a width."""
    maps: Mapping[str, MapMetrics] = metrics["maps"]
    flat = {name: float(value) for name, value in metrics.items() if name != "maps"}
    for name, m in maps.items():
        flat |= {f"loss/{name}": float(m.loss), f"gap/{name}": float(m.gap), f"scale/{name}": float(m.scale)}
        flat |= {f"field_norm/{name}/{width:g}": float(norm) for width, norm in zip(widths, m.field_norm, strict=True)}
    return flat


class CollapseWatch:
    """Warns when the generator comes to draw nearly one image for each class.

    A new generator does draw one: its last layer begins at 0. It moves away from that by steps of the full rate, so
    nothing is said before half of those, but at least `LEAST_STEPS` and at most `PATIENCE_STEPS` of them, are done; nor
    while the ratio still rises. A run that ends before that is told to be too short.
    """

    def __init__(self, optimizer: OptimizerConfig, steps: int) -> None:
        """Begins to look.

        Args:
            optimizer: says how long the rate warms up.
            steps: how long the run is.
        """
        warm = optimizer.no_op_steps + optimizer.warmup_steps
        patience = min(max((steps - warm) // 2, LEAST_STEPS), PATIENCE_STEPS)
        self._from, self._warned, self._before = warm + patience, False, 0.0
        self._warm, self._last = warm, steps

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        """Looks at the metric `collapse`."""
        ratio, before = values["collapse"], self._before
        self._before = ratio
        collapsed = step >= self._from and ratio < COLLAPSED_RATIO and (self._warned or ratio <= before)
        if collapsed and not self._warned:
            logger.warning(
                "collapse %.2f at step %d: generated samples of a class are nearly alike (1 is right); "
                "try other loss.widths or more loss.generated",
                values["collapse"], step,
            )  # fmt: skip
        elif step == self._last and ratio < COLLAPSED_RATIO and not collapsed:
            logger.warning("collapse %.2f at the end: %s", ratio, self._too_short())
        self._warned = collapsed

    def _too_short(self) -> str:
        """Why generated samples are still alike after the last step."""
        if self._last <= self._warm:
            steps = f"train.steps={self._last} end within the {self._warm} of optimizer.no_op_steps and warmup_steps"
            return f"generated samples of a class are alike still, because {steps}: train longer or warm up faster"
        return f"generated samples of a class are nearly alike still after train.steps={self._last}: train longer"


class GridDrawer:
    """Draws `samples/step_N.png` with the averaged parameters: a row for each class, always the same seeds."""

    def __init__(self, run: Run, workdir: Path) -> None:
        rows = range(min(run.source.num_classes, GRID_CLASSES))
        self._names = titles(rows, run.source.class_names)
        self._labels = np.repeat(np.asarray(rows, np.int32), GRID_COLUMNS)
        self._sampler = Sampler(run.parts.generator, run.parts.space, len(self._labels))
        self._config, self._workdir, self._layout = run.config, workdir, run.layout

    def __call__(self, step: int, state: TrainState) -> Path | None:
        """Draws the state after `step`; returns the file, in the process that writes."""
        seeds, params = np.arange(len(self._labels)), state.ema[str(ema_decay(self._config))]
        images = self._sampler(self._layout.local(params), self._labels, seeds, self._config.eval.alpha)
        if not is_writer():
            return None
        path = self._workdir / "samples" / f"step_{step:07d}.png"
        save_grid(images, path, GRID_COLUMNS, names=self._names)
        return path
