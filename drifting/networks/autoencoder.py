"""What all autoencoders of images share: what they map to what, the scale of their latents, and decoding in slices."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from drifting.errors import InputError, require_argument

LOG_VAR_RANGE = (-30.0, 20.0)
"""The range to which log variances are clipped (diffusers' `DiagonalGaussianDistribution`)."""


class Moments(NamedTuple):
    """Gaussian posterior of each latent, not scaled; both float32 `[B, H/f, W/f, latent_channels]`.

    Attributes:
        mean: the mean of the latents.
        log_var: natural logarithm of their variance, within `LOG_VAR_RANGE`.
    """

    mean: jax.Array
    log_var: jax.Array


def scale_of(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Those of an autoencoder's constructor arguments that say how its latents are scaled, with their defaults."""
    defaults = {"shift_factor": 0.0, "latents_mean": None, "latents_std": None}
    return {"scaling_factor": arguments["scaling_factor"]} | {
        key: arguments.get(key, default) for key, default in defaults.items()
    }


def measured_scale(mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
    """The same arguments for latents whose channels have been measured, which then have mean 0 and variance 1."""
    return scale_of({"scaling_factor": 1.0, "latents_mean": list(mean), "latents_std": list(std)})


class Autoencoder(nnx.Module):
    """Images in [-1, 1] to Gaussian posteriors of latents, and latents to images; differentiable in both directions.

    Latents outside of this class are scaled: `(z - shift) * scaling_factor / std`, which gives them about mean 0 and
    variance 1. `shift` is `shift_factor`, or for each channel its `latents_mean`; `std` is 1, or its `latents_std`.

    Args:
        in_channels, out_channels: channels of the images that are encoded and decoded.
        latent_channels: channels of the latents.
        downsampling: side of an image over that of its latents.
        scaling_factor: what the latents are multiplied by.
        shift_factor: what is subtracted of them before.
        latents_mean, latents_std: mean and deviation of each channel of the latents, both or neither.
        remat: recompute each block's activations in the backward pass.

    Raises:
        ArgumentError: means or deviations are not one for each channel, a deviation is not positive, one of them is
            given without the other, or means beside a `shift_factor`.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        latent_channels: int,
        downsampling: int,
        scaling_factor: float,
        shift_factor: float,
        latents_mean: Sequence[float] | None,
        latents_std: Sequence[float] | None,
        remat: bool,
    ) -> None:
        for name, values in {"latents_mean": latents_mean, "latents_std": latents_std}.items():
            fits = values is None or len(values) == latent_channels
            require_argument(fits, name, values, f"must be {latent_channels} numbers, one for each channel of latents")
        both = (latents_mean is None) == (latents_std is None)
        require_argument(both, "latents_std", latents_std, "goes with latents_mean: give both or neither")
        require_argument(min(latents_std or [1]) > 0, "latents_std", latents_std, "must be positive numbers")
        once = latents_mean is None or not shift_factor
        require_argument(once, "shift_factor", shift_factor, "is subtracted as latents_mean is: give one of them")
        self.in_channels, self.out_channels, self.latent_channels = in_channels, out_channels, latent_channels
        self.downsampling, self.remat = downsampling, remat
        self.scaling_factor, self.shift_factor = scaling_factor, shift_factor
        self.means: tuple[float, ...] | None = None
        self.factors: tuple[float, ...] = ()
        """For each channel, what is subtracted of its latents and what they are then multiplied by; or `means` None."""
        if latents_mean is not None and latents_std is not None:
            self.means = tuple(latents_mean)
            self.factors = tuple(scaling_factor / deviation for deviation in latents_std)

    def posterior(self, x: jax.Array) -> Moments:
        """The moments that `encode` gives, of images whose sides fit; each autoencoder has its own."""
        raise NotImplementedError

    def images(self, z: jax.Array) -> jax.Array:
        """Images of float32 latents that are not scaled; each autoencoder has its own."""
        raise NotImplementedError

    def encode(self, x: jax.Array) -> Moments:
        """Posterior of images `[B, H, W, in_channels]` in [-1, 1].

        Raises:
            InputError: h or W is no multiple of `downsampling`.
        """
        if any(side % self.downsampling for side in x.shape[1:3]):
            sides = " x ".join(map(str, x.shape[1:3]))
            raise InputError(f"images of {sides} pixels: both sides must be multiples of {self.downsampling}")
        return self.posterior(x)

    def sample_latents(self, moments: Moments, key: jax.Array) -> jax.Array:
        """Scaled latents drawn from the posterior, of `mean + std * noise`, in the shape of `mean`.

        One key serves all; for noise that does not depend on the batch, map over samples and a key for each
        (`jax.vmap`).
        """
        noise = jax.random.normal(key, moments.mean.shape, moments.mean.dtype)
        z = moments.mean + jnp.exp(0.5 * moments.log_var) * noise
        if self.means is not None:
            return (z - jnp.array(self.means, z.dtype)) * jnp.array(self.factors, z.dtype)
        return (z - self.shift_factor if self.shift_factor else z) * self.scaling_factor

    def decode(self, latents: jax.Array) -> jax.Array:
        """Images, float32 `[B, f h, f w, out_channels]` (`f` = `downsampling`), of scaled latents `[B, h, w, C]`.

        They are about within [-1, 1] and not clipped.
        """
        z = latents.astype(jnp.float32)
        if self.means is not None:
            z = z / jnp.array(self.factors, z.dtype) + jnp.array(self.means, z.dtype)
        else:
            z = z / self.scaling_factor
            z = z + self.shift_factor if self.shift_factor else z
        return self.images(z).astype(jnp.float32)


def decode_in_slices(vae: Autoencoder, latents: jax.Array, size: int) -> jax.Array:
    """`vae.decode(latents)` in equal slices of at most `size` samples, one after the other: less memory, same images.

    With `vae.remat` slices save memory in the backward pass too: only one slice's activations exist at a time.

    Raises:
        ArgumentError: `size` is not positive.
    """
    require_argument(size >= 1, "size", size, "slices must have at least 1 sample")
    batch = latents.shape[0]
    if batch <= size:
        return vae.decode(latents)
    slices = -(-batch // size)
    latents = jnp.pad(latents, ((0, -batch % slices), (0, 0), (0, 0), (0, 0)))
    # Every slice takes samples from all over the batch: where it is sharded over devices, so is each slice.
    latents = rearrange(latents, "(n slices) h w c -> slices n h w c", slices=slices)
    images = jax.lax.map(jax.checkpoint(vae.decode) if vae.remat else vae.decode, latents)
    return rearrange(images, "slices n h w c -> (n slices) h w c")[:batch]
