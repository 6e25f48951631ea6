"""ImageNet as latents of the SD-VAE, encoded once and for all.

    drifting cache --config=configs/data/imagenet.py --workdir=data/imagenet_latents

Writes 157 shards of 8,192 images each: moments (mean and log-variance) of 32x32x4 latents in float16, of the image and
of its mirror image, 32.8 KB together, 42 GB for the 1,281,167 training images. Killed at any moment, the same command
goes on. Several processes, one for each GPU, on one machine or many, share the work: give each
`--process_index=I --process_count=N`, or start them with `srun`.
`drifting cache --verify --workdir=data/imagenet_latents` compares the files with their checksums. Trained on with
`--config.data.name=latents --config.data.path=data/imagenet_latents --config.data.image_size=None`. `:tiny` tries it
out.
"""

from ml_collections import ConfigDict

from drifting.config import cache_config, read_variant, tiny


def get_config(variant: str = "") -> ConfigDict:
    _, small = read_variant(variant)
    config = cache_config()
    config.data.name = "imagefolder"
    config.data.path = "data/imagenet"  # train/n01440764/*.JPEG, .., and val/
    config.data.image_size = 256
    config.data.vae = "hf://stabilityai/sd-vae-ft-mse"
    return tiny(config) if small else config
