"""The micro-batched gradient: the memory of a few samples, the gradient of all of them.

Generator and encoders treat every sample by itself; only the loss looks at all of them, and it needs nothing but their
features. So the chain rule is taken in three passes:

1. generate and extract features, a micro-batch after the other, and keep the features alone;
2. the loss, and its gradient with respect to the features;
3. generate and extract once more, a micro-batch after the other, this time with activations, and pull that gradient
   back to the parameters, adding up.

The first pass takes `FORWARD_SHARE` micro-batches at a time: without activations they need no more memory.

The price is one more forward pass. The result is that of the whole batch but for the order of additions. With a single
micro-batch the features come from the pass that keeps its activations, and nothing is computed twice.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, PyTree, Shaped

from drifting.method.placement import ONE_DEVICE, Batched, Placement, Tree

Forward = Callable[[Tree, Batched], tuple[Batched, Batched]]
"""`(params, inputs) -> (features, extra)`, each sample by itself."""

MicroBatched: TypeAlias = PyTree[Shaped[Array, "micro_batches size ..."]]
"""A batch in equal micro-batches."""

FORWARD_SHARE = 8
"""How many times as large the micro-batches are of passes that keep nothing for a backward pass."""

Value = tuple[Float[Array, ""], Any]
"""A loss and its metrics."""


def micro_batched_gradient(
    forward: Forward,
    loss: Callable[[Batched], Value],
    params: Tree,
    inputs: Batched,
    size: int = 0,
    placement: Placement = ONE_DEVICE,
) -> tuple[Value, Batched, Tree]:
    """Value and gradient of `loss(forward(params, inputs))`, `size` samples at a time.

    Args:
        forward: gives the features of samples; only features carry gradient.
        loss: gives the loss and metrics of the features of all samples together.
        params: what is differentiated, float32.
        inputs: the samples' inputs.
        size: samples whose activations exist at a time, over all devices; a divisor of their number; 0 is all of them.
        placement: calls a function for each device's part of the samples.

    Returns:
        `(loss, metrics)`, the `extra` of all samples, and the gradient, float32 like `params`.
    """
    samples = jax.tree.leaves(inputs)[0].shape[0]
    if size in (0, samples):

        def whole(params: Tree) -> tuple[Batched, Batched]:
            return placement.each(lambda params, inputs: (forward(params, inputs), ()), params, inputs)[0]

        features, pull_back, extra = jax.vjp(whole, params, has_aux=True)
        value, cotangents = jax.value_and_grad(loss, has_aux=True)(features)
        return value, extra, pull_back(cotangents)[0]
    count = samples // size

    def without_activations(params: Tree, inputs: Batched) -> tuple[Batched, Tree]:
        return in_micro_batches(lambda inputs: forward(params, inputs), inputs, -(-count // FORWARD_SHARE)), ()

    def pulled_back(params: Tree, batch: Batched) -> tuple[Batched, Tree]:
        inputs, cotangents = batch
        return (), accumulated_gradient(forward, params, inputs, cotangents, count)[1]

    (features, extra), _ = placement.each(without_activations, params, inputs)
    value, cotangents = jax.value_and_grad(loss, has_aux=True)(features)
    _, gradient = placement.each(pulled_back, params, (inputs, cotangents))
    return value, extra, gradient


def in_micro_batches(function: Callable[[Batched], Batched], inputs: Batched, count: int) -> Batched:
    """`function(inputs)` in equal micro-batches, as few as can be but at least `count`."""
    samples = jax.tree.leaves(inputs)[0].shape[0]
    if count <= 1:
        return function(inputs)
    count = next(n for n in range(min(count, samples), samples + 1) if samples % n == 0)
    return _join(jax.lax.map(function, _split(inputs, count)))


def accumulated_gradient(
    forward: Forward, params: Tree, inputs: Batched, cotangents: Batched, count: int = 1
) -> tuple[tuple[Batched, Batched], Tree]:
    """`forward(params, inputs)`, and the gradient of its features times `cotangents`, in `count` micro-batches.

    The gradient adds up in the dtype of `params`, float32, whatever the networks compute in.
    """

    def one(inputs: Batched, cotangents: Batched) -> tuple[tuple[Batched, Batched], Tree]:
        features, pull_back, extra = jax.vjp(lambda params: forward(params, inputs), params, has_aux=True)
        return (features, extra), pull_back(cotangents)[0]

    def add(total: Tree, micro_batch: tuple[Batched, Batched]) -> tuple[Tree, tuple[Batched, Batched]]:
        outputs, gradient = one(*micro_batch)
        return jax.tree.map(jnp.add, total, gradient), outputs

    if count == 1:
        return one(inputs, cotangents)
    zeros = jax.tree.map(jnp.zeros_like, params)
    gradient, outputs = jax.lax.scan(add, zeros, (_split(inputs, count), _split(cotangents, count)))
    return _join(outputs), gradient


def _split(batch: Batched, count: int) -> MicroBatched:
    """The batch as `count` micro-batches."""
    return jax.tree.map(lambda a: a.reshape(count, a.shape[0] // count, *a.shape[1:]), batch)


def _join(batch: MicroBatched) -> Batched:
    """Inverse of `_split`."""
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), batch)
