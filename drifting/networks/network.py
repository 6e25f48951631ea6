"""A network as a pure function: its structure, its parameters, and where they come from."""

from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx
from jax import Array

Params = dict[str, Any]


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


@dataclass(frozen=True)
class Network:
    """A frozen network: `nnx.merge(graphdef, params)`. Attributes:

    arguments: of its constructor. checksum: SHA-256 of the weights, so that a run is only resumed with the same.
    """

    graphdef: Any
    params: Params
    arguments: dict[str, Any]
    checksum: str
