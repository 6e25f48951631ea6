"""Five steps of training on one mesh after another, in a process of its own with eight CPU devices.

    NPROC=16 XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m tests.mesh_steps OUT.npz

Writes, for each case and mesh, the losses of the steps and the parameters after them.
"""

import dataclasses
import sys
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from drifting.assembly.feed import make_feed
from drifting.assembly.pools import fill_banks
from drifting.assembly.run import set_up
from drifting.assembly.spaces import feature_encoder, source_space
from drifting.config.schema import Config
from drifting.data.sources.synthetic import synthetic
from drifting.devices import mesh
from drifting.devices.mesh import Layout, shardings
from drifting.experiments.plan.module import count_module
from drifting.method.step import train_step
from scripts.communication import compiled_step, layout_of, small
from tests.support.runs import FULL, tiny_config

STEPS = 5

ONE = (0, 1)

MESHES: dict[str, tuple[tuple[int, int], ...]] = {"drift": ((2, 4),), "log-KDE": ((8, 1),)}
"""Devices along `data` and `fsdp` for each case, beside a single device, `ONE`."""

if FULL:
    MESHES = {"drift": ((8, 1), (2, 4)), "log-KDE": ((8, 1), (4, 2), (1, 8))}

SIZES = dict(labels=8, generated=4, positives=4, unconditional=2)


TRAVELS = ("collective-permute", "all-to-all")
"""Collectives that no step has on devices that hold all parameters: none sends its own part to another."""


def cases() -> dict[str, Config]:
    """The two-axis drift in features, in micro-batches and from a shared bank; a log-KDE of resident data."""
    data = dict(name="synthetic", image_size=8, channels=3, classes=10, flip=True)
    common = dict(optimizer=dict(warmup_steps=0), bank=dict(per_device=False))
    # Groups of one channel: the mean of a map is 0 and its deviation 1, whatever the image.
    maps = dict(weights="random://pixel_smoke", mean=False, std=False, mean_patches=(), std_patches=())
    features = dict(encoders=("mae",), options=dict(mae=maps))
    drift = dict(objective="drift", kernel="laplace", widths=(0.2, 0.05), **SIZES)
    log_kde = dict(objective="log_kde", kernel="gaussian", widths=(0.4,), **SIZES)
    return {
        "drift": tiny_config(
            data=data, train=dict(ema_decays=(0.9,), micro_batch=16), loss=drift, features=features, **common
        ),
        "log-KDE": tiny_config(
            data=data | dict(resident="device"),
            train=dict(ema_decays=(0.9,)),
            model=dict(name="mlp", num_heads=None, depth=3),
            loss=log_kde,
            **common,
        ),
    }


def steps(config: Config, layout: Layout) -> dict[str, np.ndarray]:
    """The losses of `STEPS` steps and the parameters after them."""
    source = synthetic(8, channels=3, classes=10)
    space = source_space(None, source)
    encoder = feature_encoder(config.features, space)
    parts, empty_state = set_up(config, space, encoder, source.num_classes, layout)
    placed = shardings(layout, jax.eval_shape(empty_state))
    frozen, feed = layout.put(encoder.params), make_feed(config, source, layout)

    def moved() -> Any:
        # Not the initial parameters: their last layer is zero and the generated samples would coincide.
        state = empty_state()
        noisy = jax.tree.map(lambda p: p + 0.05 * jax.random.normal(jax.random.key(1), p.shape), state.params)
        return dataclasses.replace(state, params=noisy)

    state = fill_banks(config, space, layout, source, feed, jax.jit(moved, out_shardings=placed)(), frozen)
    constants = (jnp.asarray(config.loss.widths), jax.random.key(0))
    widths, key = jax.jit(lambda: constants, out_shardings=layout.replicated)()
    step = jax.jit(partial(train_step, parts), donate_argnums=0, out_shardings=(placed, layout.replicated))
    losses: list[Any] = []
    for _ in range(STEPS):
        state, metrics = step(state, next(feed), frozen, widths, key)
        losses.append(jax.block_until_ready(metrics["loss"]))
    feed.close()
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(state.params))
    return {"loss": np.asarray(losses)} | {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def main(out: str) -> None:
    """Runs everything."""
    found: dict[str, Any] = {}
    for name, config in cases().items():
        for data, fsdp in (ONE, *MESHES[name]):
            layout = mesh.layout(data, fsdp, config.bank.per_device) if data else mesh.one_device()
            found |= {f"{name}|{data}x{fsdp}|{key}": value for key, value in steps(config, layout).items()}
    for count in (2, 8):
        module, params = compiled_step(small(8), layout_of(count))
        counts = count_module(module)
        kinds = counts.collective_bytes
        found[f"collectives|{count}"] = np.array([kinds.pop("all-reduce"), sum(kinds.values()), params])
        found[f"travels|{count}"] = np.array([counts.collectives[kind] for kind in TRAVELS])
    np.savez(out, **found)


if __name__ == "__main__":
    main(sys.argv[1])
