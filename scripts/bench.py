"""Time and memory of a training step and of its loss, beside the released code's; speed of the data path.

    python -m scripts.bench

Times are medians on this machine and move with it; floating-point operations and temporary memory are the compiler's
own figures and do not. The released code's column was measured on a 2-core CPU under jax 0.10.2 and is repeated here as
given: compare ratios of runs on one machine.
"""

import dataclasses
import io
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image
from rich.console import Console
from rich.table import Table

from drifting.assembly import networks
from drifting.assembly.run import set_up
from drifting.assembly.spaces import sample_space
from drifting.config.schema import BankConfig, Config, LossConfig, MAEConfig, ModelConfig, OptimizerConfig
from drifting.data.crop import centre_crop, random_crop
from drifting.data.decode import decode
from drifting.method.encoders import FeatureEncoder
from drifting.method.encoders.mae import mae_features
from drifting.method.features import pixel_features
from drifting.method.kernels import KERNELS
from drifting.method.loss import map_loss
from drifting.method.objective import Objective
from drifting.method.step import StepParts, begin_step, generator_inputs, real_features, step_loss, train_step
from scripts import bench_data
from scripts.measuring import made_up_state, timed

SHAPE, CLASSES = (16, 16, 4), 1000

MICRO_BATCHES = (0, 32, 8, 2)  # of the 128 generated samples

# Workload T: a training step that keeps every part of the ImageNet recipe and fits two CPU cores.
WORKLOAD_T = Config(
    model=ModelConfig(hidden_size=128, depth=4, num_heads=4),
    loss=LossConfig(
        objective="drift",
        kernel="laplace",
        widths=(0.2, 0.05, 0.02),
        labels=8,
        generated=16,
        positives=16,
        unconditional=4,
    ),
    bank=BankConfig(per_class=16),
    optimizer=OptimizerConfig(),
)

ENCODER = MAEConfig(base_channels=32, layers=(1, 1, 1, 1))


def measure(function: Callable[..., Any], *arguments: Any) -> tuple[float, float, float, float]:
    """Median seconds of a call, GFLOP and MB of temporaries (the compiler's), and seconds to trace and compile."""
    start = time.perf_counter()
    compiled = jax.jit(function).lower(*arguments).compile()
    compile_seconds = time.perf_counter() - start
    seconds = timed(lambda: compiled(*arguments))
    memory = compiled.memory_analysis().temp_size_in_bytes / 1e6
    return float(np.median(seconds)), compiled.cost_analysis()["flops"] / 1e9, memory, compile_seconds


def workload_t() -> tuple[StepParts, Callable[[], tuple[Any, Any]], dict[str, np.ndarray]]:
    """The parts of workload T, what makes its state and the encoder's parameters, and a batch, everything random."""
    config, key = WORKLOAD_T, jax.random.key(0)
    arguments = networks.mae_arguments(ENCODER, SHAPE[2], CLASSES)
    graphdef, _ = nnx.split(nnx.eval_shape(lambda: networks.autoencoder(arguments, key).encoder))

    def features(params: Any, x: jax.Array) -> Any:
        return pixel_features(x) | mae_features(nnx.merge(graphdef, params), x)

    parts, empty = set_up(config, sample_space(None, SHAPE), FeatureEncoder(features), CLASSES)

    def make() -> tuple[Any, Any]:
        """It can be jitted."""
        state = made_up_state(empty(), config.loss.positives, key)
        return state, nnx.to_pure_dict(nnx.state(networks.autoencoder(arguments, key).encoder))

    batch = {
        "image": np.random.default_rng(0).normal(size=(config.bank.push, *SHAPE)).astype(np.float32),
        "label": np.arange(config.bank.push, dtype=np.int32),
        "id": np.arange(config.bank.push, dtype=np.uint32),
    }
    return parts, make, batch


def micro_batched(parts: StepParts, size: int) -> StepParts:
    """The same step with micro-batches of `size` samples."""
    return dataclasses.replace(parts, recipe=dataclasses.replace(parts.recipe, micro_batch=size))


def measure_step(parts: StepParts, state: Any, batch: Any, encoder: Any) -> tuple[float, float, float, float]:
    """`measure` of a whole step, the state donated as in training."""
    widths, key = jnp.asarray(WORKLOAD_T.loss.widths), jax.random.key(1)
    start = time.perf_counter()
    step = jax.jit(partial(train_step, parts), donate_argnums=0).lower(state, batch, encoder, widths, key).compile()
    compile_seconds = time.perf_counter() - start
    state = jax.tree.map(jnp.copy, state)

    def one_step() -> Any:
        nonlocal state
        state, metrics = step(state, batch, encoder, widths, key)
        return state, metrics

    seconds = timed(one_step)
    memory = step.memory_analysis().temp_size_in_bytes / 1e6
    return float(np.median(seconds)), step.cost_analysis()["flops"] / 1e9, memory, compile_seconds


def drift_problems(problems: int, channels: int) -> tuple[float, float, float, float]:
    """Loss and gradient of the two-axis drift: 64 generated, 16 unconditional, 64 positives, three widths."""
    keys = jax.random.split(jax.random.key(0), 3)
    counts = (64, 64, 16)
    gen, pos, unc = (jax.random.normal(k, (1, n, problems, channels)) for k, n in zip(keys, counts, strict=True))
    weights = [jnp.ones((1, n)) for n in counts]
    objective = Objective("drift", KERNELS["laplace"])
    widths = jnp.array([0.2, 0.05, 0.02])
    loss = partial(map_loss, objective, widths)
    return measure(jax.value_and_grad(lambda gen: loss(gen, pos, unc, *weights)[0]), gen)


def photographs(count: int) -> list[bytes]:
    """JPEGs of 400 x 500 pixels, smooth with noise, some 90 KB each."""
    rng, encoded = np.random.default_rng(0), []
    for _ in range(count):
        smooth = Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).resize((500, 400))
        noisy = np.asarray(smooth) + rng.normal(0, 10, (400, 500, 3))
        stream = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(stream, "jpeg", quality=90)
        encoded.append(stream.getvalue())
    return encoded


def images_per_second(crop: Callable[[Any, int, int], Any]) -> float:
    """Photographs decoded and cropped to 256 x 256 by `crop(pixels, 256, seed)`, a second of one core."""
    encoded = photographs(100)
    start = time.process_time()
    for seed, data in enumerate(encoded):
        crop(decode("", data, 3), 256, seed)
    return len(encoded) / (time.process_time() - start)


def main() -> None:
    """Prints the table."""
    table = Table(
        "what",
        "ms",
        "GFLOP",
        "MB temp",
        "compile s",
        "released code",
        title=f"float32 on {jax.devices()[0].device_kind}",
    )

    def row(name: str, result: tuple[float, float, float, float], released: str) -> None:
        seconds, flop, memory, compile_seconds = result
        table.add_row(name, f"{seconds * 1e3:.0f}", f"{flop:.1f}", f"{memory:.0f}", f"{compile_seconds:.1f}", released)

    parts, make, batch = workload_t()
    state, encoder = jax.jit(make)()
    widths, key = jnp.asarray(WORKLOAD_T.loss.widths), jax.random.key(1)
    draw = jax.jit(lambda state, batch: begin_step(parts, state, batch, encoder, key)[1])(state, batch)
    real = jnp.concatenate([draw.positives, draw.unconditional], axis=1).reshape(-1, *SHAPE)
    inputs = generator_inputs(draw)
    samples = jax.jit(parts.generator)(state.params, *inputs)

    def forward(params: Any) -> jax.Array:
        return parts.generator(params, *inputs)

    def mean_square(params: Any) -> jax.Array:
        return jnp.mean(jnp.square(forward(params)))

    def feature_energy(x: jax.Array) -> jax.Array:
        return sum(jnp.mean(jnp.square(f)) for f in parts.features(encoder, x).values())

    def loss(x: jax.Array) -> jax.Array:
        features = parts.features(encoder, x)
        return step_loss(parts.recipe.objective, features, real_features(parts, draw, encoder), draw, widths)[0]

    for size in MICRO_BATCHES:
        name = f"workload T, {size} samples at a time" if size else "workload T, one step"
        released = "" if size else "1709 ms, 68.7 GFLOP, 1168 MB, 20.5 s"
        row(name, measure_step(micro_batched(parts, size), state, batch, encoder), released)
    row("  generator, forward", measure(forward, state.params), "245 ms, 18.7 GFLOP")
    row("  generator, forward + backward", measure(jax.value_and_grad(mean_square), state.params), "1306 ms, 985 MB")
    row("  encoder, real samples", measure(partial(parts.features, encoder), real), "185 ms, 4.1 GFLOP")
    row("  encoder, generated, f + b", measure(jax.value_and_grad(feature_energy), samples), "401 ms, 6.7 GFLOP")
    row("  encoder and drift loss", measure(jax.value_and_grad(loss), samples), "741 ms (its three parts)")
    row("drift loss, 256 problems x 64 channels", drift_problems(256, 64), "56.7 ms, 1.4 GFLOP, 67 MB")
    row("drift loss, 64 problems x 512 channels", drift_problems(64, 512), "48.6 ms, 2.5 GFLOP, 46.5 MB")
    Console(width=120).print(table)
    central, random = (
        images_per_second(lambda pixels, size, _: centre_crop(pixels, size)),
        images_per_second(random_crop),
    )
    print(
        f"images decoded and cropped: {central:.0f} a second and core, at random {random:.0f} (JPEG, 400 x 500 to 256)"
    )
    side = jnp.ones((2048, 2048))
    seconds, flop, _, _ = measure(jnp.matmul, side, side)
    print(f"matrix product of 2048 x 2048: {flop / seconds:.0f} GFLOP/s here, 200 where the released code was timed")
    print("GFLOP of the generator's blocks count one block of four: the compiler counts the body of a loop once")
    bench_data.main()


if __name__ == "__main__":
    main()
