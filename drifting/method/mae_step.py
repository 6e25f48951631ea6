"""One step of pre-training a feature encoder: a masked autoencoder, optionally finished with a classifier.

Source: "Generative Modeling via Drifting" (Deng et al.), App. A.3, and its released recipe.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array
from jaxtyping import Float, Float32, Int32, Key

from drifting.method.micro_batches import accumulated_gradient
from drifting.method.placement import ONE_DEVICE, Placement
from drifting.method.pool import Batch
from drifting.method.space import SampleSpace
from drifting.method.state import Optimizer, TrainState, apply_gradients
from drifting.networks.mae import draw_mask, mae_loss
from drifting.networks.network import Params

MaskedSamples = tuple[
    Float[Array, "samples height width _channels"], Int32[Array, "samples"], Float32[Array, "samples rows columns 1"]
]
"""Samples, their labels, and the masks of their tokens."""


@dataclass(frozen=True)
class MAERecipe:
    """The numbers of a pre-training step.

    Attributes:
        token_size: side of a token, in pixels.
        patch_size: side of a mask patch, in tokens.
        mask_ratio_min, mask_ratio_max: the share of patches that is masked is drawn between them.
        lambda_cls: weight of the classifier's loss at the end of its ramp.
        cls_start: the step at which the ramp begins.
        cls_ramp_steps: how many steps it takes.
        micro_batch: samples whose activations exist at a time; 0 is all of them.
        no_op_steps: first steps, which update nothing.
    """

    token_size: int
    patch_size: int
    mask_ratio_min: float
    mask_ratio_max: float
    lambda_cls: float = 0.0
    cls_start: int = 0
    cls_ramp_steps: int = 0
    micro_batch: int = 0
    no_op_steps: int = 0

    def masks(self, key: Key[Array, ""], shape: tuple[int, ...]) -> Float32[Array, "samples rows columns 1"]:
        """Masks of the tokens of samples of `shape` `(samples, height, width, channels)`, see `draw_mask`."""
        height, width = (size // self.token_size for size in shape[1:3])
        return draw_mask(key, shape[0], height, width, self.patch_size, self.mask_ratio_min, self.mask_ratio_max)

    def classifier_weight(self, step: Int32[Array, ""]) -> Float32[Array, ""]:
        """Weight of the classifier's loss at a step: 0, and from `cls_start` on ramped up to `lambda_cls`."""
        ramp = (step - self.cls_start) / max(self.cls_ramp_steps, 1)
        return self.lambda_cls * jnp.clip(ramp, 0.0, 1.0)


@dataclass(frozen=True)
class MAEStepParts:
    """Everything static that a pre-training step is made of.

    Attributes:
        recipe: the numbers.
        graphdef: the structure of the autoencoder.
        space: what a sample is.
        optimizer: clipping, AdamW and schedule.
        placement: where arrays lie.
    """

    recipe: MAERecipe
    graphdef: Any = field(repr=False)
    space: SampleSpace
    optimizer: Optimizer
    placement: Placement = ONE_DEVICE


def mae_step(
    parts: MAEStepParts, state: TrainState, batch: Batch, frozen: Params, key: Key[Array, ""]
) -> tuple[TrainState, dict[str, Float32[Array, ""]]]:
    """One update of the masked autoencoder; mask and latents follow from the run's key and the step number.

    Args:
        parts: static.
        state: parameters, optimiser and averages.
        batch: `image` `[B, ...]` as the source delivers it, `label` `[B]` int32.
        frozen: `parts.space.params`.
        key: the run's key.

    Returns:
        The next state, and metrics, means over the batch.
    """
    recipe, space, placement = parts.recipe, parts.space, parts.placement
    mask_key, posterior_key = jax.random.split(jax.random.fold_in(key, state.step))
    records, labels = space.records(frozen, batch["image"], placement), batch["label"]
    samples = space.draw(frozen, records, posterior_key)
    mask = recipe.masks(mask_key, samples.shape)
    weight = recipe.classifier_weight(state.step)

    def losses(
        params: Any, inputs: MaskedSamples
    ) -> tuple[Float32[Array, "samples"], dict[str, Float[Array, "samples"]]]:
        with jax.named_scope("encoder"):
            outputs = nnx.merge(parts.graphdef, params)(*inputs)
        names = ("recon_loss", "cls_loss", "accuracy", "mask_ratio")
        return mae_loss(outputs, weight), {name: outputs[name] for name in names if name in outputs}

    inputs, mean = (samples, labels, mask), jnp.full(len(labels), 1 / len(labels))
    count = len(labels) // (recipe.micro_batch or len(labels))

    def part(params: Any, batch: tuple[MaskedSamples, Float32[Array, "samples"]]) -> Any:
        return accumulated_gradient(losses, params, *batch, count)

    (loss, outputs), gradient = placement.each(part, placement.gather(state.params), (inputs, mean))
    gradient = placement.scatter(gradient)
    metrics = {name: jnp.mean(value) for name, value in (outputs | {"loss": loss}).items()}
    state, update_metrics = apply_gradients(state, gradient, parts.optimizer, recipe.no_op_steps)
    return state, metrics | update_metrics | {"param_norm": optax.tree.norm(state.params)}
