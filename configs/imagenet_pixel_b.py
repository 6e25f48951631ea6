"""ImageNet 256, Drift-B in pixel space: DiT-B/16, features of the pixel MAE-640 and of ConvNeXt-V2 base together.

    drifting train --config=configs/imagenet_pixel_b.py --workdir=runs/pixel_b

Published FID-50k after 100,000 steps: 1.76 (the released weights 1.73), IS 299.7 (300.1), sampled at alpha 1.0. The
weights are `hf://Goodeat/drifting/pixel_B_sota`. It was trained on 128 TPU v6e, on random resized crops (scale .2 to
1). Its banks alone are 101 GB in float32: it needs several devices. Not trained here yet. `:tiny` tries it out.
"""

from ml_collections import ConfigDict

from drifting.config import read_variant, tiny, train_config


def get_config(variant: str = "") -> ConfigDict:
    _, small = read_variant(variant)
    config = train_config()
    config.data.name = "imagefolder"
    config.data.path = "data/imagenet"  # train/n01440764/*.JPEG, .., and val/
    config.data.image_size = 256
    config.data.flip = True
    config.data.random_crop = True
    config.features.encoders = ("mae", "convnext")
    config.features.mae = "hf://Goodeat/drifting/mae_pixel_640"
    config.features.mae_dtype = "bfloat16"
    config.features.remat = True
    config.model.preset = "B"
    config.model.patch_size = 16
    config.model.dtype = "bfloat16"
    config.model.remat = True
    config.loss.update(objective="drift", kernel="laplace", widths=(0.2, 0.05, 0.02))
    config.loss.labels = 128
    config.loss.positives = 128
    config.loss.unconditional = 32
    config.bank.push = 128
    config.guidance.exponent = 5.0
    config.optimizer.learning_rate = 2e-4
    config.optimizer.warmup_steps = 10_000
    config.train.steps = 100_000
    config.train.seed = 42
    config.train.checkpoint_every = 2000
    return tiny(config) if small else config
