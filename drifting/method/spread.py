"""How far samples lie apart: the neighbour distance as a feature scale, and the collapse ratio."""

import math

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Float32

from drifting.method.kernels import pairwise_distance

SAME_IMAGE = 2 / 255
"""Root mean square difference of two samples that show the same: one of the 256 levels of an image in [-1, 1]."""


def _same_image(dims: int) -> float:
    """The distance of two samples of so many numbers that show the same."""
    return SAME_IMAGE * math.sqrt(dims)


def neighbour_distance(real: Float[Array, "labels samples dims"], neighbours: int = 5) -> Float32[Array, "labels"]:
    """Mean distance from each real sample of a class to its `neighbours` nearest others of the batch.

    This is the per-class length unit of the MNIST recipe ("Drifting Fields are not Conservative", Section 5). It is at
    least the distance of samples that show the same (`SAME_IMAGE`): copies of one image have a unit, too.

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

    return jnp.maximum(jax.vmap(one_class)(real), _same_image(real.shape[2]))


def collapse_ratio(
    gen: Float[Array, "labels generated dims"], real: Float[Array, "labels positives dims"]
) -> Float32[Array, ""]:
    """Mean distance between generated samples of a class over that between real ones, of which it has at least two.

    One is right; towards zero the generator collapses to one image for each class. Where all real samples of a class
    show the same, distances are at least that of such samples, and a generator that does so, too, is right.
    """

    def mean_distance(samples: Float[Array, "samples dims"]) -> Float32[Array, ""]:
        n = samples.shape[0]
        d = jnp.where(jnp.eye(n, dtype=bool), 0.0, pairwise_distance(samples, samples))
        return jnp.sum(d) / (n * (n - 1))

    generated, present = (jnp.mean(jax.vmap(mean_distance)(samples)) for samples in (gen, real))
    same = _same_image(real.shape[2])
    floor = jnp.where(present < same, same, 0.0)
    return jnp.maximum(generated, floor) / jnp.maximum(present, floor)
