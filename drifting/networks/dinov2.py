"""DINOv2, a vision transformer trained without labels, as a feature encoder of images.

Source: "DINOv2: Learning Robust Visual Features without Supervision" (Oquab et al. 2023), a ViT (Dosovitskiy et al.
2021) with layer scale (Touvron et al. 2021); layer for layer the `Dinov2Model` of the transformers library, whose
weights drifting.weights.transformers_dinov2 reads. The largest network, ViT-g/14, has a gated MLP and is not of this
class.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from drifting.errors import InputError, counted, require_argument
from drifting.networks.kept import keep, products_kept
from drifting.networks.layers import LayerNorm, Linear, patchify

_COMMON: dict[str, Any] = dict(mlp_ratio=4, patch_size=14, in_channels=3, qkv_bias=True, epsilon=1e-6)

PRESETS: dict[str, dict[str, Any]] = {
    "smoke": dict(hidden_size=16, depth=2, num_heads=2, image_size=42) | _COMMON,
    "small": dict(hidden_size=384, depth=12, num_heads=6, image_size=518) | _COMMON,
    "base": dict(hidden_size=768, depth=12, num_heads=12, image_size=518) | _COMMON,
    "large": dict(hidden_size=1024, depth=24, num_heads=16, image_size=518) | _COMMON,
}
"""ViT-S/14, ViT-B/14 and ViT-L/14 as published, and one small enough to try out a machine with."""

_init = nnx.initializers.truncated_normal(0.02)


def bicubic_weights(old: int, new: int) -> np.ndarray:
    """Weights float32 `[new, old]` that resize a line of `old` numbers to `new`, without antialiasing.

    Cubic convolution (Keys 1981) with `a = -0.75`, pixel centres at halves and the border repeated: the bicubic
    `interpolate` of PyTorch with `align_corners=False`. `jax.image.resize` has `a = -0.5` and no repeated border.
    """
    a = -0.75
    centre = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(centre).astype(int) - 1
    weights = np.zeros((new, old))
    for k in range(4):
        x = np.abs(centre - (first + k))
        near = (a + 2) * x**3 - (a + 3) * x**2 + 1
        far = a * (x**3 - 5 * x**2 + 8 * x - 4)
        np.add.at(weights, (np.arange(new), np.clip(first + k, 0, old - 1)), np.where(x <= 1, near, far))
    return weights.astype(np.float32)


class PatchEmbedding(nnx.Module):
    """Convolution of patches that do not overlap, as the one matrix product that it is; float32 parameters."""

    rounded = ("kernel", "bias")

    def __init__(self, channels: int, outputs: int, patch: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.kernel = nnx.Param(_init(rngs.params(), (patch, patch, channels, outputs), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32))
        self.dtype = jnp.dtype(dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, channels]` to `[B, H/patch * W/patch, outputs]` in the compute dtype, row by row."""
        patch, _, channels, outputs = self.kernel.shape
        y = patchify(x.astype(self.dtype), patch).reshape(-1, patch * patch * channels)
        y = y @ self.kernel[...].astype(self.dtype).reshape(-1, outputs) + self.bias[...].astype(self.dtype)
        return y.reshape(x.shape[0], -1, outputs)


class DINOv2Block(nnx.Module):
    """Pre-norm transformer block; a learned factor for each channel scales what its two halves add (layer scale)."""

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        mlp_width: int,
        *,
        qkv_bias: bool,
        epsilon: float,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        # Flax's own may be without biases.
        def projection() -> nnx.Linear:
            return nnx.Linear(hidden_size, hidden_size, use_bias=qkv_bias, dtype=dtype, kernel_init=_init, rngs=rngs)

        self.num_heads = num_heads
        self.norm1 = LayerNorm(hidden_size, affine=True, epsilon=epsilon)
        self.query, self.key, self.value = projection(), projection(), projection()
        self.attention_out = Linear(hidden_size, hidden_size, dtype=dtype, init=_init, rngs=rngs)
        self.scale1 = nnx.Param(jnp.ones(hidden_size, jnp.float32))
        self.norm2 = LayerNorm(hidden_size, affine=True, epsilon=epsilon)
        self.mlp_in = Linear(hidden_size, mlp_width, dtype=dtype, init=_init, rngs=rngs)
        self.mlp_out = Linear(mlp_width, hidden_size, dtype=dtype, init=_init, rngs=rngs)
        self.scale2 = nnx.Param(jnp.ones(hidden_size, jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, N, C]` to the same shape and dtype."""
        x = x + self.scale1[...].astype(x.dtype) * self.attention(self.norm1(x))
        y = jax.nn.gelu(self.mlp_in(self.norm2(x)), approximate=False)
        return x + self.scale2[...].astype(x.dtype) * self.mlp_out(y)

    def attention(self, x: jax.Array) -> jax.Array:
        """Multi-head self-attention, `[B, N, C]` to the same shape and dtype; its softmax is float32."""
        q, k, v = (f(x).reshape(*x.shape[:2], self.num_heads, -1) for f in (self.query, self.key, self.value))
        return self.attention_out(jax.nn.dot_product_attention(q, k, v).reshape(x.shape))


class DINOv2(nnx.Module):
    """The encoder without its classifier and without the token that stands for masked patches in training.

    Args:
        hidden_size, depth, num_heads, mlp_ratio: the transformer (`PRESETS`); heads divide the hidden size.
        patch_size: side of the squares of pixels that become tokens.
        image_size: side of the images that the table of positions is for, a multiple of `patch_size`.
        in_channels: channels of the images.
        qkv_bias: queries, keys and values have biases.
        epsilon: added to the variance in every norm.
        dtype: what it computes in; parameters, norm statistics and the attention's softmax are float32.
        remat: keep only each block's input for the backward pass; otherwise also its products with weights.

    Raises:
        ArgumentError: `num_heads` does not divide `hidden_size`, or `patch_size` not `image_size`.
    """

    def __init__(
        self,
        *,
        hidden_size: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        patch_size: int,
        image_size: int,
        in_channels: int = 3,
        qkv_bias: bool,
        epsilon: float,
        dtype: DTypeLike,
        remat: bool,
        rngs: nnx.Rngs,
    ) -> None:
        require_argument(hidden_size % num_heads == 0, "num_heads", num_heads, f"must divide hidden_size {hidden_size}")
        require_argument(image_size % patch_size == 0, "patch_size", patch_size, f"must divide image_size {image_size}")
        dtype = jnp.dtype(dtype)
        self.depth, self.patch_size, self.in_channels = depth, patch_size, in_channels
        self.side, self.dtype, self.remat = image_size // patch_size, dtype, remat
        self.patch_embed = PatchEmbedding(in_channels, hidden_size, patch_size, dtype=dtype, rngs=rngs)
        self.class_token = nnx.Param(_init(rngs.params(), (1, 1, hidden_size), jnp.float32))
        # The class token's position comes first, then those of the patches, row by row.
        self.positions = nnx.Param(_init(rngs.params(), (1, 1 + self.side**2, hidden_size), jnp.float32))
        width = int(mlp_ratio * hidden_size)

        # All blocks are one, with a leading axis of depth in its parameters: compiled once, however many they are.
        @nnx.split_rngs(splits=depth)
        @nnx.vmap(in_axes=0, out_axes=0)
        def make(rngs: nnx.Rngs) -> DINOv2Block:
            return DINOv2Block(
                hidden_size, num_heads, width, qkv_bias=qkv_bias, epsilon=epsilon, dtype=dtype, rngs=rngs
            )

        self.blocks = make(rngs)
        self.norm = LayerNorm(hidden_size, affine=True, epsilon=epsilon)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The last block's patch tokens `[B, h, w, C]` and the class token `[B, C]`: see `tokens`."""
        maps, class_token = self.tokens(x, (self.depth,))
        return maps[f"block{self.depth}"], class_token

    def tokens(self, x: jax.Array, layers: Sequence[int]) -> tuple[dict[str, jax.Array], jax.Array]:
        """Patch tokens after some of the blocks, and the class token after the last one; all after the final norm.

        Args:
            x: `[B, H, W, in_channels]`, normalised as in training: images in [0, 1], less their mean, over their
                standard deviation. The positions are resized, bicubically, to those of the image.
            layers: numbers of blocks, counted from 1; none is allowed.

        Returns:
            `{"block3": [B, H/patch, W/patch, C], ..}` in the order of `layers`, and `[B, C]`, in the compute dtype.

        Raises:
            InputError: `patch_size` does not divide both sides, or the channels are others.
            ArgumentError: there is no such block.
        """
        self._check(x, layers)
        height, width = (side // self.patch_size for side in x.shape[1:3])
        every = math.gcd(self.depth, *layers)
        outputs = self._outputs(self._embed(x), every)
        maps = {}
        for k in layers:
            patches = self.norm(outputs[k // every - 1][:, 1:])
            maps[f"block{k}"] = patches.reshape(x.shape[0], height, width, patches.shape[-1])
        return maps, self.norm(outputs[-1][:, 0])

    def _check(self, x: jax.Array, layers: Sequence[int]) -> None:
        height, width, channels = x.shape[1:]
        if height % self.patch_size or width % self.patch_size or not height * width:
            raise InputError(f"image of {height} x {width} pixels: its sides must be multiples of {self.patch_size}")
        if channels != self.in_channels:
            raise InputError(f"image of {counted(channels, 'channel')}: the network takes {self.in_channels}")
        known = all(1 <= k <= self.depth for k in layers)
        require_argument(known, "layers", list(layers), f"must be numbers of blocks, from 1 to {self.depth}")

    def _embed(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, in_channels]` to tokens `[B, 1 + h*w, C]` with their positions, the class token first."""
        patches = self.patch_embed(x)
        first = jnp.broadcast_to(self.class_token[...].astype(self.dtype), (x.shape[0], 1, patches.shape[-1]))
        height, width = (side // self.patch_size for side in x.shape[1:3])
        return jnp.concatenate([first, patches], axis=1) + self._positions(height, width).astype(self.dtype)

    def _positions(self, height: int, width: int) -> jax.Array:
        """Float32 positions `[1, 1 + h*w, C]` of a map of that size."""
        table = self.positions[...]
        if (height, width) == (self.side, self.side):
            return table
        patches = jnp.einsum(
            "ij,kl,jlc->ikc",
            bicubic_weights(self.side, height),
            bicubic_weights(self.side, width),
            table[0, 1:].reshape(self.side, self.side, -1),
            precision=jax.lax.Precision.HIGHEST,
        )
        return jnp.concatenate([table[:, :1], patches.reshape(1, height * width, -1)], axis=1)

    def _outputs(self, x: jax.Array, every: int) -> jax.Array:
        """Tokens `[depth / every, B, N, C]` after every so many blocks, of `[B, N, C]`."""
        graphdef, params = nnx.split(self.blocks)

        def block(x: jax.Array, params: nnx.State) -> tuple[jax.Array, None]:
            return nnx.merge(graphdef, params)(x), None

        one = jax.checkpoint(block, policy=None if self.remat else products_kept, prevent_cse=False)

        # A scan in a scan keeps only the outputs that are asked for, and still compiles one block.
        def several(x: jax.Array, params: nnx.State) -> tuple[jax.Array, jax.Array]:
            x, _ = jax.lax.scan(lambda x, params: one(keep(x), params), x, params)
            return x, x

        params = jax.tree.map(lambda p: p.reshape(self.depth // every, every, *p.shape[1:]), params)
        return jax.lax.scan(several, x, params)[1]
