"""What an encoder of images for scores is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from drifting.method.space import Shape


@dataclass(frozen=True)
class ScoreEncoderParts:
    """What a `ScoreEncoder` is made of.

    Attributes:
        params: the network's parameters, a pytree.
        function: `(params, uint8 [B, H, W, C])` to arrays `[B, D]` float32 by kind: `features`, and what else there is.
        checksum: the checksum of the weights.
    """

    params: Any
    function: Callable[[Any, jax.Array], dict[str, jax.Array]]
    checksum: str


@dataclass(frozen=True)
class ScoreEncoderKind:
    """An entry of `SCORE_ENCODERS`.

    Attributes:
        make: `(weights, shape)` to the parts of an encoder of images of that shape; `weights` is what stands behind the
            colon, or ''. It raises `InputError` where the weights or the shape cannot be used.
        widths: how many features of each kind there are for images of a shape, as far as that is known without weights.
    """

    make: Callable[[str, Shape], ScoreEncoderParts]
    widths: Callable[[Shape], dict[str, int]] = lambda _: {}


def scale_images(images: jax.Array) -> jax.Array:
    """uint8 images to float32 in [-1, 1], as the sources deliver them."""
    return images.astype(jnp.float32) / 127.5 - 1
