"""The feature space of the loss: the samples themselves and the maps of frozen encoders."""

from collections.abc import Callable
from dataclasses import dataclass, field

import jax
from flax import nnx
from jax import Array

from drifting.config.schema import FeaturesConfig
from drifting.errors import ConfigError
from drifting.method.features import convnext_features, mae_features
from drifting.method.space import SampleSpace
from drifting.networks.network import Network, Params

FeatureFn = Callable[[Params, Array], dict[str, Array]]


@dataclass(frozen=True)
class FeatureEncoder:
    """A frozen feature space.

    Attributes:
        features: `(params, samples [B, H, W, C]) -> {name: [B, positions, channels]}`.
        params: the encoders' parameters, constants of training; `{"vae": ...}` among them where images are needed.
        checksums: of the encoders' weights, by name.
    """

    features: FeatureFn
    params: Params = field(default_factory=dict)
    checksums: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Reader:
    """One encoder: its features of images or of samples."""

    read: FeatureFn
    of_images: bool


def _mae_reader(config: FeaturesConfig, found: Network, space: SampleSpace) -> _Reader:
    channels, patch = found.arguments["in_channels"], found.arguments["input_patch_size"]
    of_images = space.vae is not None and channels != space.shape[2]
    height, width, given = space.image_shape if of_images else space.shape
    if config.mae_size is not None and not of_images and space.vae is not None:
        raise ConfigError(f"features.mae_size={config.mae_size}: this encoder takes latents, leave it None")
    size = (height, width) if config.mae_size is None else (config.mae_size,) * 2
    if channels != given or size[0] % patch or size[1] % patch:
        raise ConfigError(
            f"features.mae={config.mae!r}: this encoder takes {channels} channels and sides divisible by {patch}, the "
            f"samples are {_text((*size, given))}; pre-train one on this data"
        )

    def read(params: Params, x: Array) -> dict[str, Array]:
        if x.shape[1:3] != size:
            x = jax.image.resize(x, (x.shape[0], *size, x.shape[3]), "bilinear")
        return mae_features(
            nnx.merge(found.graphdef, params),
            x,
            locations=config.locations,
            mean=config.mean,
            std=config.std,
            mean_patches=config.mean_patches,
            std_patches=config.std_patches,
            every_k_block=config.every_k_block,
        )

    return _Reader(read, of_images)


def _convnext_reader(config: FeaturesConfig, found: Network, space: SampleSpace) -> _Reader:
    channels, given = found.arguments["in_channels"], space.image_shape[2]
    if channels != given:
        raise ConfigError(
            f"features.convnext={config.convnext!r}: this encoder takes {channels} channels, the images have {given}"
        )
    return _Reader(
        lambda params, x: convnext_features(nnx.merge(found.graphdef, params), x, resolution=config.convnext_size), True
    )


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
