"""Building blocks of the networks: norms, rotary positions, sin-cos tables, patches. Statistics are always float32.

Everything here is a pure function or a small `nnx.Module` whose parameters are float32 whatever it computes in. The
norms are not Flax's, whose parameters have another name (`scale`) than artifacts and checkpoints have (`gain`).
"""

import math
from collections.abc import Sequence, Sized
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jax.custom_derivatives import SymbolicZero
from jax.typing import DTypeLike

from drifting.networks.kept import keep

EPSILON = 1e-6
"""Added to variances and mean squares by every norm of the released recipe."""

COMPUTE_DTYPES = ("float32", "bfloat16")
"""What networks may compute in."""

Padding = tuple[tuple[int, int], tuple[int, int]]
"""Zeros before and after the rows, and before and after the columns, of a map."""


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


def height_and_width(size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width, of a square's side or of both."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def rms_unit(x: jax.Array) -> jax.Array:
    """`x / sqrt(mean(x^2) + eps)` over the last axis, float32."""
    y = x.astype(jnp.float32)
    return y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + EPSILON)


@jax.custom_vjp
def modulated(unit: jax.Array, gain: jax.Array, scale: jax.Array) -> jax.Array:
    """`unit * gain` in the dtype of `scale`, times `scale`, which is one for all tokens.

    Args:
        unit: float32 `[..., N, features]`.
        gain: float32 `[features]`.
        scale: `[..., 1, features]`.
    """
    return (unit * gain).astype(scale.dtype) * scale


def _modulated_backward(kept: tuple[jax.Array, ...], slope: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The slopes of both factors from one sum over the tokens: autodiff has one for each, and an array between them."""
    unit, gain, scale = kept
    slope = slope.astype(jnp.float32)
    total = jnp.sum(slope * unit, axis=-2, keepdims=True)
    dgain = jnp.sum(total * scale, axis=tuple(range(total.ndim - 1)))
    return slope * (gain * scale), dgain, (total * gain).astype(scale.dtype)


modulated.defvjp(lambda *given: (modulated(*given), given), _modulated_backward)


def layer_norm(x: jax.Array, epsilon: float = EPSILON) -> jax.Array:
    """`(x - mean) / sqrt(var + epsilon)` over the last axis, biased variance; the result has the dtype of `x`."""
    y = x.astype(jnp.float32)
    y = y - jnp.mean(y, axis=-1, keepdims=True)
    return (y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + epsilon)).astype(x.dtype)


class Linear(nnx.Module):
    """`x @ kernel + bias` over the last axis; float32 parameters, computed in `dtype`."""

    rounded = ("kernel", "bias")

    def __init__(self, inputs: int, outputs: int, *, dtype: DTypeLike, init: nnx.Initializer, rngs: nnx.Rngs) -> None:
        self.kernel = nnx.Param(init(rngs.params(), (inputs, outputs), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32))
        self.dtype = jnp.dtype(dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[..., inputs]` to `[..., outputs]`."""
        # Two-dimensional products: XLA's CPU backend transposes a copy of every other gradient's operand.
        y = x.astype(self.dtype).reshape(-1, x.shape[-1]) @ self.kernel[...].astype(self.dtype)
        return (y + self.bias[...].astype(self.dtype)).reshape(*x.shape[:-1], y.shape[-1])


def embed(table: jax.Array, rows: jax.Array) -> jax.Array:
    """The sum of some rows of a table, as a product with zeros and ones.

    The gradient of a lookup by index adds rows of the output to rows of the table: on a GPU by atomics, whose order and
    so whose rounding differ from run to run, on a TPU row by row. That of a product is a product.

    Args:
        table: float32 `[tables, R, features]`.
        rows: int32 `[B, tables]` in `[0, R)`, one row of each table.

    Returns:
        Float32 `[B, features]`.
    """
    tables, count, features = table.shape
    chosen = jax.nn.one_hot(rows, count, dtype=table.dtype).reshape(-1, tables * count)
    return jnp.matmul(chosen, table.reshape(tables * count, features), precision=jax.lax.Precision.HIGHEST)


class RMSNorm(nnx.Module):
    """Root-mean-square norm with a learned gain (Zhang & Sennrich 2019)."""

    def __init__(self, features: int) -> None:
        self.gain = nnx.Param(jnp.ones(features, jnp.float32))

    def __call__(self, x: jax.Array, scale: jax.Array | None = None) -> jax.Array:
        """`[..., features]` to the same shape and dtype, times a `scale` of that dtype, see `modulated`."""
        if scale is None:
            return (rms_unit(x) * self.gain[...]).astype(x.dtype)
        return modulated(rms_unit(x), self.gain[...], scale)


class LayerNorm(nnx.Module):
    """Layer norm; `affine=False` has no parameters at all (the adaLN blocks bring their own scale and shift).

    `epsilon` is added to the variance.
    """

    def __init__(self, features: int, *, affine: bool, epsilon: float = EPSILON) -> None:
        self.gain = nnx.Param(jnp.ones(features, jnp.float32)) if affine else None
        self.bias = nnx.Param(jnp.zeros(features, jnp.float32)) if affine else None
        self.epsilon = epsilon

    def __call__(self, x: jax.Array, scale: jax.Array | None = None) -> jax.Array:
        """`[..., features]` to the same shape and dtype, times a `scale` of that dtype."""
        y = layer_norm(x if self.gain is None else x.astype(jnp.float32), self.epsilon)
        if self.gain is not None and self.bias is not None:
            y = (y * self.gain[...] + self.bias[...]).astype(x.dtype)
        return y if scale is None else y * scale


class Conv(nnx.Module):
    """Convolution with symmetric padding (`SAME` pads strided ones on one side only); float32 parameters.

    Args:
        inputs, outputs: channels.
        size: height and width of the kernel, one number for both.
        stride: the stride of both axes.
        padding: zeros before and after each spatial axis; None = half the kernel, rounded down, on all sides.
        groups: the inputs are split into so many groups, each convolved by itself; `groups=inputs` is depthwise.
        bias: add a learned one.
        dtype: what it computes in.
    """

    rounded = ("kernel", "bias")

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int | tuple[int, int],
        *,
        stride: int = 1,
        padding: Padding | None = None,
        groups: int = 1,
        bias: bool = False,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        size = (size, size) if isinstance(size, int) else size
        init = nnx.initializers.lecun_normal()
        self.kernel = nnx.Param(init(rngs.params(), (*size, inputs // groups, outputs), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32)) if bias else None
        before = [side // 2 for side in size]
        self.padding: Padding = ((before[0],) * 2, (before[1],) * 2) if padding is None else padding
        self.stride, self.groups, self.dtype = stride, groups, jnp.dtype(dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, inputs]` to `[B, h, w, outputs]`, `h = (H + padding - size) // stride + 1`."""
        x, kernel = x.astype(self.dtype), self.kernel[...].astype(self.dtype)
        # XLA's CPU backend is up to fifty times slower than matrix products where the kernel is larger than the map.
        few = any(-(-side // self.stride) < k for side, k in zip(x.shape[1:3], kernel.shape[:2], strict=True))
        if few and self.groups == 1:
            y = _convolve_few(x, kernel, self.stride, self.padding)
        else:
            y = jax.lax.conv_general_dilated(
                x,
                kernel,
                (self.stride,) * 2,
                self.padding,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=self.groups,
            )
        return y if self.bias is None else y + self.bias[...].astype(self.dtype)


def _convolve_few(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    """The same convolution as one matrix product for each kernel element."""
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    rows, columns = kernel.shape[:2]
    height, width = x.shape[1] - rows + 1, x.shape[2] - columns + 1
    products = [
        x[:, i : i + height : stride, j : j + width : stride] @ kernel[i, j]
        for i in range(rows)
        for j in range(columns)
    ]
    return sum(products[1:], start=products[0])


def group_count(channels: int) -> int:
    """The largest divisor of `channels` that is at most 32."""
    return max(g for g in range(1, min(32, channels) + 1) if channels % g == 0)


class GroupNorm(nnx.Module):
    """Group norm (Wu & He 2018) over `groups` contiguous channel groups (None: `group_count`); biased variance."""

    def __init__(self, channels: int, groups: int | None = None) -> None:
        self.groups = group_count(channels) if groups is None else groups
        self.gain = nnx.Param(jnp.ones(channels, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(channels, jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, C]` to the same shape and dtype."""
        return group_normalised(x, self.gain[...], self.bias[...], self.groups)


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def group_normalised(x: jax.Array, gain: jax.Array, bias: jax.Array, groups: int) -> jax.Array:
    """`x` `[B, H, W, C]` with mean 0 and variance 1 in each group, times the gain, plus the bias; in `x`'s dtype.

    Sums are in float32. One in bfloat16 is read twice in each direction, once for all sums and once for the result.
    """
    centred, inverse = _centred(x, groups)
    return (centred * (inverse * gain) + bias).astype(x.dtype)


@partial(group_normalised.defjvp, symbolic_zeros=True)
def _of_tangents(groups: int, given: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    """In closed form: what autodiff makes of the sums goes through the array more often.

    What does not change has no array of zeros for its tangent: within a `shard_map` none could be made of the
    parameters of a frozen network, which lie outside it.
    """
    (x, gain, bias), (dx, dgain, dbias) = given, tangents
    centred, inverse = _centred(x, groups)
    slope = jnp.zeros_like(centred)
    if not _unchanged(dx):
        d = dx.astype(jnp.float32)
        shared, along = (_over_group(jnp.mean(of, axis=(1, 2)), groups)[:, None, None] for of in (d, d * centred))
        # Not `* (inverse * gain)`, a factor that the result has, too: XLA would keep it on a CPU, as large as the map.
        slope = (d - shared - centred * (jnp.square(inverse) * along)) * inverse * gain
    if not _unchanged(dgain):
        slope += centred * (inverse * dgain)
    if not _unchanged(dbias):
        slope += dbias
    return (centred * (inverse * gain) + bias).astype(x.dtype), slope.astype(x.dtype)


def _unchanged(tangent: Any) -> bool:
    return isinstance(tangent, SymbolicZero)


def _centred(x: jax.Array, groups: int) -> tuple[jax.Array, jax.Array]:
    """`x` less the mean of its group, float32, and `[B, 1, 1, C]` what makes its variance 1."""
    y = x.astype(jnp.float32)
    # Channels first, groups after: the reductions then run over whole rows of the contiguous channel axis.
    if x.dtype == jnp.float32:  # the deviations' own squares, which are exact to the last digits
        centred = y - _over_group(jnp.mean(y, axis=(1, 2)), groups)[:, None, None]
        variance = _over_group(jnp.mean(centred * centred, axis=(1, 2)), groups)
        return centred, jax.lax.rsqrt(variance + EPSILON)[:, None, None]
    # Both sums in one read, and all of a group in one more; their difference loses less than bfloat16 has lost.
    first, second = (_over_group(jnp.mean(of, axis=(1, 2)), groups)[:, None, None] for of in (y, y * y))
    variance = jnp.maximum(second - jnp.square(first), 0.0)
    return y - first, jax.lax.rsqrt(variance + EPSILON)


def _over_group(per_channel: jax.Array, groups: int) -> jax.Array:
    """Mean of `[B, C]` over each channel's group, given back per channel."""
    b, c = per_channel.shape
    grouped = (b, groups, c // groups)
    means = jnp.mean(per_channel.reshape(grouped), axis=-1, keepdims=True)
    # Not `jnp.repeat` with its total length: a gather, whose gradient is added up by atomics on a GPU, in any order.
    return jnp.broadcast_to(means, grouped).reshape(b, c)


def apply_remat(module: nnx.Module, x: jax.Array, remat: bool) -> jax.Array:
    """`module(x)`, recomputed in the backward pass if `remat`."""
    if not remat:
        return module(x)
    graphdef, params = nnx.split(module)
    return jax.checkpoint(lambda params, x: nnx.merge(graphdef, params)(x))(params, keep(x))


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


@jax.custom_vjp
def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Softmax attention of `[B, heads, N, d]`, scaled by `1/sqrt(d)`; products in the inputs' dtype, result float32.

    The gradient is in closed form (Dao et al. 2022, App. B.2): what autodiff makes of the softmax goes through the
    array of all pairs of tokens more often. There is no forward-mode derivative.
    """
    return _attend(q, k, v)[0]


def _attend(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What `attend` gives, and how much each token takes of each other one, float32 `[B, heads, N, N]`."""
    logits = jnp.einsum("bhnd,bhmd->bhnm", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    weights = jax.nn.softmax(logits)
    return jnp.einsum("bhnm,bhmd->bhnd", weights.astype(v.dtype), v, preferred_element_type=jnp.float32), weights


def _attend_forward(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    out, weights = _attend(q, k, v)
    return out, (q, k, v, weights, out)


def _attend_backward(kept: tuple[jax.Array, ...], slope: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    q, k, v, weights, out = kept
    product = partial(jnp.einsum, preferred_element_type=jnp.float32)
    # The mean of a row's slopes, by its result: that has fewer numbers.
    mean = jnp.sum(slope * out, axis=-1, keepdims=True)
    slope = slope.astype(v.dtype)
    logits = (weights * (product("bhnd,bhmd->bhnm", slope, v) - mean)).astype(q.dtype)
    dq = product("bhnm,bhmd->bhnd", logits, k) * q.shape[-1] ** -0.5
    dk = product("bhnm,bhnd->bhmd", logits, q) * q.shape[-1] ** -0.5
    dv = product("bhnm,bhnd->bhmd", weights.astype(v.dtype), slope)
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype)


attend.defvjp(_attend_forward, _attend_backward)


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


# --- settings of networks ---------------------------------------------------------------------------------------------


def require_setting(condition: bool, key: str, value: Any, remedy: str) -> None:
    """Raises `ValueError` '`key`=`value`: `remedy`' unless the condition holds."""
    if not condition:
        raise ValueError(f"{key}={value!r}: {remedy}")


def require_dtype(key: str, dtype: str) -> None:
    """Raises `ValueError` unless networks may compute in `dtype`."""
    require_setting(dtype in COMPUTE_DTYPES, key, dtype, f"use one of {', '.join(COMPUTE_DTYPES)}")
