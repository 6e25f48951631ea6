"""ImageNet 256 in pixel space: DiT/16, features of the pixel MAE-640 and of ConvNeXt-V2 base together.

    drifting train --config=configs/imagenet_pixel.py:b --workdir=runs/pixel_b
    drifting train --config=configs/imagenet_pixel.py:l --workdir=runs/pixel_l

Variants, with the published FID-50k and IS after 100,000 steps (the released weights'), sampled at alpha 1.0; `tiny`
tries one out (`:b,tiny`).

    b   Drift-B, DiT-B/16   1.76 (1.73), 299.7 (300.1)   weights hf://Goodeat/drifting/pixel_B_sota
    l   Drift-L, DiT-L/16   1.61 (1.62), 307.5 (308.6)   weights hf://Goodeat/drifting/pixel_L_sota

They were trained on 128 TPU v6e, on random resized crops (scale .2 to 1). The banks alone are 101 GB in float32: it
needs several devices. Not trained here yet.
"""

from ml_collections import ConfigDict

from drifting.config import read_variant, tiny, train_config

VARIANTS = ("b", "l")


def get_config(variant: str = "") -> ConfigDict:
    config = train_config()
    name, small = read_variant(variant, VARIANTS)
    config.data.name = "imagefolder"
    config.data.path = "data/imagenet"  # train/n01440764/*.JPEG, .., and val/
    config.data.image_size = 256
    config.data.flip = True
    config.data.random_crop = True
    config.features.encoders = ("mae", "convnext")
    config.features.options.mae = {"weights": "hf://Goodeat/drifting/mae_pixel_640", "dtype": "bfloat16"}
    config.features.options.convnext = {"dtype": "bfloat16"}
    config.features.remat = True  # each of 8 H200 has 103 GB and not 109, for 15 TFLOP of 378
    config.model.preset = name.upper()
    config.model.patch_size = 16
    config.model.dtype = "bfloat16"
    config.model.remat = name == "l"
    config.loss.update(objective="drift", kernel="laplace", widths=(0.2, 0.05, 0.02))
    config.loss.labels = 128
    config.loss.positives = 128
    config.loss.unconditional = 32
    config.bank.push = 128
    config.guidance.exponent = 5.0
    config.optimizer.learning_rate = 2e-4 if name == "b" else 4e-4
    config.optimizer.warmup_steps = 10_000
    config.train.steps = 100_000
    config.train.seed = 42
    config.train.checkpoint_every = 2000
    return tiny(config) if small else config


def drift_b(variant: str = "") -> ConfigDict:
    return get_config(f"b,{variant}")


def drift_l(variant: str = "") -> ConfigDict:
    return get_config(f"l,{variant}")
