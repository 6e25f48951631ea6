"""Memory that a step keeps for its backward pass, measured by tracing it, and that of its loss, by its shapes."""

from collections.abc import Callable
from typing import Any

import jax

from drifting.config.schema import Config
from drifting.experiments.plan.flops import products
from drifting.method.loss import by_size, keeps_fields, maps_together, problem_numbers
from drifting.method.objective import LOSS_MEMORY

AbstractArray = jax.ShapeDtypeStruct

# By the compiler for GPU, of the published ablation on 8 H200: docs/chips.md.
CHUNK_COPIES = 1.0
"""How often the arrays of a chunk of the loss are in memory at a time."""


def _with_backward(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function(first, *rest)` and its cotangent pulled back to `first`."""

    def both(first: Any, *rest: Any) -> Any:
        out, pull_back = jax.vjp(lambda first: function(first, *rest), first)
        return pull_back(out)

    return both


def _at(argument: Any, batch: int) -> Any:
    return argument(batch) if callable(argument) else argument


def _residuals(function: Callable[..., Any], first: Any, second: Any) -> tuple[float, float]:
    """Bytes that automatic differentiation keeps between `function`'s forward and backward pass.

    One of the arguments is shapes by number of samples. Returns those whatever the number, and those of one sample.
    """

    def kept(batch: int) -> float:
        def pull_back(first: Any, second: Any) -> Any:
            return jax.vjp(lambda first: function(first, second), first)[1]

        return _bytes(jax.eval_shape(pull_back, _at(first, batch), _at(second, batch)))

    one, two = kept(1), kept(2)
    parameters = _bytes(first if not callable(first) else second)
    return max(0.0, 2 * one - two - parameters), two - one


def _widest(function: Callable[..., Any], first: Any, second: Any) -> float:
    """Bytes of one sample in the widest result of `products` of `function`, see `_residuals`."""

    def most(batch: int) -> float:
        jaxpr = jax.make_jaxpr(function)(_at(first, batch), _at(second, batch)).jaxpr
        return max((_bytes([v.aval for v in equation.outvars]) for equation in products(jaxpr)), default=0.0)

    return most(2) - most(1)


def _map_shapes(config: Config, f: Any) -> tuple[AbstractArray, AbstractArray, AbstractArray]:
    """Features of generated, positive and unconditional samples for a map `f` `[1, F, C]` of one sample."""
    loss = config.loss
    counts = (loss.generated, loss.positives, loss.unconditional)
    gen, pos, unc = (AbstractArray((loss.labels, n, *f.shape[1:]), f.dtype) for n in counts)
    return gen, pos, unc


def _loss_memory(config: Config, maps: dict[str, Any], devices: int, platform: str) -> float:
    """Bytes on each device of the loss beyond all features: what is kept of maps and a chunk's arrays, at their most.

    Maps are computed from small to large, and real features are gone once their maps are done.
    """
    loss, memory = config.loss, LOSS_MEMORY[platform]
    counts, widths = (loss.generated, loss.unconditional, loss.positives), len(loss.widths)
    labels = -(-loss.labels // devices)
    gen = {name: AbstractArray((labels, loss.generated, *f.shape[1:]), f.dtype) for name, f in maps.items()}
    most, gone = 0.0, 0.0
    for names in by_size(gen, maps_together(gen, counts, widths, memory)):
        positions, channels = sum(gen[name].shape[2] for name in names), gen[names[0]].shape[3]
        problems = labels * positions
        fields = widths if keeps_fields(memory, problems, channels, counts, widths) else 1
        kept = problems * loss.generated * (sum(counts) + fields * channels)
        chunk = min(memory.chunk, problems * problem_numbers(1, channels, counts, widths))
        most = max(most, 4.0 * (kept + CHUNK_COPIES * chunk) - gone)
        gone += sum(_bytes(gen[name]) for name in names) * (loss.unconditional + loss.positives) / loss.generated
    return most


def _bytes(tree: Any) -> float:
    leaves = (leaf for leaf in jax.tree.leaves(tree) if leaf.dtype != jax.dtypes.float0)
    return float(sum(leaf.size * leaf.dtype.itemsize for leaf in leaves))
