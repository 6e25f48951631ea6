"""What a step is fed with: batches for the banks, real samples of its own, or all samples, on the device."""

import dataclasses
import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from drifting.config.schema import Config, DataConfig, has_banks
from drifting.data import in_memory
from drifting.data.batches import ClassBalanced, Constant, Feed, Pipeline, members_of
from drifting.data.source import Delivery, LabelledSource
from drifting.devices.block_function import BlockFunction, join_blocks
from drifting.devices.mesh import Layout, one_device
from drifting.errors import ConfigError, InputError, counted
from drifting.method.space import VAE_SLICE, SampleSpace

logger = logging.getLogger("drifting")


def reading(data: DataConfig, layout: Layout) -> dict[str, Any]:
    """The fields of `Reading` for the real samples of `data`: this process's share of each batch, on its devices."""
    return dict(
        flip=data.flip,
        random_crop=data.random_crop,
        prefetch=data.prefetch,
        workers=data.workers,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        place=layout.place,
    )


def make_feed(config: Config, source: LabelledSource, layout: Layout | None = None) -> Feed:
    """What a step is fed with: new samples for the banks, its own real samples, or all there are, on the device.

    `layout`: where batches lie; None: on one device.

    Raises:
        ConfigError: a class has no samples.
        InputError: resident data cannot be read.
    """
    layout = layout or one_device()
    loss, seed, how = config.loss, config.train.seed, reading(config.data, layout)
    try:
        counts = np.array([len(members) for members in members_of(source)])
    except InputError as error:
        path = f", data.path={config.data.path!r}" if config.data.path else ""
        raise ConfigError(f"data.name={config.data.name!r}{path}: {error}") from error
    few = int((counts < loss.positives).sum())
    if few:
        logger.warning(
            "data: %d of %s with fewer samples than loss.positives=%d, which are drawn with replacement",
            few, counted(len(counts), "class"), loss.positives,
        )  # fmt: skip
    if has_banks(config):
        return Pipeline(source, min(config.bank.push, len(source)), seed, **how)
    if config.data.resident == "device":
        samples = in_memory.load_source(source, config.data.flip, layout.batch, layout.devices, layout.take)
        return Constant({"samples": samples})
    if config.data.resident == "host":
        source = in_memory.InMemory(source, config.data.flip)
    return ClassBalanced(source, loss.labels, loss.positives, seed, unconditional=loss.unconditional, **how)


def batch_names(config: Config) -> tuple[str, ...]:
    """The entries of each batch of the feed, which the pool of a step asks for."""
    if has_banks(config):
        return ("image", "label", "id")
    return ("samples",) if config.data.resident == "device" else ("image", "label")


def resident_source(data: DataConfig, source: LabelledSource, space: SampleSpace) -> tuple[LabelledSource, SampleSpace]:
    """The source that is read, and the space of what it delivers.

    Images that stay in memory and are trained on as latents are encoded once, when they are read. They deliver moments
    from then on. All other sources are read as they are.
    """
    if data.resident is None or space.as_delivered:
        return source, space
    blocks = BlockFunction(space.records, VAE_SLICE, jax.local_devices())
    placed = blocks.place(space.params)

    def encode(images: NDArray) -> NDArray:
        moments: NDArray = join_blocks(blocks(placed, (images,)))
        return moments

    height, width, channels = space.record.shape
    delivers = Delivery((height, width, channels), str(jnp.dtype(space.record.dtype)), data.vae, space.checksums["vae"])
    return in_memory.Encoded(source, encode, delivers), dataclasses.replace(space, encoded=True)
