"""Settings that cannot work together, found before anything is built or compiled.

Every failure is a `ConfigError` of one line: the key, its value, and what would be right.
"""

import difflib
from collections.abc import Iterable
from typing import Any

from drifting.config import AnyConfig, Config, ConfigError, ModelConfig, OptimizerConfig, PretrainConfig, RunConfig
from drifting.fields import FIELDS
from drifting.kernels import KERNELS
from drifting.losses import FEATURE_SCALES, LOSSES
from drifting.models.dit import PRESETS


def check(config: AnyConfig) -> None:
    """Combinations that cannot work, found before anything is built or compiled.

    Raises:
        ConfigError: naming the first.
    """
    _check_run(config.train, config.optimizer)
    if isinstance(config, PretrainConfig):
        _check_mae(config)
        return
    _check_loss(config)
    _check_model(config.model)
    _check_bank(config)


def require(condition: bool, key: str, value: Any, remedy: str) -> None:
    """Raises `ConfigError` '`key`=`value`: `remedy`' unless the condition holds."""
    if not condition:
        raise ConfigError(f"{key}={value!r}: {remedy}")


def one_of(key: str, value: str | None, known: Iterable[str]) -> None:
    """Raises `ConfigError` unless `value` is among `known`."""
    known = list(known)
    close = difflib.get_close_matches(str(value), known, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close and value not in known else ""
    require(value in known, key, value, f"use one of {', '.join(known)}{hint}")


def _check_run(run: RunConfig, optimizer: OptimizerConfig) -> None:
    require(run.steps > 0, "train.steps", run.steps, "use at least 1")
    require(run.seed >= 0, "train.seed", run.seed, "use 0 or more")
    require(run.log_every > 0, "train.log_every", run.log_every, "use at least 1")
    for key in ("sample_every", "checkpoint_every"):
        require(getattr(run, key) >= 0, f"train.{key}", getattr(run, key), "use 0 (never) or more")
    require(run.keep_checkpoints > 0, "train.keep_checkpoints", run.keep_checkpoints, "use at least 1")
    require(len(run.ema_decays) > 0, "train.ema_decays", run.ema_decays, "give at least one decay; 0.0 copies the weights")
    require(len(set(run.ema_decays)) == len(run.ema_decays), "train.ema_decays", run.ema_decays, "give each decay once")
    for decay in run.ema_decays:
        require(0 <= decay < 1, "train.ema_decays", run.ema_decays, "decays lie in [0, 1)")
    one_of("optimizer.decay", optimizer.decay, ("constant", "cosine"))
    require(optimizer.learning_rate > 0, "optimizer.learning_rate", optimizer.learning_rate, "use a positive rate")
    require(optimizer.clip_norm > 0, "optimizer.clip_norm", optimizer.clip_norm, "use a positive norm")
    require(optimizer.weight_decay >= 0, "optimizer.weight_decay", optimizer.weight_decay, "use 0 or more")
    for key in ("warmup_steps", "no_op_steps"):
        require(getattr(optimizer, key) >= 0, f"optimizer.{key}", getattr(optimizer, key), "use 0 or more")
    before = optimizer.no_op_steps + optimizer.warmup_steps
    if optimizer.decay == "cosine":
        remedy = f"must exceed no_op_steps + warmup_steps = {before} for a cosine"
        require(run.steps > before, "train.steps", run.steps, remedy)


def _check_loss(config: Config) -> None:
    loss, guidance, features = config.loss, config.guidance, config.features
    one_of("loss.objective", loss.objective, [*LOSSES, *FIELDS])
    one_of("loss.kernel", loss.kernel, KERNELS)
    one_of("loss.feature_scale", loss.feature_scale, FEATURE_SCALES)
    require(len(loss.widths) > 0, "loss.widths", loss.widths, "give at least one kernel width, for example (0.3,)")
    require(all(w > 0 for w in loss.widths), "loss.widths", loss.widths, "kernel widths are positive")
    require(loss.labels > 0, "loss.labels", loss.labels, "use at least 1")
    require(loss.generated > 1, "loss.generated", loss.generated, "use at least 2: a sample drifts away from the others")
    require(loss.positives > 1, "loss.positives", loss.positives, "use at least 2: real samples are compared as well")
    require(loss.unconditional >= 0, "loss.unconditional", loss.unconditional, "use 0 (no guidance) or more")
    require(guidance.alpha_min > 0, "guidance.alpha_min", guidance.alpha_min, "use a positive scale, usually 1.0")
    remedy = f"must be at least guidance.alpha_min={guidance.alpha_min}"
    require(guidance.alpha_max >= guidance.alpha_min, "guidance.alpha_max", guidance.alpha_max, remedy)
    require(0 <= guidance.p_one <= 1, "guidance.p_one", guidance.p_one, "a probability lies in [0, 1]")
    if loss.unconditional == 0:
        remedy = "guidance needs unconditional samples: set loss.unconditional above 0, or alpha_max=1.0"
        require(guidance.alpha_max == 1, "guidance.alpha_max", guidance.alpha_max, remedy)
    else:
        remedy = "below 1 unconditional negatives would weigh less than nothing: use 1.0 or more"
        require(guidance.alpha_min >= 1, "guidance.alpha_min", guidance.alpha_min, remedy)
    one_of("features.encoder", features.encoder, ("mae", "none"))
    if features.encoder == "mae":
        require(features.path is not None, "features.path", features.path, "give the folder that `drifting pretrain` wrote")
    _check_dtype("features.dtype", features.dtype)
    require(features.every_k_block >= 0, "features.every_k_block", features.every_k_block, "use 0 (no block) or more")
    if loss.feature_scale == "neighbour":
        remedy = f"must be below loss.positives={loss.positives}"
        require(0 < loss.neighbours < loss.positives, "loss.neighbours", loss.neighbours, remedy)
        require(0 <= loss.neighbour_decay < 1, "loss.neighbour_decay", loss.neighbour_decay, "a decay lies in [0, 1)")


def _check_dtype(key: str, dtype: str | None) -> None:
    one_of(key, dtype, ("float32", "bfloat16"))


def _check_model(model: ModelConfig) -> None:
    one_of("model.name", model.name, ("dit", "mlp"))
    _check_dtype("model.dtype", model.dtype)
    if model.attention_dtype is not None:
        _check_dtype("model.attention_dtype", model.attention_dtype)
    sizes = {"hidden_size": model.hidden_size, "depth": model.depth, "num_heads": model.num_heads}
    if model.preset is not None:
        one_of("model.preset", model.preset, PRESETS)
        for key, value in sizes.items():
            require(value is None, f"model.{key}", value, f"model.preset={model.preset!r} sets it: give one or the other")
    else:
        needed = sizes if model.name == "dit" else {k: v for k, v in sizes.items() if k != "num_heads"}
        for key, value in needed.items():
            require(value is not None, f"model.{key}", value, f"give it, or a model.preset out of {', '.join(PRESETS)}")
            require(value > 0, f"model.{key}", value, "use at least 1")  # type: ignore[operator]
    for key in ("register_tokens", "style_tokens"):
        require(getattr(model, key) >= 0, f"model.{key}", getattr(model, key), "use 0 (none) or more")
    require(model.patch_size > 0, "model.patch_size", model.patch_size, "use at least 1")


def _check_bank(config: Config) -> None:
    bank, loss = config.bank, config.loss
    require(bank.per_class >= 0, "bank.per_class", bank.per_class, "use 0 (no bank) or more")
    if bank.per_class == 0:
        require(loss.unconditional == 0, "loss.unconditional", loss.unconditional, "needs a bank: set bank.per_class above 0")
        return
    remedy = f"exceeds bank.per_class={bank.per_class}: draw fewer or keep more"
    require(loss.positives <= bank.per_class, "loss.positives", loss.positives, remedy)
    remedy = f"exceeds bank.unconditional={bank.unconditional}: draw fewer or keep more"
    require(loss.unconditional <= bank.unconditional, "loss.unconditional", loss.unconditional, remedy)
    require(bank.push > 0, "bank.push", bank.push, "use at least 1 new sample a step")
    require(loss.feature_scale != "neighbour", "loss.feature_scale", "neighbour", "needs bank.per_class=0 (the MNIST recipe)")


def _check_mae(config: PretrainConfig) -> None:
    mae, train = config.mae, config.train
    require(train.batch_size > 0, "train.batch_size", train.batch_size, "use at least 1")
    require(mae.base_channels > 0, "mae.base_channels", mae.base_channels, "use at least 1")
    require(len(mae.layers) > 0 and min(mae.layers) > 0, "mae.layers", mae.layers, "blocks of each stage, all at least 1")
    in_order = 0 <= mae.mask_ratio_min <= mae.mask_ratio_max <= 1
    remedy = f"must lie in [mask_ratio_min={mae.mask_ratio_min}, 1]"
    require(in_order, "mae.mask_ratio_max", mae.mask_ratio_max, remedy)
    require(0 <= mae.lambda_cls <= 1, "mae.lambda_cls", mae.lambda_cls, "a weight lies in [0, 1]")
    _check_dtype("mae.dtype", mae.dtype)


def check_sizes(config: AnyConfig, shape: tuple[int, int, int], num_classes: int) -> None:
    """What can be checked only against the data: patches against the image size, classes against what is asked for.

    Args:
        shape: height, width and channels of a sample.
        num_classes: classes of the data.

    Raises:
        ConfigError: naming the first setting that does not fit.
    """
    height, width, _ = shape
    if isinstance(config, PretrainConfig):
        side = config.mae.patch_size * config.mae.input_patch_size
        remedy = f"mask_patch x input_patch = {side} must divide the {height}x{width} samples of {config.data.name!r}"
        require(height % side == 0 and width % side == 0, "mae.patch_size", config.mae.patch_size, remedy)
        return
    model = config.model
    if model.name == "dit":
        require(height == width, "data.image_size", (height, width), "the generator draws square samples")
        sizes = [p for p in (1, 2, 4, 7, 8, 14, 16) if height % p == 0]
        remedy = f"must divide the {height}x{width} samples of data.name={config.data.name!r}: use one of {sizes}"
        require(height % model.patch_size == 0, "model.patch_size", model.patch_size, remedy)
    if config.bank.per_class == 0:
        remedy = f"exceeds the {num_classes} classes of data.name={config.data.name!r}, each drawn once a step"
        require(config.loss.labels <= num_classes, "loss.labels", config.loss.labels, remedy)
