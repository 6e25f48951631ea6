"""The pixels themselves as features, for small images."""

import math

from drifting.errors import InputError
from drifting.sampling.images import Shape
from drifting.scoring.image_features.encoder import EncoderKind, EncoderParts, scaled


def _pixels(weights: str, shape: Shape) -> EncoderParts:
    if weights:
        raise InputError("pixels have no weights, use pixels")
    return EncoderParts({}, lambda _, images: {"features": scaled(images).reshape(len(images), -1)}, "pixels")


PIXELS = EncoderKind(_pixels, lambda shape: {"features": math.prod(shape)})
