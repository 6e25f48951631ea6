"""ImageNet as latents of the SD-VAE, encoded once and for all.

    drifting cache --config=configs/data/imagenet.py --workdir=data/imagenet_latents

Expected: 157 shards of 8,192 images each, 42 GB for the 1,281,167 training images. They hold moments (mean and
log-variance) of 32x32x4 latents in float16, of the image and of its mirror image, 32.8 KB together. Killed at any
moment, the same command goes on. A process uses all devices it sees, over which it spreads `cache.batch_size` images
at a time (with 8 GPUs give `--config.cache.batch_size=512`). Several share the work, on one machine or many:

    for i in 0 1 2 3; do CUDA_VISIBLE_DEVICES=$i drifting cache ... --process_index=$i --process_count=4 & done; wait
    srun --ntasks=4 --gpus-per-task=1 drifting cache ...

What TFDS has prepared as array_record is read by adding

    --config.data.name=tfds --config.data.path=DATA_DIR/imagenet2012/5.1.0

`drifting cache --verify --workdir=data/imagenet_latents` compares the files with their checksums. Trained on with
`--config.data.name=latents --config.data.path=data/imagenet_latents`, and `--config.data.random_crop=False` where that
is set. `:tiny` tries it out.
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
