"""What travels between devices in a step, counted from the compiled module, for growing numbers of them.

    python -m scripts.communication

Data-parallel devices each with the same number of labels (weak scaling), or the same labels spread ever thinner (strong
scaling). Counted are the bytes that a device's collectives produce; the gradient's all-reduce is the parameters' size.
"""

import dataclasses
import os
import re
from collections import Counter
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh

from drifting.assembly.run import set_up
from drifting.assembly.spaces import feature_encoder, sample_space
from drifting.config.parse import parse
from drifting.config.schema import Config, ModelConfig
from drifting.devices.mesh import BATCH_AXES, Layout, shardings
from drifting.method.step import train_step

COUNTS = (2, 4, 8, 16, 32)

if __name__ == "__main__":  # before JAX starts
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={COUNTS[-1]}"
    os.environ.setdefault("JAX_PLATFORMS", "cpu")

SHAPE, CLASSES = (8, 8, 4), 10

OPERATION = re.compile(r"= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(-start)?\(")

SIZE = {"pred": 1, "s8": 1, "u8": 1, "f16": 2, "bf16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8}


def collective_bytes(module: str) -> Counter[str]:
    """Bytes of what the collectives of a compiled module produce on a device, by kind; a loop's body counts once."""
    found: Counter[str] = Counter()
    for shapes, kind, _ in OPERATION.findall(module):
        for dtype, dims in re.findall(r"([a-z]+\d*)\[([\d,]*)\]", shapes):
            found[kind] += SIZE[dtype] * int(np.prod([int(d) for d in dims.split(",") if d], dtype=np.int64))
    return found


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
    space = sample_space(None, SHAPE)
    encoder = feature_encoder(config.features, space)
    parts, empty = set_up(config, space, encoder, CLASSES, layout)
    state = jax.eval_shape(empty)
    placed = shardings(layout, state)
    at = partial(jax.tree.map, lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where))
    new = config.bank.push
    batch = {
        "image": jax.ShapeDtypeStruct((new, *SHAPE), jnp.float32, sharding=layout.batch),
        "label": jax.ShapeDtypeStruct((new,), jnp.int32, sharding=layout.batch),
        "id": jax.ShapeDtypeStruct((new,), jnp.uint32, sharding=layout.batch),
    }
    widths = jax.ShapeDtypeStruct((len(config.loss.widths),), jnp.float32, sharding=layout.replicated)
    key = jax.eval_shape(lambda: jax.random.key(0))
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=layout.replicated)
    step = jax.jit(partial(train_step, parts), donate_argnums=0, out_shardings=(placed, layout.replicated))
    module = step.lower(at(state, placed), batch, {}, widths, key).compile().as_text()
    return module, sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.params))


def main() -> None:
    """Prints a Markdown table."""
    print("| devices | labels | all-reduce, KB | everything else, KB | parameters, KB |\n|---|---|---|---|---|")
    for scaling in ("weak", "strong"):
        for count in COUNTS:
            labels = count if scaling == "weak" else COUNTS[-1]
            module, params = compiled_step(small(labels), layout_of(count))
            found = collective_bytes(module)
            reduced = found.pop("all-reduce", 0)
            other = sum(found.values())
            print(f"| {count} | {labels} | {reduced / 1e3:.0f} | {other / 1e3:.1f} | {params / 1e3:.0f} |", flush=True)


if __name__ == "__main__":
    main()
