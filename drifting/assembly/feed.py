"""What a step is fed with: batches for the banks, real samples of its own, or all samples, on the device."""

import logging
from typing import Any

import jax
import numpy as np

from drifting.config.schema import Config, DataConfig, has_banks
from drifting.data import in_memory
from drifting.data.batches import ClassBalanced, Constant, Feed, Pipeline, members_of
from drifting.data.source import LabelledSource
from drifting.devices import mesh
from drifting.devices.mesh import Layout
from drifting.errors import ConfigError

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

    Raises:
        ConfigError: a class has no samples.
        ValueError: resident data cannot be read.
    """
    layout = layout or mesh.one_device()
    loss, seed, how = config.loss, config.train.seed, reading(config.data, layout)
    try:
        counts = np.array([len(members) for members in members_of(source)])
    except ValueError as error:
        path = f", data.path={config.data.path!r}" if config.data.path else ""
        raise ConfigError(f"data.name={config.data.name!r}{path}: {error}") from error
    few = int((counts < loss.positives).sum())
    if few:
        logger.warning(
            "data: %d of %d classes have fewer than loss.positives=%d samples; theirs are drawn with replacement",
            few, len(counts), loss.positives,
        )  # fmt: skip
    if has_banks(config):
        return Pipeline(source, min(config.bank.push, len(source)), seed, **how)
    if config.data.resident == "device":
        return Constant({"resident": in_memory.load(source, config.data.flip, layout.batch, layout.devices)})
    if config.data.resident == "host":
        source = in_memory.InMemory(source, config.data.flip)
    return ClassBalanced(source, loss.labels, loss.positives, seed, unconditional=loss.unconditional, **how)
