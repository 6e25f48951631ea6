"""Whether latents that other code has written are those of a VAE, which their files do not say."""

import logging

import numpy as np
from flax import nnx

from drifting.data.latents.foreign import RATIO_AT_MOST, ForeignLatents
from drifting.errors import ConfigError
from drifting.method.space import SampleSpace
from drifting.networks.autoencoder import Autoencoder

logger = logging.getLogger("drifting")


def check_vae(space: SampleSpace, reference: str, source: ForeignLatents) -> None:
    """Compares latents with what the VAE `reference` makes: their shape, and their deviation once it has scaled them.

    A deviation that is not about 1 is only warned of where a person has said how the latents were scaled, or statistics
    beside them have.

    Raises:
        ConfigError: they are of another VAE, or scaled otherwise than their writer's code does.
    """
    ours, theirs = ("x".join(map(str, shape)) for shape in (space.shape, source.sample_shape))
    if space.shape != source.sample_shape:
        image = "x".join(map(str, space.image_shape[:2]))
        raise ConfigError(
            f"data.vae={reference!r}: its latents of images of {image} are {ours}, those in {source.path} {theirs}: "
            "name the VAE that made them, or set data.image_size or data.options.latents.channels"
        )
    assert space.vae is not None
    vae: Autoencoder = nnx.merge(space.vae.graphdef, space.vae.params)
    shift, factor = (vae.means, vae.factors) if vae.means is not None else (vae.shift_factor, vae.scaling_factor)
    deviation = float(((source.probe() - np.asarray(shift)) * np.asarray(factor)).std())
    if 1 / RATIO_AT_MOST < deviation < RATIO_AT_MOST:
        return
    said = f"{source.path} deviate by {deviation:.3g} once {reference} has scaled them, which should be about 1"
    if source.scale_given:
        logger.warning("data: latents in %s: is data.options.latents.scale=%g right?", said, source.scale)
        return
    if source.delivers.measured is not None:
        logger.warning(
            "data: latents in %s, and were not scaled: set data.normalise_latents=True to train on them", said
        )
        return
    raise ConfigError(
        f"data.options.latents.scale=None: latents in {said}: they were not multiplied by {source.scale:g}, as their "
        "writer's code does, or are of another VAE; give what they were multiplied by"
    )
