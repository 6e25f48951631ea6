"""Feature encoders of the ImageNet models: masked autoencoders of SD-VAE latents and of pixels.

    drifting pretrain --config=configs/mae_imagenet.py:latent_256 --workdir=runs/mae_latent_256

Variants, with the number of parameters of the released weights and the FID that was reached with them; `tiny` tries one
out (`:pixel_640,tiny`).

    latent_256      431,354,348   the ablation 8.46    weights hf://Goodeat/drifting/mae_latent_256
    latent_640    2,687,866,604   Drift-L 1.54         weights hf://Goodeat/drifting/mae_latent_640
    pixel_640     2,689,069,992   Drift-L 1.61, with ConvNeXt-V2; tokens of 8x8 pixels
                                                       weights hf://Goodeat/drifting/mae_pixel_640
    latent_256_512px  latent_256 on 64x64 latents, those of 512x512 images; nothing published

They were trained with a batch of 8,192 on random resized crops (scale .2 to 1); the larger two saw a classifier in the
last 3,000 steps. The cost is not published. Not trained here yet.
"""

from ml_collections import ConfigDict

from drifting.config import pretrain_config, read_variant, tiny

VARIANTS = ("latent_256", "latent_640", "pixel_640", "latent_256_512px")


def get_config(variant: str = "") -> ConfigDict:
    name, small = read_variant(variant, VARIANTS)
    config = pretrain_config()
    config.data.name = "imagefolder"
    config.data.path = "data/imagenet"  # train/n01440764/*.JPEG, .., and val/
    config.data.image_size = 512 if name.endswith("512px") else 256
    config.data.flip = True
    config.data.random_crop = True
    if name == "pixel_640":
        config.mae.input_patch_size = 8
    else:
        config.data.vae = "hf://stabilityai/sd-vae-ft-mse"
    smaller = name.startswith("latent_256")
    config.mae.base_channels = 256 if smaller else 640
    config.mae.lambda_cls = 0.0 if smaller else 0.1
    config.mae.dtype = "bfloat16"
    config.mae.remat = True
    config.optimizer.decay = "constant"
    config.train.steps = 30_000 if smaller else 200_000
    config.train.seed = 42
    config.train.checkpoint_every = 5000
    return tiny(config) if small else config


def latent_256(variant: str = "") -> ConfigDict:
    return get_config(f"latent_256,{variant}")


def latent_256_512px(variant: str = "") -> ConfigDict:
    return get_config(f"latent_256_512px,{variant}")


def latent_640(variant: str = "") -> ConfigDict:
    return get_config(f"latent_640,{variant}")


def pixel_640(variant: str = "") -> ConfigDict:
    return get_config(f"pixel_640,{variant}")
