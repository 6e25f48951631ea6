"""Feature encoder of the latent ImageNet models: a masked autoencoder of SD-VAE latents, 640 channels.

    drifting pretrain --config=configs/mae_latent_640.py --workdir=runs/mae_latent_640

The released weights are `hf://Goodeat/drifting/mae_latent_640`, 2,687,866,604 parameters. They were trained with a
batch of 8,192 on random resized crops (scale .2 to 1), the last 3,000 steps with a classifier. With them Drift-L
reaches FID 1.54. The cost is not published. Not trained here yet. `:tiny` tries it out.
"""

from ml_collections import ConfigDict

from drifting.config import pretrain_config, read_variant, tiny


def get_config(variant: str = "") -> ConfigDict:
    _, small = read_variant(variant)
    config = pretrain_config()
    config.data.name = "imagefolder"
    config.data.path = "data/imagenet"  # train/n01440764/*.JPEG, .., and val/
    config.data.image_size = 256
    config.data.flip = True
    config.data.random_crop = True
    config.data.vae = "hf://stabilityai/sd-vae-ft-mse"
    config.mae.base_channels = 640
    config.mae.lambda_cls = 0.1
    config.mae.dtype = "bfloat16"
    config.mae.remat = True
    config.optimizer.decay = "constant"
    config.train.steps = 200_000
    config.train.seed = 42
    config.train.checkpoint_every = 5000
    return tiny(config) if small else config
