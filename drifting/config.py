"""Experiment configuration: frozen dataclasses, the only place where defaults live.

A file in `configs/` starts from `train_config()` or `pretrain_config()`, an `ml_collections.ConfigDict` with every key
and its default, and changes what its experiment needs; the command line changes it further. `parse` turns the result
into the dataclasses, strict both ways: a key that does not exist or a value of another type is a `ConfigError` of one
line. Combinations are checked by `drifting.validate`, which knows the registries.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


class ConfigError(ValueError):
    """A setting that cannot work. The message is one line: key, value, and what would be right."""


@dataclass(frozen=True)
class ModelConfig:
    """The generator. `preset` (S, B, L, XL) or `hidden_size`, `depth` and `num_heads` give its size."""

    name: str = "dit"
    preset: str | None = None
    patch_size: int = 2
    hidden_size: int | None = None
    depth: int | None = None
    num_heads: int | None = None
    mlp_ratio: float = 4.0
    cond_dim: int | None = None  # None: hidden_size
    register_tokens: int = 16
    style_tokens: int = 32
    style_codebook: int = 64
    qk_norm: bool = True
    swiglu: bool = True
    rope: bool = True
    rms_norm: bool = True
    dtype: str = "float32"
    attention_dtype: str | None = "float32"  # None: dtype
    remat: bool = False
    noise_dim: int = 32  # mlp only


@dataclass(frozen=True)
class LossConfig:
    """The objective, and how many samples a drift problem holds."""

    objective: str = "log_kde"
    kernel: str = "gaussian"
    widths: tuple[float, ...] = (0.4,)
    normalise_field: bool = True
    feature_scale: str = "per_map"
    labels: int = 64  # class labels a step
    generated: int = 64  # generated samples a label
    positives: int = 64  # real samples of the class a label
    unconditional: int = 16  # real samples of any class a label
    neighbours: int = 5  # feature_scale='neighbour': nearest neighbours, and decay of the moving average
    neighbour_decay: float = 0.99


@dataclass(frozen=True)
class BankConfig:
    """Sample banks: ring buffers of the latest real samples. `per_class=0`: none, class-balanced batches instead."""

    per_class: int = 128
    unconditional: int = 1000
    push: int = 64  # new real samples a step


@dataclass(frozen=True)
class GuidanceConfig:
    """Prior of the guidance scale: `p(alpha) ~ alpha^-exponent` in `[alpha_min, alpha_max]`; a share `p_one` is 1."""

    alpha_min: float = 1.0
    alpha_max: float = 4.0
    exponent: float = 3.0
    p_one: float = 0.0


@dataclass(frozen=True)
class FeaturesConfig:
    """The feature space of the loss: a frozen encoder's maps, or the samples themselves (`encoder='none'`)."""

    encoder: str = "mae"
    path: str | None = None  # artifact folder of `drifting pretrain`
    locations: bool = True
    mean: bool = True
    std: bool = True
    mean_patches: tuple[int, ...] = (2, 4)
    std_patches: tuple[int, ...] = (2, 4)
    every_k_block: int = 2
    dtype: str = "float32"


@dataclass(frozen=True)
class DataConfig:
    """The real samples: a source of `drifting.data.sources.SOURCES` and its arguments."""

    name: str = "digits"
    path: str | None = None
    image_size: int | None = None
    channels: int | None = None
    flip: bool = False
    prefetch: int = 2  # batches read ahead by background threads


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warm-up; `decay` 'constant' or 'cosine'; the first `no_op_steps` update nothing."""

    learning_rate: float = 2e-4
    warmup_steps: int = 5000
    decay: str = "constant"
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.01
    clip_norm: float = 2.0
    no_op_steps: int = 0


@dataclass(frozen=True)
class RunConfig:
    """The loop: how long it is, and every how many steps it logs, draws and saves. It always saves at the end."""

    steps: int = 30_000
    seed: int = 0
    batch_size: int = 8192  # pretrain only: a generator's batch follows from `loss` and `bank`
    ema_decays: tuple[float, ...] = (0.999,)
    log_every: int = 100
    sample_every: int = 1000  # 0: never
    checkpoint_every: int = 1000  # 0: only at the end
    keep_checkpoints: int = 2
    tensorboard: bool = True
    wandb_project: str | None = None


@dataclass(frozen=True)
class EvalConfig:
    """Sampling and scores after training."""

    alpha: float = 1.0
    num_samples: int = 1400
    batch_size: int = 200
    seed: int = 0
    ema_decay: float | None = None  # None: the first of train.ema_decays
    neighbours: int = 3  # precision and recall


@dataclass(frozen=True)
class Config:
    """A generator's training run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    bank: BankConfig = field(default_factory=BankConfig)
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: RunConfig = field(default_factory=RunConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)


@dataclass(frozen=True)
class MAEConfig:
    """The feature encoder: a masked autoencoder, optionally finished with a classifier."""

    base_channels: int = 256
    layers: tuple[int, ...] = (3, 4, 6, 3)
    patch_size: int = 2  # side of a mask patch, in tokens
    input_patch_size: int = 1  # side of a token, in pixels
    mask_ratio_min: float = 0.5
    mask_ratio_max: float = 0.5
    lambda_cls: float = 0.0  # weight of the classifier's loss at the end of its ramp
    cls_steps: int = 3000  # the last steps train with the classifier
    cls_ramp_steps: int = 1000  # of which the first ramp its weight up from 0
    dtype: str = "float32"
    remat: bool = False


@dataclass(frozen=True)
class PretrainConfig:
    """A feature encoder's training run."""

    mae: MAEConfig = field(default_factory=MAEConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(learning_rate=4e-3, warmup_steps=4000, decay="cosine")
    )
    train: RunConfig = field(default_factory=lambda: RunConfig(ema_decays=(0.9995,)))


AnyConfig = Config | PretrainConfig


def train_config() -> ConfigDict:
    """Every key of a generator's run with its default, to be changed by a file in `configs/`."""
    return to_config_dict(Config())


def pretrain_config() -> ConfigDict:
    """Every key of a feature encoder's run with its default, to be changed by a file in `configs/`."""
    return to_config_dict(PretrainConfig())


def to_config_dict(config: AnyConfig) -> ConfigDict:
    """A `ConfigDict` of all keys and values; keys that may be None accept their type as well."""

    def section(value: Any) -> ConfigDict:
        hints = typing.get_type_hints(type(value))
        out = ConfigDict()
        for f in dataclasses.fields(value):
            v = getattr(value, f.name)
            if dataclasses.is_dataclass(v):
                out[f.name] = section(v)
            elif v is None:
                out[f.name] = placeholder(_inner_type(hints[f.name]))
            else:
                out[f.name] = v
        return out

    return section(config)


def to_dict(config: AnyConfig) -> dict[str, dict[str, Any]]:
    """Plain nested dict for JSON (tuples become lists there)."""
    return dataclasses.asdict(config)


def parse(settings: ConfigDict | dict[str, Any], kind: type[AnyConfig] = Config) -> AnyConfig:
    """The checked configuration of `settings`.

    Args:
        settings: nested keys and values; keys left out take their defaults, so that older files stay readable.
        kind: `Config` or `PretrainConfig`.

    Raises:
        ConfigError: an unknown key or a value of a wrong type.
    """
    if isinstance(settings, ConfigDict):
        settings = settings.to_dict()
    return _parse_section(kind(), settings, "")


def _inner_type(hint: Any) -> Any:
    """`int` of `int | None`."""
    if accepts_none(hint):
        return next(t for t in typing.get_args(hint) if t is not type(None))
    return hint


def _parse_section(defaults: Any, settings: Any, prefix: str) -> Any:
    if not isinstance(settings, dict):
        raise ConfigError(f"{prefix.rstrip('.') or 'settings'}={settings!r}: expected a section of keys, not a value")
    hints = typing.get_type_hints(type(defaults))
    values = {}
    for key, value in settings.items():
        if key not in hints:
            raise ConfigError(unknown_key(prefix + key, value, hints))
        if dataclasses.is_dataclass(hints[key]):
            values[key] = _parse_section(getattr(defaults, key), value, f"{prefix}{key}.")
        else:
            values[key] = _convert(hints[key], value, prefix + key)
    return dataclasses.replace(defaults, **values)


def unknown_key(path: str, value: Any, known: Iterable[str]) -> str:
    """One line for a dotted `path` whose last part is none of the `known` keys there, with the nearest that is."""
    prefix, dot, name = path.rpartition(".")
    given = path if isinstance(value, dict) else f"{path}={value!r}"
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    remedy = f"did you mean {prefix}{dot}{close[0]}?" if close else f"known keys: {', '.join(known)}"
    return f"{given}: there is no such key; {remedy}"


def annotation(kind: type[AnyConfig], path: str, value: Any) -> Any:
    """The annotated type of a dotted key such as `loss.widths`.

    Raises:
        ConfigError: there is no such key, or it is a section. The message names `value`, which it was to be set to.
    """
    hint: Any = kind
    parts = path.split(".")
    for depth, part in enumerate(parts, start=1):
        hints = typing.get_type_hints(hint) if dataclasses.is_dataclass(hint) else {}
        if not hints:
            raise ConfigError(
                f"{path}={value!r}: {'.'.join(parts[: depth - 1])} is a setting and has no keys of its own"
            )
        if part not in hints:
            raise ConfigError(unknown_key(".".join(parts[:depth]), value if depth == len(parts) else {}, hints))
        hint = hints[part]
    if dataclasses.is_dataclass(hint):
        first = dataclasses.fields(hint)[0].name
        raise ConfigError(f"{path}={value!r}: a section; set its keys, for example {path}.{first}=...")
    return hint


def accepts_none(hint: Any) -> bool:
    """Whether an annotated type is `... | None`."""
    return isinstance(hint, types.UnionType)


def wrong_type(path: str, value: Any, hint: Any) -> str:
    """One line for a value that is not of the annotated type."""
    if typing.get_origin(hint) is tuple:
        item = typing.get_args(hint)[0]
        return f"{path}={value!r}: expected a tuple of {item.__name__}, for example ({_example(item)},)"
    kind, none = _inner_type(hint), " or None" if accepts_none(hint) else ""
    return f"{path}={value!r}: expected {kind.__name__}{none}, for example {_example(kind)}"


def command_of(settings: Mapping[str, Any]) -> str:
    """The command these settings belong to, by their sections: `train` or `pretrain`."""
    return "pretrain" if "mae" in settings else "train"


def _convert(hint: Any, value: Any, path: str) -> Any:
    """`value` as the annotated type: integers become floats where floats are due, lists tuples; nothing else."""
    if accepts_none(hint):
        return None if value is None else _convert(_inner_type(hint), value, path)
    if typing.get_origin(hint) is tuple:
        item = typing.get_args(hint)[0]
        if not isinstance(value, list | tuple):
            raise ConfigError(wrong_type(path, value, hint))
        return tuple(_convert(item, v, f"{path}[{i}]") for i, v in enumerate(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(wrong_type(path, value, hint))
    return value


def _example(kind: type) -> str:
    return {int: "2", float: "0.2", str: "'name'", bool: "True"}[kind]


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """`{key path: (old, new)}` of two nested settings, after a JSON round trip (tuples equal lists)."""
    out: dict[str, tuple[Any, Any]] = {}
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            out |= differences(a, b, f"{prefix}{key}.")
        elif (list(a) if isinstance(a, tuple) else a) != (list(b) if isinstance(b, tuple) else b):
            out[prefix + key] = (a, b)
    return out
