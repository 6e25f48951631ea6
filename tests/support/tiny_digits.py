"""Configuration file of the tests: the smallest DiT on the digits' pixels, a run of seconds."""

from drifting.config import train_config


def get_config():
    config = train_config()
    config.features.encoders = ()
    config.model.patch_size = 4
    config.model.hidden_size = 16
    config.model.depth = 1
    config.model.num_heads = 2
    config.model.register_tokens = 1
    config.model.style_tokens = 1
    config.model.style_codebook = 4
    config.loss.labels = 3
    config.loss.generated = 4
    config.loss.positives = 4
    config.loss.unconditional = 2
    config.bank.per_class = 8
    config.bank.unconditional = 16
    config.bank.push = 16
    config.optimizer.warmup_steps = 3
    config.train.steps = 120
    config.train.log_every = 4
    config.train.sample_every = 50
    config.train.checkpoint_every = 10
    config.train.ema_decays = (0.9, 0.99)
    config.train.tensorboard = False
    config.eval.num_samples = 40
    return config
