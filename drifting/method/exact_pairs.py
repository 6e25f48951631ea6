"""Pairs of a few points with distances from differences: slower than a matrix product, and exact where points are near.

Scores divide displacements by distances. Near the cusp of Laplace, and in a map of few channels, where points lie close
together, the expansion of a distance into a matrix product is not accurate enough for that.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from drifting.method.fields import Pairs
from drifting.method.kernels import safe_sqrt


def exact_distance(x: Float[Array, "n dims"], y: Float[Array, "m dims"]) -> Float[Array, "n m"]:
    """Distances between the rows of `x` and of `y`, row by row; differentiable."""
    return jax.lax.map(lambda row: safe_sqrt(jnp.sum(jnp.square(row - y), axis=1)), x)


def independent_pairs(
    x: Float[Array, "queries dims"], y_pos: Float[Array, "positives dims"], y_neg: Float[Array, "negatives dims"]
) -> Pairs:
    """Pairs of queries with references they are not among, all of weight one."""
    d_pos, d_neg = exact_distance(x, y_pos), exact_distance(x, y_neg)
    return Pairs(d_pos, d_neg, jnp.ones(len(y_pos)), jnp.ones(len(y_neg)), jnp.zeros(d_neg.shape, bool))
