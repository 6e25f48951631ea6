"""From a checked configuration to the objects it describes: source, generator, encoder, objective, optimiser."""

from typing import TypeVar

from drifting.config.schema import Config, OptimizerConfig, PretrainConfig
from drifting.method import state as train_state
from drifting.method.kernels import KERNELS
from drifting.method.loss import Objective

Settings = TypeVar("Settings", Config, PretrainConfig)


def objective(config: Config) -> Objective:
    """The static part of the loss."""
    loss = config.loss
    return Objective(loss.objective, KERNELS[loss.kernel], loss.normalise_field, loss.feature_scale)


def optimizer(config: OptimizerConfig, steps: int) -> train_state.Optimizer:
    """Clip, AdamW and schedule for a run of so many steps."""
    schedule = train_state.learning_rate(
        peak=config.learning_rate,
        warmup_steps=config.warmup_steps,
        total_steps=steps,
        decay=config.decay,
        no_op_steps=config.no_op_steps,
    )
    return train_state.make_optimizer(
        schedule,
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        clip_norm=config.clip_norm,
    )
