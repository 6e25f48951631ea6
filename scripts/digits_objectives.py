"""Objectives on the digits: four objectives at three widths each, the demo's recipe otherwise.

    python -m scripts.digits_objectives --out=runs/objectives

Needs the encoder of `make demo`. Every cell is an ordinary run directory, so a second call goes on where the first was
stopped. Ends with the Markdown table of the README.
"""

from pathlib import Path

from absl import app, flags

from configs.digits import get_config
from drifting.config import Config, parse
from drifting.scores import evaluate
from drifting.train import train

OUT = flags.DEFINE_string("out", "runs/objectives", "folder of the runs")
STEPS = flags.DEFINE_integer("steps", 600, "training steps of each run")

# The paper's name, objective and kernel.
OBJECTIVES = (
    ("log-KDE-Gauss#", "log_kde", "gaussian"),
    ("log-KDE-Laplace#", "log_kde", "laplace"),
    ("mean shift, Laplace", "mean_shift", "laplace"),
    ("two-axis drift, Laplace", "drift", "laplace"),
)
WIDTHS = (0.1, 0.2, 0.4)


def run(objective: str, kernel: str, width: float, out: Path, steps: int) -> dict[str, float]:
    """Scores of one cell, trained if it is not there yet."""
    settings = get_config()
    settings.loss.objective, settings.loss.kernel, settings.loss.widths = objective, kernel, (width,)
    settings.train.steps, settings.train.tensorboard = steps, False
    config = parse(settings)
    assert isinstance(config, Config)
    workdir = out / f"{objective}-{kernel}-{width:g}"
    train(config, workdir)
    return evaluate(workdir)


def main(_: list[str]) -> None:
    """Runs every cell and prints the table."""
    lines = [
        "| objective | width | accuracy | Fréchet distance | × held-out | precision | recall | F1 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, objective, kernel in OBJECTIVES:
        for width in WIDTHS:
            s = run(objective, kernel, width, Path(OUT.value), STEPS.value)
            numbers = f"{s['class_accuracy']:.3f} | {s['frechet_distance']:.2f} | {s['frechet_ratio']:.1f}"
            lines.append(
                f"| {name} | {width:g} | {numbers} | {s['precision']:.2f} | {s['recall']:.2f} | {s['f1']:.2f} |"
            )
            print(lines[-1], flush=True)
    print("\n" + "\n".join(lines))


if __name__ == "__main__":
    app.run(main)
