"""Experiment configuration: frozen dataclasses, the only place where defaults live.

A file in `configs/` starts from `train_config()`, `pretrain_config()` or `cache_config()`, an
`ml_collections.ConfigDict` with every key and its default, and changes what its experiment needs; the command line
changes it further. `parse` turns the result into the dataclasses, strict both ways: a key that does not exist or a
value of another type is a `ConfigError` of one line. Combinations are checked by `drifting.validate`, which knows the
registries.
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
    """Sample banks: ring buffers of the latest real samples. `per_class=0`: none, each step reads its own."""

    per_class: int = 128
    unconditional: int = 1000
    push: int = 64  # new real samples a step, over all devices
    per_device: bool = True  # every device along mesh.data has banks of its own, as in the published runs; else one set


@dataclass(frozen=True)
class GuidanceConfig:
    """Prior of the guidance scale: `p(alpha) ~ alpha^-exponent` in `[alpha_min, alpha_max]`; a share `p_one` is 1."""

    alpha_min: float = 1.0
    alpha_max: float = 4.0
    exponent: float = 3.0
    p_one: float = 0.0


@dataclass(frozen=True)
class FeaturesConfig:
    """The feature space of the loss: the samples themselves, and the maps of frozen encoders.

    An encoder's weights are a folder, `hf://OWNER/REPO[@REVISION][/FOLDER]`, or, untrained, to try out a machine,
    `random://PRESET`. An encoder of images sees latents through the decoder of `data.vae`.
    """

    encoders: tuple[str, ...] = ("mae",)  # of 'mae' and 'convnext'; (): the samples alone
    mae: str | None = None  # weights, such as the folder `encoder` that `drifting pretrain` writes
    convnext: str | None = "hf://facebook/convnextv2-base-22k-224"
    locations: bool = True  # this and the following: which features of the mae
    mean: bool = True
    std: bool = True
    mean_patches: tuple[int, ...] = (2, 4)
    std_patches: tuple[int, ...] = (2, 4)
    every_k_block: int = 2
    mae_size: int | None = None  # images are resized to this many pixels for the mae; None: not
    convnext_size: int = 224  # and for the convnext
    mae_dtype: str = "float32"
    convnext_dtype: str = "float32"
    kept_dtype: str | None = None  # what their maps are rounded to, such as bfloat16; None: as they come
    remat: bool = False


@dataclass(frozen=True)
class DataConfig:
    """The real samples: a source of `drifting.data.sources.SOURCES` and its arguments."""

    name: str = "digits"
    path: str | None = None
    image_size: int | None = None
    channels: int | None = None
    classes: int | None = None  # synthetic only
    unconditional: bool = False  # ignore the labels: all samples are of one class
    flip: bool = False
    random_crop: bool = False  # train on random resized crops of the images, a fifth of their area or more
    vae: str | None = None  # train on latents: images are encoded by this VAE, and samples decoded
    prefetch: int = 2  # batches read ahead, and threads that read them
    workers: int = 0  # processes that read, each with its threads; 0: this one reads
    resident: str | None = None  # all samples in the memory of the 'device' or the 'host', in place of the banks
    verify: bool = True  # latents only: compare the cache with its checksums at the start, which reads all of it


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
    micro_batch: int = 0  # samples whose activations exist at a time, a divisor of those of a step; 0: all
    ema_decays: tuple[float, ...] = (0.999,)
    log_every: int = 100
    sample_every: int = 1000  # 0: never
    checkpoint_every: int = 1000  # 0: only at the end
    keep_checkpoints: int = 2
    stuck_after: int = 1800  # with several processes: seconds without a step after which a run ends; 0: never
    tensorboard: bool = True
    wandb_project: str | None = None


@dataclass(frozen=True)
class MeshConfig:
    """How the devices of all processes are used: batches are spread over all, parameters and optimiser over `fsdp`."""

    data: int = 0  # 0: what fsdp leaves of the devices there are
    fsdp: int = 1


@dataclass(frozen=True)
class EvalConfig:
    """Sampling and scores, after training and at intervals during it."""

    alpha: float = 1.0
    num_samples: int = 1400
    batch_size: int = 200
    seed: int = 0
    ema_decay: float | None = None  # None: the first of train.ema_decays
    neighbours: int = 3  # precision and recall
    reference: str | None = None  # .npz of statistics to score against; None: the data's own pixels
    encoder: str | None = None  # see `drifting evaluate`; None: what the reference was made with
    every: int = 0  # in training: score every so many steps, and a few images at step 1 to prove the set-up; 0: never
    every_samples: int | None = None  # images that are scored then; None: num_samples
    diagnose: bool = False  # then also log what `drifting study diagnose` measures of every feature map


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
    mesh: MeshConfig = field(default_factory=MeshConfig)
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
    mesh: MeshConfig = field(default_factory=MeshConfig)


@dataclass(frozen=True)
class CacheConfig:
    """The latent cache: files of `shard_size` images each, encoded `batch_size` at a time."""

    shard_size: int = 8192
    batch_size: int = 64
    flip: bool = True  # encode each image's mirror image too, so that training can mirror
    max_bad: float = 0.001  # stop when more than this share of the images cannot be read
    workers: int = 0  # threads that read and decode images; 0: one for each core


@dataclass(frozen=True)
class CacheBuild:
    """Encoding a data set once and for all: latents that trainings read as `data.name='latents'`."""

    data: DataConfig = field(default_factory=DataConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)


@dataclass(frozen=True)
class StudyRun:
    """A study of `drifting.analysis`; each has its own, with a section `study`, in `drifting.analysis.settings`."""


TrainingConfig = Config | PretrainConfig
AnyConfig = TrainingConfig | CacheBuild
Settings = AnyConfig | StudyRun
Kind = typing.TypeVar("Kind", bound=Settings)


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
    if len(chosen) > 1 or not set(chosen) <= set(known):
        raise ConfigError(
            f"variant {given!r}: use {' or '.join([*known, 'tiny'])}" + (", or NAME,tiny" if known else "")
        )
    return (chosen or known or [""])[0], "tiny" in names


def tiny(config: ConfigDict) -> ConfigDict:
    """The same experiment as small as it can be: made-up images, untrained encoders, two steps; changed in place.

    Files in `configs/` return it as their variant `tiny`, so that a machine, a launcher or an edited file can be tried
    out in a minute without data or downloads. What makes the experiment what it is stays: objective, dtypes, guidance.
    """
    if command_of(config) == "cache":
        config.data.update(name="synthetic", path=None, image_size=16, channels=3, classes=4, vae="random://smoke")
        config.cache.update(shard_size=512, batch_size=16)
        return config
    pretrain = command_of(config) == "pretrain"
    latent = config.data.vae is not None or config.data.name == "latents"
    patch = 2 * config.mae.input_patch_size if pretrain else config.model.patch_size
    channels = 1 if config.data.name in ("mnist", "fashion_mnist") else 3
    config.data.update(name="synthetic", path=None, channels=channels, classes=4)
    config.data.image_size = max(8, 2 * patch) * (2 if latent else 1)
    if latent:
        config.data.vae = "random://smoke"
    no_op_steps = min(config.optimizer.no_op_steps, 1)
    config.optimizer.update(no_op_steps=no_op_steps, warmup_steps=1 - no_op_steps)
    config.train.update(steps=2, log_every=1, checkpoint_every=0, tensorboard=False, wandb_project=None)
    if pretrain:
        config.train.batch_size = 4
        config.mae.update(base_channels=8, layers=(1, 1), cls_steps=1, cls_ramp_steps=1)
        return config
    config.model.update(preset=None, hidden_size=16, depth=1, num_heads=2, cond_dim=None)
    config.model.update(register_tokens=1, style_tokens=1, style_codebook=4)
    config.loss.update(labels=1 if config.data.unconditional else 2, generated=4, positives=4, neighbours=2)
    config.loss.unconditional = min(config.loss.unconditional, 2)
    config.bank.update(per_class=min(config.bank.per_class, 8), unconditional=16, push=16)
    config.features.mae = f"random://{'latent' if latent else 'pixel'}_smoke"
    config.features.update(convnext="random://smoke", convnext_size=32)
    config.features.update(std=False, mean_patches=(2,), std_patches=(), every_k_block=0)
    if config.features.mae_size is not None:
        config.features.mae_size = 16
    config.eval.update(num_samples=8, batch_size=8)
    return config


def to_config_dict(config: Settings) -> ConfigDict:
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


def to_dict(config: Settings) -> dict[str, dict[str, Any]]:
    """Plain nested dict for JSON (tuples become lists there)."""
    return dataclasses.asdict(config)


@typing.overload
def parse(settings: ConfigDict | dict[str, Any]) -> Config: ...
@typing.overload
def parse(settings: ConfigDict | dict[str, Any], kind: type[Kind]) -> Kind: ...
def parse(settings: ConfigDict | dict[str, Any], kind: Any = Config) -> Any:
    """The checked configuration of `settings`.

    Args:
        settings: nested keys and values; keys left out take their defaults, so that older files stay readable.
        kind: `Config`, `PretrainConfig`, `CacheBuild` or a study's.

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


def annotation(kind: type[Settings], path: str, value: Any) -> Any:
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


def unusable(key: str, reference: str, error: ValueError) -> str:
    """One line for a setting that refers to what cannot be used; most errors begin with the reference themselves."""
    return f"{key}={reference!r}: {str(error).removeprefix(f'{reference}: ')}"


OWNERS = {"study": "study", "cache": "cache", "mae": "pretrain"}
"""Sections that only the settings of one command have."""


def command_of(settings: Mapping[str, Any]) -> str:
    """The command these settings belong to, by their sections: `train`, `pretrain`, `cache` or `study`."""
    return next((name for section, name in OWNERS.items() if section in settings), "train")


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
