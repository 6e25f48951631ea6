"""ConvNeXt V2, a convolutional network pre-trained on ImageNet, as a second feature encoder of images.

Source: "ConvNeXt V2: Co-designing and Scaling ConvNets with Masked Autoencoders" (Woo et al. 2023); layer for layer the
`ConvNextV2Model` of the transformers library, whose weights drifting.weights.transformers_convnext reads.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from drifting.errors import require_argument
from drifting.networks.kept import keep, products_kept
from drifting.networks.layers import EPSILON, Conv, LayerNorm, Linear, numbered

STEM_SIDE = 4
"""Side of the squares of pixels that the first convolution makes into positions."""

PRESETS: dict[str, dict[str, Any]] = {
    "smoke": dict(in_channels=3, dims=(8, 16, 24, 32), depths=(1, 1, 2, 1), pooled_epsilon=1e-12),
    "atto": dict(in_channels=3, dims=(40, 80, 160, 320), depths=(2, 2, 6, 2), pooled_epsilon=1e-12),
    "base": dict(in_channels=3, dims=(128, 256, 512, 1024), depths=(3, 3, 27, 3), pooled_epsilon=1e-12),
}
"""The smallest published network, the one of the released recipe, and one small enough to try out a machine with."""


def _shrink(inputs: int, outputs: int, side: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> Conv:
    """Convolution that makes each square of `side` x `side` into one position."""
    padding = ((0, 0), (0, 0))
    return Conv(inputs, outputs, side, stride=side, padding=padding, bias=True, dtype=dtype, rngs=rngs)


class ResponseNorm(nnx.Module):
    """Global response normalisation (Woo et al., section 3.2): channels compete by their norms over the map."""

    def __init__(self, channels: int) -> None:
        self.gain = nnx.Param(jnp.zeros((1, 1, 1, channels), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((1, 1, 1, channels), jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """`gain * x * g / (mean_c(g) + 1e-6) + bias + x` with `g = sqrt(sum_hw(x^2) + 1e-6)`, shape and dtype of `x`.

        The paper's `g` has no epsilon and no gradient where a channel is zero all over the map.
        """
        y = x.astype(jnp.float32)
        norm = jnp.sqrt(jnp.sum(y * y, axis=(1, 2), keepdims=True) + EPSILON)
        norm = norm / (jnp.mean(norm, axis=-1, keepdims=True) + EPSILON)
        return (y * (1 + self.gain[...] * norm) + self.bias[...]).astype(x.dtype)


class ConvNeXtBlock(nnx.Module):
    """Residual block: depthwise 7x7 convolution, layer norm, MLP of four times the width with response norm."""

    def __init__(self, channels: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        init = nnx.initializers.truncated_normal(0.02)
        self.depthwise = Conv(channels, channels, 7, groups=channels, bias=True, dtype=dtype, rngs=rngs)
        self.norm = LayerNorm(channels, affine=True)
        self.mlp_in = Linear(channels, 4 * channels, dtype=dtype, init=init, rngs=rngs)
        self.response_norm = ResponseNorm(4 * channels)
        self.mlp_out = Linear(4 * channels, channels, dtype=dtype, init=init, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, h, w, C]` to the same shape and dtype."""
        y = jax.nn.gelu(self.mlp_in(self.norm(self.depthwise(x))), approximate=False)
        return x + self.mlp_out(self.response_norm(y))


class ConvNeXtStage(nnx.Module):
    """Blocks of one resolution; all but the first stage begin by halving the sides."""

    def __init__(
        self, inputs: int, outputs: int, blocks: int, *, down: bool, dtype: DTypeLike, remat: bool, rngs: nnx.Rngs
    ) -> None:
        self.norm = LayerNorm(inputs, affine=True) if down else None
        self.down = _shrink(inputs, outputs, 2, dtype=dtype, rngs=rngs) if down else None
        self.remat = remat

        # All blocks are one, with a leading axis of depth in its parameters: compiled once, however many they are.
        @nnx.split_rngs(splits=blocks)
        @nnx.vmap(in_axes=0, out_axes=0)
        def make(rngs: nnx.Rngs) -> ConvNeXtBlock:
            return ConvNeXtBlock(outputs, dtype=dtype, rngs=rngs)

        self.blocks = make(rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, h, w, inputs]` to `[B, h, w, outputs]`, or half the sides (rounded down) where it begins by that."""
        if self.norm is not None and self.down is not None:
            x = self.down(self.norm(x))
        graphdef, params = nnx.split(self.blocks)

        def block(x: jax.Array, params: nnx.State) -> tuple[jax.Array, None]:
            return nnx.merge(graphdef, params)(x), None

        one = jax.checkpoint(block, policy=None if self.remat else products_kept, prevent_cse=False)
        return jax.lax.scan(lambda x, params: one(keep(x), params), x, params)[0]


class ConvNeXtV2(nnx.Module):
    """The encoder without its classifier.

    Args:
        in_channels: channels of the images.
        dims, depths: channels and blocks of each stage (`PRESETS`).
        pooled_epsilon: added to the variance in the norm of `pooled`.
        dtype: what it computes in; parameters and norm statistics are float32.
        remat: keep only each block's input for the backward pass; otherwise also its products with weights.

    Raises:
        ArgumentError: `dims` and `depths` are not equally long, or empty.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        dims: Sequence[int],
        depths: Sequence[int],
        pooled_epsilon: float,
        dtype: DTypeLike,
        remat: bool,
        rngs: nnx.Rngs,
    ) -> None:
        same = len(dims) == len(depths) > 0
        require_argument(same, "depths", list(depths), f"must have one number for each stage, as dims {list(dims)}")
        dtype = jnp.dtype(dtype)
        self.stem = _shrink(in_channels, dims[0], STEM_SIDE, dtype=dtype, rngs=rngs)
        self.stem_norm = LayerNorm(dims[0], affine=True)
        self.levels: nnx.Dict[ConvNeXtStage] = nnx.Dict()
        for k, (channels, blocks) in enumerate(zip(dims, depths, strict=True), start=1):
            inputs = dims[max(k - 2, 0)]
            self.levels[f"stage{k}"] = ConvNeXtStage(
                inputs, channels, blocks, down=k > 1, dtype=dtype, remat=remat, rngs=rngs
            )
        # Not the fast variance: it is the difference of two squares.
        self.norm = nnx.LayerNorm(dims[-1], epsilon=pooled_epsilon, use_fast_variance=False, rngs=rngs)

    def stages(self, x: jax.Array) -> dict[str, jax.Array]:
        """Each stage's output `{"stage1": [B, H/4, W/4, dims[0]], "stage2": [B, H/8, W/8, dims[1]], ..}`.

        Args:
            x: `[B, H, W, in_channels]`, normalised as in training: images in [0, 1], less their mean, over their
                standard deviation. Sides that the strides do not divide lose their last rows or columns.

        Returns:
            Maps in the compute dtype, in the order of the stages.
        """
        x = self.stem_norm(self.stem(x))
        maps = {}
        for name in numbered("stage", self.levels):
            x = maps[name] = self.levels[name](x)
        return maps

    def pooled(self, last: jax.Array) -> jax.Array:
        """Layer norm of the mean over the last stage's map: `[B, h, w, C]` to `[B, C]` of the same dtype."""
        return self.norm(jnp.mean(last.astype(jnp.float32), axis=(1, 2))).astype(last.dtype)
