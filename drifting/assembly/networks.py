"""Networks from settings: the generator that a run trains, and the autoencoder that a pre-training trains."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from drifting.config.schema import MAEConfig, ModelConfig
from drifting.errors import ConfigError, one_of
from drifting.networks import dit, mlp
from drifting.networks.dit import DiT
from drifting.networks.mae import MAE
from drifting.networks.mlp import MLP
from drifting.networks.network import Generator, Params

GENERATORS: dict[str, Any] = {"dit": dit, "mlp": mlp}


def check_model(model: ModelConfig) -> None:
    """Checks that the generator can be made, as far as that does not depend on its samples.

    Raises:
        ConfigError: there is no such network, or a setting of it cannot work.
    """
    one_of("model.name", model.name, GENERATORS)
    with _named_settings():
        GENERATORS[model.name].check_settings(dataclasses.asdict(model))


def generator_arguments(model: ModelConfig, shape: tuple[int, int, int], num_classes: int) -> dict[str, Any]:
    """Constructor arguments of the generator for samples of `shape` (height, width, channels), JSON-able.

    Raises:
        ConfigError: a setting does not fit the samples.
    """
    with _named_settings():
        found: dict[str, Any] = GENERATORS[model.name].arguments(dataclasses.asdict(model), shape, num_classes)
    return found


@contextmanager
def _named_settings() -> Iterator[None]:
    """Names the section in what a network says of its settings."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(f"model.{error}") from error


def generator(
    model: ModelConfig, shape: tuple[int, int, int], num_classes: int, seed: int
) -> tuple[Generator, Callable[[], Params]]:
    """The generator, and a jittable function that draws its initial parameters from `seed`."""
    arguments = generator_arguments(model, shape, num_classes)
    return generator_of(arguments, shape), lambda: nnx.to_pure_dict(nnx.state(_create(arguments, seed)))


def own_generator(
    network: Callable[..., nnx.Module], shape: tuple[int, int, int], seed: int
) -> tuple[Generator, Callable[[], Params]]:
    """As `generator`, of a network that `network(rngs=nnx.Rngs)` makes."""

    def create(seed: int) -> nnx.Module:
        return network(rngs=nnx.Rngs(params=jax.random.key(seed)))

    graphdef = nnx.split(nnx.eval_shape(lambda: create(0)))[0]
    return Generator(graphdef, shape), lambda: nnx.to_pure_dict(nnx.state(create(seed)))


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
