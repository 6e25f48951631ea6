"""DINOv2 as features for scores: the class token, whose Fréchet distance is FD-DINOv2 (Stein et al. 2023)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from drifting.errors import InputError
from drifting.method.encoders.dinov2 import dinov2_pooled
from drifting.method.space import Shape
from drifting.scoring.image_features.encoder import ScoreEncoderKind, ScoreEncoderParts, scale_images
from drifting.weights.references import network

SIDE_PATCHES = 16
"""Patches along a side of the images as the network sees them: 224 pixels, where a patch has 14."""


def _dinov2(weights: str, shape: Shape) -> ScoreEncoderParts:
    if shape[2] not in (1, 3):
        raise InputError(f"takes images of 1 or 3 channels, these have {shape[2]}")
    found = network(weights or None, "dinov2", dtype="float32", remat=False)
    side = SIDE_PATCHES * found.arguments["patch_size"]

    def function(params: Any, images: jax.Array) -> dict[str, jax.Array]:
        # A grey image is one whose red, green and blue are equal.
        colours = jnp.repeat(images, 3, axis=-1) if shape[2] == 1 else images
        pooled = dinov2_pooled(nnx.merge(found.graphdef, params), scale_images(colours), side)
        return {"features": pooled.astype(jnp.float32)}

    return ScoreEncoderParts(found.params, function, found.checksum)


DINOV2_SCORE_ENCODER = ScoreEncoderKind(_dinov2)
