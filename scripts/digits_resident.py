"""Banks against resident data on the digits: the demo's recipe with each, three seeds.

    python -m scripts.digits_resident --out=runs/resident

Needs the encoder of `make demo`. Every cell is an ordinary run directory, so a second call goes on where the first was
stopped. Ends with a Markdown table.
"""

from pathlib import Path

import numpy as np
from absl import app, flags

from configs.digits import get_config
from drifting.config.parse import parse
from drifting.config.schema import Config
from drifting.sampling.generator import TrainedGenerator
from drifting.scoring.evaluate import evaluate_generator
from drifting.training.generator import train

OUT = flags.DEFINE_string("out", "runs/resident", "folder of the runs")

STEPS = flags.DEFINE_integer("steps", 600, "training steps of each run")

SEEDS = (0, 1, 2)

SCORES = ("class_accuracy", "frechet_distance", "precision", "recall", "f1")


def run(where: str | None, seed: int, out: Path, steps: int) -> list[float]:
    """Scores of one cell, trained if it is not there yet."""
    settings = get_config()
    settings.data.resident, settings.train.seed = where, seed
    settings.train.steps, settings.train.tensorboard = steps, False
    config = parse(settings)
    assert isinstance(config, Config)
    workdir = out / f"{where or 'banks'}-{seed}"
    train(config, workdir)
    found = evaluate_generator(TrainedGenerator.from_run(workdir), str(workdir))
    assert found is not None
    (scores,) = found
    return [scores[name] for name in SCORES]


def main(_: list[str]) -> None:
    """Runs every cell and prints the table: means over the seeds, and standard deviations."""
    lines = ["| real samples | accuracy | Fréchet distance | precision | recall | F1 |", "|---|---|---|---|---|---|"]
    for where in (None, "device"):
        scores = np.array([run(where, seed, Path(OUT.value), STEPS.value) for seed in SEEDS])
        cells = [f"{mean:.3f} ± {std:.3f}" for mean, std in zip(scores.mean(0), scores.std(0, ddof=1), strict=True)]
        lines.append(f"| {where or 'banks'} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    print("\n" + "\n".join(lines))


if __name__ == "__main__":
    app.run(main)
