"""DINOv2 as features in which samples drift, and as the feature of a Fréchet distance.

Every function is differentiable in the samples and takes the frozen network of drifting.networks.dinov2.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float, Float32

from drifting.method.encoders.encoder import Encoder, EncoderKind
from drifting.method.encoders.imagenet import IMAGENET_MEAN, IMAGENET_STD
from drifting.method.features import Features, multi_scale_statistics
from drifting.method.space import SampleSpace
from drifting.networks.dinov2 import DINOv2
from drifting.networks.layers import require_dtype, require_setting
from drifting.networks.network import Network, Params


@dataclass(frozen=True)
class DINOv2Options:
    """Settings of DINOv2 as a feature encoder."""

    weights: Annotated[str | None, "the encoder: hf://OWNER/REPO[/FOLDER] or a folder"] = "hf://facebook/dinov2-base"
    dtype: Annotated[str, "numbers that it computes with: float32 or bfloat16"] = "float32"
    size: Annotated[int, "images are resized to this side, in pixels, a multiple of the patch's (14)"] = 224
    layers: Annotated[
        tuple[int, ...] | None, "numbers of the blocks whose maps are used, counted from 1; None: four, evenly spaced"
    ] = None
    locations: Annotated[bool, "use each map's features at every position"] = True
    mean: Annotated[bool, "use the mean of each map"] = True
    std: Annotated[bool, "use the standard deviation of each map"] = True
    mean_patches: Annotated[tuple[int, ...], "sides of patches of each map whose means are used"] = ()
    std_patches: Annotated[tuple[int, ...], "sides of patches of each map whose standard deviations are used"] = ()

    def __post_init__(self) -> None:
        require_dtype("dtype", self.dtype)
        require_setting(self.size >= 1, "size", self.size, "use 1 or more")
        for key in ("layers", "mean_patches", "std_patches"):
            numbers = getattr(self, key) or ()
            require_setting(all(number > 0 for number in numbers), key, numbers, "each is 1 or more")


def evenly_spaced(depth: int, count: int = 4) -> tuple[int, ...]:
    """Numbers of at most `count` blocks that end parts of equal depth, the last block among them: `(3, 6, 9, 12)`."""
    return tuple(sorted({-(-depth * k // count) for k in range(1, count + 1)}))


def dinov2_features(
    net: DINOv2,
    x: Float[Array, "samples height width 3"],
    *,
    resolution: int = 224,
    layers: Sequence[int] | None = None,
    locations: bool = True,
    mean: bool = True,
    std: bool = True,
    mean_patches: Sequence[int] = (),
    std_patches: Sequence[int] = (),
) -> Features:
    """Patch tokens of some blocks, each normalised by the network's final norm, their statistics, and the class token.

    Args:
        net: the frozen network, of three colours.
        x: images in [-1, 1]; what lies beyond is not clipped, so that it has a gradient.
        resolution: side to which they are resized, bilinearly with antialiasing; a multiple of the patch's.
        layers: numbers of blocks, counted from 1; None = four, `evenly_spaced`.
        locations, mean, std, mean_patches, std_patches: see `multi_scale_statistics`. Tokens averaged to a coarse grid
            of 4 x 4 at a resolution of 224, where there are 16 x 16, are `locations=False, mean_patches=(4,)`.

    Returns:
        For each block, in order, `dinov2_blockK` and its statistics, then `dinov2_cls`, the class token after the final
        norm. Standard deviations are float32, all others in the network's dtype.

    Raises:
        InputError: `resolution` is no multiple of the patch's side.
        ArgumentError: there is no such block.
    """
    y = _standardised(_resized(x.astype(jnp.float32), resolution, "bilinear"))
    maps, class_token = net.tokens(y, evenly_spaced(net.depth) if layers is None else layers)
    statistics = multi_scale_statistics(
        {f"dinov2_{name}": tokens for name, tokens in maps.items()},
        locations=locations,
        mean=mean,
        std=std,
        mean_patches=mean_patches,
        std_patches=std_patches,
    )
    return statistics | {"dinov2_cls": class_token[:, None]}


def dinov2_pooled(
    net: DINOv2, x: Float[Array, "samples height width 3"], resolution: int = 224
) -> Float[Array, "samples channels"]:
    """The class token after the final norm, whose Fréchet distance is FD-DINOv2 (Stein et al. 2023, with ViT-L/14).

    Images are resized bicubically (`a = -0.5`) with antialiasing, in float32, and then clipped to [-1, 1], beyond which
    there is no gradient. Stein et al.'s library, dgm-eval, does the same with its option `clean_resize`; without it,
    it lets Pillow resize bytes, which rounds to whole grey levels after each axis, so that its features differ a
    little from these. It also takes Meta's own code for the network, which resizes the table of positions with 0.1
    added to the number of patches of each axis; ours, as transformers, adds nothing.

    Args:
        net: the frozen network, of three colours.
        x: images in [-1, 1].
        resolution: side to which they are resized; a multiple of the patch's.

    Returns:
        The token of each image in the network's dtype.

    Raises:
        InputError: `resolution` is no multiple of the patch's side.
    """
    y = jnp.clip(_resized(x.astype(jnp.float32), resolution, "bicubic"), -1, 1)
    return net.tokens(_standardised(y), ())[1]


def _resized(
    x: Float[Array, "samples height width channels"], side: int, method: str
) -> Float[Array, "samples {side} {side} channels"]:
    """Images of another side, with antialiasing."""
    return jax.image.resize(x, (x.shape[0], side, side, x.shape[-1]), method)


def _standardised(x: Float32[Array, "*pixels 3"]) -> Float32[Array, "*pixels 3"]:
    """Images in [-1, 1] to what the network was trained with: ImageNet's colours have mean 0 and deviation 1."""
    return ((x + 1) / 2 - jnp.asarray(IMAGENET_MEAN)) / jnp.asarray(IMAGENET_STD)


def make_dinov2_encoder(options: DINOv2Options, network: Network, space: SampleSpace) -> Encoder:
    """The reader of images.

    Raises:
        ValueError: the network is for images of other channels, or has not those blocks or patches.
    """
    channels, given = network.arguments["in_channels"], space.image_shape[2]
    if channels != given:
        raise ValueError(
            f"weights={options.weights!r}: this encoder takes {channels} channels, the images have {given}"
        )
    patch, depth = network.arguments["patch_size"], network.arguments["depth"]
    require_setting(options.size % patch == 0, "size", options.size, f"must be a multiple of the patch's side {patch}")
    known = all(1 <= k <= depth for k in options.layers or ())
    require_setting(known, "layers", options.layers, f"must be numbers of blocks, from 1 to {depth}")

    def features(params: Params, x: Float[Array, "samples height width 3"]) -> Features:
        return dinov2_features(
            nnx.merge(network.graphdef, params),
            x,
            resolution=options.size,
            layers=options.layers,
            locations=options.locations,
            mean=options.mean,
            std=options.std,
            mean_patches=options.mean_patches,
            std_patches=options.std_patches,
        )

    return Encoder(features, of_images=True)


DINOV2_ENCODER = EncoderKind("dinov2", DINOv2Options, make_dinov2_encoder)
