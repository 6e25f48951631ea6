"""The masked autoencoder whose encoder is the feature space: ResNet encoder, U-Net decoder, linear classifier.

Source: "Generative Modeling via Drifting" (Deng et al.), App. A.3, and its released recipe.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from drifting.errors import require_argument
from drifting.networks.layers import Conv, GroupNorm, Linear, apply_remat, numbered, patchify

PRESETS: dict[str, dict[str, Any]] = {
    "latent_256": dict(in_channels=4, base_channels=256, layers=(3, 4, 6, 3), patch_size=2, input_patch_size=1),
    "latent_640": dict(in_channels=4, base_channels=640, layers=(3, 4, 6, 3), patch_size=2, input_patch_size=1),
    "pixel_640": dict(in_channels=3, base_channels=640, layers=(3, 4, 6, 3), patch_size=2, input_patch_size=8),
    "latent_smoke": dict(in_channels=4, base_channels=8, layers=(1, 1), patch_size=2, input_patch_size=1),
    "pixel_smoke": dict(in_channels=3, base_channels=8, layers=(1, 1), patch_size=2, input_patch_size=2),
}
"""The released encoders, and two small enough to try out a machine with."""


class MAEResidualBlock(nnx.Module):
    """Basic ResNet block with group norm; the shortcut is projected where shapes differ."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.conv1 = Conv(inputs, outputs, 3, stride=stride, dtype=dtype, rngs=rngs)
        self.conv2 = Conv(outputs, outputs, 3, dtype=dtype, rngs=rngs)
        self.norm1, self.norm2 = GroupNorm(outputs), GroupNorm(outputs)
        same = inputs == outputs and stride == 1
        self.shortcut_conv = None if same else Conv(inputs, outputs, 1, stride=stride, dtype=dtype, rngs=rngs)
        self.shortcut_norm = None if same else GroupNorm(outputs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, inputs]` to `[B, H/stride, W/stride, outputs]`."""
        y = self.norm2(self.conv2(jax.nn.relu(self.norm1(self.conv1(x)))))
        if self.shortcut_conv is not None and self.shortcut_norm is not None:
            x = self.shortcut_norm(self.shortcut_conv(x))
        return jax.nn.relu(x + y)


class MAEStage(nnx.Module):
    """Residual blocks of one resolution and the group norm through which their output goes on."""

    def __init__(
        self, inputs: int, outputs: int, blocks: int, *, stride: int, dtype: DTypeLike, remat: bool, rngs: nnx.Rngs
    ) -> None:
        widths = [inputs] + [outputs] * (blocks - 1)
        strides = [stride] + [1] * (blocks - 1)
        self.blocks: nnx.Dict[MAEResidualBlock] = nnx.Dict()
        for k in range(blocks):
            block = MAEResidualBlock(widths[k], outputs, stride=strides[k], dtype=dtype, rngs=rngs)
            self.blocks[f"blk{k + 1}"] = block
        self.norm = GroupNorm(outputs)
        self.remat = remat

    def __call__(self, x: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The normalised output `[B, H/stride, W/stride, outputs]`, and every block's own by its name."""
        outputs = {}
        for name in numbered("blk", self.blocks):
            x = outputs[name] = apply_remat(self.blocks[name], x, self.remat)
        return self.norm(x), outputs


class MAEEncoder(nnx.Module):
    """ResNet encoder without stem downsampling; complete in itself, for use as a frozen feature extractor."""

    def __init__(
        self,
        *,
        in_channels: int,
        base_channels: int,
        layers: tuple[int, ...],
        input_patch_size: int,
        dtype: DTypeLike,
        remat: bool,
        rngs: nnx.Rngs,
    ) -> None:
        dtype = jnp.dtype(dtype)
        self.input_patch_size, self.dtype = input_patch_size, dtype
        widths = [base_channels] + [base_channels * 2**s for s in range(len(layers))]
        self.conv1 = Conv(in_channels * input_patch_size**2, base_channels, 3, dtype=dtype, rngs=rngs)
        self.norm1 = GroupNorm(base_channels)
        stages = (
            MAEStage(widths[s], widths[s + 1], n, stride=1 if s == 0 else 2, dtype=dtype, remat=remat, rngs=rngs)
            for s, n in enumerate(layers)
        )
        self.stages = nnx.Dict({f"layer{s}": stage for s, stage in enumerate(stages, start=1)})

    def __call__(self, x: jax.Array) -> dict[str, jax.Array]:
        """Feature maps of images or latents `[B, H, W, C]`: `maps(patchify(x))`."""
        return self.maps(self.patchify(x))

    def patchify(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, C]` to `[B, H/p, W/p, p*p*C]`, dtype kept: what the first convolution, and a mask, see."""
        return patchify(x, self.input_patch_size)

    def maps(self, tokens: jax.Array) -> dict[str, jax.Array]:
        """Feature maps `[B, h, w, C]` in the compute dtype, of patchified input.

        Keys in order: `conv1`, `layer1` .. (each stage's normalised output), then `layer1_blk1` .. (each block's).
        """
        x = jax.nn.relu(self.norm1(self.conv1(tokens.astype(self.dtype))))
        maps = {"conv1": x}
        blocks: dict[str, jax.Array] = {}
        for name in numbered("layer", self.stages):
            x, outputs = self.stages[name](x)
            maps[name] = x
            blocks |= {f"{name}_{block}": output for block, output in outputs.items()}
        return maps | blocks


class ConvNormReLU(nnx.Module):
    """3x3 convolution, group norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.conv, self.norm = Conv(inputs, outputs, 3, dtype=dtype, rngs=rngs), GroupNorm(outputs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, inputs]` to `[B, H, W, outputs]`."""
        return jax.nn.relu(self.norm(self.conv(x)))


class MAEUp(nnx.Module):
    """One U-Net step: upsample to the skip connection's size, concatenate, normalise, two convolutions."""

    def __init__(self, inputs: int, skip: int, outputs: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.norm = GroupNorm(inputs + skip)
        self.proj = ConvNormReLU(inputs + skip, outputs, dtype=dtype, rngs=rngs)
        self.refine = ConvNormReLU(outputs, outputs, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, skip: jax.Array) -> jax.Array:
        """`x [B, h, w, inputs]`, `skip [B, H, W, skip]` to `[B, H, W, outputs]`; bilinear, half-pixel centres."""
        x = jax.image.resize(x, (*skip.shape[:3], x.shape[-1]), "bilinear")
        return self.refine(self.proj(self.norm(jnp.concatenate([x, skip], axis=-1))))


class MAEDecoder(nnx.Module):
    """U-Net decoder over the encoder's stage outputs."""

    def __init__(self, *, channels: int, base_channels: int, stages: int, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        widths = [base_channels * 2**s for s in range(stages)]
        self.bridge = ConvNormReLU(widths[-1], widths[-1], dtype=dtype, rngs=rngs)
        # up43 joins layer4 and layer3, ..., up10 layer1 and conv1; the last two are equally wide.
        skips = [*reversed(widths[:-1]), base_channels]
        self.ups: nnx.Dict[MAEUp] = nnx.Dict()
        inputs = widths[-1]
        for level, skip in zip(range(stages, 0, -1), skips, strict=True):
            self.ups[f"up{level}{level - 1}"] = MAEUp(inputs, skip, skip, dtype=dtype, rngs=rngs)
            inputs = skip
        self.head = Conv(base_channels, channels, 1, bias=True, dtype=dtype, rngs=rngs)

    def __call__(self, maps: dict[str, jax.Array]) -> jax.Array:
        """The encoder's maps to the reconstruction `[B, h, w, channels]` of its patchified input."""
        skips = [maps["conv1"], *(maps[f"layer{s}"] for s in range(1, len(self.ups) + 1))]
        x = self.bridge(skips.pop())
        for level in range(len(self.ups), 0, -1):
            x = self.ups[f"up{level}{level - 1}"](x, skips.pop())
        return self.head(x)


class MAE(nnx.Module):
    """Masked autoencoder of latents or pixels with an optional classifier.

    Args:
        num_classes: classes of the linear classifier on the pooled last stage; 0 or None = no classifier.
        in_channels: channels of the images or latents.
        base_channels: channels of the first stage, doubled by each further one.
        layers: residual blocks of each stage.
        patch_size: side of a mask patch, in tokens.
        input_patch_size: side of a token, in pixels.
        dtype: what the network computes in; parameters, norm statistics and losses are float32.
        remat: recompute each residual block's activations in the backward pass.
    """

    class_axes: ClassVar = {"classifier/kernel": 1, "classifier/bias": 0}
    adaptable = ("num_classes", "patch_size", "dtype", "remat")

    def __init__(
        self,
        *,
        num_classes: int | None = 0,
        in_channels: int,
        base_channels: int,
        layers: tuple[int, ...],
        patch_size: int,
        input_patch_size: int,
        dtype: DTypeLike,
        remat: bool,
        rngs: nnx.Rngs,
    ) -> None:
        self.patch_size, dtype = patch_size, jnp.dtype(dtype)
        tokens = in_channels * input_patch_size**2
        self.encoder = MAEEncoder(
            in_channels=in_channels,
            base_channels=base_channels,
            layers=layers,
            input_patch_size=input_patch_size,
            dtype=dtype,
            remat=remat,
            rngs=rngs,
        )
        stages = len(layers)
        self.decoder = MAEDecoder(channels=tokens, base_channels=base_channels, stages=stages, dtype=dtype, rngs=rngs)
        top = base_channels * 2 ** (stages - 1)
        init = nnx.initializers.lecun_normal()
        self.classifier = Linear(top, num_classes, dtype=dtype, init=init, rngs=rngs) if num_classes else None

    def encode(self, x: jax.Array) -> dict[str, jax.Array]:
        """Feature maps of unmasked `[B, H, W, C]`, see `MAEEncoder.maps`."""
        return self.encoder(x)

    def __call__(self, x: jax.Array, labels: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
        """Reconstruction and classification of masked input, each sample by itself.

        Args:
            x: `[B, H, W, C]` float32.
            labels: `[B]` int32; not read without a classifier.
            mask: `[B, h, w, 1]` over tokens, 1 = masked (zeroed), see `draw_mask`.

        Returns:
            Float32 `recon_loss [B]`, `mask_ratio [B]`, `recon [B, h, w, p*p*C]`; with a classifier also
            `cls_loss [B]`, `accuracy [B]` and `logits [B, num_classes]`. The reconstruction loss sums the squared error
            over channels and averages it over masked tokens (released recipe), and is 0 where nothing is masked.
        """
        tokens = self.encoder.patchify(x.astype(jnp.float32))
        mask = mask.astype(jnp.float32)
        maps = self.encoder.maps(tokens * (1 - mask))
        recon = self.decoder(maps).astype(jnp.float32)
        error = jnp.sum(mask * jnp.square(recon - tokens), axis=(1, 2, 3))
        outputs = {"recon_loss": error / (jnp.sum(mask, axis=(1, 2, 3)) + 1e-8)}
        outputs |= {"mask_ratio": jnp.mean(mask, axis=(1, 2, 3)), "recon": recon}
        if self.classifier is None:
            return outputs
        top = maps[f"layer{len(self.encoder.stages)}"]
        logits = self.classifier(jnp.mean(top, axis=(1, 2))).astype(jnp.float32)
        log_p = jax.nn.log_softmax(logits)
        outputs["cls_loss"] = -jnp.take_along_axis(log_p, labels[:, None], axis=-1)[:, 0]
        outputs["accuracy"] = (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)
        return outputs | {"logits": logits}


def mae_loss(outputs: dict[str, jax.Array], lambda_cls: jax.Array | float) -> jax.Array:
    """`lambda * cls_loss + (1 - lambda) * recon_loss`, `[B]`; without a classifier the reconstruction loss alone."""
    if "cls_loss" not in outputs:
        return outputs["recon_loss"]
    return lambda_cls * outputs["cls_loss"] + (1 - lambda_cls) * outputs["recon_loss"]


def draw_mask(
    key: jax.Array, batch: int, height: int, width: int, patch: int, ratio_min: float, ratio_max: float
) -> jax.Array:
    """Random masks of tokens, float32 `[batch, height, width, 1]`, 1 = masked.

    Each `patch` x `patch` square of a sample is masked by itself with that sample's probability, which is uniform in
    `[ratio_min, ratio_max]` (released recipe; the number of masked squares is not fixed).

    Raises:
        ArgumentError: `patch` does not divide `height` and `width`.
    """
    fits = height % patch == 0 and width % patch == 0
    require_argument(fits, "patch", patch, f"must divide the {height} x {width} tokens")
    ratio_key, patch_key = jax.random.split(key)
    ratio = jax.random.uniform(ratio_key, (batch, 1, 1, 1), minval=ratio_min, maxval=ratio_max)
    mask = jax.random.uniform(patch_key, (batch, height // patch, width // patch, 1)) < ratio
    return jnp.repeat(jnp.repeat(mask.astype(jnp.float32), patch, axis=1), patch, axis=2)
