"""What a training step needs, counted without running it: operations, and bytes on each device of a mesh.

Networks are traced by their shapes; no weights are downloaded. Operations and sizes are exact. Activations are what
automatic differentiation names to be kept of a sample.
"""

import dataclasses
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from drifting.assembly.abstract import ImageFacts, abstract_space
from drifting.assembly.pretraining import set_up_pretraining
from drifting.assembly.run import set_up
from drifting.assembly.spaces import feature_encoder
from drifting.config.checks import check_sizes
from drifting.config.schema import Config, DataConfig, PretrainConfig, TrainingConfig, has_banks
from drifting.data import sources
from drifting.data.image_files import is_image, is_shown
from drifting.errors import ArgumentError, counted, require
from drifting.experiments.plan.activations import (
    AbstractArray,
    _bytes,
    _loss_memory,
    _map_shapes,
    _residuals,
    _widest,
    _with_backward,
)
from drifting.experiments.plan.flops import flops
from drifting.method.loss import objective_loss
from drifting.method.micro_batches import FORWARD_SHARE
from drifting.method.objective import LossMemory
from drifting.method.space import VAE_SLICE, SampleSpace
from drifting.networks.kept import kept_by_name, products_kept
from drifting.networks.mae import mae_loss

Bytes = dict[str, float]

VAE_IMAGE = 0.5e9 / 256**2
"""Activations of the VAE for each pixel of an image."""

REAL_FEATURES, GRADIENTS = "features kept, real", "gradient, and that of a micro-batch"

IMAGENET_IMAGES, IMAGENET_CLASSES = 1_281_167, 1000

COUNTED_IMAGES = 50_000
"""Images of a folder that are counted; to list those of a data set on a network's disk takes minutes."""

KNOWN_IMAGES = {
    "mnist": ((28, 28, 1), 10, 60_000),
    "fashion_mnist": ((28, 28, 1), 10, 60_000),
    "cifar10": ((32, 32, 3), 10, 50_000),
}


@dataclass(frozen=True)
class Mesh:
    """How many devices share the samples, and over how many of them parameters and optimiser state are split."""

    data: int = 1
    fsdp: int = 1

    @property
    def devices(self) -> int:
        """Samples are spread over both axes."""
        return self.data * self.fsdp

    def __str__(self) -> str:
        return f"data={self.data},fsdp={self.fsdp}"


def parse_mesh(text: str) -> Mesh:
    """`data=8,fsdp=1`, axes left out are 1. Raises `ArgumentError` where it is not that."""
    sizes: dict[str, int] = {}
    for part in text.split(","):
        axis, _, size = part.strip().partition("=")
        if axis not in ("data", "fsdp") or axis in sizes or not size.isdecimal() or int(size) < 1:
            raise ArgumentError("mesh", text, "give its axes as data=N,fsdp=M, for example data=8,fsdp=1")
        sizes[axis] = int(size)
    return Mesh(**sizes)


@dataclass(frozen=True)
class Workload:
    """What a training step needs, whatever it runs on. Sizes are in bytes, operations those of one step.

    Attributes:
        samples: how many samples' activations can be split into micro-batches.
        parameters: how many numbers each network has.
        flops: the operations of each part of a step.
        again: the operations that micro-batches compute a second time.
        sharded: what is split over the fsdp axis.
        replicated: what lies on every device.
        spread: what is split over all devices.
        copies: weights in the dtype that the networks compute in.
        activations: those of one sample in each network: what automatic differentiation keeps.
        loss: working memory of the loss on each device beyond all features, for a number of devices and a platform.
        encoding: activations of the VAE that encodes new images.
        real: how many real samples there are, whose features are made in passes of several micro-batches.
        widest: what the widest product of such a pass makes of one sample.
    """

    samples: int
    parameters: dict[str, int]
    flops: dict[str, float]
    again: dict[str, float]
    sharded: Bytes
    replicated: Bytes
    spread: Bytes
    copies: float
    activations: Bytes
    loss: Callable[[int, str], float] = lambda devices, platform: 0.0
    encoding: float = 0.0
    real: int = 0
    widest: float = 0.0
    notes: tuple[str, ...] = ()

    def operations(self, micro_batch: int) -> float:
        """Operations of a step in micro-batches of so many samples (0: all)."""
        again = 0.0 if micro_batch in (0, self.samples) else sum(self.again.values())
        return sum(self.flops.values()) + again

    def memory(self, mesh: Mesh, micro_batch: int, platform: str = "gpu") -> Bytes:
        """Bytes on each device of a mesh, by what they hold, at the fullest moment of a step.

        That is in the loss, which has the real samples' features and of a whole batch all activations; before it, in
        the last of the passes that make features in micro-batches; or in the backward pass of a micro-batch, when the
        real samples' features are gone and gradients are there.
        """
        local = (micro_batch or self.samples) / mesh.devices
        found = {name: size / mesh.fsdp for name, size in self.sharded.items()}
        if mesh.fsdp > 1:
            found["parameters, gathered for the step"] = self.sharded["parameters"]
        found |= self.replicated | {name: size / mesh.devices for name, size in self.spread.items()}
        whole = micro_batch in (0, self.samples)
        activations = self.copies + local * sum(self.activations.values())
        name = "activations" if whole else f"activations of {counted(micro_batch, 'sample')}"
        backward = found | {name: activations}
        real = backward.pop(REAL_FEATURES, None)
        if real is None:  # an autoencoder has no loss between samples
            return backward
        loss = {key: size for key, size in found.items() if key != GRADIENTS} | ({name: activations} if whole else {})
        forward = loss | ({} if whole else {"a forward pass": self._forward(micro_batch) / mesh.devices})
        loss = loss | {"loss of the largest feature maps": self.loss(mesh.devices, platform)}
        return max(loss, forward, backward, key=lambda held: sum(held.values()))

    def _forward(self, micro_batch: int) -> float:
        """Bytes of the largest pass that makes features: what a product gives, and what is made of that at once."""
        counts = (self.samples, 1), (self.real, 2)
        return 2 * self.widest * max(n / max(least, -(-n // (FORWARD_SHARE * micro_batch))) for n, least in counts)

    def total(self, mesh: Mesh, micro_batch: int, platform: str = "gpu") -> float:
        """Largest number of bytes on a device at a time."""
        found = self.memory(mesh, micro_batch, platform)
        before = sum(found.get(name, 0.0) for name in [*self.sharded, *self.replicated])
        return max(sum(found.values()), before + self.encoding / mesh.devices)

    def micro_batches(self, mesh: Mesh) -> list[int]:
        """All that spread evenly over a mesh, the largest first: 0, the whole batch, then divisors of its samples."""
        local = self.samples // mesh.devices
        sizes = [mesh.devices * n for n in range(local // 2, 0, -1) if local % n == 0]
        return [0, *sizes]


def measure_workload(config: TrainingConfig) -> Workload:
    """The workload of a run's steps."""
    images = image_facts(config.data)
    space = abstract_space(config.data, images)
    check_sizes(config, space.shape, images.classes)
    if isinstance(config, PretrainConfig):
        return _measure_pretraining(config, space, images)
    return _measure_training(config, space, images)


def image_facts(data: DataConfig) -> ImageFacts:
    """Shape of the images, their number and that of their classes; large data sets are not read."""
    notes: list[str] = []
    if data.name in KNOWN_IMAGES:
        shape, classes, count = KNOWN_IMAGES[data.name]
    elif data.name in ("imagefolder", "tfds"):
        require(data.image_size is not None, "data.image_size", None, f"data.name={data.name!r} needs it")
        shape = (data.image_size or 0, data.image_width or data.image_size or 0, data.channels or 3)
        classes, count = IMAGENET_CLASSES, IMAGENET_IMAGES
        folder = Path(data.path or "")
        train = folder / "train" if (folder / "train").is_dir() else folder
        if data.path and data.name == "imagefolder" and train.is_dir():
            classes, count = _counted(train, notes)
        else:
            assumed = f"{counted(count, 'image')} of {counted(classes, 'class')}"
            notes.append(f"data.path={data.path!r} was not read: {assumed} assumed")
    else:
        source = sources.source(dataclasses.replace(data, verify=False))
        shape, classes, count = source.shape, source.num_classes, len(source)
    return ImageFacts(shape, 1 if data.unconditional else classes, count, tuple(notes))


def _counted(train: Path, notes: list[str]) -> tuple[int, int]:
    """How many class folders there are and how many images, of many an estimate by the first, which a note says."""
    folders = sorted(entry.path for entry in os.scandir(train) if entry.is_dir() and is_shown(entry.name))
    count = read = 0
    for read, folder in enumerate(folders, start=1):
        for _, _, names in os.walk(folder):
            count += sum(map(is_image, names))
        if count >= COUNTED_IMAGES and read < len(folders):
            count = round(count / read * len(folders))
            notes.append(
                f"about {counted(count, 'image')}, by the first {read} of {counted(len(folders), 'class folder')}"
            )
            break
    return len(folders), count


def _kept_by_differentiation(functions: Mapping[str, tuple[Callable[..., Any], Any, Any]]) -> tuple[float, Bytes]:
    """Bytes of the networks' weights in the dtype they compute in; and `Workload.activations`."""
    found = {name: _residuals(*network) for name, network in functions.items()}
    return sum(fixed for fixed, _ in found.values()), {name: kept for name, (_, kept) in found.items()}


def _measure_training(config: Config, space: SampleSpace, images: ImageFacts) -> Workload:
    loss = config.loss
    encoder = feature_encoder(config.features, space, abstract=True)
    parts, empty_state = set_up(config, space, encoder, images.classes)
    state, frozen = jax.eval_shape(empty_state), encoder.params | space.params
    n_gen, n_real = loss.labels * loss.generated, loss.labels * (loss.positives + loss.unconditional)
    # What is resident was encoded when it was loaded.
    new = config.bank.push if has_banks(config) else 0 if config.data.resident else n_real

    def inputs(batch: int) -> Any:
        keys = partial(jax.random.split, jax.random.key(0), batch)
        noise = jax.eval_shape(lambda params: parts.generator.sample_noise(params, keys()), state.params)
        return noise, AbstractArray((batch,), jnp.int32), AbstractArray((batch,), jnp.float32)

    def samples(batch: int) -> AbstractArray:
        return AbstractArray((batch, *space.shape), jnp.float32)

    def generate(params: Any, inputs: Any) -> Any:
        return parts.generator(params, *inputs)

    def features(x: Any, params: Any) -> Any:
        return parts.features(params, x)

    maps = jax.eval_shape(features, samples(1), frozen)
    drawing, reading = flops(generate, state.params, inputs(1)), flops(features, samples(1), frozen)
    flop = {
        "generator, forward + backward": n_gen * flops(_with_backward(generate), state.params, inputs(1)),
        "encoders on real samples": n_real * reading,
        "encoders on generated, forward + backward": n_gen * flops(_with_backward(features), samples(1), frozen),
        "loss": _loss_flops(parts.recipe.objective, config, maps),
    } | ({} if space.vae is None or space.encoded else {"VAE on new images": _vae_flops(space, new)})
    again = {"generator, forward again": n_gen * drawing, "encoders on generated, forward again": n_gen * reading}
    # What lies between products a compiler makes again within its kernels: differentiation asks for five times as much.
    kept = jax.checkpoint(parts.features, policy=kept_by_name if config.features.remat else products_kept)
    both = {"generator": (generate, state.params, inputs), "encoders": (lambda x, p: kept(p, x), samples, frozen)}
    copies, activations = _kept_by_differentiation(both)
    return Workload(
        samples=n_gen,
        parameters=_counts({"generator": state.params} | frozen),
        flops=flop,
        again=again,
        sharded=_state_bytes(state),
        replicated=_whole_bytes(state)
        | {f"frozen {name}": _bytes(params) for name, params in frozen.items()}
        | ({"banks": _bytes(state.banks)} if state.banks else {}),
        spread={
            "real and generated samples": (n_real + 2 * n_gen) * _bytes(samples(1)),
            "features kept, generated": n_gen * _bytes(maps),
            REAL_FEATURES: n_real * _bytes(maps),
        }
        | ({"resident data": _resident_bytes(config, space, images)} if config.data.resident == "device" else {}),
        copies=copies,
        activations=activations,
        loss=partial(_loss_memory, config, maps),
        encoding=_encoding(space, new),
        real=n_real,
        widest=max(_widest(generate, state.params, inputs), _widest(features, samples, frozen)),
        notes=images.notes,
    )


def _measure_pretraining(config: PretrainConfig, space: SampleSpace, images: ImageFacts) -> Workload:
    parts, _, empty = set_up_pretraining(config, space, images.classes)
    state, batch, key = jax.eval_shape(empty), config.train.batch_size, jax.random.key(0)

    def inputs(batch: int) -> Any:
        mask = jax.eval_shape(lambda: parts.recipe.masks(key, (batch, *space.shape)))
        return AbstractArray((batch, *space.shape), jnp.float32), AbstractArray((batch,), jnp.int32), mask

    def losses(params: Any, inputs: Any) -> Any:
        return mae_loss(nnx.merge(parts.graphdef, params)(*inputs), config.mae.lambda_cls)

    flop = {"masked autoencoder, forward + backward": batch * flops(_with_backward(losses), state.params, inputs(1))}
    if space.vae is not None and not space.encoded:
        flop["VAE on new images"] = _vae_flops(space, batch)
    copies, kept = _residuals(losses, state.params, inputs)
    return Workload(
        samples=batch,
        parameters=_counts({"mae": state.params} | space.params),
        flops=flop,
        again={},
        sharded=_state_bytes(state),
        replicated=_whole_bytes(state) | {f"frozen {name}": _bytes(params) for name, params in space.params.items()},
        spread={"images and samples": 4.0 * batch * (math.prod(space.image_shape) + math.prod(space.shape))},
        copies=copies,
        activations={"masked autoencoder": kept},
        encoding=_encoding(space, batch),
        notes=images.notes,
    )


def _loss_flops(objective: Any, config: Config, maps: dict[str, Any]) -> float:
    shapes = {name: _map_shapes(config, f) for name, f in maps.items()}
    gen, pos, unc = ({name: three[i] for name, three in shapes.items()} for i in range(3))
    widths, weight = (
        AbstractArray((len(config.loss.widths),), jnp.float32),
        AbstractArray((config.loss.labels,), jnp.float32),
    )
    # As where there is room: fields that are computed a second time are few.
    objective = dataclasses.replace(objective, memory=LossMemory(2**60, 2**60))
    return flops(lambda *arguments: objective_loss(objective, *arguments), widths, gen, pos, unc, weight)


def _vae_flops(space: SampleSpace, images: int) -> float:
    new = AbstractArray((images, *space.image_shape), jnp.float32)
    return flops(space.moments, space.params, new)


def _encoding(space: SampleSpace, images: int) -> float:
    if space.vae is None or space.encoded:
        return 0.0
    return min(images, VAE_SLICE) * VAE_IMAGE * math.prod(space.image_shape[:2])


def _resident_bytes(config: Config, space: SampleSpace, images: ImageFacts) -> float:
    """All of the data as the source delivers them; of latents, mirrored images are encoded apart."""
    delivered = space.record if space.as_delivered else AbstractArray(space.image_shape, space.image_dtype)
    views = 2 if space.encoded and config.data.flip else 1
    return float(images.samples * views * _bytes(delivered))


def _state_bytes(state: Any) -> Bytes:
    return {
        "parameters": _bytes(state.params),
        "optimiser": _bytes(state.opt_state),
        "averages": _bytes(state.ema),
    }


def _whole_bytes(state: Any) -> Bytes:
    """What is as large as the parameters and not spread over `fsdp`."""
    return {GRADIENTS: 2 * _bytes(state.params)}


def _counts(networks: dict[str, Any]) -> dict[str, int]:
    return {name: sum(leaf.size for leaf in jax.tree.leaves(params)) for name, params in networks.items()}
