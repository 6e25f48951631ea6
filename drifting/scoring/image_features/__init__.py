"""Features in which images are scored. A new encoder is a file here and an entry in `SCORE_ENCODERS`."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from drifting.devices.block_function import BlockFunction
from drifting.errors import ArgumentError, InputError, require_argument, use_one_of
from drifting.method.space import Shape
from drifting.sampling.images import Pixels, Tick, nothing
from drifting.scoring.image_features.dinov2 import DINOV2_SCORE_ENCODER
from drifting.scoring.image_features.encoder import ScoreEncoderKind, ScoreEncoderParts
from drifting.scoring.image_features.inception import INCEPTION_SCORE_ENCODER
from drifting.scoring.image_features.mae import MAE_SCORE_ENCODER
from drifting.scoring.image_features.pixels import PIXELS_SCORE_ENCODER

__all__ = [
    "SCORE_ENCODERS",
    "FeaturesByKind",
    "ScoreEncoder",
    "ScoreEncoderKind",
    "ScoreEncoderParts",
    "check_encoder_kind",
    "known_widths",
    "score_encoder",
]

FeaturesByKind = dict[str, np.ndarray]

ENCODER_BLOCK_IMAGES = 32
"""Images a call of an encoder."""

SCORE_ENCODERS: dict[str, ScoreEncoderKind] = {
    "inception": INCEPTION_SCORE_ENCODER,
    "pixels": PIXELS_SCORE_ENCODER,
    "mae": MAE_SCORE_ENCODER,
    "dinov2": DINOV2_SCORE_ENCODER,
}
"""Every kind of encoder by the word that stands before the colon."""


@dataclass(frozen=True)
class ScoreEncoder:
    """Images to features, in blocks of one size on all devices of this process.

    Attributes:
        name: a key of `SCORE_ENCODERS`.
        reference: where its weights lie; '' for none.
        checksum: the checksum of the weights; pixels have the same on any machine.
        shape: height, width and channels of the images that it was made for.
        blocks, placed: the function in blocks of one size, and its parameters on each device; see `BlockFunction`.
    """

    name: str
    reference: str
    checksum: str
    shape: Shape
    blocks: BlockFunction
    placed: list[Any]

    def __call__(self, images: Pixels, tick: Tick = nothing) -> FeaturesByKind:
        """The features of images, uint8 `[N, H, W, C]`, all float32: `features` `[N, D]`, of the Inception network also
        `spatial` `[N, 2023]` and `logits` `[N, 1008]`, and of an autoencoder with a classifier `class_logits` `[N, K]`.
        """
        found = []
        for block in self.blocks(self.placed, (images,)):
            found.append(block)
            tick(len(block["features"]))
        return jax.tree.map(lambda *arrays: np.concatenate(arrays), *found)

    @property
    def widths(self) -> dict[str, int]:
        """How many features of each kind it gives; nothing is computed."""
        images = jax.ShapeDtypeStruct((self.blocks.block, *self.shape), jnp.uint8)
        return {name: array.shape[1] for name, array in self.blocks.shapes(self.placed, images).items()}

    @property
    def facts(self) -> dict[str, Any]:
        """What scores depend on, JSON-able; `reference` alone may differ between equal encoders."""
        return {"encoder": self.name, "encoder_weights": self.checksum, "image_shape": list(self.shape)}


def known_widths(given: str, shape: Shape) -> dict[str, int]:
    """How many features of each kind `score_encoder` gives, as far as that is known before it has its weights."""
    kind = given.partition(":")[0]
    return SCORE_ENCODERS[kind].widths(shape) if kind in SCORE_ENCODERS else {}


def check_encoder_kind(given: str) -> None:
    """Raises `ArgumentError` unless `given` names one of `SCORE_ENCODERS`, whose weights it may name, too."""
    kind = given.partition(":")[0]
    require_argument(kind in SCORE_ENCODERS, "encoder", given, use_one_of(kind, SCORE_ENCODERS))


def score_encoder(given: str, shape: Shape) -> ScoreEncoder:
    """The encoder that is meant by `given`, for images of `shape`.

    Args:
        given: `inception`, whose weights are downloaded, or `inception:WEIGHTS`; `pixels`; `mae:WEIGHTS`, of images;
            `dinov2:WEIGHTS`.
            `inception:random` is untrained: its numbers are no scores, but they try out everything else.
        shape: height, width and channels.

    Raises:
        ArgumentError: there is no such encoder, its weights cannot be used, or it is for other images.
        HubError: its weights cannot be fetched.
    """
    check_encoder_kind(given)
    kind, _, weights = given.partition(":")
    try:
        made = SCORE_ENCODERS[kind].make(weights, shape)
    except InputError as error:
        raise ArgumentError("encoder", given, str(error).removeprefix(f"{weights or None}: ")) from error
    blocks = BlockFunction(made.function, ENCODER_BLOCK_IMAGES, jax.local_devices())
    return ScoreEncoder(kind, weights, made.checksum, shape, blocks, blocks.place(made.params))
