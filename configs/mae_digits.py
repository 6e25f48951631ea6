"""Feature encoder of the digits demo: a small masked autoencoder of 8x8 images, finished with a classifier.

    drifting pretrain --config=configs/mae_digits.py --workdir=runs/mae_digits

Takes about a minute on 2 CPU cores. Measured: it ends near a reconstruction loss of 0.11 (pixels in [-1, 1]). The
artifact is `runs/mae_digits/encoder`, which `configs/digits.py` names. `:tiny` tries it out.
"""

from ml_collections import ConfigDict

from drifting.config import pretrain_config, read_variant, tiny


def get_config(variant: str = "") -> ConfigDict:
    _, small = read_variant(variant)
    config = pretrain_config()
    config.data.name = "digits"

    # Three stages: 8x8, 4x4 and 2x2.
    config.mae.base_channels = 32
    config.mae.layers = (1, 1, 1)
    config.mae.lambda_cls = 0.1
    config.mae.cls_steps = 150
    config.mae.cls_ramp_steps = 50

    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_steps = 50
    config.train.steps = 400
    config.train.batch_size = 128
    config.train.ema_decays = (0.98,)
    config.train.log_every = 20
    config.train.sample_every = 200
    config.train.checkpoint_every = 200
    return tiny(config) if small else config
