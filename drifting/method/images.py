"""Images out of a generator: each depends on its own seed, its class and the guidance scale, and on nothing else."""

import jax
from jax import Array
from jaxtyping import Float32, Int, UInt32

from drifting.method.space import SampleSpace
from drifting.networks.network import Generator, Params


def generate_images(
    generator: Generator,
    space: SampleSpace,
    params: Params,
    frozen: Params,
    seeds: UInt32[Array, "samples"],
    labels: Int[Array, "samples"],
    alpha: Float32[Array, "samples"],
) -> Float32[Array, "samples height width channels"]:
    """Images in [-1, 1], not clipped.

    Args:
        generator: the network without its parameters.
        space: says what samples are; latents are decoded.
        params: the generator's parameters.
        frozen: `space.params`.
        seeds: one for each image.
        labels: class indices.
        alpha: guidance scales.
    """
    keys = jax.vmap(jax.random.key)(seeds)
    noise = generator.sample_noise(params, keys)
    return space.decode(frozen, generator(params, noise, labels, alpha))
