"""Building blocks of the networks: norms, rotary positions, sin-cos tables, patches. Statistics are always float32.

Everything here is a pure function or a small `nnx.Module` whose parameters are float32 whatever it computes in.
"""

import math
from collections.abc import Sized

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jax.typing import DTypeLike

EPSILON = 1e-6
"""Added to variances and mean squares by every norm of the released recipe."""


def numbered(prefix: str, modules: Sized) -> list[str]:
    """Names `prefix1`, `prefix2`, .. of the modules of a dict, in that order.

    A module merged from parameters has its dicts sorted by name, `layer10` before `layer2`: never rely on their order.
    """
    return [f"{prefix}{k}" for k in range(1, len(modules) + 1)]


def patchify(x: jax.Array, patch: int) -> jax.Array:
    """`[B, H, W, C]` to `[B, H/p, W/p, p*p*C]`, features in (row in patch, column in patch, channel) order."""
    return rearrange(x, "b (h p) (w q) c -> b h w (p q c)", p=patch, q=patch)


def unpatchify(x: jax.Array, patch: int) -> jax.Array:
    """Inverse of `patchify`: `[B, h, w, p*p*C]` to `[B, h*p, w*p, C]`."""
    return rearrange(x, "b h w (p q c) -> b (h p) (w q) c", p=patch, q=patch)


def rms_norm(x: jax.Array, gain: jax.Array) -> jax.Array:
    """`gain * x / sqrt(mean(x^2) + eps)` over the last axis; the result has the dtype of `x`."""
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + EPSILON)
    return (y * gain).astype(x.dtype)


def layer_norm(x: jax.Array) -> jax.Array:
    """`(x - mean) / sqrt(var + eps)` over the last axis, biased variance; the result has the dtype of `x`."""
    y = x.astype(jnp.float32)
    y = y - jnp.mean(y, axis=-1, keepdims=True)
    return (y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + EPSILON)).astype(x.dtype)


class Linear(nnx.Module):
    """`x @ kernel + bias` over the last axis; float32 parameters, computed in `dtype`."""

    def __init__(self, inputs: int, outputs: int, *, dtype: DTypeLike, init: nnx.Initializer, rngs: nnx.Rngs) -> None:
        self.kernel = nnx.Param(init(rngs.params(), (inputs, outputs), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32))
        self.dtype = jnp.dtype(dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[..., inputs]` to `[..., outputs]`."""
        # Two-dimensional products: XLA's CPU backend transposes a copy of every other gradient's operand.
        y = x.astype(self.dtype).reshape(-1, x.shape[-1]) @ self.kernel[...].astype(self.dtype)
        return (y + self.bias[...].astype(self.dtype)).reshape(*x.shape[:-1], y.shape[-1])


class RMSNorm(nnx.Module):
    """Root-mean-square norm with a learned gain (Zhang & Sennrich 2019)."""

    def __init__(self, features: int) -> None:
        self.gain = nnx.Param(jnp.ones(features, jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[..., features]` to the same shape and dtype."""
        return rms_norm(x, self.gain[...])


class LayerNorm(nnx.Module):
    """Layer norm; `affine=False` has no parameters at all (the adaLN blocks bring their own scale and shift)."""

    def __init__(self, features: int, *, affine: bool) -> None:
        self.gain = nnx.Param(jnp.ones(features, jnp.float32)) if affine else None
        self.bias = nnx.Param(jnp.zeros(features, jnp.float32)) if affine else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[..., features]` to the same shape and dtype."""
        if self.gain is None or self.bias is None:
            return layer_norm(x)
        return (layer_norm(x.astype(jnp.float32)) * self.gain[...] + self.bias[...]).astype(x.dtype)


class Conv(nnx.Module):
    """Square convolution with symmetric padding (`SAME` pads strided ones on one side only); float32 parameters."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        *,
        stride: int = 1,
        bias: bool = False,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        init = nnx.initializers.lecun_normal()
        self.kernel = nnx.Param(init(rngs.params(), (size, size, inputs, outputs), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32)) if bias else None
        self.stride, self.dtype = stride, jnp.dtype(dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, inputs]` to `[B, ceil(H/stride), ceil(W/stride), outputs]`."""
        x, kernel = x.astype(self.dtype), self.kernel[...].astype(self.dtype)
        pad = kernel.shape[0] // 2
        # XLA's CPU backend is up to fifty times slower than matrix products where the kernel is larger than the map.
        if -(-min(x.shape[1:3]) // self.stride) < kernel.shape[0]:
            y = _convolve_few(x, kernel, self.stride)
        else:
            strides, padding, layout = (self.stride,) * 2, ((pad, pad),) * 2, ("NHWC", "HWIO", "NHWC")
            y = jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=layout)
        return y if self.bias is None else y + self.bias[...].astype(self.dtype)


def _convolve_few(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """The same convolution as one matrix product for each kernel element."""
    size, pad = kernel.shape[0], kernel.shape[0] // 2
    height, width = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    products = [
        x[:, i : i + height : stride, j : j + width : stride] @ kernel[i, j] for i in range(size) for j in range(size)
    ]
    return sum(products[1:], start=products[0])


def group_count(channels: int) -> int:
    """The largest divisor of `channels` that is at most 32."""
    return max(g for g in range(1, min(32, channels) + 1) if channels % g == 0)


class GroupNorm(nnx.Module):
    """Group norm (Wu & He 2018) over contiguous channel groups, `group_count` of them; biased variance."""

    def __init__(self, channels: int) -> None:
        self.gain = nnx.Param(jnp.ones(channels, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(channels, jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, C]` to the same shape and dtype."""
        groups = group_count(x.shape[-1])
        y = x.astype(jnp.float32)
        # Channels first, groups after: both reductions then run over whole rows of the contiguous channel axis.
        mean = _over_group(jnp.mean(y, axis=(1, 2)), groups)
        y = y - mean[:, None, None, :]
        variance = _over_group(jnp.mean(y * y, axis=(1, 2)), groups)
        scale = jax.lax.rsqrt(variance + EPSILON) * self.gain[...]
        return (y * scale[:, None, None, :] + self.bias[...]).astype(x.dtype)


def _over_group(per_channel: jax.Array, groups: int) -> jax.Array:
    """Mean of `[B, C]` over each channel's group, given back per channel."""
    b, c = per_channel.shape
    means = jnp.mean(per_channel.reshape(b, groups, c // groups), axis=-1)
    return jnp.repeat(means, c // groups, axis=-1, total_repeat_length=c)


def rotary_angles(length: int, features: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine tables `[length, features]` of 1-D rotary positions, frequencies `1e4^(-k / (features/2))`."""
    frequency = 1e4 ** (-np.arange(features // 2) / (features // 2))
    angle = np.arange(length)[:, None] * np.concatenate([frequency, frequency])
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def rotate(x: jax.Array, cos: np.ndarray, sin: np.ndarray) -> jax.Array:
    """Rotary positions (Su et al. 2021), half-split pairs: `[..., N, d]` to float32 of the same shape."""
    y = x.astype(jnp.float32)
    first, second = jnp.split(y, 2, axis=-1)
    return y * cos + jnp.concatenate([-second, first], axis=-1) * sin


def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Softmax attention of `[B, heads, N, d]`, scaled by `1/sqrt(d)`; products in the inputs' dtype, result float32."""
    logits = jnp.einsum("bhnd,bhmd->bhnm", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    weights = jax.nn.softmax(logits).astype(v.dtype)
    return jnp.einsum("bhnm,bhmd->bhnd", weights, v, preferred_element_type=jnp.float32)


def sincos_table(height: int, width: int, features: int) -> np.ndarray:
    """2-D sine-cosine positions `[height*width, features]` (MAE, DiT): a half of the features for each coordinate."""
    quarter = features // 4
    frequency = 1e4 ** (-np.arange(quarter) / quarter)
    row, column = np.divmod(np.arange(height * width), width)
    angles = [coordinate[:, None] * frequency for coordinate in (column, row)]
    return np.concatenate([f(a) for a in angles for f in (np.sin, np.cos)], axis=1).astype(np.float32)


def fourier_features(t: jax.Array, features: int) -> jax.Array:
    """`[B]` to float32 `[B, features]`: `[cos(t f), sin(t f)]`, `f_k = 1e4^(-k / (features/2))`."""
    half = features // 2
    frequency = jnp.exp(-math.log(1e4) * jnp.arange(half, dtype=jnp.float32) / half)
    angle = t.astype(jnp.float32)[:, None] * frequency
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)
