"""Feature encoder of the digits demo: a small masked autoencoder of 8x8 images, finished with a classifier.

    drifting pretrain --config=configs/mae_digits.py --workdir=runs/mae_digits
"""

from drifting.config import pretrain_config


def get_config():
    config = pretrain_config()
    config.data.name = "digits"
    config.mae.base_channels = 32
    config.mae.layers = (1, 1, 1)
    config.mae.lambda_cls = 0.1
    config.mae.cls_steps = 200
    config.mae.cls_ramp_steps = 100
    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_steps = 50
    config.train.steps = 600
    config.train.batch_size = 128
    config.train.ema_decays = (0.99,)
    config.train.log_every = 50
    config.train.sample_every = 200
    config.train.checkpoint_every = 200
    return config
