"""What travels between devices in a step, counted from the compiled module, for growing numbers of them.

    python -m scripts.communication

Data-parallel devices each with the same number of labels (weak scaling), or the same labels spread ever thinner (strong
scaling). Counted are the bytes that a device's collectives produce; the gradient's all-reduce is the parameters' size.
"""

import dataclasses
import os
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from drifting.assembly.abstract import ImageFacts, abstract_step
from drifting.config.parse import parse
from drifting.config.schema import Config, ModelConfig
from drifting.devices.mesh import BATCH_AXES, Layout
from drifting.experiments.plan.module import count_module

COUNTS = (2, 4, 8, 16, 32)

if __name__ == "__main__":  # before JAX starts
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={COUNTS[-1]}"
    os.environ.setdefault("JAX_PLATFORMS", "cpu")

SHAPE, CLASSES = (8, 8, 4), 10


def layout_of(data: int, fsdp: int = 1) -> Layout:
    """A layout of the first `data * fsdp` devices."""
    devices = np.array(jax.devices()[: data * fsdp]).reshape(data, fsdp)
    return Layout(Mesh(devices, BATCH_AXES, axis_types=(AxisType.Auto,) * 2))


def small(labels: int) -> Config:
    """A small step with every part: banks, guidance, two widths of the two-axis drift, micro-batches."""
    settings: dict[str, Any] = {
        "loss": dict(objective="drift", kernel="laplace", widths=[0.2, 0.05], labels=labels, generated=4, positives=4),
        "bank": dict(per_class=8, unconditional=16, push=2 * COUNTS[-1]),
        "features": dict(encoders=[]),
        "train": dict(micro_batch=2 * labels),
    }
    settings["loss"]["unconditional"] = 2
    config = parse(settings)
    assert isinstance(config, Config)
    size = dict(hidden_size=64, depth=2, num_heads=4, register_tokens=2, style_tokens=2, style_codebook=4)
    return dataclasses.replace(config, model=ModelConfig(**size))  # type: ignore[arg-type]


def compiled_step(config: Config, layout: Layout) -> tuple[str, int]:
    """The compiled module of a step, and the bytes of the parameters."""
    step = abstract_step(config, ImageFacts(SHAPE, CLASSES, samples=0, dtype="float32"), layout)
    params = jax.tree.leaves(step.arguments[0].params)
    return step.lower().compile().as_text(), sum(leaf.size * leaf.dtype.itemsize for leaf in params)


def main() -> None:
    """Prints a Markdown table."""
    print("| devices | labels | all-reduce, KB | everything else, KB | parameters, KB |\n|---|---|---|---|---|")
    for scaling in ("weak", "strong"):
        for count in COUNTS:
            labels = count if scaling == "weak" else COUNTS[-1]
            module, params = compiled_step(small(labels), layout_of(count))
            found = count_module(module).collective_bytes
            reduced = found.pop("all-reduce", 0)
            other = sum(found.values())
            print(f"| {count} | {labels} | {reduced / 1e3:.0f} | {other / 1e3:.1f} | {params / 1e3:.0f} |", flush=True)


if __name__ == "__main__":
    main()
