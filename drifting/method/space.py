"""What a sample is: the image itself, or latents of a frozen VAE."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float, Float32, Key, Shaped

from drifting.method.placement import ONE_DEVICE, Batched, Placement
from drifting.networks.autoencoder import Autoencoder, Moments, decode_in_slices
from drifting.networks.network import Network, Params

Shape = tuple[int, int, int]
"""Height, width and channels."""

VAE_SLICE = 16
"""Images that the VAE encodes or decodes at a time: activations of 256 x 256 pixels take half a gigabyte each."""


@dataclass(frozen=True)
class SampleSpace:
    """What the generator draws: the images themselves, or latents of a VAE.

    Attributes:
        shape: the shape of a sample.
        image_shape: the shape of the image that a sample stands for.
        vae: the VAE; None where samples are images.
        encoded: whether the source delivers moments of latents in place of images.
        image_dtype: the dtype of the images that the source delivers: `uint8`, or `float32` in [-1, 1].
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
        """Shape and dtype of what is kept of a real sample, from which `draw` makes the sample."""
        if self.vae is None:
            return jax.ShapeDtypeStruct(self.shape, self.image_dtype)
        return jax.ShapeDtypeStruct((*self.shape[:2], 2 * self.shape[2]), jnp.float16)

    @property
    def as_delivered(self) -> bool:
        """Whether records are what the source delivers, so that reading it again gives them to the last bit."""
        return self.vae is None or self.encoded

    def records(
        self,
        params: Params,
        delivered: Shaped[Array, "samples _height _width _numbers"],
        placement: Placement = ONE_DEVICE,
    ) -> Shaped[Array, "samples _height _width _numbers"]:
        """The records of what a source delivers: images, or moments of latents where it is `encoded`.

        Images are their own records; of latents the moments of the posterior are kept in float16, as `moments` gives
        them. Each device encodes what lies there.
        """
        if self.as_delivered:
            return delivered

        def part(params: Params, images: Batched) -> tuple[Batched, tuple[()]]:
            with jax.named_scope("vae"):
                return self.moments(params, to_samples(images)).astype(jnp.float16), ()

        found: Shaped[Array, "samples height width numbers"] = placement.each(part, params, delivered)[0]
        return found

    def draw(
        self, params: Params, records: Shaped[Array, "samples height width _numbers"], key: Key[Array, ""]
    ) -> Float32[Array, "samples height width _channels"]:
        """Samples of records; latents are drawn afresh from their posterior."""
        if self.vae is None:
            return to_samples(records)
        model: Autoencoder = nnx.merge(self.vae.graphdef, params["vae"])
        keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(records.shape[0]))
        mean, log_var = jnp.split(records.astype(jnp.float32), 2, axis=-1)
        return jax.vmap(model.sample_latents)(Moments(mean, log_var), keys)

    def moments(
        self, params: Params, images: Float[Array, "samples _height _width _channels"]
    ) -> Float32[Array, "samples {self.shape[0]} {self.shape[1]} 2*{self.shape[2]}"]:
        """Mean and log-variance of the posterior of images, one after the other along the last axis.

        Raises:
            ValueError: samples are images.
        """
        if self.vae is None:
            raise ValueError("data.vae=None: images have no moments, give a VAE")
        model: Autoencoder = nnx.merge(self.vae.graphdef, params["vae"])

        def one(image: Float[Array, "_height _width _channels"]) -> Float32[Array, "height width numbers"]:
            moments = model.encode(image[None])
            return jnp.concatenate([moments.mean, moments.log_var], axis=-1)[0]

        return jax.lax.map(one, images, batch_size=VAE_SLICE)

    def decode(
        self, params: Params, samples: Float[Array, "samples _height _width _channels"]
    ) -> Float[Array, "samples _image_height _image_width _image_channels"]:
        """The images of samples, about within [-1, 1]; differentiable."""
        if self.vae is None:
            return samples
        return decode_in_slices(nnx.merge(self.vae.graphdef, params["vae"]), samples, VAE_SLICE)


def to_samples(images: Shaped[Array, "*shape"]) -> Float32[Array, "*shape"]:
    """Images as numbers: uint8 is mapped to [-1, 1] by x / 127.5 - 1, floats keep their values."""
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32) / jnp.float32(127.5) - jnp.float32(1)
    return images.astype(jnp.float32)
