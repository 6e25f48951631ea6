"""MNIST on a laptop: five objectives against kernel width, with three seeds at each objective's best width.

    drifting sweep --config=configs/sweeps/mnist.py --workdir=runs/mnist
    python -m scripts.mnist_results --workdir=runs/mnist

Figure 4 (left) and Table 2 of "Drifting Fields are not Conservative": each cell is `configs/mnist.py:cpu` with another
loss or seed, scored by 10,000 images in the features of a classifier of the training digits. Before it:

    python -m scripts.fetch_mnist
    drifting pretrain  --config=configs/mae_mnist.py --workdir=runs/mae_mnist
    drifting reference --config=configs/mnist.py --encoder=mae:runs/mae_mnist/encoder --out=data/mnist_mae.npz

Measured: docs/results.md has the numbers, which the second line writes. 31 cells, each about four minutes on two cores.
"""

from drifting.errors import ConfigError
from drifting.experiments.grid import Sweep

WIDTHS = {
    ("log_kde", "gaussian"): (0.05, 0.1, 0.2, 0.3, 0.5),
    ("log_kde", "laplace"): (0.025, 0.05, 0.1, 0.2),
    ("mean_shift", "laplace"): (0.025, 0.05, 0.1, 0.2),
    ("drift", "gaussian"): (0.1, 0.25, 0.4, 0.5),
    ("drift", "laplace"): (0.025, 0.05, 0.1, 0.2),
}
"""Of the paper's list, such that each objective's best width there lies between two others."""

BEST = {
    ("log_kde", "gaussian"): 0.3,
    ("log_kde", "laplace"): 0.05,
    ("mean_shift", "laplace"): 0.1,
    ("drift", "gaussian"): 0.25,
    ("drift", "laplace"): 0.1,
}
"""The width at which there are more seeds: the best one of seed 0 in docs/results/mnist.csv, the paper's before."""

SEEDS = (1, 2)


def get_sweep(variant: str = "") -> Sweep:
    if variant:
        raise ConfigError(f"variant {variant!r}: there are none, leave it out")
    first = [(*objective, (width,), 0) for objective, widths in WIDTHS.items() for width in widths]
    again = [(*objective, (width,), seed) for objective, width in BEST.items() for seed in SEEDS]
    keys = ("loss.objective", "loss.kernel", "loss.widths", "train.seed")
    settings = {"eval.reference": "data/mnist_mae.npz", "eval.every": 300, "eval.every_samples": 2000}
    return Sweep("../mnist.py:cpu", {keys: first + again}, settings)
