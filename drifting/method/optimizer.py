"""Optimisers and learning-rate schedules: clipping, a direction of descent, decay, and a rate for each step."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import optax
from jax import Array
from jaxtyping import Shaped

from drifting.networks.network import Params

WARMUP_START_RATE = 1e-6
"""Learning rate at the first update of a warm-up (released recipe)."""

END_FRACTION = 1e-6
"""A schedule that falls ends at this fraction of the peak (released recipe, for the cosine)."""

MUON_DECAY = 0.95
"""Decay of Muon's mean of gradients (Jordan et al. 2024)."""

MUON_RMS = 0.2
"""Root mean square of Muon's directions, about that of Adam's, so that one rate serves both ("Muon is Scalable for LLM
Training", Liu et al. 2025, Section 2.2)."""


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Clipping, a direction of descent and a learning rate that is a function of the *training step*.

    The rate is kept apart from the transform, whose own count is the number of updates: with no-op steps the two
    differ.

    Attributes:
        transform: makes a direction of descent of a gradient: everything but the rate.
        learning_rate: gives the rate at a training step.
        clip_norm: largest global L2 norm of the gradient that reaches the optimiser.
    """

    transform: optax.GradientTransformation
    learning_rate: optax.Schedule
    clip_norm: float


Schedule = Callable[[float, int, int], optax.Schedule]
"""`(peak, steps, decay_steps)` to the rate as a function of the step after the warm-up, which has so many `steps`."""


def _constant(peak: float, steps: int, decay_steps: int) -> optax.Schedule:
    return optax.schedules.constant_schedule(peak)


def _cosine(peak: float, steps: int, decay_steps: int) -> optax.Schedule:
    return optax.schedules.cosine_decay_schedule(peak, steps, alpha=END_FRACTION)


def _linear(peak: float, steps: int, decay_steps: int) -> optax.Schedule:
    return optax.schedules.linear_schedule(peak, END_FRACTION * peak, steps)


def _stable_then_linear(peak: float, steps: int, decay_steps: int) -> optax.Schedule:
    return optax.schedules.linear_schedule(peak, END_FRACTION * peak, decay_steps, steps - decay_steps)


SCHEDULES: dict[str, Schedule] = {
    "constant": _constant,
    "cosine": _cosine,
    "linear": _linear,
    "wsd": _stable_then_linear,
}
"""Schedules by name. `wsd`, warm-up, stable, decay, is constant but for the last steps (MiniCPM, Hu et al. 2024)."""


def learning_rate(
    *,
    peak: float,
    warmup_steps: int,
    total_steps: int,
    decay: str = "constant",
    no_op_steps: int = 0,
    decay_steps: int = 0,
) -> optax.Schedule:
    """The released schedule: linear from 1e-6 to `peak`, then as `decay` says, at the end `1e-6 * peak` where it falls.

    It is indexed by the training step before its update, so the first update uses 1e-6 (or `peak` without warm-up).

    Args:
        peak: learning rate after the warm-up.
        warmup_steps: steps of the linear ramp; 0 = none.
        total_steps: training steps of the whole run, where a falling rate ends; constant afterwards.
        decay: a key of `SCHEDULES`.
        no_op_steps: steps at the start that update nothing (rate 0); the schedule starts after them.
        decay_steps: last steps in which the rate of `wsd` falls.

    Raises:
        ValueError: for an unknown `decay`, a negative length, or a falling rate that no steps are left for.
    """
    if warmup_steps < 0 or no_op_steps < 0:
        raise ValueError(f"learning_rate: warmup_steps={warmup_steps}, no_op_steps={no_op_steps} must not be negative")
    if decay not in SCHEDULES:
        raise ValueError(f"learning_rate: decay={decay!r} is unknown; use {', '.join(SCHEDULES)}")
    steps = total_steps - no_op_steps - warmup_steps
    if decay != "constant" and steps < 1:
        raise ValueError(
            f"learning_rate: total_steps={total_steps} leaves no step for the {decay} after "
            f"no_op_steps={no_op_steps} and warmup_steps={warmup_steps}; raise total_steps or shorten the warm-up"
        )
    if decay == "wsd" and not 0 < decay_steps <= steps:
        bounds = f"must lie between 1 and {steps}, the steps after the warm-up"
        raise ValueError(f"learning_rate: decay_steps={decay_steps} {bounds}")
    pieces, boundaries = [SCHEDULES[decay](peak, steps, decay_steps)], []
    if warmup_steps:
        pieces.insert(0, optax.schedules.linear_schedule(WARMUP_START_RATE, peak, warmup_steps))
        boundaries.append(no_op_steps + warmup_steps)
    if no_op_steps:
        pieces.insert(0, optax.schedules.constant_schedule(0.0))
        boundaries.insert(0, no_op_steps)
    return optax.schedules.join_schedules(pieces, boundaries)


def is_matrix(path: Any, leaf: Any) -> bool:
    """Whether a parameter is the kernel of a product or a convolution, and no gain, bias or table; by its name."""
    name = str(getattr(path[-1], "key", getattr(path[-1], "name", "")))
    return leaf.ndim >= 2 and (name == "kernel" or name.endswith("_kernel"))


def matrices(params: Params) -> Any:
    """For every parameter whether it is a matrix, see `is_matrix`."""
    return jax.tree_util.tree_map_with_path(is_matrix, params)


def _adam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    return optax.scale_by_adam(b1=b1, b2=b2, eps=eps)


def _inputs(kernel: Shaped[Array, "*axes"]) -> tuple[int, ...]:
    """Sizes of the axes that a product sums over: kernels end in inputs and outputs.

    Of a convolution the taps belong to them; what else comes first counts blocks, each with a matrix of its own.
    """
    return tuple(kernel.shape[-4:-1] if kernel.ndim == 4 else kernel.shape[-2:-1])


def _muon(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    def axes(params: Params) -> Any:
        numbers = optax.contrib.MuonDimensionNumbers
        return jax.tree.map(lambda x: numbers(tuple(range(-1 - len(_inputs(x)), -1)), (-1,)), params)

    def scaled(updates: Params, _: Any) -> Params:
        return jax.tree.map(lambda x: MUON_RMS * max(x.shape[-1], math.prod(_inputs(x))) ** 0.5 * x, updates)

    orthogonal = optax.chain(
        optax.contrib.scale_by_muon(beta=MUON_DECAY, weight_dimension_numbers=axes), optax.stateless(scaled)
    )
    kinds = {"matrix": orthogonal, "other": _adam(b1, b2, eps)}
    return optax.partition(kinds, lambda params: jax.tree.map({True: "matrix", False: "other"}.get, matrices(params)))


OPTIMIZERS: dict[str, Callable[[float, float, float], optax.GradientTransformation]] = {"adamw": _adam, "muon": _muon}
"""Directions of descent by name, made of `b1`, `b2` and `eps`. `muon` gives matrices Muon's and the rest Adam's."""

DECAYED = ("all", "matrices")
"""What weight decay pulls towards 0."""


def make_optimizer(
    schedule: optax.Schedule,
    *,
    b1: float,
    b2: float,
    weight_decay: float,
    clip_norm: float,
    eps: float = 1e-8,
    name: str = "adamw",
    decayed: str = "all",
) -> Optimizer:
    """An optimiser behind a global-norm clip; as released AdamW with decoupled decay on *all* tensors.

    Args:
        schedule: gives the learning rate at a training step, see `learning_rate`.
        b1: Adam's decay of the first moment.
        b2: Adam's decay of the second moment.
        weight_decay: decoupled decay, multiplied by the learning rate.
        clip_norm: gradients whose global L2 norm reaches it are scaled down to it.
        eps: Adam's epsilon, outside the root.
        name: a key of `OPTIMIZERS`.
        decayed: what is decayed, one of `DECAYED`; `matrices` leaves out gains, biases and tables.
    """
    mask = matrices if decayed == "matrices" else None
    transform = optax.chain(
        optax.clip_by_global_norm(clip_norm),
        OPTIMIZERS[name](b1, b2, eps),
        optax.add_decayed_weights(weight_decay, mask),
    )
    return Optimizer(transform, schedule, clip_norm)
