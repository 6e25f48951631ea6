"""The pixels themselves as features, for small images."""

import math

from drifting.errors import InputError
from drifting.method.space import Shape
from drifting.scoring.image_features.encoder import ScoreEncoderKind, ScoreEncoderParts, scale_images


def _pixels(weights: str, shape: Shape) -> ScoreEncoderParts:
    if weights:
        raise InputError("pixels have no weights, use pixels")
    return ScoreEncoderParts(
        {}, lambda _, images: {"features": scale_images(images).reshape(len(images), -1)}, "pixels"
    )


PIXELS_SCORE_ENCODER = ScoreEncoderKind(_pixels, lambda shape: {"features": math.prod(shape)})
