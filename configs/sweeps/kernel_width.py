"""Kernel widths and objectives: Fréchet distance against width, as Figure 4 of "Drifting Fields are not Conservative".

    drifting sweep  --config=configs/sweeps/kernel_width.py --workdir=runs/sweep
    drifting report --workdir=runs/sweep --out=report.html

Variants, `digits` the default; it and `digits_long` need the encoder of `configs/mae_digits.py`.

    digits       2 kernels x 2 objectives x 4 widths with a short budget
    digits_long  four objectives, three widths, 600 steps
    mnist        the paper's settings; a cell is an hour on an A100; best published FID 6.81, log-KDE, Gauss, width .2
    ablation     the paper's settings; a cell is 11 hours on 8 H200; best published FID 9.35, log-KDE, Laplace, width .3

The last two need statistics of the real images:

    drifting reference --config=configs/mnist.py --out=data/mnist.npz
    drifting reference --config=configs/imagenet_ablation.py --out=data/imagenet256.npz
    drifting sweep --config=configs/sweeps/kernel_width.py:ablation --workdir=runs/ablation --slurm \\
        --slurm_options=slurm_partition=gpu,gpus_per_node=1,timeout_min=2880
"""

from drifting.errors import ConfigError
from drifting.experiments.grid import Sweep

OBJECTIVE = ("loss.objective", "loss.kernel")

ALL = [
    ("log_kde", "gaussian"),
    ("log_kde", "laplace"),
    ("mean_shift", "laplace"),
    ("drift", "gaussian"),
    ("drift", "laplace"),
]

PAPER_WIDTHS = [(w,) for w in (0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 1.0)]

# A fifth of the demo's work: enough to tell widths apart, not for good digits.
SHORT = {
    "model.hidden_size": 64,
    "model.depth": 2,
    "loss.generated": 16,
    "loss.positives": 32,
    "optimizer.warmup_steps": 20,
    "train.steps": 300,
    "train.checkpoint_every": 100,
}


VARIANTS = ("digits", "digits_long", "mnist", "ablation")


def get_sweep(variant: str = VARIANTS[0]) -> Sweep:
    quiet = {"train.tensorboard": False}
    if variant == "digits":
        grid = {
            "loss.objective": ["log_kde", "drift"],
            "loss.kernel": ["gaussian", "laplace"],
            "loss.widths": [(0.1,), (0.2,), (0.4,), (0.8,)],
            "train.seed": [0],
        }
        return Sweep("../digits.py", grid, quiet | SHORT)
    if variant == "digits_long":
        grid = {OBJECTIVE: [ALL[0], ALL[1], ALL[2], ALL[4]], "loss.widths": [(0.1,), (0.2,), (0.4,)]}
        return Sweep("../digits.py", grid, quiet | {"train.steps": 600})
    if variant == "mnist":
        grid = {OBJECTIVE: ALL, "loss.widths": PAPER_WIDTHS}
        return Sweep("../mnist.py", grid, {"eval.reference": "data/mnist.npz", "eval.num_samples": 50_000})
    if variant == "ablation":
        widths = [(w,) for w in (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)]
        settings = {"optimizer.weight_decay": 1e-4, "eval.num_samples": 50_000}
        settings |= {"eval.reference": "data/imagenet256.npz"}
        grid = {OBJECTIVE: [ALL[0], ALL[1], ALL[4]], "loss.widths": widths}
        return Sweep("../imagenet_ablation.py", grid, settings, alphas=(1.0, 1.5, 2.0, 2.5, 3.0))
    raise ConfigError(f"variant {variant!r}: use {' or '.join(VARIANTS)}")
