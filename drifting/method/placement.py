"""Where the arrays of a step lie. The method says what may be spread; a mesh of devices says how."""

from collections.abc import Callable
from typing import Protocol, TypeAlias, runtime_checkable

from jax import Array
from jaxtyping import Int32, PyTree, Shaped, UInt32

Tree: TypeAlias = PyTree[Shaped[Array, "..."]]
"""A pytree of arrays."""

Batched: TypeAlias = PyTree[Shaped[Array, "samples ..."]]
"""A pytree of arrays with one leading axis, that of the samples."""

PartFn = Callable[[Tree, Batched], tuple[Batched, Tree]]
"""`(params, batch) -> (outputs, total)`: outputs have the leading axis of the batch, totals are sums over it."""


@runtime_checkable
class Placement(Protocol):
    """How a step's arrays are placed. All of it happens inside jit. `ONE_DEVICE` places nothing."""

    @property
    def devices(self) -> int:
        """How many parts a batch is cut into."""

    def gather(self, tree: Tree) -> Tree:
        """The tree whole on every device: parameters, as the networks use them."""

    def scatter(self, gradient: Tree) -> Tree:
        """A gradient, summed over the devices, spread as the parameters are kept."""

    def spread(self, tree: Tree) -> Tree:
        """The tree with the first axis of every leaf spread over the devices."""

    def mean(self, x: Shaped[Array, "*shape"]) -> Shaped[Array, "*shape"]:
        """Inside `each`: the mean of what every device has."""

    def each(self, function: PartFn, params: Tree, batch: Batched) -> tuple[Batched, Tree]:
        """`function(params, batch)` once for each device, with the part of the batch that lies there.

        Outputs are joined along their first axis and totals are added up, once: nothing travels in between.
        """


class _OneDevice:
    """Everything stays where it is."""

    devices = 1

    def gather(self, tree: Tree) -> Tree:
        return tree

    def scatter(self, gradient: Tree) -> Tree:
        return gradient

    def spread(self, tree: Tree) -> Tree:
        return tree

    def mean(self, x: Shaped[Array, "*shape"]) -> Shaped[Array, "*shape"]:
        return x

    def each(self, function: PartFn, params: Tree, batch: Batched) -> tuple[Batched, Tree]:
        return function(params, batch)


ONE_DEVICE: Placement = _OneDevice()

Take = Callable[
    [UInt32[Array, "rows views words"], Int32[Array, "labels count"], Int32[Array, "labels count"]],
    UInt32[Array, "labels count words"],
]
"""`(records, rows, views) -> records[rows, views]`; records that are spread over devices have one of their own."""
