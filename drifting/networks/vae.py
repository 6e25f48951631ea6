"""The variational autoencoder of latent diffusion models: images to latents of an eighth of their sides, and back.

Source: "High-Resolution Image Synthesis with Latent Diffusion Models" (Rombach et al. 2022); layer for layer the
`AutoencoderKL` of the diffusers library, whose weights drifting.weights.diffusers_vae reads: those of Stable Diffusion
1, 2, XL and 3, FLUX and others.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from flax import nnx
from jax.typing import DTypeLike

from drifting.errors import require_argument
from drifting.networks.autoencoder import LOG_VAR_RANGE, Autoencoder, Moments
from drifting.networks.layers import Conv, GroupNorm, Linear, apply_remat, attend, numbered

_COMMON: dict[str, Any] = dict(in_channels=3, out_channels=3, latent_channels=4, scaling_factor=0.18215)

_COMMON |= dict(use_quant_conv=True, use_post_quant_conv=True, mid_attention=True)

_PUBLISHED: dict[str, Any] = _COMMON | dict(block_channels=(128, 256, 512, 512), layers_per_block=2, norm_groups=32)

_CHANNELS_16: dict[str, Any] = _PUBLISHED | dict(latent_channels=16, use_quant_conv=False, use_post_quant_conv=False)

PRESETS: dict[str, dict[str, Any]] = {
    "sd": _PUBLISHED,
    "sdxl": _PUBLISHED | dict(scaling_factor=0.13025),
    "sd3": _CHANNELS_16 | dict(scaling_factor=1.5305, shift_factor=0.0609),
    "flux": _CHANNELS_16 | dict(scaling_factor=0.3611, shift_factor=0.1159),
    "smoke": _COMMON | dict(block_channels=(8, 8), layers_per_block=1, norm_groups=4),
}
"""The VAEs of Stable Diffusion 1 and 2, XL and 3, that of FLUX.1, and one small enough to try out a machine with."""


class VAEResidualBlock(nnx.Module):
    """Pre-activation residual block: twice group norm, SiLU, 3x3 convolution; 1x1 shortcut where channels differ."""

    def __init__(self, inputs: int, outputs: int, *, groups: int, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.norm1, self.norm2 = GroupNorm(inputs, groups), GroupNorm(outputs, groups)
        self.conv1 = Conv(inputs, outputs, 3, bias=True, dtype=dtype, rngs=rngs)
        self.conv2 = Conv(outputs, outputs, 3, bias=True, dtype=dtype, rngs=rngs)
        same = inputs == outputs
        self.shortcut = None if same else Conv(inputs, outputs, 1, bias=True, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, inputs]` to `[B, H, W, outputs]`."""
        y = self.conv1(jax.nn.silu(self.norm1(x)))
        y = self.conv2(jax.nn.silu(self.norm2(y)))
        return y + (x if self.shortcut is None else self.shortcut(x))


class VAEAttention(nnx.Module):
    """Residual self-attention with one head between all positions of a map."""

    def __init__(self, channels: int, *, groups: int, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        init = nnx.initializers.lecun_normal()
        self.norm = GroupNorm(channels, groups)
        self.query = Linear(channels, channels, dtype=dtype, init=init, rngs=rngs)
        self.key = Linear(channels, channels, dtype=dtype, init=init, rngs=rngs)
        self.value = Linear(channels, channels, dtype=dtype, init=init, rngs=rngs)
        self.out = Linear(channels, channels, dtype=dtype, init=init, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, C]` to the same shape and dtype."""
        tokens = rearrange(self.norm(x), "b h w c -> b 1 (h w) c")
        y = self.out(attend(self.query(tokens), self.key(tokens), self.value(tokens)))
        return x + y.reshape(x.shape)


class VAEMiddle(nnx.Module):
    """Two residual blocks at the lowest resolution, with attention between them."""

    def __init__(self, channels: int, *, groups: int, attention: bool, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.block1 = VAEResidualBlock(channels, channels, groups=groups, dtype=dtype, rngs=rngs)
        self.attention = VAEAttention(channels, groups=groups, dtype=dtype, rngs=rngs) if attention else None
        self.block2 = VAEResidualBlock(channels, channels, groups=groups, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, remat: bool) -> jax.Array:
        """`[B, H, W, C]` to the same shape."""
        for module in (self.block1, self.attention, self.block2):
            x = x if module is None else apply_remat(module, x, remat)
        return x


class VAELevel(nnx.Module):
    """Residual blocks of one resolution, then the convolution to the next one: stride 2, or on doubled sides.

    Where there is attention, it follows each block.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        blocks: int,
        *,
        resample: Literal["down", "up"] | None,
        groups: int,
        attention: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        widths = [inputs] + [outputs] * blocks
        self.blocks: nnx.Dict[VAEResidualBlock] = nnx.Dict()
        self.attentions: nnx.Dict[VAEAttention] = nnx.Dict()
        for k in range(blocks):
            block = VAEResidualBlock(widths[k], widths[k + 1], groups=groups, dtype=dtype, rngs=rngs)
            self.blocks[f"block{k + 1}"] = block
            if attention:
                self.attentions[f"block{k + 1}"] = VAEAttention(outputs, groups=groups, dtype=dtype, rngs=rngs)
        # Halving pads after the last row and column only.
        conv = partial(Conv, outputs, outputs, 3, bias=True, dtype=dtype, rngs=rngs)
        self.down = conv(stride=2, padding=((0, 1), (0, 1))) if resample == "down" else None
        self.up = conv() if resample == "up" else None

    def __call__(self, x: jax.Array, remat: bool) -> jax.Array:
        """`[B, H, W, inputs]` to `[B, h, w, outputs]`, `h` = `H/2`, `2 H` or `H`."""
        for name in numbered("block", self.blocks):
            x = apply_remat(self.blocks[name], x, remat)
            x = apply_remat(self.attentions[name], x, remat) if name in self.attentions else x
        if self.down is not None:
            x = self.down(x)
        if self.up is not None:
            x = self.up(repeat(x, "b h w c -> b (h p) (w q) c", p=2, q=2))
        return x


def _levels(
    widths: Sequence[int],
    blocks: int,
    resample: Literal["down", "up"],
    *,
    attends: Sequence[bool],
    groups: int,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
) -> nnx.Dict[VAELevel]:
    """Levels `level1` .. of these channels, with a change of resolution between each two."""
    levels: nnx.Dict[VAELevel] = nnx.Dict()
    common: dict[str, Any] = dict(groups=groups, dtype=dtype, rngs=rngs)
    for k, (inputs, outputs) in enumerate(zip([widths[0], *widths], widths, strict=False), start=1):
        change = resample if k < len(widths) else None
        level = VAELevel(inputs, outputs, blocks, resample=change, attention=attends[k - 1], **common)
        levels[f"level{k}"] = level
    return levels


class VAEHead(nnx.Module):
    """Group norm, SiLU, 3x3 convolution."""

    def __init__(self, inputs: int, outputs: int, *, groups: int, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.norm, self.conv = GroupNorm(inputs, groups), Conv(inputs, outputs, 3, bias=True, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, inputs]` to `[B, H, W, outputs]`."""
        return self.conv(jax.nn.silu(self.norm(x)))


class VAEEncoder(nnx.Module):
    """Convolution, levels of falling resolution, middle, head."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        channels: Sequence[int],
        blocks: int,
        groups: int,
        attention: bool,
        attends: Sequence[bool],
        dtype: DTypeLike,
        remat: bool,
        rngs: nnx.Rngs,
    ) -> None:
        self.remat = remat
        common: dict[str, Any] = dict(groups=groups, dtype=dtype, rngs=rngs)
        self.conv_in = Conv(inputs, channels[0], 3, bias=True, dtype=dtype, rngs=rngs)
        self.levels = _levels(channels, blocks, "down", attends=attends, **common)
        self.middle = VAEMiddle(channels[-1], attention=attention, **common)
        self.head = VAEHead(channels[-1], outputs, **common)

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, inputs]` to `[B, H/f, W/f, outputs]` in the compute dtype."""
        x = self.conv_in(x)
        for name in numbered("level", self.levels):
            x = self.levels[name](x, self.remat)
        return apply_remat(self.head, self.middle(x, self.remat), self.remat)


class VAEDecoder(nnx.Module):
    """Convolution, middle, levels of rising resolution, head."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        channels: Sequence[int],
        blocks: int,
        groups: int,
        attention: bool,
        attends: Sequence[bool],
        dtype: DTypeLike,
        remat: bool,
        rngs: nnx.Rngs,
    ) -> None:
        self.remat = remat
        common: dict[str, Any] = dict(groups=groups, dtype=dtype, rngs=rngs)
        widths = list(reversed(channels))
        self.conv_in = Conv(inputs, widths[0], 3, bias=True, dtype=dtype, rngs=rngs)
        self.middle = VAEMiddle(widths[0], attention=attention, **common)
        self.levels = _levels(widths, blocks, "up", attends=attends, **common)
        self.head = VAEHead(widths[-1], outputs, **common)

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, h, w, inputs]` to `[B, f h, f w, outputs]` in the compute dtype."""
        x = self.middle(self.conv_in(x), self.remat)
        for name in numbered("level", self.levels):
            x = self.levels[name](x, self.remat)
        return apply_remat(self.head, x, self.remat)


def _one_each(name: str, given: Sequence[bool], levels: int) -> list[bool]:
    """A value for each level, False where none are given; raises `ArgumentError` for another number of them."""
    remedy = f"give one value for each of the {levels} block_channels"
    require_argument(len(given) in (0, levels), name, list(given), remedy)
    return list(given) or [False] * levels


class AutoencoderKL(Autoencoder):
    """An `Autoencoder` of residual blocks, with self-attention where the maps are smallest.

    Args:
        in_channels, out_channels, latent_channels, scaling_factor, shift_factor, latents_mean, latents_std, remat: see
            `Autoencoder`; `scaling_factor` is 0.18215 for Stable Diffusion 1 and 2.
        block_channels: channels of each resolution, the highest first; each further one halves the sides.
        layers_per_block: residual blocks of each resolution of the encoder; the decoder has one more.
        norm_groups: groups of every group norm.
        use_quant_conv, use_post_quant_conv: 1x1 convolutions after the encoder and before the decoder.
        mid_attention: self-attention at the lowest resolution, between two further blocks.
        encoder_attention, decoder_attention: whether self-attention follows each block of a resolution, in the order of
            the network, which for the decoder is the lowest first; empty: nowhere.
        dtype: what the networks compute in; parameters, norm statistics and results are float32.

    Raises:
        ArgumentError: no `block_channels`, or ones that `norm_groups` does not divide, or attention for another
            number of them; or see `Autoencoder`.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        latent_channels: int,
        block_channels: Sequence[int],
        layers_per_block: int,
        norm_groups: int,
        scaling_factor: float,
        shift_factor: float = 0.0,
        latents_mean: Sequence[float] | None = None,
        latents_std: Sequence[float] | None = None,
        use_quant_conv: bool,
        use_post_quant_conv: bool,
        mid_attention: bool,
        encoder_attention: Sequence[bool] = (),
        decoder_attention: Sequence[bool] = (),
        dtype: DTypeLike,
        remat: bool,
        rngs: nnx.Rngs,
    ) -> None:
        fits = bool(block_channels) and not any(width % norm_groups for width in block_channels)
        remedy = f"must be multiples of norm_groups {norm_groups}"
        require_argument(fits, "block_channels", list(block_channels), remedy)
        down = _one_each("encoder_attention", encoder_attention, len(block_channels))
        up = _one_each("decoder_attention", decoder_attention, len(block_channels))
        super().__init__(
            in_channels=in_channels,
            out_channels=out_channels,
            latent_channels=latent_channels,
            downsampling=2 ** (len(block_channels) - 1),
            scaling_factor=scaling_factor,
            shift_factor=shift_factor,
            latents_mean=latents_mean,
            latents_std=latents_std,
            remat=remat,
        )
        dtype, moments = jnp.dtype(dtype), 2 * latent_channels

        def conv(channels: int) -> Conv:
            return Conv(channels, channels, 1, bias=True, dtype=dtype, rngs=rngs)

        common: dict[str, Any] = dict(channels=block_channels, groups=norm_groups, attention=mid_attention)
        common |= dict(dtype=dtype, remat=remat, rngs=rngs)
        self.encoder = VAEEncoder(in_channels, moments, blocks=layers_per_block, attends=down, **common)
        self.quant_conv = conv(moments) if use_quant_conv else None
        self.post_quant_conv = conv(latent_channels) if use_post_quant_conv else None
        self.decoder = VAEDecoder(latent_channels, out_channels, blocks=layers_per_block + 1, attends=up, **common)

    def posterior(self, x: jax.Array) -> Moments:
        """See `Autoencoder`."""
        y = self.encoder(x)
        y = y if self.quant_conv is None else self.quant_conv(y)
        mean, log_var = jnp.split(y.astype(jnp.float32), 2, axis=-1)
        return Moments(mean, jnp.clip(log_var, *LOG_VAR_RANGE))

    def images(self, z: jax.Array) -> jax.Array:
        """See `Autoencoder`."""
        return self.decoder(z if self.post_quant_conv is None else self.post_quant_conv(z))
