"""Images out of a generator: each depends on its own seed, its class and the guidance scale, and on nothing else."""

import jax
from jax import Array

from drifting.method.space import SampleSpace
from drifting.networks.network import Generator, Params


def generate_images(
    generator: Generator,
    space: SampleSpace,
    params: Params,
    frozen: Params,
    seeds: Array,
    labels: Array,
    alpha: Array,
) -> Array:
    """Images `[B, H, W, C]` float32 in [-1, 1], not clipped.

    Args:
        generator: the network without its parameters.
        space: what its samples are; latents are decoded.
        params: the generator's parameters.
        frozen: `space.params`.
        seeds: `[B]` uint32. labels: `[B]` int32. alpha: `[B]` float32 guidance scales.
    """
    keys = jax.vmap(jax.random.key)(seeds)
    noise = generator.sample_noise(params, keys)
    return space.decode(frozen, generator(params, noise, labels, alpha))
