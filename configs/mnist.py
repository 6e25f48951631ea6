"""MNIST and Fashion-MNIST in pixel space: DiT-S/2, one kernel width, no encoder, no guidance.

    drifting train --config=configs/mnist.py:logkde_gauss --workdir=runs/mnist

Variants, with the published FID-50k (F1) at their best width, of .025 to 1, after 12,000 steps, of Fashion-MNIST after
16,000, an hour on an A100 ("Drifting Fields are not Conservative", Table 2); `tiny` tries one out (`:cpu,tiny`).

    logkde_gauss                 6.81 (.57)
    logkde_laplace              17.48 (.36)
    mean_shift_laplace          10.68 (.52)
    drift_gauss                 20.38 (.28)
    drift_laplace               48.34 (.02)
    fashion_logkde_gauss        29.25 (.21)
    fashion_logkde_laplace      59.50 (.05)
    fashion_mean_shift_laplace  47.68 (.13)
    fashion_drift_gauss         61.37 (.06)
    fashion_drift_laplace       75.06 (.02)
    cpu                         log-KDE-Gauss# on two CPU cores, in minutes; see docs/results.md
    best_cpu                    the same time, hidden size and depth with Muon, guidance and larger patches
    one_gpu                     log-KDE-Gauss# on a GPU of 16 GB or more, in bfloat16; 0.4 hours on an H100 by plan

`cpu` gives up size: 1.6 million parameters, patches of 7x7 pixels, 4 register tokens, 48 generated samples of a class,
1,200 steps, 150 of them no-op and ramp-up, at five times the rate. Options that the paper does not name (SwiGLU,
RMSNorm, rotary positions, query-key norm, 64 codes a style token) are ImageNet's. Not trained here at full size.
"""

from ml_collections import ConfigDict

from drifting.config import read_variant, tiny, train_config

OBJECTIVES = {  # kernel, and the best width on MNIST and on Fashion-MNIST
    "logkde_gauss": ("log_kde", "gaussian", 0.2, 0.25),
    "logkde_laplace": ("log_kde", "laplace", 0.1, 0.1),
    "mean_shift_laplace": ("mean_shift", "laplace", 0.05, 0.1),
    "drift_gauss": ("drift", "gaussian", 0.25, 0.25),
    "drift_laplace": ("drift", "laplace", 0.05, 0.05),
}

SIZES = {
    "cpu": {
        "model": dict(preset=None, hidden_size=128, depth=4, num_heads=4, patch_size=7, register_tokens=4),
        "loss": dict(generated=48), "data": dict(resident="device"), "eval": dict(num_samples=10_000),
        "optimizer": dict(learning_rate=1e-3, no_op_steps=50, warmup_steps=100),
        "train": dict(steps=1200, log_every=50, sample_every=600, checkpoint_every=300, tensorboard=False),
    },
    "best_cpu": {
        "model": dict(patch_size=14, register_tokens=0), "optimizer": dict(name="muon", learning_rate=5e-3),
        "loss": dict(positives=80, unconditional=24, widths=(0.3,)),
        "guidance": dict(alpha_min=2.8, alpha_max=2.8), "eval": dict(alpha=2.8),
        "train": dict(steps=3600, ema_decays=(0.98,), sample_every=900, checkpoint_every=900),
    },
    "one_gpu": {"model": dict(dtype="bfloat16"), "data": dict(resident="device")},
}  # fmt: skip

VARIANTS = [*OBJECTIVES, *(f"fashion_{name}" for name in OBJECTIVES), *SIZES]


def get_config(variant: str = "") -> ConfigDict:
    config = train_config()
    name, small = read_variant(variant, VARIANTS)
    size, name = (name, VARIANTS[0]) if name in SIZES else ("", name)
    fashion = name.startswith("fashion_")
    objective, kernel, *widths = OBJECTIVES[name.removeprefix("fashion_")]
    config.data.name = "fashion_mnist" if fashion else "mnist"
    config.data.path = f"data/{config.data.name}"
    config.model.update(preset="S", register_tokens=8)
    config.loss.update(objective=objective, kernel=kernel, widths=(widths[fashion],), normalise_field=False)
    config.loss.update(feature_scale="neighbour", labels=5, generated=96, positives=96, unconditional=0)
    config.features.encoders, config.bank.per_class, config.guidance.alpha_max = (), 0, 1.0
    config.optimizer.update(b1=0.95, b2=0.999, weight_decay=1e-4, no_op_steps=300, warmup_steps=300, decay="cosine")
    config.train.update(steps=16_000 if fashion else 12_000, ema_decays=(0.0,))  # no averages
    for part in ("cpu", size) if size == "best_cpu" else (size,):
        for section, values in SIZES.get(part, {}).items():
            config[section].update(values)
    return tiny(config) if small else config


def fashion(variant: str = "") -> ConfigDict:
    names = [name for name in variant.split(",") if name not in ("", "tiny")] or [VARIANTS[0]]
    return get_config(",".join([*(f"fashion_{name}" for name in names), *(["tiny"] if "tiny" in variant else [])]))
