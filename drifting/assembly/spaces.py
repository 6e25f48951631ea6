"""Frozen networks of a run: the VAE whose latents are its samples, and the encoders in whose features it measures.

They are named by references: a folder, `hf://OWNER/REPO[@REVISION][/FOLDER]`, or `random://PRESET`, an untrained
network with which a machine or a configuration can be tried out before anything is downloaded.
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from drifting.assembly.foreign_latents import check_vae
from drifting.config.schema import Config, FeaturesConfig, PretrainConfig
from drifting.config.sections import parse_section
from drifting.data.latents.foreign import ForeignLatents
from drifting.data.source import LabelledSource, Source, delivery
from drifting.errors import (
    ArgumentError,
    ConfigError,
    as_setting,
    counted,
    one_of,
    require,
    require_argument,
    when_tried,
)
from drifting.method.encoders import ENCODERS, Encoder, FeatureEncoder, FeatureFn
from drifting.method.features import pixel_features
from drifting.method.space import SampleSpace, Shape
from drifting.networks.autoencoder import Autoencoder, measured_scale, scale_of
from drifting.networks.flash import FLASH_PLATFORMS
from drifting.networks.kept import products_kept
from drifting.networks.network import Network, Params
from drifting.weights.artifact import other_vae
from drifting.weights.references import network

logger = logging.getLogger("drifting")

Training = TypeVar("Training", Config, PretrainConfig)


def _network(key: str, reference: str | None, kind: str, abstract: bool, **changes: Any) -> Network:
    """The network that the setting `key` names; what is wrong with it is said with that name in front."""
    with as_setting(key, reference):
        return network(reference, kind, abstract, **changes)


# --- the space in which samples live ----------------------------------------------------------------------------------


def sample_space(
    reference: str | None,
    image_shape: Shape,
    key: str = "data.vae",
    abstract: bool = False,
    scale: Mapping[str, Any] | None = None,
) -> SampleSpace:
    """The space of samples for images of `image_shape`: that of the VAE which `key` names, or the images' own.

    `abstract`: see `network`. `scale`: how latents are scaled, see `scale_of`; None: as the VAE says.

    Raises:
        ConfigError: the VAE cannot be had, or is for other images.
    """
    if reference is None:
        return SampleSpace(image_shape, image_shape, None)
    try:
        found = _network(key, reference, "vae", abstract, dtype="float32", remat=True, **(scale or {}))
    except ArgumentError as error:
        if scale is None:
            raise
        remedy = f"the latents' channels have been measured, and those of this VAE are others ({error}): name their own"
        raise ConfigError(f"{key}={reference!r}: {remedy}") from error
    height, width, channels = image_shape
    vae: Autoencoder = nnx.merge(found.graphdef, found.params)
    factor = vae.downsampling
    if channels != vae.in_channels or height % factor or width % factor:
        raise ConfigError(
            f"{key}={reference!r}: it takes {counted(vae.in_channels, 'channel')} and "
            f"sides divisible by {factor}, "
            f"the images are {'x'.join(map(str, image_shape))}: choose another data.image_size or another VAE"
        )
    shape = (height // factor, width // factor, vae.latent_channels)
    return SampleSpace(shape, image_shape, found)


def source_space(reference: str | None, source: Source, normalise: bool = False) -> SampleSpace:
    """The space of samples for a source: `sample_space` of its images and the VAE `reference`, the `data.vae`.

    Latents of a cache have the VAE that encoded them: `reference` may say where it lies, and must not be another one.
    They are scaled as that VAE says, or where `normalise`, the `data.normalise_latents`, as they were measured.

    Raises:
        ConfigError: the VAE cannot be had, is for other images, is another one, or scales its latents otherwise; or
            latents that have not been measured are to be normalised.
    """
    delivers = delivery(source)
    scale = None if delivers.measured is None or not normalise else measured_scale(**delivers.measured)
    remedy = "was made before latents were measured: run its `drifting cache` command again, which measures them"
    if isinstance(source, ForeignLatents):
        remedy = "holds latents that nobody has measured: make a cache of them by `drifting cache`, which does"
    what = f"{delivers.path} {remedy}" if delivers.path else "no cache delivers these latents"
    require(scale is not None or not normalise, "data.normalise_latents", normalise, what)
    if delivers.vae is None:
        return dataclasses.replace(sample_space(reference, source.shape), image_dtype=delivers.dtype)
    if not (reference := reference or delivers.vae):
        raise ConfigError(f"data.vae=None: {delivers.path} holds latents, and does not say of which VAE: name it")
    space = sample_space(reference, source.shape, scale=scale)
    found = space.checksums["vae"]
    if isinstance(source, ForeignLatents):
        check_vae(space, reference, source)
        return dataclasses.replace(space, encoded=True)
    if found != delivers.vae_checksum:
        raise ConfigError(
            f"data.vae={reference!r}: its checksum is {found}, but {delivers.path} holds latents of another VAE, "
            f"{delivers.vae!r} with checksum {delivers.vae_checksum}: name a copy of that one, the same file"
        )
    if scale is None and delivers.vae_scale is not None and space.vae is not None:
        now = scale_of(space.vae.arguments)
        other = [(name, was) for name, was in delivers.vae_scale.items() if now.get(name) != was]
        listed = [f"{name} {now.get(name)} and not {was}" for name, was in other]
        if listed:
            raise ConfigError(
                f"data.vae={reference!r}: scales latents by {', '.join(listed)} as when {delivers.path} was made: give "
                "that VAE, or set data.normalise_latents=True, which asks neither"
            )
    return dataclasses.replace(space, encoded=True)


def named_vae(config: Training, source: LabelledSource) -> Training:
    """The settings with `data.vae` named: latents that were encoded before know whose they are."""
    vae = delivery(source).vae
    if not vae or config.data.vae is not None:
        return config
    return dataclasses.replace(config, data=dataclasses.replace(config.data, vae=vae))


def normalised(config: Training, space: SampleSpace) -> dict[str, Any]:
    """`latents`, how those of a run are scaled that normalises them: a fact about its data, which samples need too."""
    found = space.vae if config.data.normalise_latents else None
    return {} if found is None else {"latents": scale_of(found.arguments)}


# --- the feature space ------------------------------------------------------------------------------------------------


def encoder_options(config: FeaturesConfig, name: str) -> Any:
    """The settings of one encoder, an instance of `ENCODERS[name].options`.

    Raises:
        ConfigError: there is no such encoder or option, or an option cannot work.
    """
    one_of("features.encoders", name, ENCODERS)
    prefix = f"features.options.{name}."
    try:
        return parse_section(ENCODERS[name].options(), config.options.get(name, {}), prefix)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{prefix}{error}") from error


def feature_encoder(config: FeaturesConfig, space: SampleSpace, abstract: bool = False) -> FeatureEncoder:
    """The feature space of `config` for the samples of `space`: the samples, and the maps of each encoder.

    `abstract`: see `network`. Warns of an encoder that has learned in latents of another VAE, where that is known.

    Raises:
        ConfigError: weights are missing, damaged, of another kind, or for other samples.
    """
    networks: dict[str, Network] = {}
    encoders: dict[str, Encoder] = {}
    for name in config.encoders:
        options, kind = encoder_options(config, name), ENCODERS[name]
        key = f"features.options.{name}"
        networks[name] = _network(
            f"{key}.weights", options.weights, kind.network, abstract, dtype=options.dtype, remat=config.remat
        )
        try:
            encoders[name] = kind.make(options, networks[name], space)
        except ValueError as error:
            raise ConfigError(f"{key}.{error}") from error
        here = None if abstract or encoders[name].of_images else space.checksums.get("vae")
        if other := other_vae(networks[name].vae_sha256, here):
            logger.warning("data.vae: %s: features of other latents than those say little", other)

    def features(params: Params, samples: Array) -> dict[str, Array]:
        images = space.decode(params, samples) if any(encoder.of_images for encoder in encoders.values()) else samples
        maps = pixel_features(samples)
        for name, encoder in encoders.items():
            found = encoder.features(params[name], images if encoder.of_images else samples)
            maps |= {name: f.astype(config.kept_dtype or f.dtype) for name, f in found.items()}
        return maps

    params = {name: found.params for name, found in networks.items()}
    checksums = {name: found.checksum for name, found in networks.items()}
    return FeatureEncoder(features, params | space.params, checksums)


def features_until_loss(platform: str, features: FeatureFn) -> FeatureFn:
    """`features` of a whole batch: what waits for the loss is on an accelerator products and convolutions alone.

    That is 43.9 GB in place of 48.5 on each of 8 H200 that compute the published ablation, for 20 of 1,052 GB moved.
    A processor keeps what differentiation asks for.
    """
    return jax.checkpoint(features, policy=products_kept) if platform in FLASH_PLATFORMS else features


def own_encoder(encoder: Callable[[Array], dict[str, Array]], space: SampleSpace) -> FeatureEncoder:
    """The feature space that a function `samples [B, H, W, C] -> {name: [B, positions, channels]}` makes.

    It is tried on two samples, by shapes alone.

    Raises:
        ArgumentError: it is no such function.
    """
    wanted = "samples [B, H, W, C] -> {name: [B, positions, channels]}"
    with when_tried("encoder", f"must be a function of {wanted}"):
        maps = jax.eval_shape(encoder, jax.ShapeDtypeStruct((2, *space.shape), jnp.float32))
    require_argument(isinstance(maps, dict) and bool(maps), "encoder", None, f"gives no dict of maps: {wanted}")
    for name, features in maps.items():
        fits = len(features.shape) == 3 and features.shape[0] == 2 and jnp.issubdtype(features.dtype, jnp.floating)
        found = f"gives {features.dtype} of shape {features.shape} as {name!r} for two samples"
        require_argument(fits, "encoder", None, f"{found}: give floating-point numbers [B, positions, channels]")
    return FeatureEncoder(lambda params, samples: encoder(samples), space.params)
