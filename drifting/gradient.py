"""The micro-batched gradient: the memory of a few samples, the gradient of all of them.

Generator and encoders treat every sample by itself; only the loss looks at all of them, and it needs nothing but their
features. So the chain rule is taken in three passes:

1. generate and extract features, a micro-batch after the other, and keep the features alone;
2. the loss, and its gradient with respect to the features;
3. generate and extract once more, a micro-batch after the other, this time with activations, and pull that gradient
   back to the parameters, adding up.

The price is one more forward pass. The result is that of the whole batch but for the order of additions. With a single
micro-batch the features come from the pass that keeps its activations, and nothing is computed twice.
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array

Params = Any
Batch = Any
"""A pytree of arrays with one leading axis, that of the samples."""
Features = Any
Tree = TypeVar("Tree")

Forward = Callable[[Params, Batch], tuple[Features, Any]]
"""`(params, inputs) -> (features, extra)`, each sample by itself; all with the leading axis of `inputs`."""


def micro_batched_gradient(
    forward: Forward, loss: Callable[[Features], tuple[Array, Any]], params: Params, inputs: Batch, size: int = 0
) -> tuple[tuple[Array, Any], Any, Params]:
    """Value and gradient of `loss(forward(params, inputs))`, `size` samples at a time.

    Args:
        forward: see `Forward`; only `features` carries gradient.
        loss: `features -> (loss, metrics)` of all samples together.
        params: what is differentiated, float32.
        inputs: the samples' inputs, `[B, ...]` each.
        size: samples of a micro-batch, a divisor of `B`; 0 is all of them.

    Returns:
        `(loss, metrics)`, the `extra` of all samples, and the gradient, float32 like `params`.
    """
    samples = jax.tree.leaves(inputs)[0].shape[0]
    if size in (0, samples):
        features, pull_back, extra = jax.vjp(lambda params: forward(params, inputs), params, has_aux=True)
        value, cotangents = jax.value_and_grad(loss, has_aux=True)(features)
        return value, extra, pull_back(cotangents)[0]
    features, extra = in_micro_batches(lambda inputs: forward(params, inputs), inputs, size)
    value, cotangents = jax.value_and_grad(loss, has_aux=True)(features)
    return value, extra, accumulated_gradient(forward, params, inputs, cotangents, size)[1]


def in_micro_batches(function: Callable[[Batch], Batch], inputs: Batch, size: int) -> Batch:
    """`function(inputs)`, evaluated `size` samples (a divisor of their number; 0: all) at a time."""
    samples = jax.tree.leaves(inputs)[0].shape[0]
    if size in (0, samples):
        return function(inputs)
    return _join(jax.lax.map(function, _split(inputs, size)))


def accumulated_gradient(
    forward: Forward, params: Params, inputs: Batch, cotangents: Features, size: int = 0
) -> tuple[tuple[Features, Any], Params]:
    """`forward(params, inputs)`, and the gradient of its features times `cotangents`, `size` samples at a time.

    The gradient adds up in the dtype of `params`, float32, whatever the networks compute in.
    """

    def one(inputs: Batch, cotangents: Features) -> tuple[tuple[Features, Any], Params]:
        features, pull_back, extra = jax.vjp(lambda params: forward(params, inputs), params, has_aux=True)
        return (features, extra), pull_back(cotangents)[0]

    def add(total: Params, micro_batch: tuple[Batch, Features]) -> tuple[Params, tuple[Features, Any]]:
        outputs, gradient = one(*micro_batch)
        return jax.tree.map(jnp.add, total, gradient), outputs

    if size in (0, jax.tree.leaves(inputs)[0].shape[0]):
        return one(inputs, cotangents)
    zeros = jax.tree.map(jnp.zeros_like, params)
    gradient, outputs = jax.lax.scan(add, zeros, (_split(inputs, size), _split(cotangents, size)))
    return _join(outputs), gradient


def micro_batch_of(samples: int, size: int, labels: int) -> int:
    """Micro-batches of the real samples: the largest divisor of `samples` up to `size` (0 stays 0).

    Whatever divides both `size` and the number of `labels`, as the number of devices does, divides it too.
    """
    unit = math.gcd(size, labels)
    return max((n for n in range(unit, size + 1, unit) if samples % n == 0), default=0) if size else 0


def _split(batch: Tree, size: int) -> Tree:
    """`[B, ...]` to `[B / size, size, ...]`. Every micro-batch takes samples from all over the batch: where that is
    sharded over devices, so is each micro-batch, and nothing moves between them."""

    def split(a: Array) -> Array:
        return a.reshape(size, a.shape[0] // size, *a.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(split, batch)


def _join(batch: Tree) -> Tree:
    """Inverse of `_split`."""
    return jax.tree.map(lambda a: a.swapaxes(0, 1).reshape(-1, *a.shape[2:]), batch)
