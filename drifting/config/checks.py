"""Settings that cannot work together, found before anything is built or compiled.

Every failure is a `ConfigError` of one line: the key, its value, and what would be right.
"""

import math
from typing import Any

from drifting.config.paths import is_place
from drifting.config.schema import (
    SEED_LIMIT,
    AnyConfig,
    CacheBuild,
    Config,
    DataConfig,
    EvalConfig,
    FeaturesConfig,
    ModelConfig,
    OptimizerConfig,
    PretrainConfig,
    RunConfig,
    TrainingConfig,
    has_banks,
    to_dict,
)
from drifting.errors import counted, require

WHOLE_LIMIT = 2**31
"""Whole numbers that are counted, indexed or kept in 32 bits are less than this; of seeds see `SEED_LIMIT`."""

EMA_STDS = (0.01, 0.25)
"""The smallest and the largest width of an average, see `method.power_average`."""

DATA_LIMITS = {"image_size": 65_536, "image_width": 65_536, "classes": 10_000_000, "prefetch": 1024, "workers": 1024}
"""The most that a memory could hold of one image and of names of classes, and a system of threads and processes; more
is a slip of the fingers."""


def check(config: AnyConfig) -> None:
    """Combinations that cannot work, found before anything is built or compiled.

    Raises:
        ConfigError: naming the first.
    """
    _check_data(config.data)
    _check_whole_numbers(config)
    if isinstance(config, CacheBuild):
        _check_cache(config)
        return
    _check_run(config.train)
    _at_least(0, "mesh", config.mesh, "data")
    _at_least(1, "mesh", config.mesh, "fsdp")
    _check_optimizer(config.optimizer, config.train.steps)
    if isinstance(config, PretrainConfig):
        _check_mae(config)
        return
    _check_model(config.model)
    _check_loss(config)
    _check_guidance(config)
    _check_features(config.features)
    _check_bank(config)
    _check_eval(config.eval, config.train)


def _check_whole_numbers(config: AnyConfig) -> None:
    """What is counted, indexed or kept fits into 32 bits. Each real number has a range of its own."""
    for section, keys in to_dict(config).items():
        for key, value in keys.items():
            whole = [one for one in (value if isinstance(value, tuple) else (value,)) if isinstance(one, int)]
            fits = key == "seed" or all(one < WHOLE_LIMIT for one in whole)
            require(fits, f"{section}.{key}", value, "whole numbers have 32 bits: use less than 2^31")


def _at_least(least: int, section: str, config: Any, *keys: str) -> None:
    for key in keys:
        value = getattr(config, key)
        require(value is None or value >= least, f"{section}.{key}", value, f"use {least} or more")


def _check_seed(key: str, seed: int) -> None:
    require(0 <= seed < SEED_LIMIT, key, seed, "a seed lies in [0, 2^32)")


def _check_run(run: RunConfig) -> None:
    _at_least(1, "train", run, "steps", "log_every", "keep_checkpoints", "batch_size")
    _check_seed("train.seed", run.seed)
    for key in ("sample_every", "checkpoint_every"):
        require(getattr(run, key) >= 0, f"train.{key}", getattr(run, key), "use 0 (not at intervals) or more")
    require(run.stuck_after >= 0, "train.stuck_after", run.stuck_after, "use 0 (never) or more seconds")
    _check_profile(run.profile, run.steps)
    chosen = run.start_classes
    remedy = "they are classes of train.start: set that, too, or leave it ()"
    require(not chosen or run.start is not None, "train.start_classes", chosen, remedy)
    require(min(chosen, default=0) >= 0, "train.start_classes", chosen, "classes are counted from 0")
    for key in ("wandb_entity", "wandb_group", "wandb_tags"):
        value = getattr(run, key)
        require(not value or run.wandb_project is not None, f"train.{key}", value, "set train.wandb_project, too")
    decays = run.ema_decays
    require(len(decays) > 0, "train.ema_decays", decays, "give at least one decay; 0.0 copies the weights")
    require(len(set(decays)) == len(decays), "train.ema_decays", decays, "give each decay once")
    require(all(0 <= decay < 1 for decay in decays), "train.ema_decays", decays, "decays lie in [0, 1)")
    require(len(set(run.ema_stds)) == len(run.ema_stds), "train.ema_stds", run.ema_stds, "give each width once")
    narrowest, widest = EMA_STDS
    remedy = f"widths lie in [{narrowest}, {widest}], those of the paper are (0.05, 0.1)"
    fits = all(narrowest <= std <= widest for std in run.ema_stds)
    require(fits, "train.ema_stds", run.ema_stds, remedy)


def _check_profile(steps: tuple[int, ...], last: int) -> None:
    remedy = f"give the first and the last step to trace, such as (100, 110), within train.steps={last}; (): none"
    fits = not steps or (len(steps) == 2 and 1 <= steps[0] <= steps[1] <= last)
    require(fits, "train.profile", steps, remedy)


def _check_micro_batch(size: int, samples: int, what: str) -> None:
    remedy = f"must divide {what}={samples}, or be 0 (all at a time)"
    require(size == 0 or (size > 0 and samples % size == 0), "train.micro_batch", size, remedy)


def _check_optimizer(optimizer: OptimizerConfig, steps: int) -> None:
    for key in ("learning_rate", "clip_norm", "eps"):
        value = getattr(optimizer, key)
        require(0 < value < math.inf, f"optimizer.{key}", value, "use a positive number")
    for key in ("b1", "b2"):
        require(0 <= getattr(optimizer, key) < 1, f"optimizer.{key}", getattr(optimizer, key), "a decay lies in [0, 1)")
    require(0 <= optimizer.weight_decay < math.inf, "optimizer.weight_decay", optimizer.weight_decay, "use 0 or more")
    _at_least(0, "optimizer", optimizer, "warmup_steps", "no_op_steps", "decay_steps")
    remedy = "is of optimizer.decay='wsd' alone: set that, or leave it 0"
    used = optimizer.decay_steps == 0 or optimizer.decay not in ("constant", "cosine", "linear")
    require(used, "optimizer.decay_steps", optimizer.decay_steps, remedy)
    before = optimizer.no_op_steps + optimizer.warmup_steps
    if optimizer.decay != "constant":
        remedy = f"must exceed optimizer.no_op_steps + warmup_steps = {before} for optimizer.decay={optimizer.decay}"
        require(steps > before, "train.steps", steps, remedy)
    if optimizer.decay == "wsd":
        remedy = f"use 1 to {steps - before}, the steps after the warm-up, for optimizer.decay=wsd"
        require(0 < optimizer.decay_steps <= steps - before, "optimizer.decay_steps", optimizer.decay_steps, remedy)


def _check_model(model: ModelConfig) -> None:
    """Ranges of sizes, also of those that the network does not have; what goes together, each network checks itself."""
    _at_least(1, "model", model, "patch_size", "hidden_size", "depth", "num_heads", "cond_dim", "style_codebook")
    _at_least(1, "model", model, "noise_dim")
    _at_least(0, "model", model, "register_tokens", "style_tokens")
    require(0 < model.mlp_ratio < math.inf, "model.mlp_ratio", model.mlp_ratio, "use a positive number")


def _check_data(data: DataConfig) -> None:
    _at_least(0, "data", data, "prefetch", "workers")
    _at_least(1, "data", data, "image_size", "image_width", "channels", "classes")
    for key, most in DATA_LIMITS.items():
        value = getattr(data, key)
        require(value is None or value <= most, f"data.{key}", value, f"use {most:,} or less")
    if data.resident is not None:
        remedy = "is a fresh part of the image each time it is read, and resident images are read once: leave one out"
        require(not data.random_crop, "data.random_crop", data.random_crop, remedy)
    remedy = "latents cannot be cropped: set data.random_crop=False, or name the images, encoded in training (data.vae)"
    require(not (data.random_crop and data.name == "latents"), "data.random_crop", data.random_crop, remedy)
    remedy = "latents that are encoded in training have not been measured: make a cache of them, or leave it False"
    measured = data.name == "latents" or not data.normalise_latents
    require(measured, "data.normalise_latents", data.normalise_latents, remedy)


def _check_cache(config: CacheBuild) -> None:
    data, cache = config.data, config.cache
    named = data.vae is not None or data.name == "latents"
    require(named, "data.vae", None, "give the VAE whose latents are to be kept")
    remedy = "a cache keeps both: set cache.flip, and data.flip when training"
    require(not data.flip, "data.flip", data.flip, remedy)
    require(not data.random_crop, "data.random_crop", data.random_crop, "a cache holds the central part of each image")
    _at_least(1, "cache", cache, "shard_size", "batch_size")
    _at_least(0, "cache", cache, "workers")
    require(0 <= cache.max_bad <= 1, "cache.max_bad", cache.max_bad, "a share lies in [0, 1]")


def _check_loss(config: Config) -> None:
    loss = config.loss
    require(len(loss.widths) > 0, "loss.widths", loss.widths, "give at least one kernel width, for example (0.3,)")
    require(all(0 < w < math.inf for w in loss.widths), "loss.widths", loss.widths, "kernel widths are positive")
    in_range = all(1e-6 <= width <= 1e12 for width in loss.widths)  # as WIDTH_RANGE of method.arguments has it
    require(in_range, "loss.widths", loss.widths, "kernel widths lie between 1e-6 and 1e12")
    _at_least(1, "loss", loss, "labels")
    # A sample drifts away from the other generated ones, and real ones are compared among themselves.
    _at_least(2, "loss", loss, "generated", "positives")
    samples = loss.labels * loss.generated
    _check_micro_batch(config.train.micro_batch, samples, "loss.labels * loss.generated")
    require(loss.unconditional >= 0, "loss.unconditional", loss.unconditional, "use 0 (no guidance) or more")
    _at_least(1, "loss", loss, "neighbours")
    require(0 <= loss.neighbour_decay < 1, "loss.neighbour_decay", loss.neighbour_decay, "a decay lies in [0, 1)")
    if loss.feature_scale == "neighbour":
        remedy = f"must be positive and below loss.positives={loss.positives}"
        require(loss.neighbours < loss.positives, "loss.neighbours", loss.neighbours, remedy)
        remedy = "loss.feature_scale='neighbour' measures the samples themselves: use ()"
        require(not config.features.encoders, "features.encoders", config.features.encoders, remedy)


def _check_guidance(config: Config) -> None:
    loss, guidance = config.loss, config.guidance
    for key in ("alpha_min", "alpha_max"):
        value = getattr(guidance, key)
        require(0 < value < math.inf, f"guidance.{key}", value, "use a positive scale, usually 1.0 or more")
    require(math.isfinite(guidance.exponent), "guidance.exponent", guidance.exponent, "use a finite number")
    remedy = f"must be at least guidance.alpha_min={guidance.alpha_min}"
    require(guidance.alpha_max >= guidance.alpha_min, "guidance.alpha_max", guidance.alpha_max, remedy)
    require(0 <= guidance.p_one <= 1, "guidance.p_one", guidance.p_one, "a probability lies in [0, 1]")
    if loss.unconditional == 0:
        remedy = "guidance needs unconditional samples: set loss.unconditional above 0, or alpha_max=1.0"
        require(guidance.alpha_max == 1, "guidance.alpha_max", guidance.alpha_max, remedy)
    else:
        remedy = "below 1 unconditional negatives would weigh less than nothing: use 1.0 or more"
        require(guidance.alpha_min >= 1, "guidance.alpha_min", guidance.alpha_min, remedy)


def _check_features(features: FeaturesConfig) -> None:
    names = features.encoders
    require(len(set(names)) == len(names), "features.encoders", names, "name each encoder once")


def _check_bank(config: Config) -> None:
    bank, loss = config.bank, config.loss
    require(bank.per_class >= 0, "bank.per_class", bank.per_class, "use 0 (no bank) or more")
    _at_least(0, "bank", bank, "unconditional")
    _at_least(1, "bank", bank, "push")
    if not has_banks(config):
        return
    remedy = f"exceeds bank.per_class={bank.per_class}: draw fewer or keep more"
    require(loss.positives <= bank.per_class, "loss.positives", loss.positives, remedy)
    remedy = f"exceeds bank.unconditional={bank.unconditional}: draw fewer or keep more"
    require(loss.unconditional <= bank.unconditional, "loss.unconditional", loss.unconditional, remedy)
    remedy = "needs positives that are drawn for each step: set bank.per_class=0 (the MNIST recipe)"
    require(loss.feature_scale != "neighbour", "loss.feature_scale", loss.feature_scale, remedy)


def _check_eval(evaluation: EvalConfig, run: RunConfig) -> None:
    require(0 < evaluation.alpha < math.inf, "eval.alpha", evaluation.alpha, "use a positive guidance scale")
    _at_least(1, "eval", evaluation, "batch_size", "neighbours")
    _at_least(2, "eval", evaluation, "num_samples")
    remedy = f"must be less than eval.num_samples={evaluation.num_samples}, the images that are scored"
    require(evaluation.neighbours < evaluation.num_samples, "eval.neighbours", evaluation.neighbours, remedy)
    _at_least(0, "eval", evaluation, "every")
    require(evaluation.every > 0 or not evaluation.diagnose, "eval.diagnose", True, "is done with eval.every: set that")
    if evaluation.every_samples is not None:
        _at_least(evaluation.neighbours + 1, "eval", evaluation, "every_samples")
    for key in ("reference", "real_images"):
        path = getattr(evaluation, key)
        remedy = "is an address, and only paths are read: mount or copy what it names"
        require(path is None or is_place(path), f"eval.{key}", path, remedy)
    remedy = "goes with the statistics of real images: set eval.reference, too, or leave it out"
    given = evaluation.real_images is None or evaluation.reference is not None
    require(given, "eval.real_images", evaluation.real_images, remedy)
    _check_seed("eval.seed", evaluation.seed)
    if evaluation.ema_decay is not None:
        remedy = f"is not kept: use one of train.ema_decays={run.ema_decays}, or None for the first"
        require(evaluation.ema_decay in run.ema_decays, "eval.ema_decay", evaluation.ema_decay, remedy)


def _check_mae(config: PretrainConfig) -> None:
    mae, stds = config.mae, config.train.ema_stds
    remedy = "an encoder is written with the first of its averages: leave it (), which is of generators"
    require(not stds, "train.ema_stds", stds, remedy)
    _check_micro_batch(config.train.micro_batch, config.train.batch_size, "train.batch_size")
    _at_least(1, "mae", mae, "base_channels", "patch_size", "input_patch_size")
    require(len(mae.layers) > 0 and min(mae.layers) > 0, "mae.layers", mae.layers, "blocks of each stage, 1 or more")
    require(0 <= mae.mask_ratio_min <= 1, "mae.mask_ratio_min", mae.mask_ratio_min, "a share lies in [0, 1]")
    remedy = f"must lie in [mae.mask_ratio_min={mae.mask_ratio_min}, 1]"
    require(mae.mask_ratio_min <= mae.mask_ratio_max <= 1, "mae.mask_ratio_max", mae.mask_ratio_max, remedy)
    require(0 <= mae.lambda_cls <= 1, "mae.lambda_cls", mae.lambda_cls, "a weight lies in [0, 1]")
    _at_least(0, "mae", mae, "cls_steps", "cls_ramp_steps")
    if mae.lambda_cls > 0:
        remedy = f"must lie in [0, train.steps={config.train.steps}], whose last steps train the classifier"
        require(mae.cls_steps <= config.train.steps, "mae.cls_steps", mae.cls_steps, remedy)
        remedy = f"must lie in [0, mae.cls_steps={mae.cls_steps}], of which they are the first"
        require(mae.cls_ramp_steps <= mae.cls_steps, "mae.cls_ramp_steps", mae.cls_ramp_steps, remedy)


def check_layout(config: TrainingConfig, devices: int, processes: int, samples: int) -> None:
    """What has to be divisible by the number of devices, over which every batch is spread.

    Args:
        config: the settings.
        devices: how many devices the mesh has.
        processes: how many processes share them.
        samples: how many real samples there are.

    Raises:
        ConfigError: naming the first setting that does not fit.
    """
    if isinstance(config, PretrainConfig):
        sizes = {"train.batch_size": min(config.train.batch_size, samples)}
    else:
        sizes = {"loss.labels": config.loss.labels}
        if has_banks(config):
            sizes["bank.push"] = min(config.bank.push, samples)
    if config.train.micro_batch:
        sizes["train.micro_batch"] = config.train.micro_batch
    for key, size in sizes.items():
        remedy = f"must be divisible by the {devices} devices of the mesh"
        require(size % devices == 0, key, size, remedy)
    require(devices % processes == 0, "mesh.data", devices, f"the {processes} processes must have equally many devices")


def check_sizes(config: TrainingConfig, shape: tuple[int, int, int], num_classes: int) -> None:
    """What can be checked only against the data: patches against the image size, classes against what is asked for.

    Args:
        shape: height, width and channels of a sample.
        num_classes: classes of the data.

    Raises:
        ConfigError: naming the first setting that does not fit.
    """
    height, width, _ = shape
    samples = f"the {height}x{width} samples of data.name={config.data.name!r}"
    if isinstance(config, PretrainConfig):
        mae = config.mae
        token, patch = mae.input_patch_size, mae.patch_size * mae.input_patch_size
        fits = height % token == 0 and width % token == 0
        require(fits, "mae.input_patch_size", token, f"must divide {samples}")
        fits = height % patch == 0 and width % patch == 0
        remedy = f"times mae.input_patch_size it is {patch}, which must divide {samples}"
        require(fits, "mae.patch_size", mae.patch_size, remedy)
        return
    if config.loss.feature_scale == "neighbour":
        remedy = (
            f"exceeds the {counted(num_classes, 'class')} of data.name={config.data.name!r}, each drawn once a step"
        )
        require(config.loss.labels <= num_classes, "loss.labels", config.loss.labels, remedy)
