"""A network as a pure function: its structure, its parameters, and where they come from."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
from flax import nnx
from jax import Array

from drifting.errors import require_argument, use_one_of
from drifting.networks import NETWORKS

Params = dict[str, Any]
"""Nested parameters: `nnx.to_pure_dict` of a module's state."""


@dataclass(frozen=True)
class Generator:
    """A generator without its parameters.

    Attributes:
        graphdef: the network's structure; `nnx.merge(graphdef, params)` is the network.
        shape: height, width and channels of a sample.
    """

    graphdef: Any = field(repr=False)
    shape: tuple[int, int, int]

    def __call__(self, params: Params, noise: dict[str, Array], labels: Array, alpha: Array) -> Array:
        """Samples `[B, H, W, C]` float32 for noise with a leading batch axis, labels `[B]` and alpha `[B]`."""
        out = nnx.merge(self.graphdef, params)(noise, labels, alpha)
        return out.reshape(labels.shape[0], *self.shape)

    def sample_noise(self, params: Params, keys: Array) -> dict[str, Array]:
        """The noise of as many samples as there are `keys` `[B]`; each depends on its own key alone."""
        return jax.vmap(nnx.merge(self.graphdef, params).sample_noise)(keys)


@dataclass(frozen=True)
class Network:
    """A frozen network: `nnx.merge(graphdef, params)`.

    Attributes:
        graphdef: the network's structure.
        params: the network's parameters.
        arguments: what its constructor was called with.
        checksum: SHA-256 of the weights, so that a run is only resumed with the same.
        vae_sha256: checksums that the file of the VAE may have in whose latents it has learned; None: nobody says.
    """

    graphdef: Any = field(repr=False)
    params: Params = field(repr=False)
    arguments: dict[str, Any]
    checksum: str
    vae_sha256: Sequence[str] | None = None


def as_used(graphdef: Any, params: Params) -> Params:
    """Parameters in the dtype in which the network uses them, where it uses them in one: those that modules list as
    `rounded`.

    The modules would round them at every use: what the network computes stays the same to the bit. What is frozen takes
    less memory so, and what is gathered from other devices travels as that.
    """

    def rounded(x: Any, dtype: Any) -> Any:
        return jax.ShapeDtypeStruct(x.shape, dtype) if isinstance(x, jax.ShapeDtypeStruct) else x.astype(dtype)

    module = nnx.merge(graphdef, params)
    part: Any
    for _, part in nnx.iter_modules(module):
        for name in getattr(part, "rounded", ()):
            variable = getattr(part, name)
            if variable is not None:
                variable.set_value(rounded(variable.get_value(), part.dtype))
    return nnx.to_pure_dict(nnx.state(module))


def make_network(name: str, arguments: Mapping[str, Any], rngs: nnx.Rngs | None = None) -> nnx.Module:
    """The network `NETWORKS[name]` with those constructor arguments; parameters are drawn from `rngs`, or seed 0.

    Raises:
        ArgumentError: there is no such network, or the network refuses its sizes.
    """
    require_argument(name in NETWORKS, "network", name, use_one_of(name, NETWORKS))
    return NETWORKS[name](**arguments, rngs=nnx.Rngs(0) if rngs is None else rngs)


def structure(name: str, arguments: Mapping[str, Any]) -> tuple[Any, Params]:
    """The graph definition of `make_network(name, arguments)`, and its parameters as shapes and dtypes.

    Nothing is computed.

    Raises:
        ArgumentError: see `make_network`.
    """
    graphdef, state = nnx.split(nnx.eval_shape(lambda: make_network(name, arguments)))
    return graphdef, nnx.to_pure_dict(state)


def sample_shape(name: str, arguments: Mapping[str, Any]) -> tuple[int, ...]:
    """What a generator draws: height, width and channels, or one number where it draws so many numbers."""
    network: Any = nnx.eval_shape(lambda: make_network(name, arguments))
    return tuple(network.sample_shape)


def generator_of(name: str, arguments: Mapping[str, Any], shape: tuple[int, int, int]) -> Generator:
    """The generator of that name without parameters, for samples of `shape` (height, width, channels).

    Raises:
        ArgumentError: see `make_network`; or the network draws samples of another shape.
    """
    drawn = sample_shape(name, arguments)
    fits = drawn == shape or drawn == (math.prod(shape),)
    require_argument(fits, "shape", "x".join(map(str, shape)), f"the {name} draws {'x'.join(map(str, drawn))}")
    return Generator(structure(name, arguments)[0], shape)
