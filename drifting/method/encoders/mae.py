"""The masked autoencoder as a feature encoder: the maps of its residual stages and their statistics."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from drifting.method.encoders.encoder import Encoder, EncoderKind
from drifting.method.features import Features, multi_scale_statistics
from drifting.method.space import SampleSpace
from drifting.networks import mae
from drifting.networks.layers import EPSILON, require_dtype, require_setting
from drifting.networks.network import Network, Params


@dataclass(frozen=True)
class MAEOptions:
    """Settings of the masked autoencoder as a feature encoder."""

    weights: Annotated[
        str | None, "the encoder: the folder `encoder` that drifting pretrain writes, or hf://OWNER/REPO[/FOLDER]"
    ] = None
    dtype: Annotated[str, "numbers that it computes with: float32 or bfloat16"] = "float32"
    size: Annotated[int | None, "images are resized to this side, in pixels; None: not"] = None
    locations: Annotated[bool, "use each map's features at every position"] = True
    mean: Annotated[bool, "use the mean of each map"] = True
    std: Annotated[bool, "use the standard deviation of each map"] = True
    mean_patches: Annotated[tuple[int, ...], "sides of patches of each map whose means are used"] = (2, 4)
    std_patches: Annotated[tuple[int, ...], "sides of patches of each map whose standard deviations are used"] = (2, 4)
    every_k_block: Annotated[int, "of the residual blocks of each stage use every k-th; 0: none"] = 2

    def __post_init__(self) -> None:
        require_dtype("dtype", self.dtype)
        require_setting(self.size is None or self.size >= 1, "size", self.size, "use 1 or more")
        require_setting(self.every_k_block >= 0, "every_k_block", self.every_k_block, "use 0 (no block) or more")
        for key in ("mean_patches", "std_patches"):
            sides = getattr(self, key)
            require_setting(all(side > 0 for side in sides), key, sides, "sides of patches are at least 1")


def norm_x(tokens: Float[Array, "samples height width channels"]) -> Float[Array, "samples 1 channels"]:
    """Root mean square of each channel, in the dtype of `tokens`."""
    square = jnp.mean(jnp.square(tokens.astype(jnp.float32)), axis=(1, 2))
    return jnp.sqrt(square + EPSILON).astype(tokens.dtype)[:, None]


def mae_features(
    encoder: mae.MAEEncoder,
    x: Float[Array, "samples height width channels"],
    *,
    locations: bool = True,
    mean: bool = True,
    std: bool = True,
    mean_patches: Sequence[int] = (2, 4),
    std_patches: Sequence[int] = (2, 4),
    every_k_block: int = 2,
) -> Features:
    """A masked autoencoder's features of the released recipe: `norm_x`, then the statistics of the encoder's maps.

    The recipe's `global`, the sample itself, is `pixel_features`.

    Args:
        encoder: a masked autoencoder's encoder, e.g. `nnx.merge(graphdef, params)` of `nnx.split(mae.encoder)`.
        x: samples, or images in [-1, 1], whichever the network was trained on.
        locations, mean, std, mean_patches, std_patches: see `multi_scale_statistics`.
        every_k_block: of the residual blocks, counted from 1 in each stage, use every k-th; 0 = none.

    Raises:
        ValueError: `every_k_block` is negative.
    """
    if every_k_block < 0:
        raise ValueError(f"every_k_block {every_k_block} must be 0 (no block) or positive")
    tokens = encoder.patchify(x).astype(encoder.dtype)
    maps = {name: y for name, y in encoder.maps(tokens).items() if _wanted(name, every_k_block)}
    statistics = multi_scale_statistics(
        maps, locations=locations, mean=mean, std=std, mean_patches=mean_patches, std_patches=std_patches
    )
    return {"norm_x": norm_x(tokens)} | statistics


def make_mae_encoder(options: MAEOptions, network: Network, space: SampleSpace) -> Encoder:
    """The reader of samples, or of images where samples are latents and the autoencoder was trained on images.

    Raises:
        ValueError: the autoencoder is for other channels or sides.
    """
    channels, patch = network.arguments["in_channels"], network.arguments["input_patch_size"]
    of_images = space.vae is not None and channels != space.shape[2]
    height, width, given = space.image_shape if of_images else space.shape
    if options.size is not None and not of_images and space.vae is not None:
        raise ValueError(f"size={options.size}: this encoder takes latents, leave it None")
    size = (height, width) if options.size is None else (options.size,) * 2
    if channels != given or size[0] % patch or size[1] % patch:
        raise ValueError(
            f"weights={options.weights!r}: this encoder takes samples of [H, W, {channels}] with sides divisible by "
            f"{patch}, these are {size[0]}x{size[1]}x{given}; pre-train one on this data"
        )

    def features(params: Params, x: Float[Array, "samples height width channels"]) -> Features:
        if x.shape[1:3] != size:
            x = jax.image.resize(x, (x.shape[0], *size, x.shape[3]), "bilinear")
        return mae_features(
            nnx.merge(network.graphdef, params),
            x,
            locations=options.locations,
            mean=options.mean,
            std=options.std,
            mean_patches=options.mean_patches,
            std_patches=options.std_patches,
            every_k_block=options.every_k_block,
        )

    return Encoder(features, of_images)


MAE_ENCODER = EncoderKind("mae", MAEOptions, make_mae_encoder)


def _wanted(name: str, every_k_block: int) -> bool:
    _, is_block, number = name.partition("_blk")
    return not is_block or (every_k_block > 0 and int(number) % every_k_block == 0)
