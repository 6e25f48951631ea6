"""Memory that a step keeps for its backward pass, measured by tracing and by compiling parts of it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from drifting.config.schema import Config
from drifting.method.loss import map_loss

AbstractArray = jax.ShapeDtypeStruct

COMPILER_OPTIONS: dict[str, Any] = {
    "xla_backend_optimization_level": 0,  # quick: nothing is run
    "xla_llvm_disable_expensive_passes": True,
    # The compilers for GPU and TPU order operations so as to need the least memory; the CPU's own spends it on threads.
    "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
}


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


def _compiled(function: Callable[..., Any], first: Any, second: Any) -> float:
    """Bytes of temporaries for one more sample of the forward and backward pass, as the compiler allots them here."""

    def temporaries(batch: int) -> float:
        lowered = jax.jit(_with_backward(function)).lower(_at(first, batch), _at(second, batch))
        return _temporaries(lowered)

    return max(0.0, temporaries(2) - temporaries(1))


def _temporaries(lowered: Any) -> float:
    return float(lowered.compile(compiler_options=COMPILER_OPTIONS).memory_analysis().temp_size_in_bytes)


def _map_shapes(config: Config, f: Any) -> tuple[AbstractArray, AbstractArray, AbstractArray]:
    """Features of generated, positive and unconditional samples for a map `f` `[1, F, C]` of one sample."""
    loss = config.loss
    counts = (loss.generated, loss.positives, loss.unconditional)
    gen, pos, unc = (AbstractArray((loss.labels, n, *f.shape[1:]), f.dtype) for n in counts)
    return gen, pos, unc


def _loss_memory(objective: Any, config: Config, maps: dict[str, Any]) -> float:
    """The compiler's temporaries for the loss of the largest map and its gradient, and the copies of its features.

    It is compiled in float32, because here the compiler would turn whole maps into float32 first.
    """
    widths = AbstractArray((len(config.loss.widths),), jnp.float32)
    three = _map_shapes(config, max(maps.values(), key=lambda f: f.size))
    weights = [AbstractArray(features.shape[:2], jnp.float32) for features in three]
    gen, *others = (AbstractArray(features.shape, jnp.float32) for features in three)

    def loss(gen: Any, widths: Any, *others: Any) -> Any:
        return map_loss(objective, widths, gen, *others)[0]

    lowered = jax.jit(jax.value_and_grad(loss)).lower(gen, widths, *others, *weights)
    return max(0.0, _temporaries(lowered) - _bytes(gen)) + _bytes(three[0]) + _bytes(three)


def _bytes(tree: Any) -> float:
    leaves = (leaf for leaf in jax.tree.leaves(tree) if leaf.dtype != jax.dtypes.float0)
    return float(sum(leaf.size * leaf.dtype.itemsize for leaf in leaves))
