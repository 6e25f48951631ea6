"""Where the arrays of a step lie. The method says what may be spread; a mesh of devices says how."""

from collections.abc import Callable
from typing import Any, Protocol

from jax import Array

Tree = Any
"""A pytree of arrays."""

PartFn = Callable[[Tree, Tree], tuple[Tree, Tree]]
"""`(params, batch) -> (outputs, total)`: outputs have the leading axis of the batch, totals are sums over it."""


class Placement(Protocol):
    """How a step's arrays are placed. All of it happens inside jit. `HERE` places nothing: one device."""

    def gather(self, params: Tree) -> Tree:
        """Parameters whole on every device, as the networks use them."""

    def scatter(self, gradient: Tree) -> Tree:
        """A gradient, summed over the devices, spread as the parameters are kept."""

    def spread(self, tree: Tree) -> Tree:
        """The tree with the first axis of every leaf spread over the devices."""

    def each(self, function: PartFn, params: Tree, batch: Tree) -> tuple[Tree, Tree]:
        """`function(params, batch)` once for each device, with the part of the batch that lies there.

        Outputs are joined along their first axis and totals are added up, once: nothing travels in between.
        """


class _Here:
    """One device: everything stays where it is."""

    def gather(self, params: Tree) -> Tree:
        return params

    def scatter(self, gradient: Tree) -> Tree:
        return gradient

    def spread(self, tree: Tree) -> Tree:
        return tree

    def each(self, function: PartFn, params: Tree, batch: Tree) -> tuple[Tree, Tree]:
        return function(params, batch)


HERE: Placement = _Here()

Take = Callable[[Array, Array, Array], Array]
"""`(records [N, V, ...], rows, views) -> records[rows, views]`; records spread over devices have one of their own."""
