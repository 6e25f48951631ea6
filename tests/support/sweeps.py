"""A sweep's folder as `drifting sweep` leaves it, made up without training anything."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from drifting.cli.settings import load_settings
from drifting.config.schema import Config
from drifting.experiments.grid import ERROR_FILE, Sweep, SweepCell, cells_of, collect
from drifting.experiments.sweep import prepare_sweep
from drifting.runs.directory import write_config
from drifting.runs.metrics import MetricsWriter
from drifting.sampling.grid import save_grid
from tests.support.runs import TINY

GRID = {
    "loss.objective": ["log_kde", "drift"],
    "loss.kernel": ["gaussian", "laplace"],
    "loss.widths": [(0.1,), (0.2,), (0.4,)],
}


def made_up_sweep(workdir: Path, *, failed: int | None = None, waiting: int | None = None) -> dict[SweepCell, Config]:
    """Twelve cells, all finished but for the given ones."""
    sweep = Sweep(str(TINY), GRID, {"train.steps": 40})
    cells = cells_of(sweep, load_settings(str(TINY)))
    prepare_sweep(sweep, cells, workdir)
    for cell, config in cells.items():
        if cell.index == waiting:
            continue
        made_up_run(cell.folder(workdir), config, cell.index, scored=cell.index != failed)
        if cell.index == failed:
            (cell.folder(workdir) / ERROR_FILE).write_text("TrainingError: loss is nan at step 3 <b>\n")
    collect(list(cells), workdir)
    return cells


def made_up_run(folder: Path, config: Config, seed: int, scored: bool = True) -> None:
    rng = np.random.default_rng(seed)
    write_config(folder, replace(config, train=replace(config.train, steps=40)))
    with MetricsWriter(folder, tensorboard=False) as writer:
        for step in (1, 10, 20, 30, 40):
            values = {name: float(rng.uniform(1, 2) / step) for name in ("loss", "gap", "field_norm", "collapse")}
            writer.write(step, values | {"gap": float("nan")} if step == 30 else values)
    for step in (20, 40):
        picture = folder / "samples" / f"step_{step:07d}.png"
        save_grid(rng.uniform(-1, 1, (20, 8, 8, 1)), picture, 5, names=["zero", "one", "<two>", "three, a long name"])
    if scored:
        precision, recall = rng.uniform(0, 1, 2)
        num = config.eval.num_samples
        scores = {"alpha": 1.0, "num": num, "frechet_distance": float(rng.uniform(0.5, 40)), "precision": precision}
        scores |= {"recall": recall, "f1": 2 * precision * recall / (precision + recall)}
        about = {"step": 40, "ema_decay": 0.9, "num": num, "seed": 0, "uint8": "truncate", "data": "digits"}
        about |= {"reference": "the run's own data", "neighbours": 3}
        (folder / "eval-40.json").write_text(json.dumps(about | {"scores": [scores]}))
