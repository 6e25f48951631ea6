"""How long a training step takes and how much memory: recipes at one device's share, with made-up weights and data."""

import dataclasses
import re
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from drifting.assembly.abstract import AbstractStep, ImageFacts, abstract_step
from drifting.assembly.spaces import feature_encoder, sample_space
from drifting.cli.settings import load_settings
from drifting.config.parse import parse
from drifting.config.schema import Config, has_banks
from drifting.devices import mesh
from drifting.devices.memory import peak_memory
from drifting.devices.mesh import Layout
from drifting.experiments.plan.plan import DEVICE_KINDS
from drifting.experiments.plan.workload import Mesh, Workload, image_facts, measure_workload
from drifting.weights.catalogue import KNOWN_PRESETS
from scripts.chip.machine import known_device, usable_memory
from scripts.chip.rows import Row
from scripts.measuring import REPEATS, made_up_samples, made_up_state, timed

RECIPES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "mnist": ("mnist", 1, {}),
    "ablation": ("imagenet_ablation", 8, {}),
    "ablation_pallas": ("imagenet_ablation", 8, {"kernel_backend": "pallas"}),
    "latent_b": ("imagenet_latent:b", 8, {}),
}
"""Experiment, over how many devices its labels are divided, and what is other than its own of the loss's settings. A
recipe for one device runs on one."""

MOST_STEPS, LONG_ENOUGH = 50, 15.0
"""Steps that are timed at most, and seconds of them that are enough."""

PALLAS = re.compile(r'custom_call_target="[^"]*(?:triton|tpu_custom_call|mosaic)')
"""A call of a kernel in Pallas, in the text of a module."""

LOSS_KERNEL = re.compile(r"loss_(?:scales|norms|gradient)")
"""The kernels of the loss, in such a line; the others are attention's."""


def rows(recipe: str, tiny: bool, seconds: float) -> Iterator[Row]:
    """One row: first what compiling showed, marked as partial, then the whole of it."""
    config, layout = share(recipe, tiny)
    workload, grid = measure_workload(config), Mesh(layout.devices)
    sizes = fitting(workload, grid, layout.platform)
    refused: list[int] = []
    for size in sizes[:2]:
        try:
            yield from _measured(recipe, with_micro_batch(config, size), layout, workload, refused)
            return
        except jax.errors.JaxRuntimeError as error:
            # A kernel that wants too much shared memory is not helped by smaller micro-batches.
            if "RESOURCE_EXHAUSTED" not in str(error) or "shared memory" in str(error).lower() or size == sizes[:2][-1]:
                raise
            refused.append(size)


def share(recipe: str, tiny: bool) -> tuple[Config, Layout]:
    """A recipe with as many labels as each device has of them, for all devices that are here; nothing is read."""
    name, divided, changes = RECIPES[recipe]
    settings = load_settings(f"{name}{',' if ':' in name else ':'}tiny" if tiny else name).to_dict()
    config = parse(untrained(settings))
    assert isinstance(config, Config)
    layout = mesh.one_device() if divided == 1 else mesh.layout(0, 1, config.bank.per_device)
    labels, push = (max(1, n // divided) * layout.devices for n in (config.loss.labels, config.bank.push))
    if not has_banks(config):
        push = config.bank.push
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, path=None),
        loss=dataclasses.replace(config.loss, labels=labels, **changes),
        bank=dataclasses.replace(config.bank, push=push),
    ), layout


def untrained(settings: Any) -> Any:
    """Settings with untrained networks in place of the published ones: the same sizes, and nothing to download."""
    if isinstance(settings, dict):
        return {key: untrained(value) for key, value in settings.items()}
    known = KNOWN_PRESETS.get(settings) if isinstance(settings, str) else None
    return f"random://{known[1]}" if known else settings


def fitting(workload: Workload, grid: Mesh, platform: str) -> list[int]:
    """Micro-batches that fit as `drifting plan` counts, the largest first; the smallest one if none does."""
    usable = usable_memory()
    sizes = workload.micro_batches(grid)
    fit = [size for size in sizes if usable is None or workload.total(grid, size, platform) <= usable]
    return fit or sizes[-1:]


def with_micro_batch(config: Config, size: int) -> Config:
    """The settings with micro-batches of `size` samples, 0: all at a time."""
    return dataclasses.replace(config, train=dataclasses.replace(config.train, micro_batch=size))


def _measured(recipe: str, config: Config, layout: Layout, workload: Workload, refused: list[int]) -> Iterator[Row]:
    size, loss, facts = config.train.micro_batch, config.loss, image_facts(config.data)
    began = time.perf_counter()
    step = abstract_step(config, facts, layout)
    lowered = step.lower()
    traced = time.perf_counter()
    compiled = lowered.compile()
    done = time.perf_counter()
    row = {
        "name": f"{recipe}: {RECIPES[recipe][0]}",
        "devices": layout.devices,
        "labels": loss.labels,
        "generated_images": loss.labels * loss.generated,
        "micro_batch": size,
        "out_of_memory_with": list(refused),
        "trace_seconds": traced - began,
        "compile_seconds": done - traced,
        "planned_memory_gb": workload.total(Mesh(layout.devices), size, layout.platform) / 1e9,
        "compiled_memory_gb": compiled.memory_analysis().peak_memory_in_bytes / 1e9,
        **kernels(compiled.as_text()),
    }
    yield row | {"partial": True}
    arguments = made_up_arguments(config, step, facts, layout)
    yield row | _timed(compiled, arguments, config, layout, workload) | {"partial": False}


def _timed(compiled: Any, arguments: tuple[Any, ...], config: Config, layout: Layout, workload: Workload) -> Row:
    state, *constants = arguments
    metrics: Any = None

    def one_step() -> Any:
        nonlocal state, metrics
        state, metrics = compiled(state, *constants)
        return state, metrics

    seconds = timed(one_step, REPEATS, MOST_STEPS, LONG_ENOUGH)
    median, samples = float(np.median(seconds)), config.loss.labels * config.loss.generated
    operations, kind = workload.operations(config.train.micro_batch), known_device(jax.local_devices()[0].device_kind)
    rate = operations / median / layout.devices
    value = float(metrics["loss"])
    return {
        "steps_timed": len(seconds),
        "step_seconds_min": min(seconds),
        "step_seconds_median": median,
        "generated_images_per_second": samples / median,
        "tflop": operations / 1e12,
        "tflops_per_device": rate / 1e12,
        "mfu": rate / DEVICE_KINDS[kind].peak if kind else None,
        "peak_memory_gb": peak_memory(),
        "loss": value if np.isfinite(value) else None,
        "ok": bool(np.isfinite(value)),
    }


def kernels(module: str) -> Row:
    """Which kernels other than the compiler's own a compiled module calls, how often in its text, and whether attention
    and the loss are some."""
    targets = Counter(re.findall(r'custom_call_target="([^"]+)"', module))
    of_loss = [bool(LOSS_KERNEL.search(line)) for line in module.splitlines() if PALLAS.search(line)]
    return {"custom_calls": dict(targets), "flash": not all(of_loss), "loss_in_kernels": any(of_loss)}


def made_up_arguments(config: Config, step: AbstractStep, facts: ImageFacts, layout: Layout) -> tuple[Any, ...]:
    """Arguments of a step: a state with filled banks, a batch, untrained frozen networks, widths and key."""
    space = sample_space(config.data.vae, facts.shape)
    frozen = layout.put(feature_encoder(config.features, space).params | space.params)
    key, (shapes, batch, *_) = jax.random.key(0), step.arguments
    placed = jax.tree.map(lambda x: x.sharding, shapes)
    make = jax.jit(lambda key: made_up_state(step.empty(), config.loss.positives, key), out_shardings=placed)
    widths = layout.put(np.asarray(config.loss.widths, np.float32))
    return (
        make(key),
        made_up_batch(batch, config, facts.classes),
        frozen,
        widths,
        jax.device_put(key, layout.replicated),
        layout.put(np.bool_(False)),  # as most steps of a training, which are not logged
    )


def made_up_batch(shapes: dict[str, Any], config: Config, classes: int) -> dict[str, Any]:
    """A batch of random images; without banks those of one label together, as the feed gives them."""
    count = shapes["label"].shape[0]
    group = 1 if has_banks(config) else config.loss.positives + config.loss.unconditional
    images = partial(made_up_samples, shapes["image"].shape, shapes["image"].dtype)
    made = {
        "image": jax.jit(images, out_shardings=shapes["image"].sharding)(jax.random.key(1)),
        "label": jnp.arange(count, dtype=jnp.int32) // group % classes,
        "id": jnp.arange(count, dtype=jnp.uint32),
    }
    return {name: jax.device_put(made[name], shape.sharding) for name, shape in shapes.items()}
