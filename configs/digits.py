"""Handwritten digits, 8x8: the whole pipeline in minutes on a laptop.

    drifting train --config=configs/digits.py --workdir=runs/demo
"""

from drifting.config import train_config


def get_config():
    config = train_config()
    config.data.name = "digits"
    config.features.path = "runs/mae_digits/encoder"
    config.model.hidden_size = 96
    config.model.depth = 4
    config.model.num_heads = 4
    config.model.register_tokens = 4
    config.model.style_tokens = 8
    config.model.style_codebook = 16
    config.loss.objective = "log_kde"
    config.loss.kernel = "gaussian"
    config.loss.widths = (0.1, 0.2, 0.4)
    config.loss.labels = 10
    config.loss.generated = 16
    config.loss.positives = 32
    config.loss.unconditional = 8
    config.bank.push = 64
    config.guidance.alpha_max = 2.0
    config.optimizer.learning_rate = 5e-4
    config.optimizer.warmup_steps = 100
    config.train.steps = 2000
    config.train.ema_decays = (0.99,)
    config.train.log_every = 50
    config.train.sample_every = 500
    config.train.checkpoint_every = 500
    return config
