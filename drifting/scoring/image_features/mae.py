"""A masked autoencoder of images as features for scores."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from drifting.errors import InputError, counted
from drifting.method.encoders.mae import mae_features
from drifting.method.space import Shape
from drifting.scoring.image_features.encoder import ScoreEncoderKind, ScoreEncoderParts, scale_images
from drifting.weights.references import mae_classifier, network


def _mae(weights: str, shape: Shape) -> ScoreEncoderParts:
    """The mean over the map of the last stage's output: what the classifier of the autoencoder sees; what it says."""
    found = network(weights or None, "mae", dtype="float32", remat=False)
    channels, token = found.arguments["in_channels"], found.arguments["input_patch_size"]
    if channels != shape[2] or shape[0] % token or shape[1] % token:
        size = f"images are {'x'.join(map(str, shape))}"
        raise InputError(f"takes {counted(channels, 'channel')} and sides divisible by {token}, the {size}")
    last = f"layer{len(found.arguments['layers'])}_mean"
    classifier = mae_classifier(weights)

    def function(params: Any, images: jax.Array) -> dict[str, jax.Array]:
        maps = mae_features(
            nnx.merge(found.graphdef, params["encoder"]),
            scale_images(images),
            locations=False,
            mean=True,
            std=False,
            mean_patches=(),
            std_patches=(),
            every_k_block=0,
        )
        features = maps[last][:, 0].astype(jnp.float32)
        if classifier is None:
            return {"features": features}
        logits = features @ params["classifier"]["kernel"] + params["classifier"]["bias"]
        return {"features": features, "class_logits": logits}

    return ScoreEncoderParts({"encoder": found.params, "classifier": classifier}, function, found.checksum)


MAE_SCORE_ENCODER = ScoreEncoderKind(_mae)
