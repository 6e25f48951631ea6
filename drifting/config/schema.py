"""Experiment configuration: frozen dataclasses, the only place where defaults live.

A file in `configs/` starts from `train_config()`, `pretrain_config()` or `cache_config()`, an
`ml_collections.ConfigDict` with every key and its default, and changes what its experiment needs; the command line
changes it further. `parse` turns the result into the dataclasses, strict both ways: a key that does not exist or a
value of another type is a `ConfigError` of one line. What a setting means is the text of its annotation, from which
`drifting help` and docs/settings.md are made. Combinations are checked by `drifting.config.checks`, and what
they name by `drifting.assembly.names`, which knows the registries.
"""

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from drifting.config.sections import Sectioned
from drifting.errors import require_argument

Dtype = Literal["float32", "bfloat16"]

Residence = Literal["device", "host"]

SEED_LIMIT = 2**32  # seeds are 32-bit words of the random generator


@dataclass(frozen=True)
class ModelConfig:
    """The generator. `preset` or `hidden_size`, `depth` and `num_heads` give its size."""

    name: Annotated[str, "the network, a key of NETWORKS"] = "dit"
    preset: Annotated[str | None, "its size by name: S, B, L or XL; None: hidden_size, depth and num_heads give it"] = (
        None
    )
    patch_size: Annotated[int, "side of a token, in pixels or latents"] = 2
    hidden_size: Annotated[int | None, "width of the tokens; None: the preset's"] = None
    depth: Annotated[int | None, "number of blocks; None: the preset's"] = None
    num_heads: Annotated[int | None, "attention heads, a divisor of hidden_size; None: the preset's"] = None
    mlp_ratio: Annotated[float, "width of a block's MLP, in hidden_size"] = 4.0
    cond_dim: Annotated[int | None, "width of the conditioning vector; None: hidden_size"] = None
    register_tokens: Annotated[int, "tokens beside those of the image that every sample has"] = 16
    style_tokens: Annotated[int, "tokens drawn at random out of a learned codebook, a part of the noise"] = 32
    style_codebook: Annotated[int, "how many entries that codebook has for each style token"] = 64
    qk_norm: Annotated[bool, "normalise queries and keys"] = True
    swiglu: Annotated[bool, "gated MLPs (SwiGLU) rather than plain ones"] = True
    rope: Annotated[bool, "rotary position embeddings"] = True
    rms_norm: Annotated[bool, "RMSNorm rather than LayerNorm"] = True
    dtype: Annotated[Dtype, "numbers that the blocks compute with; parameters are float32"] = "float32"
    attention_dtype: Annotated[Dtype | None, "numbers that attention computes with; None: dtype"] = "float32"
    remat: Annotated[bool, "compute activations anew in the backward pass: less memory, more time"] = False
    remat_mlp: Annotated[bool, "of these the MLPs' hidden layers alone: half the memory, a tenth more time"] = False
    noise_dim: Annotated[int, "numbers of noise that a sample is made of; name=mlp only"] = 32
    options: Annotated[dict[str, Any], "what a network of one's own is told, by name"] = field(
        default_factory=dict, hash=False
    )


@dataclass(frozen=True)
class LossConfig:
    """The objective, and how many samples a drift problem holds."""

    objective: Annotated[
        str, "what is minimised: a loss of its own, or the drift field that samples are moved along"
    ] = "log_kde"
    kernel: Annotated[str, "the kernel, by which samples count as near"] = "gaussian"
    widths: Annotated[
        tuple[float, ...],
        "kernel widths, in units of loss.feature_scale; the fields of all are added",
    ] = (0.4,)
    normalise_field: Annotated[bool, "divide the field of each feature map and width by its root mean square"] = True
    feature_scale: Annotated[
        str,
        "unit of the widths: mean distance of a map (per_map) or problem, to near real samples (neighbour), or none",
    ] = "per_map"
    kernel_backend: Annotated[
        str, "what computes the loss: operations of jax, or on accelerators kernels in pallas, where they have room"
    ] = "jax"
    labels: Annotated[
        int, "class labels a step, with drift problems of their own; of few classes some are repeated"
    ] = 64
    generated: Annotated[int, "generated samples a label"] = 64
    positives: Annotated[int, "real samples of the class a label, towards which generated ones move"] = 64
    unconditional: Annotated[int, "real samples of any class a label, for guidance; 0: no guidance"] = 16
    neighbours: Annotated[int, "nearest neighbours whose distance is the unit; feature_scale=neighbour only"] = 5
    neighbour_decay: Annotated[float, "decay of the moving average of that distance; feature_scale=neighbour only"] = (
        0.99
    )


@dataclass(frozen=True)
class BankConfig:
    """Sample banks: ring buffers of the latest real samples."""

    per_class: Annotated[
        int, "latest real samples that are kept of each class; 0: no banks, each step reads its own"
    ] = 128
    unconditional: Annotated[int, "latest real samples of any class that are kept"] = 1000
    push: Annotated[int, "new real samples a step, over all devices"] = 64
    per_device: Annotated[
        bool, "every device along mesh.data has banks of its own, as in the published runs; else one set"
    ] = True


@dataclass(frozen=True)
class GuidanceConfig:
    """Prior of the guidance scale alpha, `p(alpha) ~ alpha^-exponent` between two scales."""

    alpha_min: Annotated[float, "the lowest guidance scale that is trained with"] = 1.0
    alpha_max: Annotated[float, "the highest guidance scale that is trained with"] = 4.0
    exponent: Annotated[float, "how much rarer high scales are: p(alpha) ~ alpha^-exponent"] = 3.0
    p_one: Annotated[float, "the share of labels that have alpha = 1, no guidance, whatever the prior draws"] = 0.0


@dataclass(frozen=True)
class FeaturesConfig:
    """The feature space of the loss: the samples themselves, and the maps of frozen encoders.

    An encoder's weights are a folder, `hf://OWNER/REPO[@REVISION][/FOLDER]`, or, untrained, to try out a machine,
    `random://PRESET`. An encoder of images sees latents through the decoder of `data.vae`.
    """

    encoders: Annotated[tuple[str, ...], "the encoders whose maps are compared; (): the samples themselves alone"] = (
        "mae",
    )
    options: Annotated[
        dict[str, dict[str, Any]],
        "what each encoder is told, by its name: features.options.mae.weights, and what else it takes",
    ] = field(default_factory=dict, hash=False)
    kept_dtype: Annotated[Dtype | None, "what their maps are rounded to while they are kept; None: as they come"] = None
    remat: Annotated[bool, "compute the encoders' activations anew in the backward pass: less memory, more time"] = (
        False
    )


@dataclass(frozen=True)
class DataConfig:
    """The real samples: a source of `drifting.data.sources.SOURCES` and its arguments."""

    name: Annotated[str, "the source of real samples, a key of SOURCES"] = "digits"
    path: Annotated[str | None, "its folder or file"] = None
    image_size: Annotated[int | None, "side that images are scaled and cropped to, in pixels; None: as they are"] = None
    image_width: Annotated[
        int | None,
        "their width, in pixels, where images are no squares; image_size is then their height",
    ] = None
    channels: Annotated[int | None, "1 for grey, 3 for colour; None: the source's own"] = None
    classes: Annotated[int | None, "number of classes of made-up images; name=synthetic only"] = None
    options: Annotated[
        dict[str, dict[str, Any]],
        "what each source is told, by its name: data.options.parquet.image, and what else it takes",
    ] = field(default_factory=dict, hash=False)
    unconditional: Annotated[bool, "ignore the labels: all samples are of one class"] = False
    flip: Annotated[bool, "mirror half of the images"] = False
    random_crop: Annotated[bool, "train on random resized crops of the images, a fifth of their area or more"] = False
    vae: Annotated[
        str | None, "train on latents: images are encoded by this VAE, and samples decoded; None: on pixels"
    ] = None
    normalise_latents: Annotated[
        bool, "scale each channel of latents to mean 0, variance 1, as measured by drifting cache; name=latents only"
    ] = False
    prefetch: Annotated[int, "batches read ahead, and threads that read them"] = 2
    workers: Annotated[int, "processes that read, each with its threads; 0: this one reads"] = 0
    resident: Annotated[
        Residence | None, "keep all samples in the memory of the device or of the host, in place of the banks"
    ] = None
    verify: Annotated[
        bool, "compare a cache with its checksums at the start, which reads all of it; name=latents only"
    ] = True


@dataclass(frozen=True)
class OptimizerConfig:
    """What makes a step of a gradient, with linear warm-up."""

    name: Annotated[str, "adamw; or muon for matrices, and adamw for the rest"] = "adamw"
    learning_rate: Annotated[float, "the highest rate, after the warm-up"] = 2e-4
    warmup_steps: Annotated[int, "steps in which the rate rises from 0"] = 5000
    decay: Annotated[
        str,
        "the rate after the warm-up: constant; falling until train.steps: cosine, linear; wsd: in decay_steps alone",
    ] = "constant"
    decay_steps: Annotated[int, "last steps of the run, in which the rate of wsd falls"] = 0
    b1: Annotated[float, "AdamW: decay of the mean of gradients"] = 0.9
    b2: Annotated[float, "AdamW: decay of the mean of their squares"] = 0.95
    eps: Annotated[float, "AdamW: added to the root of the latter"] = 1e-8
    weight_decay: Annotated[float, "pull of the parameters towards 0, times the rate"] = 0.01
    decayed: Annotated[str, "what is pulled: all parameters, or matrices, not gains, biases and tables"] = "all"
    clip_norm: Annotated[float, "longer gradients are shortened to this norm"] = 2.0
    no_op_steps: Annotated[int, "first steps that update nothing, while banks fill"] = 0


@dataclass(frozen=True)
class RunConfig:
    """The loop: how long it is, and every how many steps it logs, draws and saves. It always saves at the end."""

    steps: Annotated[int, "steps of the whole run"] = 30_000
    seed: Annotated[int, "all that is drawn at random follows from it"] = 0
    batch_size: Annotated[int, "images a step; pretrain only: a generator's batch follows from loss and bank"] = 8192
    micro_batch: Annotated[int, "samples whose activations exist at a time, a divisor of those of a step; 0: all"] = 0
    ema_decays: Annotated[tuple[float, ...], "decays of the averages of the parameters that are kept"] = (0.999,)
    ema_stds: Annotated[
        tuple[float, ...],
        "relative widths of averages stored with each checkpoint, of which drifting ema makes any other: (0.05, 0.1)",
    ] = ()
    log_every: Annotated[int, "steps between lines of metrics"] = 100
    sample_every: Annotated[int, "steps between pictures; 0: never"] = 1000
    checkpoint_every: Annotated[int, "steps between checkpoints; 0: only at the end"] = 1000
    keep_checkpoints: Annotated[int, "latest checkpoints that are kept"] = 2
    start: Annotated[str | None, "run, artifact or released weights it begins with; None: parameters are drawn"] = None
    start_classes: Annotated[tuple[int, ...], "the class of start that each class here begins with; (): by name"] = ()
    stuck_after: Annotated[int, "seconds without a step after which a run of several processes ends; 0: never"] = 1800
    profile: Annotated[tuple[int, ...], "first and last step of a jax.profiler trace in the run's folder"] = ()
    tensorboard: Annotated[bool, "write metrics and pictures for TensorBoard too"] = True
    wandb_project: Annotated[str | None, "project of Weights & Biases that shows the run; None: none does"] = None
    wandb_entity: Annotated[str | None, "user or team whose project it is; None: one's own"] = None
    wandb_group: Annotated[str | None, "group of runs that W&B shows it in"] = None
    wandb_tags: Annotated[tuple[str, ...], "tags that W&B finds it by"] = ()


@dataclass(frozen=True)
class MeshConfig:
    """How the devices of all processes are used: batches are spread over all, parameters and optimiser over `fsdp`."""

    data: Annotated[
        int, "devices, or groups of fsdp, that each take a share of every batch; 0: what fsdp leaves of those there are"
    ] = 0
    fsdp: Annotated[int, "devices that parameters and optimiser are spread over"] = 1


@dataclass(frozen=True)
class EvalConfig:
    """Sampling and scores, after training and at intervals during it."""

    alpha: Annotated[float, "the guidance scale to draw with"] = 1.0
    num_samples: Annotated[int, "images that are scored"] = 1400
    batch_size: Annotated[int, "images in flight"] = 200
    seed: Annotated[int, "the seed of the first image, each has its own"] = 0
    ema_decay: Annotated[
        float | None, "which average of the parameters is used; None: the first of train.ema_decays"
    ] = None
    neighbours: Annotated[int, "neighbour that sets the radii of precision, recall, density and coverage"] = 3
    reference: Annotated[str | None, ".npz of statistics to score against; None: the data's own pixels"] = None
    real_images: Annotated[
        str | None, "real images for precision to coverage, a folder or .npz; None: those in the reference"
    ] = None
    encoder: Annotated[
        str | None, "features of scores, see drifting evaluate; None: what the reference was made with"
    ] = None
    every: Annotated[
        int, "in training: score every so many steps, and a few images at step 1 to prove the set-up; 0: never"
    ] = 0
    every_samples: Annotated[int | None, "images that are scored then; None: num_samples"] = None
    diagnose: Annotated[bool, "then also log what drifting study diagnose measures of every feature map"] = False


@dataclass(frozen=True, repr=False)
class Config(Sectioned):
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

    base_channels: Annotated[int, "channels of the first stage"] = 256
    layers: Annotated[
        tuple[int, ...], "blocks of each stage; each but the first halves the sides and doubles the channels"
    ] = (3, 4, 6, 3)
    patch_size: Annotated[int, "side of a mask patch, in tokens"] = 2
    input_patch_size: Annotated[int, "side of a token, in pixels"] = 1
    mask_ratio_min: Annotated[float, "the smallest share of an image that is masked"] = 0.5
    mask_ratio_max: Annotated[float, "the largest share of an image that is masked"] = 0.5
    lambda_cls: Annotated[float, "weight of the classifier's loss at the end of its ramp; 0: no classifier"] = 0.0
    cls_steps: Annotated[int, "the last steps train with the classifier"] = 3000
    cls_ramp_steps: Annotated[int, "of which the first ramp its weight up from 0"] = 1000
    dtype: Annotated[Dtype, "numbers that the network computes with; parameters are float32"] = "float32"
    remat: Annotated[bool, "compute activations anew in the backward pass: less memory, more time"] = False


@dataclass(frozen=True, repr=False)
class PretrainConfig(Sectioned):
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
    """The latent cache: how images are encoded, and into how large files."""

    shard_size: Annotated[int, "images in a file"] = 8192
    batch_size: Annotated[int, "images that are encoded at a time, spread over the devices"] = 64
    flip: Annotated[bool, "encode each image's mirror image too, so that training can mirror"] = True
    max_bad: Annotated[float, "stop when more than this share of the images cannot be read"] = 0.001
    workers: Annotated[int, "threads that read and decode images; 0: one for each core"] = 0


@dataclass(frozen=True, repr=False)
class CacheBuild(Sectioned):
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

    labels: Annotated[int, "class labels that are looked at"] = 10
    generated: Annotated[int, "generated samples a label, the queries"] = 32
    references: Annotated[
        int, "further samples of each distribution: generated, real of the class, real of any class"
    ] = 256
    positions: Annotated[int, "positions of each feature map, evenly spread"] = 4
    kernel: Annotated[str | None, "the kernel; None: that of the loss"] = None
    widths: Annotated[tuple[float, ...], "kernel widths; (): those of the loss"] = ()
    alpha: Annotated[float | None, "guidance scale; None: the generator's own"] = None
    seed: Annotated[int, "all that is drawn at random follows from it"] = 0


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
