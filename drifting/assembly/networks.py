"""Networks from settings: the generator that a run trains, and the autoencoder that a pre-training trains."""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from drifting.config.schema import MAEConfig, ModelConfig
from drifting.errors import ConfigError, one_of, when_tried
from drifting.networks import NETWORKS
from drifting.networks.flash import FLASH_PLATFORMS
from drifting.networks.mae import MAE
from drifting.networks.network import Generator, Params, generator_of, make_network


def check_model(model: ModelConfig) -> None:
    """Checks that the generator can be made, as far as that does not depend on its samples.

    Raises:
        ConfigError: there is no such network, or a setting of it cannot work.
    """
    one_of("model.name", model.name, [name for name, network in NETWORKS.items() if hasattr(network, "arguments")])
    with _named_settings():
        kind: Any = NETWORKS[model.name]
        kind.check_settings(dataclasses.asdict(model))


def generator_arguments(model: ModelConfig, shape: tuple[int, int, int], num_classes: int) -> dict[str, Any]:
    """Constructor arguments of the generator for samples of `shape` (height, width, channels), JSON-able.

    Raises:
        ConfigError: there is no such network, or a setting cannot work or does not fit the samples.
    """
    check_model(model)
    with _named_settings():
        kind: Any = NETWORKS[model.name]
        found: dict[str, Any] = kind.arguments(dataclasses.asdict(model), shape, num_classes)
    return found


@contextmanager
def _named_settings() -> Iterator[None]:
    """Puts the section before the settings in what a network says of them."""
    try:
        yield
    except ValueError as error:
        keys = "|".join(field.name for field in dataclasses.fields(ModelConfig))
        raise ConfigError(re.sub(rf"(?<![\w.])(?=(?:{keys})=|options\.\w+=)", "model.", str(error))) from error


def generator(
    model: ModelConfig, shape: tuple[int, int, int], num_classes: int, seed: int, platform: str = "cpu"
) -> tuple[Generator, Callable[[], Params]]:
    """The generator, and a jittable function that draws its initial parameters from `seed`.

    `platform`: of the devices that it is trained on; where they have a kernel for its attention, it is used.
    """
    name, arguments = model.name, generator_arguments(model, shape, num_classes)
    if name == "dit" and platform in FLASH_PLATFORMS:
        arguments |= {"flash": platform}

    def init() -> Params:
        return trained_params(f"model.name={name!r}", make_network(name, arguments, streams(seed)))

    return generator_of(name, arguments, shape), init


def own_generator(
    network: Callable[..., nnx.Module], shape: tuple[int, int, int], seed: int
) -> tuple[Generator, Callable[[], Params]]:
    """As `generator`, of a network that `network(rngs=nnx.Rngs)` makes. It is tried on two samples, by shapes alone.

    Raises:
        ArgumentError: it makes no such network, one with other state than parameters, or one of other samples.
    """

    def init() -> Params:
        return trained_params("network", network(rngs=streams(seed)))

    with when_tried("network", "network(rngs=nnx.Rngs(0)) must make an nnx.Module"):
        params = jax.eval_shape(init)
        found = Generator(nnx.graphdef(nnx.eval_shape(lambda: network(rngs=streams(0)))), shape)
    with when_tried("network", "must have sample_noise(key), which gives the noise of one sample as a dict of arrays"):
        noise = jax.eval_shape(
            lambda params: found.sample_noise(params, jax.random.split(jax.random.key(0), 2)), params
        )
    labels, alpha = jax.ShapeDtypeStruct((2,), jnp.int32), jax.ShapeDtypeStruct((2,), jnp.float32)
    height, width, channels = shape
    remedy = f"called with (noise, labels, alpha) it must give samples [B, {height}, {width}, {channels}]"
    with when_tried("network", remedy):
        jax.eval_shape(found, params, noise, labels, alpha)
    return found, init


def streams(seed: int) -> nnx.Rngs:
    """What a new network draws from: its parameters from the stream `params`, and anything else from one of its own."""
    key = jax.random.key(seed)
    return nnx.Rngs(params=key, default=jax.random.fold_in(key, 1))


def trained_params(argument: str, network: nnx.Module) -> Params:
    """The parameters of a new network, all of which are trained.

    Raises:
        ConfigError: `argument` made a network with other state, which training would neither keep apart nor update; or
            one without parameters.
    """
    variables = dict(nnx.to_flat_state(nnx.state(network)))
    for path, module in nnx.iter_modules(network):
        # The state leaves out arrays that do not depend on what is traced.
        constants = {name: value for name, value in vars(module).items() if isinstance(value, Array | np.ndarray)}
        variables |= {(*path, name): value for name, value in constants.items()}
    remedy = "a generator keeps nothing but what is trained, nnx.Param of floating-point numbers: use layers without"
    for place, variable in variables.items():
        kind = type(variable).__name__ if isinstance(variable, nnx.Variable) else "array"
        if isinstance(variable, nnx.Param) and not jnp.issubdtype(variable.dtype, jnp.floating):
            kind = f"Param of {variable.dtype}"
        elif isinstance(variable, nnx.Param):
            continue
        raise ConfigError(f"{argument}: makes a module with {'.'.join(map(str, place))} ({kind}), and {remedy}")
    if not variables:
        raise ConfigError(f"{argument}: makes a module without an nnx.Param, so that there is nothing to train")
    return nnx.to_pure_dict(nnx.state(network))


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
    return MAE(**arguments, rngs=nnx.Rngs(params=key))
