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
from drifting.errors import ArgumentError, HubError, InputError, require_argument, use_one_of
from drifting.method.encoders.mae import mae_features
from drifting.networks.inception import Inception
from drifting.sampling.images import Pixels, Shape, Tick, nothing
from drifting.weights.load import load_weights
from drifting.weights.references import network

logger = logging.getLogger("drifting")

Features = dict[str, np.ndarray]

BLOCK_IMAGES = 32
"""Images a call of an encoder."""

RANDOM_WEIGHTS = "random"
"""What stands in place of weights for a network that is not trained."""


@dataclass(frozen=True)
class ScoreEncoder:
    """Images to features, in blocks of one size on all devices of this process.

    Attributes:
        name: A key of `ENCODERS`.
        reference: Where its weights lie; '' for none.
        checksum: That of the weights; pixels have the same on any machine.
        shape: Height, width and channels of the images that it was made for.
        blocks, placed: The function in blocks of one size, and its parameters on each device; see `devices.blocks`.
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


@dataclass(frozen=True)
class EncoderParts:
    """What a `ScoreEncoder` is made of.

    Attributes:
        params: The network's parameters, a pytree.
        function: `(params, uint8 [B, H, W, C])` to arrays `[B, D]` float32 by kind: `features`, and what else there is.
        checksum: That of the weights.
    """

    params: Any
    function: Callable[[Any, jax.Array], dict[str, jax.Array]]
    checksum: str


@dataclass(frozen=True)
class EncoderKind:
    """An entry of `ENCODERS`.

    Attributes:
        make: `(weights, shape)` to the parts of an encoder of images of that shape; `weights` is what stands behind the
            colon, or ''. It raises `InputError` where the weights or the shape cannot be used.
        widths: How many features of each kind there are for images of a shape, as far as that is known without weights.
    """

    make: Callable[[str, Shape], EncoderParts]
    widths: Callable[[Shape], dict[str, int]] = lambda _: {}


def known_widths(given: str, shape: Shape) -> dict[str, int]:
    """How many features of each kind `score_encoder` gives, as far as that is known before it has its weights."""
    kind = given.partition(":")[0]
    return ENCODERS[kind].widths(shape) if kind in ENCODERS else {}


def score_encoder(given: str, shape: Shape) -> ScoreEncoder:
    """The encoder that is meant by `given`, for images of `shape`.

    Args:
        given: `inception`, whose weights are downloaded, or `inception:WEIGHTS`; `pixels`; `mae:WEIGHTS`, of images.
            `inception:random` is untrained: its numbers are no scores, but they try out everything else.
        shape: Height, width and channels.

    Raises:
        ArgumentError: There is no such encoder, its weights cannot be used, or it is for other images.
        HubError: Its weights cannot be fetched.
    """
    kind, _, weights = given.partition(":")
    require_argument(kind in ENCODERS, "encoder", given, use_one_of(kind, ENCODERS))
    try:
        made = ENCODERS[kind].make(weights, shape)
    except InputError as error:
        raise ArgumentError("encoder", given, str(error).removeprefix(f"{weights or None}: ")) from error
    blocks = Blocks(made.function, BLOCK_IMAGES, jax.local_devices())
    return ScoreEncoder(kind, weights, made.checksum, shape, blocks, blocks.place(made.params))


def _scaled(images: jax.Array) -> jax.Array:
    """uint8 to [-1, 1], as the sources deliver them."""
    return images.astype(jnp.float32) / 127.5 - 1


def _pixels(weights: str, shape: Shape) -> EncoderParts:
    if weights:
        raise InputError("pixels have no weights, use pixels")
    return EncoderParts({}, lambda _, images: {"features": _scaled(images).reshape(len(images), -1)}, "pixels")


def _mae(weights: str, shape: Shape) -> EncoderParts:
    """The mean over the map of the last stage's output: what the classifier of the autoencoder sees."""
    found = network(weights or None, "mae", dtype="float32", remat=False)
    channels, token = found.arguments["in_channels"], found.arguments["input_patch_size"]
    if channels != shape[2] or shape[0] % token or shape[1] % token:
        size = f"images are {'x'.join(map(str, shape))}"
        raise InputError(f"takes {channels} channels and sides divisible by {token}, the {size}")
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

    return EncoderParts(found.params, function, found.checksum)


def _inception(weights: str, shape: Shape) -> EncoderParts:
    if shape[2] not in (1, 3):
        raise InputError(f"takes images of 1 or 3 channels, these have {shape[2]}")
    if weights == RANDOM_WEIGHTS:
        logger.warning("inception:%s: the network is untrained, its numbers are no scores", RANDOM_WEIGHTS)
        params, checksum = _random_inception(), f"inception:{RANDOM_WEIGHTS}"
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

    return EncoderParts(params, function, checksum)


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


ENCODERS: dict[str, EncoderKind] = {
    "inception": EncoderKind(_inception, lambda _: {"features": 2048, "spatial": 2023, "logits": 1008}),
    "pixels": EncoderKind(_pixels, lambda shape: {"features": math.prod(shape)}),
    "mae": EncoderKind(_mae),
}
"""Every kind of encoder by the word that stands before the colon."""
