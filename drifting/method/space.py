"""What a sample is: the image itself, or latents of a frozen VAE."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from drifting.networks.network import Network, Params
from drifting.networks.vae import AutoencoderKL, Moments, decode_in_slices

Shape = tuple[int, int, int]

VAE_SLICE = 16
"""Images that the VAE encodes or decodes at a time: activations of 256 x 256 pixels take half a gigabyte each."""


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

    def records(self, params: Params, delivered: Array) -> Array:
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
