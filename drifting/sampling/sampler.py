"""Images from a generator: each depends on its own seed, its class and the guidance scale, and on nothing else.

The network always sees `SAMPLER_BLOCK` images, and image `i` always stands in block `i // SAMPLER_BLOCK`, see
`devices/block_function.py`: a file of images is the same to the last byte whatever the batch, the number of devices and
processes, and however often it was killed, on machines that compile alike. The same seed in another file, beside other
images, may differ in the rounding of float32.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array

from drifting.devices.block_function import BlockFunction
from drifting.method.images import generate_images
from drifting.method.space import SampleSpace
from drifting.networks.network import Generator, Params

logger = logging.getLogger("drifting")

SAMPLER_BLOCK = 16
"""Images a call of the network; the VAE decodes as many at a time."""


class Sampler:
    """A jitted generator that draws images in blocks of one size.

    Args:
        generator: the network without its parameters.
        space: what its samples are; latents are decoded.
        batch_size: images in flight; they do not depend on it.
        devices: the devices that draw in turn; None: the one where the parameters are.
    """

    def __init__(
        self,
        generator: Generator,
        space: SampleSpace,
        batch_size: int,
        devices: Sequence[jax.Device] | None = None,
    ) -> None:
        self._generator, self._space = generator, space
        in_flight = -(-batch_size // (SAMPLER_BLOCK * len(devices or [None])))
        self._blocks = BlockFunction(self._draw_block, SAMPLER_BLOCK, devices, in_flight)
        self._placed: tuple[Params, list[Any]] | None = None

    def _draw_block(self, params: tuple[Params, Params], seeds: Array, labels: Array, alpha: Array) -> Array:
        return generate_images(self._generator, self._space, *params, seeds, labels, alpha)

    def __call__(self, params: Params, labels: np.ndarray, seeds: np.ndarray, alpha: float) -> np.ndarray:
        """Images `[N, H, W, C]` float32 (not clipped) for class `labels` `[N]` and integer `seeds` `[N]`."""
        images = list(self.stream(params, labels, seeds, alpha))
        return np.concatenate(images) if images else np.zeros((0, *self._space.image_shape), np.float32)

    def stream(self, params: Params, labels: np.ndarray, seeds: np.ndarray, alpha: float) -> Iterator[np.ndarray]:
        """The same images, `SAMPLER_BLOCK` at a time."""
        labels, seeds = np.asarray(labels, np.int32), np.asarray(seeds, np.uint32)
        if self._placed is None or self._placed[0] is not params:
            self._placed = params, self._blocks.place((params, self._space.params))
        return self._blocks(self._placed[1], (seeds, labels, np.full(len(labels), alpha, np.float32)))
