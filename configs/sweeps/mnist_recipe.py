"""MNIST on a laptop beyond the paper's recipe: the best recipe in the same time, and what each ingredient is worth.

    drifting sweep --config=configs/sweeps/mnist_recipe.py --workdir=runs/mnist_recipe
    python -m scripts.mnist_recipe --workdir=runs/mnist_recipe

`configs/mnist.py:best_cpu` with three seeds, then without one ingredient at a time, and with some of the demo's that it
has not. Each cell takes about the time of one of `:cpu`: what makes a step dearer has fewer steps. Before it the three
commands in the header of `configs/sweeps/mnist.py`, and

    drifting pretrain --config=configs/mae_mnist.py:features --workdir=runs/mae_mnist_features

Measured: docs/results.md has the numbers, which the second line writes.
"""

from typing import Any

from drifting.errors import ConfigError
from drifting.experiments.grid import Sweep

BEST: dict[str, Any] = {
    "model.patch_size": 14,
    "model.register_tokens": 0,
    "optimizer.name": "muon",
    "optimizer.learning_rate": 5e-3,
    "guidance.alpha_min": 2.8,
    "guidance.alpha_max": 2.8,
    "eval.alpha": 2.8,
    "loss.labels": 5,
    "loss.generated": 48,
    "loss.positives": 80,
    "loss.unconditional": 24,
    "loss.widths": (0.3,),
    "loss.normalise_field": False,
    "loss.feature_scale": "neighbour",
    "features.encoders": (),
    "train.ema_decays": (0.98,),
    "train.steps": 3600,
}
"""What `best_cpu` says of the settings that are changed here."""

NO_GUIDANCE = {"guidance.alpha_min": 1.0, "guidance.alpha_max": 1.0, "eval.alpha": 1.0, "loss.unconditional": 0}

THREE_WIDTHS = {"loss.widths": (0.15, 0.3, 0.6)}

NORMALISED = THREE_WIDTHS | {"loss.normalise_field": True}

FEATURES = {
    "features.encoders": ("mae",),
    "loss.feature_scale": "per_map",
    "loss.widths": (0.1, 0.2, 0.4),
    "loss.normalise_field": True,
    "train.steps": 1650,
}

CHANGES: dict[str, dict[str, Any]] = {
    "without large patches: 7 pixels": {"model.patch_size": 7, "model.register_tokens": 4, "train.steps": 1200},
    "without Muon: AdamW at 2e-3": {"optimizer.name": "adamw", "optimizer.learning_rate": 2e-3},
    "without guidance": NO_GUIDANCE,
    "with all classes in a step: 10 of 24": {"loss.labels": 10, "loss.generated": 24, "loss.unconditional": 12},
    "without averaged weights": {"train.ema_decays": (0.0,)},
    "with three widths": THREE_WIDTHS,
    "with three widths, normalised": NORMALISED,
    "with features of the MAE, three widths, normalised": FEATURES,
}
"""What is left out, or brought in, by the names of the table; each is the recipe but for that."""

MAPS: dict[str, Any] = {"weights": "runs/mae_mnist_features/encoder", "mean": False, "std": False}
MAPS |= {"mean_patches": (), "std_patches": (), "every_k_block": 0}
"""The maps of the encoder's three stages, at every position; the pixels are a map of their own."""

SEEDS = (0, 1, 2)


def get_sweep(variant: str = "") -> Sweep:
    if variant:
        raise ConfigError(f"variant {variant!r}: there are none, leave it out")
    rows = [(*BEST.values(), seed) for seed in SEEDS]
    rows += [(*(BEST | change).values(), SEEDS[0]) for change in CHANGES.values()]
    settings = {"eval.reference": "data/mnist_mae.npz"}
    settings |= {f"features.options.mae.{key}": value for key, value in MAPS.items()}
    return Sweep("../mnist.py:best_cpu", {(*BEST, "train.seed"): rows}, settings)
