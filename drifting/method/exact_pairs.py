"""Pairs of a few points with distances from differences: slower than a matrix product, and exact where points are near.

Scores divide displacements by distances. Near the cusp of Laplace, and in a map of few channels, where points lie close
together, the expansion of a distance into a matrix product is not accurate enough for that.
"""

import jax
import jax.numpy as jnp
from jax import Array

from drifting.method.fields import Pairs
from drifting.method.kernels import safe_sqrt


def exact_distance(x: Array, y: Array) -> Array:
    """Distances `[N, M]` between the rows of `x` `[N, D]` and of `y` `[M, D]`, row by row; differentiable."""
    return jax.lax.map(lambda row: safe_sqrt(jnp.sum(jnp.square(row - y), axis=1)), x)


def independent_pairs(x: Array, y_pos: Array, y_neg: Array) -> Pairs:
    """Pairs of queries `[N, D]` with references `[P, D]` and `[M, D]` they are not among, all of weight one."""
    d_pos, d_neg = exact_distance(x, y_pos), exact_distance(x, y_neg)
    return Pairs(d_pos, d_neg, jnp.ones(len(y_pos)), jnp.ones(len(y_neg)), jnp.zeros(d_neg.shape, bool))
