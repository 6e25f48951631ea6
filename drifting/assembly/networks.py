"""Networks from settings: the generator that a run trains, and the autoencoder that a pre-training trains."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from drifting.config.schema import MAEConfig, ModelConfig
from drifting.networks.dit import PRESETS, DiT
from drifting.networks.mae import MAE
from drifting.networks.mlp import MLP
from drifting.networks.network import Generator, Params


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


def _with_dtypes(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor arguments with dtype names as dtypes."""
    return {
        key: jnp.dtype(value) if key.endswith("dtype") and value is not None else value
        for key, value in arguments.items()
    }
