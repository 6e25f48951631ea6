"""Training state: parameters, state of the optimiser, exponential moving averages, banks; and an update of it."""

import dataclasses
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float32, Int32

from drifting.method.optimizer import Optimizer
from drifting.method.pool import Banks
from drifting.method.power_average import share_of_new
from drifting.networks.network import Params

STD_PREFIX = "std="
"""Begins the key of an average that is known by its width."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything a run needs to go on, one pytree, checkpointed whole.

    Attributes:
        step: training steps done, no-op steps among them.
        params: nested dict of float32 arrays.
        opt_state: state of `Optimizer.transform`.
        ema: averages of `params`, keyed by the decay as a string, e.g. `"0.999"`, and those of `power_average` by
            `STD_PREFIX` and their width, e.g. `"std=0.05"`; may be empty.
        banks: the latest real samples, or None where steps draw them from elsewhere.
        neighbour_scale: per-class neighbour scale, or None where the recipe has none.
    """

    step: Int32[Array, ""]
    params: Params = dataclasses.field(repr=False)
    opt_state: optax.OptState = dataclasses.field(repr=False)
    ema: dict[str, Params] = dataclasses.field(repr=False)
    banks: Banks | None = dataclasses.field(default=None, repr=False)
    neighbour_scale: Float32[Array, "classes"] | None = dataclasses.field(default=None, repr=False)


def init_ema(params: Params, decays: Iterable[float], stds: Iterable[float] = ()) -> dict[str, Params]:
    """One copy of `params` for each decay, keyed by the decay as a string, and for each width of `power_average`.

    Raises:
        ValueError: if a decay lies outside `[0, 1)` or is given twice.
    """
    decays = [float(decay) for decay in decays]
    if len(set(decays)) != len(decays) or any(not 0.0 <= decay < 1.0 for decay in decays):
        raise ValueError(f"ema: decays={decays} must be different numbers in [0, 1)")
    # Copies, not references: a donated state must not hold one buffer twice.
    keys = [*map(str, decays), *(f"{STD_PREFIX}{std}" for std in stds)]
    return {key: jax.tree.map(jnp.copy, params) for key in keys}


def update_ema(ema: dict[str, Params], params: Params, updates: Int32[Array, ""]) -> dict[str, Params]:
    """`ema ← β ema + (1 - β) params` for every average; `β` is the number its key spells, or of `power_average`.

    `updates`: how often the parameters have been updated, this time included.
    """

    def blend(key: str, average: Params) -> Params:
        if key.startswith(STD_PREFIX):
            share = share_of_new(float(key.removeprefix(STD_PREFIX)), updates)
            return jax.tree.map(lambda old, new: old + share * (new - old), average, params)
        beta = float(key)
        return jax.tree.map(lambda old, new: beta * old + (1.0 - beta) * new, average, params)

    return {key: blend(key, average) for key, average in ema.items()}


def make_state(
    params: Params,
    optimizer: Optimizer,
    *,
    ema_decays: Iterable[float] = (),
    ema_stds: Iterable[float] = (),
    banks: Banks | None = None,
    neighbour_scale: Float32[Array, "classes"] | None = None,
) -> TrainState:
    """The state before the first step; works under `jax.jit` and `jax.eval_shape`."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.transform.init(params),
        ema=init_ema(params, ema_decays, ema_stds),
        banks=banks,
        neighbour_scale=neighbour_scale,
    )


def apply_gradients(
    state: TrainState, grads: Params, optimizer: Optimizer, no_op_steps: int = 0
) -> tuple[TrainState, dict[str, Float32[Array, ""]]]:
    """One update of parameters, optimiser and averages; the step counter always advances.

    While `state.step < no_op_steps` (static) parameters, optimiser state and averages stay bitwise as they are, so that
    training afterwards goes as if those steps had not been. `optimizer.learning_rate` must know the same `no_op_steps`.

    Args:
        state: the state before the step.
        grads: gradient of the loss, the structure of `state.params`.
        optimizer: the optimiser that `make_optimizer` made.
        no_op_steps: leading steps without an update.

    Returns:
        The new state, and `grad_norm`, `grad_norm_clipped`, `learning_rate`.
    """
    grad_norm = optax.tree.norm(grads)
    rate = jnp.asarray(optimizer.learning_rate(state.step), jnp.float32)
    direction, opt_state = optimizer.transform.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, jax.tree.map(lambda d: -rate * d, direction))
    new = (params, opt_state, update_ema(state.ema, params, state.step + 1 - no_op_steps))
    if no_op_steps:
        active = state.step >= no_op_steps
        old = (state.params, state.opt_state, state.ema)
        new = jax.tree.map(lambda after, before: jnp.where(active, after, before), new, old)
    metrics = {
        "grad_norm": grad_norm,
        "grad_norm_clipped": jnp.minimum(grad_norm, optimizer.clip_norm),
        "learning_rate": rate,
    }
    params, opt_state, ema = new
    return dataclasses.replace(state, step=state.step + 1, params=params, opt_state=opt_state, ema=ema), metrics
