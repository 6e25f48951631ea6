"""From a checked configuration to the objects it describes: source, generator, encoder, objective, optimiser."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from drifting import state as train_state
from drifting.config import Config, ConfigError, DataConfig, MAEConfig, ModelConfig, OptimizerConfig, PretrainConfig
from drifting.data.latents import LatentSource
from drifting.data.source import LabelledSource, OneClass
from drifting.data.sources import make_source
from drifting.kernels import KERNELS
from drifting.losses import Objective
from drifting.models.dit import PRESETS, DiT
from drifting.models.mae import MAE
from drifting.models.mlp import MLP
from drifting.sharding import Layout

Params = dict[str, Any]
Settings = TypeVar("Settings", Config, PretrainConfig)
PROBES = 32
"""Images that the checksum of a data set covers."""


def source(data: DataConfig, split: str = "train") -> LabelledSource:
    """The real samples of `data`. Raises `ConfigError` where they cannot be had: no such files, an argument missing."""
    try:
        found = make_source(
            data.name,
            split=split,
            path=data.path,
            image_size=data.image_size,
            channels=data.channels,
            classes=data.classes,
        )
        if isinstance(found, LatentSource):
            return _checked_latents(found, data)
    except ValueError as error:
        raise ConfigError(f"data.name={data.name!r}: {error}") from error
    return OneClass(found) if data.unconditional else found


def _checked_latents(found: LatentSource, data: DataConfig) -> LatentSource:
    if data.flip and not found.flip:
        raise ValueError(f"{found.path} was made without mirror images (cache.flip=False): set data.flip=False")
    if data.verify:
        found.verify()
    return found.without_labels() if data.unconditional else found


def named_vae(config: Settings, source: LabelledSource) -> Settings:
    """The settings with `data.vae` named: latents that were encoded before know whose they are."""
    if not isinstance(source, LatentSource) or config.data.vae is not None:
        return config
    return dataclasses.replace(config, data=dataclasses.replace(config.data, vae=source.vae))


def reading(data: DataConfig, layout: Layout) -> dict[str, Any]:
    """The fields of `Reading` for the real samples of `data`: this process's share of each batch, on its devices."""
    return dict(
        flip=data.flip,
        random_crop=data.random_crop,
        prefetch=data.prefetch,
        workers=data.workers,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        place=layout.place,
    )


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
    return generator_of(arguments, shape), lambda: nnx.to_pure_dict(nnx.state(_create(arguments, seed)))


def generator_of(arguments: Mapping[str, Any], shape: tuple[int, int, int]) -> Generator:
    """The generator that `generator_arguments` describe, for samples of `shape`."""
    return Generator(nnx.split(nnx.eval_shape(lambda: _create(arguments, 0)))[0], shape)


def _create(arguments: Mapping[str, Any], seed: int) -> nnx.Module:
    kind = MLP if "noise_dim" in arguments else DiT
    return kind(**_with_dtypes(arguments), rngs=nnx.Rngs(params=jax.random.key(seed)))


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
