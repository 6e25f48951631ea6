"""The Inception network of FID as features for scores."""

import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from drifting.errors import HubError, InputError
from drifting.method.space import Shape
from drifting.networks.inception import Inception
from drifting.scoring.image_features.encoder import ScoreEncoderKind, ScoreEncoderParts
from drifting.weights.load import load_weights

logger = logging.getLogger("drifting")

UNTRAINED = "random"
"""What stands in place of weights for a network that is not trained."""


def _inception(weights: str, shape: Shape) -> ScoreEncoderParts:
    if shape[2] not in (1, 3):
        raise InputError(f"takes images of 1 or 3 channels, these have {shape[2]}")
    if weights == UNTRAINED:
        logger.warning("inception:%s: the network is untrained, its numbers are no scores", UNTRAINED)
        params, checksum = _random_inception(), f"inception:{UNTRAINED}"
    else:
        try:
            artifact = load_weights(weights or None, "inception")
        except HubError as error:
            if weights:
                raise
            raise HubError(f"{error}, or give its file as the encoder inception:WEIGHTS") from error
        params, checksum = artifact.params, artifact.metadata["source_sha256"]
    graphdef = nnx.split(nnx.eval_shape(_network))[0]

    def function(params: Any, images: jax.Array) -> dict[str, jax.Array]:
        # A grey image is one whose red, green and blue are equal.
        model = nnx.merge(graphdef, params)
        out = model(jnp.repeat(images, 3, axis=-1) if shape[2] == 1 else images)
        # The reference implementations take the inception score's logits without the bias.
        logits = out.logits - model.fc.bias[...]
        return {"features": out.pool, "spatial": out.spatial.reshape(len(images), -1), "logits": logits}

    return ScoreEncoderParts(params, function, checksum)


def _network() -> Inception:
    return Inception(dtype="float32", rngs=nnx.Rngs(0))


def _random_inception() -> Any:
    """Parameters under which images stay apart; drawn on the host, for which nothing has to be compiled."""
    rng = np.random.default_rng(0)

    def draw(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if leaf.ndim > 1:
            return rng.standard_normal(leaf.shape, np.float32) * np.sqrt(2 / np.prod(leaf.shape[:-1]), dtype=np.float32)
        ones = path[-1].key in ("gain", "variance")
        return (np.ones if ones else np.zeros)(leaf.shape, np.float32)

    return jax.tree.map_with_path(draw, nnx.to_pure_dict(nnx.state(nnx.eval_shape(_network))))


INCEPTION_SCORE_ENCODER = ScoreEncoderKind(_inception, lambda _: {"features": 2048, "spatial": 2023, "logits": 1008})
