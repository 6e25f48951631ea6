"""How far samples lie apart: the neighbour distance as a feature scale, and the collapse ratio."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Float32

from drifting.method.kernels import pairwise_distance


def neighbour_distance(real: Float[Array, "labels samples dims"], neighbours: int = 5) -> Float32[Array, "labels"]:
    """Mean distance from each real sample of a class to its `neighbours` nearest others of the batch.

    This is the per-class length unit of the MNIST recipe ("Drifting Fields are not Conservative", Section 5).

    Raises:
        ValueError: a sample has fewer than `neighbours` others.
    """
    if not 0 < neighbours < real.shape[1]:
        raise ValueError(
            f"neighbours={neighbours}: must be at least 1 and below the {real.shape[1]} samples of a class"
        )

    def one_class(real: Float[Array, "samples dims"]) -> Float32[Array, ""]:
        d = pairwise_distance(real, real) + jnp.where(jnp.eye(real.shape[0], dtype=bool), jnp.inf, 0.0)
        return -jnp.mean(jax.lax.top_k(-d, neighbours)[0])

    return jax.vmap(one_class)(real)


def collapse_ratio(
    gen: Float[Array, "labels generated dims"], real: Float[Array, "labels positives dims"]
) -> Float32[Array, ""]:
    """Mean distance between generated samples of a class over that between real ones, of which it has at least two.

    One is right; towards zero the generator collapses to one image for each class.
    """

    def mean_distance(samples: Float[Array, "samples dims"]) -> Float32[Array, ""]:
        n = samples.shape[0]
        d = jnp.where(jnp.eye(n, dtype=bool), 0.0, pairwise_distance(samples, samples))
        return jnp.sum(d) / (n * (n - 1))

    return jnp.mean(jax.vmap(mean_distance)(gen)) / jnp.mean(jax.vmap(mean_distance)(real))
