"""What the deep compression autoencoder is made of: residual blocks, linear attention, changes of resolution.

Source: "Deep Compression Autoencoder for Efficient High-Resolution Diffusion Models" (Chen et al. 2025).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange, reduce, repeat
from flax import nnx
from jax.typing import DTypeLike

from drifting.networks.layers import Conv, apply_remat, numbered

CHANNEL_NORM_EPSILON = 1e-5
"""Added to variances and mean squares by every norm of this network."""

ATTENTION_EPSILON = 1e-15
"""Added to the sums of attention's weights."""

EXPANSION = 4
"""Channels within a gated block over those that go in."""

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {"relu": jax.nn.relu, "silu": jax.nn.silu}


class Stage(NamedTuple):
    """The blocks of one resolution of the encoder or the decoder.

    Attributes:
        channels: channels of its maps.
        blocks: how many blocks it has; 0, of the highest resolution alone: the next is reached at once.
        attention: whether its blocks are attention and a gated block, or else residual ones.
        scales: sides of the kernels by which attention also sees neighbourhoods.
        norm: `rms` over channels, or `batch`, with means and variances that are parameters; of residual blocks.
        activation: a name of `ACTIVATIONS`; of residual blocks.
    """

    channels: int
    blocks: int
    attention: bool = False
    scales: Sequence[int] = ()
    norm: Literal["rms", "batch"] = "rms"
    activation: str = "silu"


class ChannelNorm(nnx.Module):
    """A norm with gain and bias: by the root mean square over channels, or by each channel's kept mean and variance."""

    def __init__(self, channels: int, kind: Literal["rms", "batch"] = "rms") -> None:
        self.gain = nnx.Param(jnp.ones(channels, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(channels, jnp.float32))
        self.mean = nnx.Param(jnp.zeros(channels, jnp.float32)) if kind == "batch" else None
        self.variance = nnx.Param(jnp.ones(channels, jnp.float32)) if kind == "batch" else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[..., channels]` to the same shape and dtype."""
        y = x.astype(jnp.float32)
        if self.mean is None or self.variance is None:
            square = jnp.mean(y * y, axis=-1, keepdims=True)
        else:
            y, square = y - self.mean[...], self.variance[...]
        return (y * jax.lax.rsqrt(square + CHANNEL_NORM_EPSILON) * self.gain[...] + self.bias[...]).astype(x.dtype)


class DCResidualBlock(nnx.Module):
    """Convolution, activation, convolution, norm, added to what came in."""

    def __init__(self, stage: Stage, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.activation, channels = stage.activation, stage.channels
        self.conv1 = Conv(channels, channels, 3, bias=True, dtype=dtype, rngs=rngs)
        self.conv2 = Conv(channels, channels, 3, dtype=dtype, rngs=rngs)
        self.norm = ChannelNorm(channels, stage.norm)

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, C]` to the same shape."""
        return x + self.norm(self.conv2(ACTIVATIONS[self.activation](self.conv1(x))))


class Neighbourhoods(nnx.Module):
    """Queries, keys and values of neighbourhoods: each channel convolved by itself, then mixed within each group."""

    def __init__(self, channels: int, features: int, side: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.depth = Conv(channels, channels, side, groups=channels, dtype=dtype, rngs=rngs)
        self.mix = Conv(channels, channels, 1, groups=channels // features, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, channels]` to the same shape."""
        return self.mix(self.depth(x))


class Projection(nnx.Module):
    """`x @ kernel` over the last axis; a float32 parameter, computed in `dtype`."""

    rounded = ("kernel",)

    def __init__(self, inputs: int, outputs: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        init = nnx.initializers.lecun_normal()
        self.kernel = nnx.Param(init(rngs.params(), (inputs, outputs), jnp.float32))
        self.dtype = jnp.dtype(dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[..., inputs]` to `[..., outputs]`."""
        return x.astype(self.dtype) @ self.kernel[...].astype(self.dtype)


class LinearAttention(nnx.Module):
    """Residual attention with weights `relu(q) . relu(k)`, whose cost grows with the positions and not their square."""

    def __init__(self, stage: Stage, features: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        channels = stage.channels
        self.features, inner = features, channels // features * features

        linear = partial(Projection, dtype=dtype, rngs=rngs)

        self.query, self.key, self.value = (linear(channels, inner) for _ in range(3))
        self.scales: nnx.Dict[Neighbourhoods] = nnx.Dict()
        for k, side in enumerate(stage.scales, start=1):
            self.scales[f"scale{k}"] = Neighbourhoods(3 * inner, features, side, dtype=dtype, rngs=rngs)
        self.out = linear(inner * (1 + len(stage.scales)), channels)
        self.norm = ChannelNorm(channels)

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, C]` to the same shape."""
        joint = jnp.concatenate([self.query(x), self.key(x), self.value(x)], axis=-1)
        scales = [self.scales[name](joint) for name in numbered("scale", self.scales)]
        # The published weights take a head's query, key and value from the channels in this order, not from the three.
        joint = jnp.concatenate([joint, *scales], axis=-1).astype(jnp.float32)
        heads = rearrange(joint, "b h w (n three d) -> three b n (h w) d", three=3, d=self.features)
        query, key, value = jax.nn.relu(heads[0]), jax.nn.relu(heads[1]), heads[2]
        total = jnp.einsum("bnpd,bnd->bnp", query, key.sum(axis=2)) + ATTENTION_EPSILON
        found = jnp.einsum("bnpd,bnde->bnpe", query, jnp.einsum("bnpd,bnpe->bnde", key, value)) / total[..., None]
        merged = rearrange(found, "b n (h w) d -> b h w (n d)", h=x.shape[1])
        return x + self.norm(self.out(merged))


class GatedBlock(nnx.Module):
    """Residual mixing of channels and close positions: expand, convolve each channel, gate, contract, norm."""

    def __init__(self, channels: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        hidden = EXPANSION * channels
        self.expand = Conv(channels, 2 * hidden, 1, bias=True, dtype=dtype, rngs=rngs)
        self.depth = Conv(2 * hidden, 2 * hidden, 3, groups=2 * hidden, bias=True, dtype=dtype, rngs=rngs)
        self.contract = Conv(hidden, channels, 1, dtype=dtype, rngs=rngs)
        self.norm = ChannelNorm(channels)

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, C]` to the same shape."""
        y, gate = jnp.split(self.depth(jax.nn.silu(self.expand(x))), 2, axis=-1)
        return x + self.norm(self.contract(y * jax.nn.silu(gate)))


class AttentionBlock(nnx.Module):
    """Linear attention between all positions, then a gated block."""

    def __init__(self, stage: Stage, features: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.attention = LinearAttention(stage, features, dtype=dtype, rngs=rngs)
        self.gated = GatedBlock(stage.channels, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, C]` to the same shape."""
        return self.gated(self.attention(x))


def _to_channels(x: jax.Array) -> jax.Array:
    """`[B, H, W, C]` to `[B, H/2, W/2, 4 C]`: the four positions of a square are one after the other per channel."""
    return rearrange(x, "b (h p) (w q) c -> b h w (c p q)", p=2, q=2)


def _to_positions(x: jax.Array) -> jax.Array:
    """Inverse of `_to_channels`."""
    return rearrange(x, "b h w (c p q) -> b (h p) (w q) c", p=2, q=2)


def averaged(x: jax.Array, channels: int) -> jax.Array:
    """Means of neighbouring channels, so that `channels` are left."""
    return reduce(x, "b h w (c n) -> b h w c", "mean", c=channels)


class Down(nnx.Module):
    """Half the sides: a strided convolution, or one whose squares become channels; with averages of those added."""

    def __init__(
        self, inputs: int, outputs: int, *, shuffled: bool, shortcut: bool, dtype: DTypeLike, rngs: nnx.Rngs
    ) -> None:
        self.shuffled, self.shortcut, self.outputs = shuffled, shortcut, outputs
        width, stride = (outputs // 4, 1) if shuffled else (outputs, 2)
        self.conv = Conv(inputs, width, 3, stride=stride, bias=True, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, inputs]` to `[B, H/2, W/2, outputs]`."""
        y = self.conv(x)
        y = _to_channels(y) if self.shuffled else y
        return y + averaged(_to_channels(x), self.outputs) if self.shortcut else y


class Up(nnx.Module):
    """Double the sides: a convolution on repeated positions, or one whose channels become squares; with these added."""

    def __init__(
        self, inputs: int, outputs: int, *, shuffled: bool, shortcut: bool, dtype: DTypeLike, rngs: nnx.Rngs
    ) -> None:
        self.shuffled, self.repeats = shuffled, outputs * 4 // inputs if shortcut else 0
        self.conv = Conv(inputs, outputs * 4 if shuffled else outputs, 3, bias=True, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, inputs]` to `[B, 2 H, 2 W, outputs]`."""
        if self.shuffled:
            y = _to_positions(self.conv(x))
        else:
            y = self.conv(repeat(x, "b h w c -> b (h p) (w q) c", p=2, q=2))
        return y + _to_positions(jnp.repeat(x, self.repeats, axis=-1)) if self.repeats else y


class DCStage(nnx.Module):
    """The blocks of one resolution."""

    def __init__(self, stage: Stage, features: int, *, dtype: DTypeLike, remat: bool, rngs: nnx.Rngs) -> None:
        self.remat = remat
        self.blocks: nnx.Dict[nnx.Module] = nnx.Dict()
        for k in range(1, stage.blocks + 1):
            self.blocks[f"block{k}"] = (
                AttentionBlock(stage, features, dtype=dtype, rngs=rngs)
                if stage.attention
                else DCResidualBlock(stage, dtype=dtype, rngs=rngs)
            )

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, C]` to the same shape."""
        for name in numbered("block", self.blocks):
            x = apply_remat(self.blocks[name], x, self.remat)
        return x
