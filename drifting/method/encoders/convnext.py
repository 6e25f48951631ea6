"""ConvNeXt V2 as a feature encoder of images: the normalised maps of its stages and their statistics."""

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from drifting.method.encoders.encoder import Encoder, EncoderKind
from drifting.method.encoders.imagenet import IMAGENET_MEAN, IMAGENET_STD
from drifting.method.features import Features, multi_scale_statistics
from drifting.method.space import SampleSpace
from drifting.networks.convnext import ConvNeXtV2
from drifting.networks.layers import require_dtype, require_setting
from drifting.networks.network import Network, Params

SMALLEST_SIDE = 32
"""The smallest side of an image, whose map has one position after the last of the stages."""


@dataclass(frozen=True)
class ConvNeXtOptions:
    """Settings of ConvNeXt V2 as a feature encoder."""

    weights: Annotated[str | None, "the encoder: hf://OWNER/REPO[/FOLDER] or a folder"] = (
        "hf://facebook/convnextv2-base-22k-224"
    )
    dtype: Annotated[str, "numbers that it computes with: float32 or bfloat16"] = "float32"
    size: Annotated[int, "images are resized to this side, in pixels"] = 224

    def __post_init__(self) -> None:
        require_dtype("dtype", self.dtype)
        require_setting(self.size >= SMALLEST_SIDE, "size", self.size, f"use {SMALLEST_SIDE} or more")


def convnext_features(net: ConvNeXtV2, x: Float[Array, "samples height width 3"], resolution: int = 224) -> Features:
    """All features of the released recipe from a ConvNeXt V2: each stage's normalised map and its statistics.

    Args:
        net: the frozen network, of three colours.
        x: images in [-1, 1]; what lies beyond is not clipped, so that it has a gradient.
        resolution: side to which they are resized, bilinearly with antialiasing.

    Returns:
        For each stage, in order, `convnext_stageK` at every position (not of the first stage), `convnext_stageK_mean`
        and `convnext_stageK_std`; then `convnext_pooled`, the network's own pooled output, and `convnext_pooled_std`,
        which is the last stage's std once more: the released recipe counts that term twice. Standard deviations are
        float32, all others in the network's dtype.
    """
    y = ((x.astype(jnp.float32) + 1) / 2 - jnp.asarray(IMAGENET_MEAN)) / jnp.asarray(IMAGENET_STD)
    maps = net.stages(jax.image.resize(y, (x.shape[0], resolution, resolution, x.shape[-1]), "bilinear"))
    last = f"stage{len(maps)}"
    features: Features = {}
    for name, stage in maps.items():
        features |= multi_scale_statistics(
            {f"convnext_{name}": _normalise_channels(stage)},
            locations=name != "stage1",
            mean=True,
            std=True,
            mean_patches=(),
            std_patches=(),
        )
    features["convnext_pooled"] = net.pooled(maps[last])[:, None]
    return features | {"convnext_pooled_std": features[f"convnext_{last}_std"]}


def _normalise_channels(x: Float[Array, "*positions channels"]) -> Float[Array, "*positions channels"]:
    """`(x - mean) / (std + 1e-3)` over the channels of each position, biased; in the dtype of `x`."""
    y = x.astype(jnp.float32)
    y = y - jnp.mean(y, axis=-1, keepdims=True)
    # The root of zero has no gradient; 1e-12 gives it one and is nothing beside the 1e-3.
    std = jnp.sqrt(jnp.mean(y * y, axis=-1, keepdims=True) + 1e-12)
    return (y / (std + 1e-3)).astype(x.dtype)


def make_convnext_encoder(options: ConvNeXtOptions, network: Network, space: SampleSpace) -> Encoder:
    """The reader of images.

    Raises:
        ValueError: the network is for images of other channels.
    """
    channels, given = network.arguments["in_channels"], space.image_shape[2]
    if channels != given:
        raise ValueError(
            f"weights={options.weights!r}: this encoder takes {channels} channels, the images have {given}"
        )

    def features(params: Params, x: Float[Array, "samples height width 3"]) -> Features:
        return convnext_features(nnx.merge(network.graphdef, params), x, resolution=options.size)

    return Encoder(features, of_images=True)


CONVNEXT_ENCODER = EncoderKind("convnext", ConvNeXtOptions, make_convnext_encoder)
