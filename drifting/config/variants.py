"""What a file in `configs/` starts from, and the variant `tiny` that every experiment has."""

from collections.abc import Iterable
from typing import Any

from ml_collections import ConfigDict

from drifting.config.older import renewed
from drifting.config.parse import to_config_dict
from drifting.config.schema import CacheBuild, Config, PretrainConfig, command_of
from drifting.errors import ConfigError


def train_config() -> ConfigDict:
    """Every key of a generator's run with its default, to be changed by a file in `configs/`."""
    return to_config_dict(Config())


def pretrain_config() -> ConfigDict:
    """Every key of a feature encoder's run with its default, to be changed by a file in `configs/`."""
    return to_config_dict(PretrainConfig())


def cache_config() -> ConfigDict:
    """Every key of a latent cache with its default, to be changed by a file in `configs/data/`."""
    return to_config_dict(CacheBuild())


def read_variant(given: str, known: Iterable[str] = ()) -> tuple[str, bool]:
    """Which of its variants a file in `configs/` is asked for, and whether `tiny`: `NAME`, `tiny` or `NAME,tiny`.

    Args:
        given: what follows the colon of `--config=FILE:GIVEN`; '' asks for the first of the known.
        known: names of the variants; none where a file has only the one.

    Raises:
        ConfigError: there is no such variant.
    """
    names, known = [name for name in given.split(",") if name], list(known)
    chosen = [name for name in names if name != "tiny"]
    wrong = [name for name in chosen if name not in known]
    if len(chosen) > 1 or wrong:
        raise ConfigError(
            f"variant {(wrong or [given])[0]!r}: use {' or '.join([*known, 'tiny'])}"
            + (", or NAME,tiny" if known else "")
        )
    return (chosen or known or [""])[0], "tiny" in names


def tiny(config: ConfigDict) -> ConfigDict:
    """The same experiment as small as it can be: made-up images, untrained encoders, two steps; changed in place.

    Files in `configs/` return it as their variant `tiny`, so that a machine, a launcher or an edited file can be tried
    out in a minute without data or downloads. What makes the experiment what it is stays: objective, dtypes, guidance.
    """
    config.data.options = ConfigDict()  # those of other data
    if command_of(config) == "cache":
        config.data.update(
            name="synthetic", path=None, image_size=16, image_width=None, channels=3, classes=4, vae="random://smoke"
        )
        config.cache.update(shard_size=512, batch_size=16)
        return config
    pretrain = command_of(config) == "pretrain"
    latent = config.data.vae is not None or config.data.name == "latents"
    patch = 2 * config.mae.input_patch_size if pretrain else config.model.patch_size
    channels = 1 if config.data.name in ("mnist", "fashion_mnist") else 3
    config.data.update(name="synthetic", path=None, channels=channels, classes=4)
    config.data.update(image_size=max(8, 2 * patch) * (2 if latent else 1), image_width=None)
    if latent:
        config.data.vae = "random://smoke"
    no_op_steps = min(config.optimizer.no_op_steps, 1)
    config.optimizer.update(no_op_steps=no_op_steps, warmup_steps=1 - no_op_steps)
    config.train.update(steps=2, log_every=1, checkpoint_every=0, tensorboard=False, wandb_project=None)
    config.train.update(start=None, start_classes=())
    config.train.micro_batch = min(config.train.micro_batch, 4)
    if pretrain:
        config.train.batch_size = 4
        config.mae.update(base_channels=8, layers=(1, 1), cls_steps=1, cls_ramp_steps=1)
        return config
    config.model.update(preset=None, hidden_size=16, depth=1, num_heads=2, cond_dim=None)
    config.model.update(register_tokens=1, style_tokens=1, style_codebook=4)
    config.loss.update(labels=1 if config.data.unconditional else 2, generated=4, positives=4, neighbours=2)
    config.loss.unconditional = min(config.loss.unconditional, 2)
    config.bank.update(per_class=min(config.bank.per_class, 8), unconditional=16, push=16)
    config.features = _tiny_features(config.features.to_dict(), latent)
    config.eval.update(num_samples=8, batch_size=8)
    return config


def _tiny_features(features: dict[str, Any], latent: bool) -> ConfigDict:
    features = renewed({"features": features})["features"]
    options: dict[str, dict[str, Any]] = features.get("options", {})
    for name in {"mae", "convnext", *features["encoders"]}:
        options.setdefault(name, {})["weights"] = "random://smoke"
    mae, convnext = options["mae"], options["convnext"]
    mae.update(weights=f"random://{'latent' if latent else 'pixel'}_smoke")
    mae.update(std=False, mean_patches=(2,), std_patches=(), every_k_block=0)
    if mae.get("size") is not None:
        mae["size"] = 16
    convnext["size"] = 32
    return ConfigDict(features | {"options": options})
