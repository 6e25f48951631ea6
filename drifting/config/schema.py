"""Experiment configuration: frozen dataclasses, the only place where defaults live.

A file in `configs/` starts from `train_config()`, `pretrain_config()` or `cache_config()`, an
`ml_collections.ConfigDict` with every key and its default, and changes what its experiment needs; the command line
changes it further. `parse` turns the result into the dataclasses, strict both ways: a key that does not exist or a
value of another type is a `ConfigError` of one line. Combinations are checked by `drifting.config.checks`, and what
they name by `drifting.assembly.names`, which knows the registries.
"""

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from drifting.config.older import renewed
from drifting.config.sections import parse_section
from drifting.errors import require_argument

SEED_LIMIT = 2**32  # seeds are 32-bit words of the random generator


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
    options: dict[str, Any] = field(default_factory=dict, hash=False)  # what a network of one's own is told


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

    encoders: tuple[str, ...] = ("mae",)  # keys of `drifting.method.encoders.ENCODERS`; (): the samples alone
    # What each encoder is told, by its name: `weights` and what else its options in `drifting.method.encoders` are.
    options: dict[str, dict[str, Any]] = field(default_factory=dict, hash=False)
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

    @classmethod
    def of(cls, **sections: Mapping[str, Any]) -> Self:
        """Settings with some changed, by section: `Config.of(loss={"widths": (0.05, 0.2)}, bank={"push": 64})`.

        Raises:
            ConfigError: an unknown section or key, or a value of a wrong type.
        """
        found: Self = parse_section(cls(), renewed(sections), "")
        return found


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
    """The settings of a study; each study has its own, with a section `study`, in `drifting.studies.settings`."""


TrainingConfig = Config | PretrainConfig

AnyConfig = TrainingConfig | CacheBuild

Settings = AnyConfig | StudyRun

Kind = typing.TypeVar("Kind", bound=Settings)


def to_dict(config: Settings) -> dict[str, dict[str, Any]]:
    """Plain nested dict for JSON (tuples become lists there)."""
    return dataclasses.asdict(config)


SECTION_COMMANDS = {"study": "study", "cache": "cache", "mae": "pretrain"}
"""Sections that only the settings of one command have."""


def command_of(settings: Mapping[str, Any]) -> str:
    """The command these settings belong to, by their sections: `train`, `pretrain`, `cache` or `study`."""
    return next((name for section, name in SECTION_COMMANDS.items() if section in settings), "train")


@dataclass(frozen=True)
class DiagnoseSettings:
    """How many samples stand for the distributions, and which kernel is looked at."""

    labels: int = 10
    generated: int = 32  # generated samples a label, the queries
    references: int = 256  # further samples of each distribution: generated, real of the class, real of any class
    positions: int = 4  # positions of each feature map, evenly spread
    kernel: str | None = None  # None: that of the loss
    widths: tuple[float, ...] = ()  # (): those of the loss
    alpha: float | None = None  # guidance scale; None: the generator's own
    seed: int = 0


def has_banks(config: Config) -> bool:
    """Whether a step draws its real samples from banks, rather than from all of the data."""
    return config.bank.per_class > 0 and config.data.resident is None


def ema_decay(config: Config, average: float | None = None) -> float:
    """Which average of the parameters to use: `average`, or `eval.ema_decay`, or the first of `train.ema_decays`.

    Raises:
        ArgumentError: the run does not keep the one that is wanted.
    """
    kept = config.train.ema_decays
    if average is None:
        return kept[0] if config.eval.ema_decay is None else config.eval.ema_decay
    require_argument(
        average in kept, "average", average, f"the run does not keep it, use one of {', '.join(map(str, kept))}"
    )
    return average
