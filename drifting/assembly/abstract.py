"""The step of a run by shapes alone: what training would compile, without data, weights or devices."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from drifting.assembly.pretraining import jitted_pretraining, set_up_pretraining
from drifting.assembly.run import jitted_step, set_up
from drifting.assembly.spaces import feature_encoder, sample_space
from drifting.config.schema import Config, DataConfig, PretrainConfig, has_banks
from drifting.devices.mesh import Layout, shardings
from drifting.method.all_samples import AllSamples
from drifting.method.records import RecordFormat
from drifting.method.space import SampleSpace
from drifting.method.state import TrainState
from drifting.method.step import StepParts


@dataclass(frozen=True)
class ImageFacts:
    """What a step depends on of the data.

    Attributes:
        shape: height, width and channels of an image.
        classes: how many classes there are.
        samples: how many images there are.
        notes: what had to be assumed.
        dtype: `uint8`, or `float32` for images in [-1, 1].
    """

    shape: tuple[int, int, int]
    classes: int
    samples: int
    notes: tuple[str, ...] = ()
    dtype: str = "uint8"


@dataclass(frozen=True)
class AbstractStep:
    """A step that can be lowered for devices that need not be there.

    Attributes:
        parts: what the step is compiled for.
        jitted: the jitted step, as training has it.
        empty: makes the state before the first step, its banks still empty; it can be jitted.
        arguments: `state, batch, frozen, widths, key, measure`, each leaf a shape that says where it lies.
    """

    parts: StepParts
    jitted: Any
    empty: Callable[[], TrainState]
    arguments: tuple[TrainState, dict[str, Any], Any, Any, Any, Any]

    def lower(self) -> Any:
        """The step, traced and lowered for the devices of its layout: `jax.stages.Lowered`."""
        return self.jitted.lower(*self.arguments)


def abstract_space(data: DataConfig, images: ImageFacts) -> SampleSpace:
    """The space of samples that the data of a run have, without weights."""
    space = sample_space(data.vae, images.shape, abstract=True)
    encoded = data.name == "latents" or (space.vae is not None and data.resident is not None)
    return dataclasses.replace(space, encoded=encoded, image_dtype=images.dtype)


def abstract_step(config: Config, images: ImageFacts, layout: Layout) -> AbstractStep:
    """The step that training with these settings, data and devices would compile.

    Raises:
        ConfigError: the settings cannot work.
    """
    space = abstract_space(config.data, images)
    encoder = feature_encoder(config.features, space, abstract=True)
    parts, empty = set_up(config, space, encoder, images.classes, layout)
    shapes = jax.eval_shape(empty)
    placed = shardings(layout, shapes)
    widths = jax.ShapeDtypeStruct((len(config.loss.widths),), jnp.float32)
    arguments = (
        _placed(shapes, placed),
        _batch(config, images, space, layout),
        *_everywhere((encoder.params | space.params, widths, _key()), layout),
        jax.ShapeDtypeStruct((), jnp.bool_, sharding=layout.replicated),
    )
    return AbstractStep(parts, jitted_step(parts, placed, layout), empty, arguments)


def abstract_pretraining(config: PretrainConfig, images: ImageFacts, layout: Layout) -> tuple[Any, tuple[Any, ...]]:
    """The jitted step of a pre-training, and its `state, batch, frozen, key`, shapes as in `AbstractStep`."""
    space = abstract_space(config.data, images)
    parts, _, empty = set_up_pretraining(config, space, images.classes, layout)
    shapes = jax.eval_shape(empty)
    placed = shardings(layout, shapes)
    delivered, count = _delivered(space), config.train.batch_size
    batch = {
        "image": jax.ShapeDtypeStruct((count, *delivered.shape), delivered.dtype, sharding=layout.batch),
        "label": jax.ShapeDtypeStruct((count,), jnp.int32, sharding=layout.batch),
        "id": jax.ShapeDtypeStruct((count,), jnp.uint32, sharding=layout.batch),
    }
    arguments = _placed(shapes, placed), batch, *_everywhere((space.params, _key()), layout)
    return jitted_pretraining(parts, placed, layout), arguments


def _placed(shapes: Any, placed: Any) -> Any:
    return jax.tree.map(lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shapes, placed)


def _everywhere(tree: Any, layout: Layout) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout.replicated), tree)


def _key() -> Any:
    return jax.eval_shape(partial(jax.random.key, 0))


def _delivered(space: SampleSpace) -> jax.ShapeDtypeStruct:
    """An image as the feed delivers it, or what it was encoded to."""
    return space.record if space.as_delivered else jax.ShapeDtypeStruct(space.image_shape, space.image_dtype)


def _batch(config: Config, images: ImageFacts, space: SampleSpace, layout: Layout) -> dict[str, Any]:
    """The shapes of what the feed of a run delivers."""

    def rows(count: int, shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((count, *shape), dtype, sharding=layout.batch)

    delivered = _delivered(space)
    if config.data.resident == "device":
        record = RecordFormat(delivered.shape, delivered.dtype)
        views = 2 if space.encoded and config.data.flip else 1
        held = rows(-(-images.samples // layout.devices) * layout.devices, (views, record.words), jnp.uint32)
        starts = jax.ShapeDtypeStruct((images.classes + 1,), jnp.int32, sharding=layout.replicated)
        return {"samples": AllSamples(held, starts, record, config.data.flip, layout.take)}  # type: ignore[arg-type]
    banks, loss = has_banks(config), config.loss
    new = config.bank.push if banks else loss.labels * (loss.positives + loss.unconditional)
    batch = {"image": rows(new, delivered.shape, delivered.dtype), "label": rows(new, (), jnp.int32)}
    return batch | ({"id": rows(new, (), jnp.uint32)} if banks else {})
