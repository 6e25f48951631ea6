"""Frozen networks of a run: the VAE whose latents are its samples, and the encoders in whose features it measures.

They are named by references: a folder, `hf://OWNER/REPO[@REVISION][/FOLDER]`, or `random://PRESET`, an untrained
network with which a machine or a configuration can be tried out before anything is downloaded.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from drifting.config import ConfigError, FeaturesConfig, unusable
from drifting.data.latents import LatentSource
from drifting.data.source import Source, read
from drifting.features import convnext_features, mae_features, pixel_features
from drifting.hub.weights import load_weights
from drifting.models import convnext, mae, vae
from drifting.models.convnext import ConvNeXtV2
from drifting.models.mae import MAE
from drifting.models.vae import AutoencoderKL, Moments, decode_in_slices

Params = dict[str, Any]
Shape = tuple[int, int, int]
FeatureFn = Callable[[Params, Array], dict[str, Array]]

RANDOM = "random://"
VAE_SLICE = 16
"""Images that the VAE encodes or decodes at a time: activations of 256 x 256 pixels take half a gigabyte each."""

PRESETS: dict[str, dict[str, dict[str, Any]]] = {"mae": mae.PRESETS, "convnext": convnext.PRESETS, "vae": vae.PRESETS}
KNOWN = {
    "hf://Goodeat/drifting/mae_latent_256": "latent_256",
    "hf://Goodeat/drifting/mae_latent_640": "latent_640",
    "hf://Goodeat/drifting/mae_pixel_640": "pixel_640",
    "hf://facebook/convnextv2-base-22k-224": "base",
    "hf://stabilityai/sd-vae-ft-ema": "sd",
    "hf://stabilityai/sd-vae-ft-mse": "sd",
}
"""Published networks that are presets, whose shapes need no download."""


@dataclass(frozen=True)
class Network:
    """A frozen network: `nnx.merge(graphdef, params)`. Attributes:

    arguments: of its constructor. checksum: SHA-256 of the weights, so that a run is only resumed with the same.
    """

    graphdef: Any
    params: Params
    arguments: dict[str, Any]
    checksum: str


def network(key: str, reference: str | None, kind: str, abstract: bool = False, **changes: Any) -> Network:
    """The network that the setting `key` names by `reference`.

    Args:
        key: names the setting in errors.
        reference: see the head of this module.
        kind: `mae` (of which the encoder is taken), `convnext` or `vae`.
        abstract: parameters are shapes only, and published networks are not downloaded.
        changes: constructor arguments that the run chooses: `dtype`, `remat`.

    Raises:
        ConfigError: it cannot be had, is damaged, or is of another kind.
    """
    if not reference:
        raise ConfigError(f"{key}=None: give a folder, hf://OWNER/REPO, or {RANDOM}PRESET")
    preset = KNOWN.get(reference) if abstract else None
    if reference.startswith(RANDOM):
        preset = reference.removeprefix(RANDOM)
        if preset not in PRESETS[kind]:
            raise ConfigError(f"{key}={reference!r}: there is no such preset, use one of {', '.join(PRESETS[kind])}")
    if preset is not None:
        arguments = PRESETS[kind][preset] | changes
        graphdef, shapes = _abstract(kind, arguments)
        params = shapes if abstract else jax.jit(lambda: nnx.to_pure_dict(nnx.state(_create(kind, arguments))))()
        return Network(graphdef, params, arguments, reference)
    try:
        artifact = load_weights(reference, kind)
    except ValueError as error:
        raise ConfigError(unusable(key, reference, error)) from error
    arguments = artifact.model_config | changes
    params = artifact.params["encoder"] if kind == "mae" else artifact.params
    graphdef, _ = _abstract(kind, arguments)
    return Network(graphdef, jax.tree.map(jnp.asarray, params), arguments, artifact.metadata["sha256"])


def _create(kind: str, arguments: Mapping[str, Any]) -> nnx.Module:
    rngs = nnx.Rngs(0)
    if kind == "vae":
        return AutoencoderKL(**arguments, rngs=rngs)
    if kind == "convnext":
        return ConvNeXtV2(**arguments, rngs=rngs)
    classes = {"num_classes": 0} | dict(arguments)
    return MAE(**classes | {"layers": tuple(arguments["layers"])}, rngs=rngs).encoder


def _abstract(kind: str, arguments: Mapping[str, Any]) -> tuple[Any, Params]:
    """The network's structure, and the shapes of its parameters."""
    graphdef, state = nnx.split(nnx.eval_shape(partial(_create, kind, arguments)))
    return graphdef, nnx.to_pure_dict(state)


# --- the space in which samples live ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class SampleSpace:
    """What the generator draws: the images themselves, or latents of a VAE.

    Attributes:
        shape: height, width, channels of a sample.
        image_shape: of the image it stands for.
        vae: the VAE; None where samples are images.
        encoded: whether the source delivers moments of latents in place of images.
        image_dtype: of the images that it delivers: `uint8`, or `float32` in [-1, 1].
    """

    shape: Shape
    image_shape: Shape
    vae: Network | None
    encoded: bool = False
    image_dtype: str = "float32"

    @property
    def params(self) -> Params:
        """Parameters for `encode` and `decode`: `{"vae": ...}`, or nothing."""
        return {} if self.vae is None else {"vae": self.vae.params}

    @property
    def checksums(self) -> dict[str, str]:
        """Checksum of the VAE, if there is one."""
        return {} if self.vae is None else {"vae": self.vae.checksum}

    @property
    def record(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of what is kept of a real sample, from which `draw` makes it."""
        if self.vae is None:
            return jax.ShapeDtypeStruct(self.shape, self.image_dtype)
        return jax.ShapeDtypeStruct((*self.shape[:2], 2 * self.shape[2]), jnp.float16)

    @property
    def as_delivered(self) -> bool:
        """Whether records are what the source delivers, so that reading it again gives them to the last bit."""
        return self.vae is None or self.encoded

    def keep(self, params: Params, delivered: Array) -> Array:
        """The records `[B, ...]` of what a source delivers: `[B, *image_shape]`, or moments where it is `encoded`.

        Images are their own records; of latents the moments of the posterior are kept, `[B, h, w, 2 C]` float16.
        """
        if self.as_delivered:
            return delivered
        return self.moments(params, to_samples(delivered)).astype(jnp.float16)

    def draw(self, params: Params, records: Array, key: Array) -> Array:
        """Samples `[B, *shape]` float32 of records `[B, ...]`; latents are drawn afresh from their posterior."""
        if self.vae is None:
            return to_samples(records)
        model: AutoencoderKL = nnx.merge(self.vae.graphdef, params["vae"])
        keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(records.shape[0]))
        mean, log_var = jnp.split(records.astype(jnp.float32), 2, axis=-1)
        return jax.vmap(model.sample_latents)(Moments(mean, log_var), keys)

    def moments(self, params: Params, images: Array) -> Array:
        """Mean and log-variance of the posterior of images `[B, *image_shape]`: `[B, h, w, 2 C]` float32.

        Raises:
            ValueError: samples are images.
        """
        if self.vae is None:
            raise ValueError("data.vae=None: images have no moments, give a VAE")
        model: AutoencoderKL = nnx.merge(self.vae.graphdef, params["vae"])

        def one(image: Array) -> Array:
            moments = model.encode(image[None])
            return jnp.concatenate([moments.mean, moments.log_var], axis=-1)[0]

        return jax.lax.map(one, images, batch_size=VAE_SLICE)

    def decode(self, params: Params, samples: Array) -> Array:
        """Samples `[B, *shape]` to images `[B, *image_shape]`, about within [-1, 1]; differentiable."""
        if self.vae is None:
            return samples
        return decode_in_slices(nnx.merge(self.vae.graphdef, params["vae"]), samples, VAE_SLICE)


def to_samples(images: Array) -> Array:
    """Images as float32: uint8 is mapped to [-1, 1] by x / 127.5 - 1, floats keep their values."""
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32) / jnp.float32(127.5) - jnp.float32(1)
    return images.astype(jnp.float32)


def sample_space(
    reference: str | None, image_shape: Shape, key: str = "data.vae", abstract: bool = False
) -> SampleSpace:
    """The space of samples for images of `image_shape`: that of the VAE which `key` names, or the images' own.

    `abstract`: see `network`.

    Raises:
        ConfigError: the VAE cannot be had, or is for other images.
    """
    if reference is None:
        return SampleSpace(image_shape, image_shape, None)
    found = network(key, reference, "vae", abstract, dtype="float32", remat=True)
    height, width, channels = image_shape
    factor = 2 ** (len(found.arguments["block_channels"]) - 1)
    if channels != found.arguments["in_channels"] or height % factor or width % factor:
        raise ConfigError(
            f"{key}={reference!r}: it takes {found.arguments['in_channels']} channels and sides divisible by {factor}, "
            f"the images are {_text(image_shape)}: choose another data.image_size or another VAE"
        )
    shape = (height // factor, width // factor, found.arguments["latent_channels"])
    return SampleSpace(shape, image_shape, found)


def source_space(reference: str | None, source: Source) -> SampleSpace:
    """The space of samples for a source: `sample_space` of its images and the VAE `reference`, the `data.vae`.

    Latents of a cache have the VAE that encoded them: `reference` may say where it lies, and must not be another one.

    Raises:
        ConfigError: the VAE cannot be had, is for other images, or is another one.
    """
    if not isinstance(source, LatentSource):
        delivered, _ = read(source, [0], np.zeros(1, bool), None)
        return dataclasses.replace(sample_space(reference, source.shape), image_dtype=str(delivered.dtype))
    reference = reference or source.vae
    space = sample_space(reference, source.shape)
    found = space.checksums["vae"]
    if found != source.vae_checksum:
        raise ConfigError(
            f"data.vae={reference!r}: its checksum is {found}, but {source.path} holds latents of another VAE, "
            f"{source.vae!r} with checksum {source.vae_checksum}"
        )
    return dataclasses.replace(space, encoded=True)


# --- feature encoders -------------------------------------------------------------------------------------------------


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


def feature_encoder(config: FeaturesConfig, space: SampleSpace, abstract: bool = False) -> FeatureEncoder:
    """The feature space of `config` for the samples of `space`: the samples, and the maps of each encoder.

    `abstract`: see `network`.

    Raises:
        ConfigError: weights are missing, damaged, of another kind, or for other samples.
    """
    networks = {
        name: network(
            f"features.{name}",
            getattr(config, name),
            name,
            abstract,
            dtype=getattr(config, f"{name}_dtype"),
            remat=config.remat,
        )
        for name in config.encoders
    }
    readers = {name: (_mae_reader if name == "mae" else _convnext_reader)(config, found, space)
               for name, found in networks.items()}  # fmt: skip

    def features(params: Params, samples: Array) -> dict[str, Array]:
        images = space.decode(params, samples) if any(reader.of_images for reader in readers.values()) else samples
        maps = pixel_features(samples)
        for name, reader in readers.items():
            found = reader.read(params[name], images if reader.of_images else samples)
            maps |= {name: f.astype(config.kept_dtype or f.dtype) for name, f in found.items()}
        return maps

    params = {name: found.params for name, found in networks.items()}
    checksums = {name: found.checksum for name, found in networks.items()}
    return FeatureEncoder(features, params | space.params, checksums)


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
