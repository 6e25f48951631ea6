"""ImageNet 256, the ablation setting: DiT-B/2 over SD-VAE latents, features of the latent MAE-256.

    drifting train --config=configs/imagenet_ablation.py --workdir=runs/ablation
    drifting train --config=configs/imagenet_ablation.py:logkde_gauss --config.loss.widths='(0.3,)' --workdir=runs/kde

Variants: `drift` (the default, three widths), `logkde_gauss`, `logkde_laplace`, `mean_shift`, one width each; `tiny`
tries any of them out in a minute without data (`:logkde_gauss,tiny`). Published FID-50k after 30,000 steps:

    drift           8.46 with widths (.2, .05, .02); 10.62, 8.67, 8.96 with .02, .05, .2 alone ("Generative Modeling via
                    Drifting"); the released weights 8.49, IS 144.0, alpha 2.0; at the best alpha after 5k steps 35.20
                    (3.5), 10k 13.33 (2.5), 15k 10.70 (2.0), 20k 9.47, 25k 8.84, 30k 8.34
    logkde_gauss    9.42 (F1 .53) with width .40     ("Drifting Fields are not Conservative"; widths .02 to .5)
    logkde_laplace  9.35 (F1 .50) with width .30
    mean_shift      no published number
    one_gpu         drift in micro-batches, for one GPU with 63 GB to spare; 95 hours on an H100 by plan

As it is, the file is for a node of eight such GPUs: 46 GB on each, 9 hours on H100. docs/reproduce-imagenet.md has all
commands from ImageNet's files to the FID.

Published cost: 11 hours on 8 H200, 118 GB used on each; the released recipe ran on 64 TPU v6e. Not trained here yet.
"""

from ml_collections import ConfigDict

from drifting.config import read_variant, tiny, train_config

OBJECTIVES = {
    "drift": dict(objective="drift", kernel="laplace", widths=(0.2, 0.05, 0.02)),
    "logkde_gauss": dict(objective="log_kde", kernel="gaussian", widths=(0.4,)),
    "logkde_laplace": dict(objective="log_kde", kernel="laplace", widths=(0.3,)),
    "mean_shift": dict(objective="mean_shift", kernel="laplace", widths=(0.05,)),
}

VARIANTS = [*OBJECTIVES, "one_gpu"]


def get_config(variant: str = "") -> ConfigDict:
    config = train_config()
    name, small = read_variant(variant, VARIANTS)
    objective = "drift" if name == "one_gpu" else name
    config.loss.update(OBJECTIVES[objective])
    config.data.name = "imagefolder"
    config.data.path = "data/imagenet"  # train/n01440764/*.JPEG, .., and val/
    config.data.image_size = 256
    config.data.flip = True
    config.data.vae = "hf://stabilityai/sd-vae-ft-mse"
    config.features.options.mae = {"weights": "hf://Goodeat/drifting/mae_latent_256", "dtype": "bfloat16"}
    config.model.preset = "B"
    config.model.dtype = "bfloat16"
    config.optimizer.weight_decay = 1e-4 if objective.startswith("logkde") else 0.01
    config.train.seed = 42
    config.train.checkpoint_every = 2000
    config.eval.alpha = 2.0
    if name == "one_gpu":
        config.train.micro_batch = 512
    return tiny(config) if small else config
