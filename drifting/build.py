"""From a checked configuration to the objects it describes: source, generator, encoder, objective, optimiser."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from drifting import state as train_state
from drifting.config import Config, ConfigError, DataConfig, FeaturesConfig, MAEConfig, ModelConfig, OptimizerConfig
from drifting.data.sources import LabelledSource, make_source
from drifting.features import mae_features, pixel_features
from drifting.hub import Artifact, load_artifact
from drifting.kernels import KERNELS
from drifting.losses import Objective
from drifting.models.dit import PRESETS, DiT
from drifting.models.mae import MAE, Encoder
from drifting.models.mlp import MLP

Params = dict[str, Any]
PROBES = 32
"""Images that the checksum of a data set covers."""

FeatureFn = Callable[[Params, Array], dict[str, Array]]


def source(data: DataConfig, split: str = "train") -> LabelledSource:
    """The real samples of `data`. Raises `ConfigError` where they cannot be had: no such files, an argument missing."""
    try:
        return make_source(data.name, path=data.path, split=split, image_size=data.image_size, channels=data.channels)
    except ValueError as error:
        raise ConfigError(f"data.name={data.name!r}: {error}") from error


def data_facts(source: LabelledSource) -> dict[str, Any]:
    """What a run depends on of its data, JSON-able: enough to use its model without them, and to tell others apart.

    The checksum covers all labels and `PROBES` images spread over the data: cheap on any size, and a data set that was
    exchanged or reordered under the same path is noticed.
    """
    images, _ = source.__getitems__(np.linspace(0, len(source) - 1, PROBES).astype(np.int64))
    checksum = hashlib.sha256(source.labels.tobytes() + images.tobytes()).hexdigest()
    return {
        "data": source.name,
        "samples": len(source),
        "shape": list(source.shape),
        "classes": list(source.class_names),
        "checksum": checksum,
    }


def generator_arguments(model: ModelConfig, shape: tuple[int, int, int], num_classes: int) -> dict[str, Any]:
    """Constructor arguments of the generator for samples of `shape` (height, width, channels), JSON-able."""
    if model.name == "mlp":
        return dict(
            noise_dim=model.noise_dim,
            out_dim=shape[0] * shape[1] * shape[2],
            hidden_size=model.hidden_size,
            depth=model.depth,
            num_classes=num_classes,
            dtype=model.dtype,
        )
    sizes = dict(PRESETS[model.preset]) if model.preset else {}
    for key in ("hidden_size", "depth", "num_heads"):
        sizes.setdefault(key, getattr(model, key))
    return sizes | dict(
        input_size=shape[0],
        patch_size=model.patch_size,
        in_channels=shape[2],
        out_channels=shape[2],
        mlp_ratio=model.mlp_ratio,
        cond_dim=model.cond_dim or sizes["hidden_size"],
        num_classes=num_classes,
        register_tokens=model.register_tokens,
        style_tokens=model.style_tokens,
        style_codebook=model.style_codebook,
        qk_norm=model.qk_norm,
        swiglu=model.swiglu,
        rope=model.rope,
        rms_norm=model.rms_norm,
        dtype=model.dtype,
        attention_dtype=model.attention_dtype,
        remat=model.remat,
    )


@dataclass(frozen=True)
class Generator:
    """A generator without its parameters.

    Attributes:
        graphdef: the network's structure; `nnx.merge(graphdef, params)` is the network.
        shape: height, width and channels of a sample.
    """

    graphdef: Any
    shape: tuple[int, int, int]

    def __call__(self, params: Params, noise: dict[str, Array], labels: Array, alpha: Array) -> Array:
        """Samples `[B, H, W, C]` float32 for noise with a leading batch axis, labels `[B]` and alpha `[B]`."""
        out = nnx.merge(self.graphdef, params)(noise, labels, alpha)
        return out.reshape(labels.shape[0], *self.shape)

    def sample_noise(self, params: Params, keys: Array) -> dict[str, Array]:
        """The noise of as many samples as there are `keys` `[B]`; each depends on its own key alone."""
        return jax.vmap(nnx.merge(self.graphdef, params).sample_noise)(keys)


def generator(
    model: ModelConfig, shape: tuple[int, int, int], num_classes: int, seed: int
) -> tuple[Generator, Callable[[], Params]]:
    """The generator, and a jittable function that draws its initial parameters from `seed`."""
    arguments = generator_arguments(model, shape, num_classes)
    kind = MLP if model.name == "mlp" else DiT

    def create(key: Array) -> nnx.Module:
        return kind(**_with_dtypes(arguments), rngs=nnx.Rngs(params=key))

    graphdef, _ = nnx.split(nnx.eval_shape(lambda: create(jax.random.key(0))))
    return Generator(graphdef, shape), lambda: nnx.to_pure_dict(nnx.state(create(jax.random.key(seed))))


def mae_arguments(mae: MAEConfig, channels: int, num_classes: int) -> dict[str, Any]:
    """Constructor arguments of the masked autoencoder for samples of so many channels, JSON-able."""
    return dict(
        num_classes=num_classes if mae.lambda_cls else 0,
        in_channels=channels,
        base_channels=mae.base_channels,
        layers=list(mae.layers),
        patch_size=mae.patch_size,
        input_patch_size=mae.input_patch_size,
        dtype=mae.dtype,
        remat=mae.remat,
    )


def autoencoder(arguments: Mapping[str, Any], key: Array) -> MAE:
    """The masked autoencoder that `mae_arguments` describe, its parameters drawn from `key`."""
    return MAE(**_with_dtypes(arguments) | {"layers": tuple(arguments["layers"])}, rngs=nnx.Rngs(params=key))


@dataclass(frozen=True)
class FeatureEncoder:
    """A frozen feature space.

    Attributes:
        features: `(params, samples [B, H, W, C]) -> {name: [B, positions, channels]}`.
        params: the encoder's parameters, constants of training; empty for raw samples.
        checksum: SHA-256 of the weights, so that a run cannot be resumed in another feature space; '' for none.
    """

    features: FeatureFn
    params: Params
    checksum: str


def feature_encoder(config: FeaturesConfig, shape: tuple[int, int, int]) -> FeatureEncoder:
    """The feature space of `config` for samples of `shape`, its weights read from `config.path`.

    Raises:
        ConfigError: the artifact is missing, damaged, of another kind, or for samples of another shape.
    """
    if config.encoder == "none":
        return FeatureEncoder(lambda params, x: pixel_features(x), {}, "")
    artifact = _encoder_artifact(config.path or "")
    arguments = artifact.model_config | {"dtype": config.dtype}
    channels, patch = arguments["in_channels"], arguments["input_patch_size"]
    if channels != shape[2] or shape[0] % patch or shape[1] % patch:
        raise ConfigError(
            f"features.path={config.path!r}: this encoder takes {channels} channels and sides divisible by {patch}, "
            f"the samples are {'x'.join(map(str, shape))}; pre-train one on this data"
        )
    graphdef, _ = nnx.split(nnx.eval_shape(lambda: autoencoder(arguments, jax.random.key(0))).encoder)

    def features(params: Params, x: Array) -> dict[str, Array]:
        encoder: Encoder = nnx.merge(graphdef, params)
        return mae_features(
            encoder,
            x,
            locations=config.locations,
            mean=config.mean,
            std=config.std,
            mean_patches=config.mean_patches,
            std_patches=config.std_patches,
            every_k_block=config.every_k_block,
        )

    params = jax.tree.map(jnp.asarray, artifact.params["encoder"])
    return FeatureEncoder(features, params, artifact.metadata["sha256"])


def _encoder_artifact(path: str) -> Artifact:
    if not Path(path).is_dir():
        raise ConfigError(f"features.path={path!r}: there is no such folder; run `drifting pretrain` first")
    try:
        return load_artifact(path, kind="mae")
    except ValueError as error:
        raise ConfigError(f"features.path={path!r}: holds no usable encoder ({error})") from error


def objective(config: Config) -> Objective:
    """The static part of the loss."""
    loss = config.loss
    return Objective(loss.objective, KERNELS[loss.kernel], loss.normalise_field, loss.feature_scale)


def optimizer(config: OptimizerConfig, steps: int) -> train_state.Optimizer:
    """Clip, AdamW and schedule for a run of so many steps."""
    schedule = train_state.learning_rate(
        peak=config.learning_rate,
        warmup_steps=config.warmup_steps,
        total_steps=steps,
        decay=config.decay,
        no_op_steps=config.no_op_steps,
    )
    return train_state.make_optimizer(
        schedule,
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        clip_norm=config.clip_norm,
    )


def _with_dtypes(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor arguments with dtype names as dtypes."""
    return {
        key: jnp.dtype(value) if key.endswith("dtype") and value is not None else value
        for key, value in arguments.items()
    }
