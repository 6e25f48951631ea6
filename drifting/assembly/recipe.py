"""The numbers of a step, and the optimiser, from settings."""

import logging

from drifting.config.schema import Config, LossConfig, OptimizerConfig
from drifting.errors import counted, one_of
from drifting.method.fields import FIELDS
from drifting.method.fused import is_covered, sizes_of
from drifting.method.guidance import GuidancePrior
from drifting.method.kernels import KERNELS
from drifting.method.loss_program import MOST_PAIRS, SUBLANES
from drifting.method.objective import FEATURE_SCALES, FUSED_PLATFORMS, KERNEL_BACKENDS, LOSS_MEMORY, Objective
from drifting.method.optimizer import DECAYED, OPTIMIZERS, SCHEDULES, Optimizer, learning_rate, make_optimizer
from drifting.method.potentials import LOSSES
from drifting.method.step import Recipe

logger = logging.getLogger("drifting")


def recipe_of(config: Config, platform: str | None = None) -> Recipe:
    """The numbers of a step, for devices of a platform; None: the default backend.

    Raises:
        ConfigError: there is no such objective, kernel or feature scale.
    """
    loss, guidance = config.loss, config.guidance
    return Recipe(
        objective=objective_of(config.loss, platform),
        guidance=GuidancePrior(guidance.alpha_min, guidance.alpha_max, guidance.exponent, guidance.p_one),
        labels=loss.labels,
        generated=loss.generated,
        positives=loss.positives,
        unconditional=loss.unconditional,
        micro_batch=config.train.micro_batch,
        no_op_steps=config.optimizer.no_op_steps,
        neighbours=loss.neighbours,
        neighbour_decay=loss.neighbour_decay,
    )


def objective_of(loss: LossConfig, platform: str | None = None) -> Objective:
    """The static part of the loss, for devices of a platform; None: the default backend.

    Raises:
        ConfigError: there is no such objective, kernel, feature scale or backend.
    """
    one_of("loss.objective", loss.objective, [*LOSSES, *FIELDS])
    one_of("loss.kernel", loss.kernel, KERNELS)
    one_of("loss.feature_scale", loss.feature_scale, FEATURE_SCALES)
    one_of("loss.kernel_backend", loss.kernel_backend, KERNEL_BACKENDS)
    memory = None if platform is None else LOSS_MEMORY.get(platform, LOSS_MEMORY["gpu"])
    fused = platform if platform in FUSED_PLATFORMS and loss.kernel_backend == "pallas" else None
    return Objective(loss.objective, KERNELS[loss.kernel], loss.normalise_field, loss.feature_scale, memory, fused)


def tell_of_kernels(loss: LossConfig, objective: Objective) -> None:
    """Says where kernels are asked for and yet the loss is computed as operations of JAX, and why."""
    if loss.kernel_backend != "pallas":
        return
    reason = why_uncovered(loss, objective)
    if reason is not None:
        logger.warning("loss.kernel_backend=pallas: the loss is computed as operations of JAX, because %s", reason)


def why_uncovered(loss: LossConfig, objective: Objective) -> str | None:
    """Why kernels do not compute the loss, whatever its features are; None: they do."""
    counts = loss.generated, loss.unconditional, loss.positives
    if objective.fused is None:
        return "there are kernels for GPUs and TPUs alone"
    if not is_covered(objective, (16, 16, 16), 1):
        return f"there are none of {loss.objective} with {loss.kernel}"
    if is_covered(objective, counts, 1):
        return None
    sizes = sizes_of(objective, counts)
    if sizes.pairs <= MOST_PAIRS:
        return f"on a TPU loss.generated={loss.generated} must be a multiple of {SUBLANES} beside unconditional samples"
    samples = f"{counts[0]} generated, {counts[1]} unconditional and {counted(counts[2], 'positive')}"
    filled = ", filled up to powers of two," if sizes.pairs > counts[0] * (counts[0] + counts[1] + counts[2]) else ""
    return f"a program has room for {MOST_PAIRS:,} pairs, and {samples}{filled} are {sizes.pairs:,}"


def optimizer_of(config: OptimizerConfig, steps: int) -> Optimizer:
    """Clip, optimiser and schedule for a run of so many steps.

    Raises:
        ConfigError: there is no such optimiser, schedule or choice of what decays.
    """
    one_of("optimizer.name", config.name, OPTIMIZERS)
    one_of("optimizer.decay", config.decay, SCHEDULES)
    one_of("optimizer.decayed", config.decayed, DECAYED)
    schedule = learning_rate(
        peak=config.learning_rate,
        warmup_steps=config.warmup_steps,
        total_steps=steps,
        decay=config.decay,
        no_op_steps=config.no_op_steps,
        decay_steps=config.decay_steps,
    )
    return make_optimizer(
        schedule,
        name=config.name,
        decayed=config.decayed,
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        clip_norm=config.clip_norm,
    )
