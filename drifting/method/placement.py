"""Where the arrays of a step lie. The method says what may be spread; a mesh of devices says how."""

from collections.abc import Callable
from typing import Protocol, TypeAlias, runtime_checkable

from jax import Array
from jaxtyping import Int32, PyTree, Shaped

Tree: TypeAlias = PyTree[Shaped[Array, "..."]]
"""A pytree of arrays."""

Batched: TypeAlias = PyTree[Shaped[Array, "samples ..."]]
"""A pytree of arrays with one leading axis, that of the samples."""

PartFn = Callable[[Tree, Batched], tuple[Batched, Tree]]
"""`(params, batch) -> (outputs, total)`: outputs have the leading axis of the batch, totals are sums over it."""


@runtime_checkable
class Placement(Protocol):
    """How a step's arrays are placed. All of it happens inside jit. `ONE_DEVICE` places nothing."""

    def gather(self, params: Tree) -> Tree:
        """Parameters whole on every device, as the networks use them."""

    def scatter(self, gradient: Tree) -> Tree:
        """A gradient, summed over the devices, spread as the parameters are kept."""

    def spread(self, tree: Tree) -> Tree:
        """The tree with the first axis of every leaf spread over the devices."""

    def each(self, function: PartFn, params: Tree, batch: Batched) -> tuple[Batched, Tree]:
        """`function(params, batch)` once for each device, with the part of the batch that lies there.

        Outputs are joined along their first axis and totals are added up, once: nothing travels in between.
        """


class _OneDevice:
    """Everything stays where it is."""

    def gather(self, params: Tree) -> Tree:
        return params

    def scatter(self, gradient: Tree) -> Tree:
        return gradient

    def spread(self, tree: Tree) -> Tree:
        return tree

    def each(self, function: PartFn, params: Tree, batch: Batched) -> tuple[Batched, Tree]:
        return function(params, batch)


ONE_DEVICE: Placement = _OneDevice()

Take = Callable[
    [Shaped[Array, "rows views *record"], Int32[Array, "labels count"], Int32[Array, "labels count"]],
    Shaped[Array, "labels count *record"],
]
"""`(records, rows, views) -> records[rows, views]`; records that are spread over devices have one of their own."""
