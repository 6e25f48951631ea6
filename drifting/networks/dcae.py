"""The deep compression autoencoder: images to latents of a 32nd of their sides or less, and back.

Source: "Deep Compression Autoencoder for Efficient High-Resolution Diffusion Models" (Chen et al. 2025); layer for
layer the `AutoencoderDC` of the diffusers library, whose weights drifting.weights.diffusers_dcae reads.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from drifting.errors import require_argument
from drifting.networks.autoencoder import LOG_VAR_RANGE, Autoencoder, Moments
from drifting.networks.dcae_blocks import ACTIVATIONS, ChannelNorm, DCStage, Down, Stage, Up, averaged
from drifting.networks.layers import Conv, numbered


def _stages(
    blocks: Sequence[int], scales: Sequence[int], wide: int, norm: str, activation: str
) -> list[dict[str, Any]]:
    """Three stages of residual blocks and as many of attention as there are `blocks` left, at last `wide` channels."""
    channels = [128, 256, 512, 512, *[1024] * 2, *[2048] * (wide // 2048)][: len(blocks)]
    low: dict[str, Any] = dict(norm=norm, activation=activation)
    high: dict[str, Any] = dict(attention=True, scales=list(scales))
    pairs = enumerate(zip(channels, blocks, strict=True))
    return [dict(channels=width, blocks=count) | (low if k < 3 else high) for k, (width, count) in pairs]


_COMMON: dict[str, Any] = dict(in_channels=3, head_features=32, shortcuts=True)

_SHUFFLED: dict[str, Any] = _COMMON | dict(shuffled_down=True, shuffled_up=True)

_SMOKE = [dict(channels=8, blocks=0), dict(channels=8, blocks=1), dict(channels=16, blocks=1, attention=True)]

PRESETS: dict[str, dict[str, Any]] = {
    "dc_f32c32_sana": _COMMON
    | dict(shuffled_down=False, shuffled_up=False, latent_channels=32, scaling_factor=0.41407)
    | dict(encoder=_stages((2, 2, 2, 3, 3, 3), (5,), 1024, "rms", "silu"))
    | dict(decoder=_stages((3, 3, 3, 3, 3, 3), (5,), 1024, "rms", "silu")),
    "dc_f32c32": _SHUFFLED
    | dict(latent_channels=32, scaling_factor=0.3189)
    | dict(encoder=_stages((0, 4, 8, 2, 2, 2), (), 1024, "rms", "silu"))
    | dict(decoder=_stages((0, 5, 10, 2, 2, 2), (), 1024, "batch", "relu")),
    "dc_f64c128": _SHUFFLED
    | dict(latent_channels=128, scaling_factor=0.2889)
    | dict(encoder=_stages((0, 4, 8, 2, 2, 2, 2), (), 2048, "rms", "silu"))
    | dict(decoder=_stages((0, 5, 10, 2, 2, 2, 2), (), 2048, "batch", "relu")),
    "dc_smoke": _SHUFFLED
    | dict(head_features=8, latent_channels=4, scaling_factor=1.0, encoder=_SMOKE, decoder=_SMOKE),
}  # fmt: skip
"""The autoencoder of SANA, those of ImageNet at a 32nd and a 64th of the sides, and one to try out a machine with."""


class DCEncoder(nnx.Module):
    """Convolution, stages of falling resolution with halvings between them, convolution to the latents."""

    def __init__(
        self,
        inputs: int,
        latents: int,
        stages: Sequence[Stage],
        *,
        features: int,
        shuffled: bool,
        shortcut: bool,
        dtype: DTypeLike,
        remat: bool,
        rngs: nnx.Rngs,
    ) -> None:
        self.latents, self.shortcut = latents, shortcut
        common: dict[str, Any] = dict(dtype=dtype, rngs=rngs)
        first = stages[0] if stages[0].blocks else stages[1]
        self.conv_in: Conv | Down = (
            Conv(inputs, first.channels, 3, bias=True, **common)
            if stages[0].blocks
            else Down(inputs, first.channels, shuffled=shuffled, shortcut=False, **common)
        )
        self.stages: nnx.Dict[DCStage] = nnx.Dict()
        self.downs: nnx.Dict[Down] = nnx.Dict()
        for k, stage in enumerate(stages, start=1):
            self.stages[f"stage{k}"] = DCStage(stage, features, remat=remat, **common)
            if k < len(stages) and stage.blocks:
                channels = stage.channels, stages[k].channels
                self.downs[f"stage{k}"] = Down(*channels, shuffled=shuffled, shortcut=True, **common)
        self.conv_out = Conv(stages[-1].channels, latents, 3, bias=True, **common)

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, inputs]` to `[B, H/f, W/f, latents]` in the compute dtype."""
        x = self.conv_in(x)
        for name in numbered("stage", self.stages):
            x = self.stages[name](x)
            x = self.downs[name](x) if name in self.downs else x
        y = self.conv_out(x)
        return y + averaged(x, self.latents) if self.shortcut else y


class DCDecoder(nnx.Module):
    """Convolution, stages of rising resolution with doublings between them, norm, ReLU, convolution to the image."""

    def __init__(
        self,
        latents: int,
        outputs: int,
        stages: Sequence[Stage],
        *,
        features: int,
        shuffled: bool,
        shortcut: bool,
        dtype: DTypeLike,
        remat: bool,
        rngs: nnx.Rngs,
    ) -> None:
        common: dict[str, Any] = dict(dtype=dtype, rngs=rngs)
        self.repeats = stages[-1].channels // latents if shortcut else 0
        self.conv_in = Conv(latents, stages[-1].channels, 3, bias=True, **common)
        self.stages: nnx.Dict[DCStage] = nnx.Dict()
        self.ups: nnx.Dict[Up] = nnx.Dict()
        for k, stage in enumerate(stages, start=1):
            self.stages[f"stage{k}"] = DCStage(stage, features, remat=remat, **common)
            if k < len(stages) and stage.blocks:
                channels = stages[k].channels, stage.channels
                self.ups[f"stage{k}"] = Up(*channels, shuffled=shuffled, shortcut=True, **common)
        last = stages[0] if stages[0].blocks else stages[1]
        self.norm = ChannelNorm(last.channels)
        self.conv_out: Conv | Up = (
            Conv(last.channels, outputs, 3, bias=True, **common)
            if stages[0].blocks
            else Up(last.channels, outputs, shuffled=shuffled, shortcut=False, **common)
        )

    def __call__(self, z: jax.Array) -> jax.Array:
        """`[B, h, w, latents]` to `[B, f h, f w, outputs]` in the compute dtype."""
        x = self.conv_in(z)
        x = x + jnp.repeat(z, self.repeats, axis=-1).astype(x.dtype) if self.repeats else x
        for name in reversed(numbered("stage", self.stages)):
            x = self.ups[name](x) if name in self.ups else x
            x = self.stages[name](x)
        return self.conv_out(jax.nn.relu(self.norm(x)))


class AutoencoderDC(Autoencoder):
    """An `Autoencoder` of strong compression whose posteriors have no width: an image has one latent.

    Args:
        in_channels: channels of the images.
        latent_channels, scaling_factor, shift_factor, latents_mean, latents_std, remat: see `Autoencoder`.
        encoder, decoder: their stages, the highest resolution first, as the attributes of `Stage`.
        head_features: features of each head of attention.
        shuffled_down, shuffled_up: resolutions change by positions that become channels, and back; else by strides and
            repeated positions.
        shortcuts: the encoder's last and the decoder's first convolution are added to averages and repetitions.
        dtype: what the networks compute in; parameters, norm statistics, attention and results are float32.

    Raises:
        ArgumentError: stages that cannot follow one another, or see `Autoencoder`.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        latent_channels: int,
        encoder: Sequence[Mapping[str, Any]],
        decoder: Sequence[Mapping[str, Any]],
        head_features: int,
        shuffled_down: bool,
        shuffled_up: bool,
        shortcuts: bool,
        scaling_factor: float,
        shift_factor: float = 0.0,
        latents_mean: Sequence[float] | None = None,
        latents_std: Sequence[float] | None = None,
        dtype: DTypeLike,
        remat: bool,
        rngs: nnx.Rngs,
    ) -> None:
        down, up = [Stage(**stage) for stage in encoder], [Stage(**stage) for stage in decoder]
        _check_stages("encoder", down, latent_channels, head_features, shortcuts)
        _check_stages("decoder", up, latent_channels, head_features, shortcuts)
        require_argument(len(down) == len(up), "decoder", f"{len(up)} stages", f"the encoder has {len(down)}")
        super().__init__(
            in_channels=in_channels,
            out_channels=in_channels,
            latent_channels=latent_channels,
            downsampling=2 ** (len(down) - 1),
            scaling_factor=scaling_factor,
            shift_factor=shift_factor,
            latents_mean=latents_mean,
            latents_std=latents_std,
            remat=remat,
        )
        common: dict[str, Any] = dict(features=head_features, shortcut=shortcuts, remat=remat, rngs=rngs)
        common |= dict(dtype=jnp.dtype(dtype))
        self.encoder = DCEncoder(in_channels, latent_channels, down, shuffled=shuffled_down, **common)
        self.decoder = DCDecoder(latent_channels, in_channels, up, shuffled=shuffled_up, **common)

    def posterior(self, x: jax.Array) -> Moments:
        """See `Autoencoder`; the log variance is the lowest of `LOG_VAR_RANGE`, less than a float32 mean resolves."""
        mean = self.encoder(x).astype(jnp.float32)
        return Moments(mean, jnp.full_like(mean, LOG_VAR_RANGE[0]))

    def images(self, z: jax.Array) -> jax.Array:
        """See `Autoencoder`."""
        return self.decoder(z)


def _check_stages(name: str, stages: Sequence[Stage], latents: int, features: int, shortcuts: bool) -> None:
    """Raises `ArgumentError` unless stages can follow one another, to and from latents of so many channels."""
    widths = [stage.channels for stage in stages]
    enough = len(stages) > 1 and all(stage.blocks for stage in stages[1:])
    require_argument(enough, name, f"{len(stages)} stages", "must be 2 or more, and only the first may have no blocks")
    known = all(stage.activation in ACTIVATIONS and stage.norm in ("rms", "batch") for stage in stages)
    require_argument(known, name, None, "norms are rms or batch, activations are relu or silu")
    for k in range(1, len(widths)):
        above, below = widths[k - 1 : k + 1]
        fits = 4 * above % below == 0 and below % 4 == 0
        require_argument(
            fits, name, widths, f"a stage of {above} cannot be followed by one of {below}, see four times {above}"
        )
    require_argument(not shortcuts or widths[-1] % latents == 0, name, widths, f"must end with a multiple of {latents}")
    heads = all(stage.channels >= features for stage in stages if stage.attention)
    require_argument(heads, name, widths, f"attention needs {features} or more, the channels of one head")
