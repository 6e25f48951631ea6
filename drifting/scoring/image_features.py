"""Features in which images are scored: of the FID Inception network, of a masked autoencoder, or the pixels."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from drifting.devices.blocks import Blocks
from drifting.errors import ConfigError, HubError, one_of, unusable
from drifting.method.encoders.mae import mae_features
from drifting.networks.inception import Inception
from drifting.sampling.images import Pixels, Shape, Tick, nothing
from drifting.weights.load import load_weights
from drifting.weights.references import network

logger = logging.getLogger("drifting")

Features = dict[str, np.ndarray]

BLOCK = 32
"""Images a call of an encoder."""

RANDOM = "random"

KINDS = ("inception", "pixels", "mae")


@dataclass(frozen=True)
class ScoreEncoder:
    """Images to features, in blocks of one size on all devices of this process.

    Attributes:
        name: a key of `KINDS`. reference: where its weights lie; '' for none.
        checksum: of the weights; the same for pixels of any machine.
        shape: of the images it was made for.
        blocks, placed: see `drifting.blocks`.
    """

    name: str
    reference: str
    checksum: str
    shape: Shape
    blocks: Blocks
    placed: list[Any]

    def __call__(self, images: Pixels, tick: Tick = nothing) -> Features:
        """Of uint8 `[N, H, W, C]`, all float32: `features` `[N, D]`, and of the Inception also `spatial` `[N, 2023]`
        and `logits` `[N, 1008]`.
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
    known = {
        "inception": {"features": 2048, "spatial": 2023, "logits": 1008},
        "pixels": {"features": math.prod(shape)},
    }
    return known.get(given.partition(":")[0], {})


def score_encoder(key: str, given: str, shape: Shape) -> ScoreEncoder:
    """The encoder that is meant by `given`, for images of `shape`.

    Args:
        key: the flag or setting, for errors.
        given: `inception`, whose weights are downloaded, or `inception:WEIGHTS`; `pixels`; `mae:WEIGHTS`, of images.
            `inception:random` is untrained: its numbers are no scores, but they try out everything else.
        shape: height, width and channels.

    Raises:
        ConfigError: there is no such encoder, its weights cannot be had, or it is for other images.
    """
    kind, _, reference = given.partition(":")
    one_of(key, kind, KINDS)
    params, function, checksum = _MAKERS[kind](key, given, reference, shape)
    blocks = Blocks(function, BLOCK, jax.local_devices())
    return ScoreEncoder(kind, reference, checksum, shape, blocks, blocks.place(params))


Made = tuple[Any, Callable[..., dict[str, jax.Array]], str]


def _scaled(images: jax.Array) -> jax.Array:
    """uint8 to [-1, 1], as the sources deliver them."""
    return images.astype(jnp.float32) / 127.5 - 1


def _pixels(key: str, given: str, reference: str, shape: Shape) -> Made:
    if reference:
        raise ConfigError(f"{key}={given!r}: pixels have no weights, use pixels")
    return {}, lambda _, images: {"features": _scaled(images).reshape(len(images), -1)}, "pixels"


def _mae(key: str, given: str, reference: str, shape: Shape) -> Made:
    """The mean over the map of the last stage's output: what the classifier of the autoencoder sees."""
    try:
        found = network(reference or None, "mae", dtype="float32", remat=False)
    except ValueError as error:
        raise ConfigError(unusable(key, reference or None, error)) from error
    channels, token = found.arguments["in_channels"], found.arguments["input_patch_size"]
    if channels != shape[2] or shape[0] % token or shape[1] % token:
        size = f"images are {'x'.join(map(str, shape))}"
        raise ConfigError(f"{key}={given!r}: takes {channels} channels and sides divisible by {token}, the {size}")
    last = f"layer{len(found.arguments['layers'])}_mean"

    def function(params: Any, images: jax.Array) -> dict[str, jax.Array]:
        maps = mae_features(
            nnx.merge(found.graphdef, params),
            _scaled(images),
            locations=False,
            mean=True,
            std=False,
            mean_patches=(),
            std_patches=(),
            every_k_block=0,
        )
        return {"features": maps[last][:, 0].astype(jnp.float32)}

    return found.params, function, found.checksum


def _inception(key: str, given: str, reference: str, shape: Shape) -> Made:
    if shape[2] not in (1, 3):
        raise ConfigError(f"{key}={given!r}: takes images of 1 or 3 channels, these have {shape[2]}")
    if reference == RANDOM:
        logger.warning("%s=%s: the network is untrained, its numbers are no scores", key, given)
        params, checksum = _random_inception(), given
    else:
        try:
            artifact = load_weights(reference or None, "inception")
        except ValueError as error:
            raise ConfigError(unusable(key, given, error)) from error
        except HubError as error:
            if reference:
                raise
            raise HubError(f"{error}, or give its file by --encoder=inception:WEIGHTS") from error
        params, checksum = artifact.params, artifact.metadata["source_sha256"]
    graphdef = nnx.split(nnx.eval_shape(_network))[0]

    def function(params: Any, images: jax.Array) -> dict[str, jax.Array]:
        # A grey image is one whose red, green and blue are equal.
        model = nnx.merge(graphdef, params)
        out = model(jnp.repeat(images, 3, axis=-1) if shape[2] == 1 else images)
        # The reference implementations take the inception score's logits without the bias.
        logits = out.logits - model.fc.bias[...]
        return {"features": out.pool, "spatial": out.spatial.reshape(len(images), -1), "logits": logits}

    return params, function, checksum


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


_MAKERS: dict[str, Callable[[str, str, str, Shape], Made]] = {
    "inception": _inception,
    "pixels": _pixels,
    "mae": _mae,
}
