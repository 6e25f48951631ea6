"""Time and memory of a training step and of its parts; speed of the data path; another code's step beside ours.

    python -m scripts.bench
    python -m scripts.bench --against=FOLDER

Times are minima of ten calls on this machine and move with it; floating-point operations and temporary memory are the
compiler's own figures and do not. Two codes are compared by the second line alone: it calls them in turns, in one
process. `FOLDER/rival.py` has a function `workloads()`, which gives a dict of functions without arguments by the names
below, as many as there are; each makes one call and returns its arrays, which are waited for. Shapes are those of
docs/performance.md.
"""

import argparse
import dataclasses
import importlib.util
import io
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

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
from drifting.errors import ConfigError, one_line
from drifting.method.encoders import FeatureEncoder
from drifting.method.encoders.mae import mae_features
from drifting.method.features import pixel_features
from drifting.method.kernels import KERNELS
from drifting.method.loss import map_loss
from drifting.method.objective import Objective
from drifting.method.step import StepParts, begin_step, generator_inputs, real_features, step_loss, train_step
from scripts import bench_data
from scripts.measuring import REPEATS, made_up_state, timed

SHAPE, CLASSES = (16, 16, 4), 1000

MICRO_BATCHES = (32, 8, 2)  # of the 128 generated samples

# Workload T: a training step that keeps every part of the ImageNet recipe and fits two CPU cores.
WORKLOAD_T = Config(
    model=ModelConfig(hidden_size=128, depth=4, num_heads=4, remat_mlp=True),
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


class Measured(NamedTuple):
    """A compiled call; its GFLOP, a loop's body once, and MB of temporaries, the compiler's; seconds to compile it."""

    call: Callable[[], Any]
    gflop: float
    temporary: float
    compile_seconds: float


def compiled(function: Callable[..., Any], *arguments: Any) -> Measured:
    """A function, compiled for its arguments."""
    start = time.perf_counter()
    program = jax.jit(function).lower(*arguments).compile()
    seconds = time.perf_counter() - start
    return Measured(lambda: program(*arguments), *figures(program), seconds)


def figures(program: Any) -> tuple[float, float]:
    """GFLOP and MB of temporaries of a compiled program."""
    return program.cost_analysis()["flops"] / 1e9, program.memory_analysis().temp_size_in_bytes / 1e6


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


def compiled_step(parts: StepParts, state: Any, batch: Any, encoder: Any, *, measure: bool) -> Measured:
    """A whole step, the state donated as in training. `measure`: as in a step that is logged."""
    arguments = (batch, encoder, jnp.asarray(WORKLOAD_T.loss.widths), jax.random.key(1), np.bool_(measure))
    start = time.perf_counter()
    program = jax.jit(partial(train_step, parts), donate_argnums=0).lower(state, *arguments).compile()
    seconds = time.perf_counter() - start
    state = jax.tree.map(jnp.copy, state)

    def one_step() -> Any:
        nonlocal state
        state, metrics = program(state, *arguments)
        return metrics

    return Measured(one_step, *figures(program), seconds)


def drift_loss_of(problems: int, channels: int) -> tuple[Callable[..., Any], tuple[jax.Array, ...]]:
    """The two-axis drift of 64 generated, 16 unconditional, 64 positives at three widths, and its arguments: value,
    gradient and all metrics."""
    keys = jax.random.split(jax.random.key(0), 3)
    counts = (64, 64, 16)
    gen, pos, unc = (jax.random.normal(k, (1, n, problems, channels)) for k, n in zip(keys, counts, strict=True))
    weights = [jnp.ones((1, n)) for n in counts]
    objective = Objective("drift", KERNELS["laplace"])
    widths = jnp.array([0.2, 0.05, 0.02])

    def loss(gen: jax.Array, real: jax.Array, *weights: jax.Array) -> Any:
        """Of real samples in one array, as a step has them."""
        return map_loss(objective, widths, gen, real[:, unc.shape[1] :], real[:, : unc.shape[1]], *weights)

    return jax.value_and_grad(loss, has_aux=True), (gen, jnp.concatenate([unc, pos], axis=1), *weights)


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


WORKLOADS = (
    "step",
    "generator, forward",
    "generator, forward + backward",
    "encoder, real samples",
    "encoder, generated samples, forward + backward",
    "drift loss, 256 problems x 64 channels",
    "drift loss, 64 problems x 512 channels",
)
"""What another code may be compared in: parts of workload T, whose shapes docs/performance.md gives."""


def workloads() -> Iterator[tuple[str, Callable[[], Measured]]]:
    """Names, and what compiles each of them."""
    parts, make, batch = workload_t()
    state, encoder = jax.jit(make)()
    key = jax.random.key(1)
    draw = jax.jit(lambda state, batch: begin_step(parts, state, batch, encoder, key)[1])(state, batch)
    real = jnp.concatenate([draw.positives, draw.unconditional], axis=1).reshape(-1, *SHAPE)
    inputs = generator_inputs(draw)
    samples = jax.jit(parts.generator)(state.params, *inputs)

    def mean_square(params: Any) -> jax.Array:
        return jnp.mean(jnp.square(parts.generator(params, *inputs)))

    def feature_energy(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.stack([jnp.mean(jnp.square(f)) for f in parts.features(encoder, x).values()]))

    def loss(x: jax.Array) -> Any:
        features = parts.features(encoder, x)
        widths = jnp.asarray(WORKLOAD_T.loss.widths)
        return step_loss(parts.recipe.objective, features, real_features(parts, draw, encoder), draw, widths)

    step = partial(compiled_step, state=state, batch=batch, encoder=encoder)
    yield "step", partial(step, parts, measure=False)
    yield "step that is logged", partial(step, parts, measure=True)
    for size in MICRO_BATCHES:
        yield f"step, {size} samples at a time", partial(step, micro_batched(parts, size), measure=False)
    yield "generator, forward", partial(compiled, lambda params: parts.generator(params, *inputs), state.params)
    yield "generator, forward + backward", partial(compiled, jax.value_and_grad(mean_square), state.params)
    yield "encoder, real samples", partial(compiled, partial(parts.features, encoder), real)
    name = "encoder, generated samples, forward + backward"
    yield name, partial(compiled, jax.value_and_grad(feature_energy), samples)
    yield "encoder and drift loss", partial(compiled, jax.value_and_grad(loss, has_aux=True), samples)
    for problems, channels in ((256, 64), (64, 512)):
        function, arguments = drift_loss_of(problems, channels)
        yield f"drift loss, {problems} problems x {channels} channels", partial(compiled, function, *arguments)


def rival_workloads(folder: Path) -> dict[str, Callable[[], Any]]:
    """What `FOLDER/rival.py` has to be compared.

    Raises:
        ConfigError: there is no such file, it cannot be run, or what its `workloads()` gives is no dict of functions by
            the names of `WORKLOADS`.
    """
    file = folder / "rival.py"
    specification = importlib.util.spec_from_file_location("rival", file) if file.is_file() else None
    if specification is None or specification.loader is None:
        raise ConfigError(f"--against={folder}: has no rival.py")
    rival = importlib.util.module_from_spec(specification)
    sys.path.insert(0, str(folder))
    sys.modules["rival"] = rival  # where dataclasses look for it
    try:
        specification.loader.exec_module(rival)
        found = rival.workloads()
    except Exception as error:
        raise ConfigError(f"--against={folder}: rival.py does not run: {_told(error)}") from error
    remedy = f"return a dict of functions by one or more of these names: {'; '.join(WORKLOADS)}"
    if not isinstance(found, dict) or not found:
        raise ConfigError(f"--against={folder}: workloads() returns {one_line(repr(found))[:100]}; {remedy}")
    if unknown := [name for name in found if name not in WORKLOADS or not callable(found[name])]:
        raise ConfigError(f"--against={folder}: workloads() has {', '.join(map(repr, unknown))}; {remedy}")
    return found


def _told(error: Exception) -> str:
    line = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {one_line(str(error))} ({Path(line.filename).name}, line {line.lineno})"


def race(folder: Path) -> tuple[Table, bool]:
    """Our calls and those of another code in turns, minima of ten; and whether all of that code's could be made."""
    theirs, whole = rival_workloads(folder), True
    table = Table("what", "ours, ms", "theirs, ms", "theirs / ours", title=f"in turns, minima of {REPEATS}")
    for name, compile_ours in workloads():
        if name not in theirs:
            continue
        if failure := _failure(theirs[name]):
            whole = False
            table.add_row(name, "", f"failed: {failure}", "")
            continue
        ours, other = in_turns(compile_ours().call, theirs[name])
        table.add_row(name, f"{ours * 1e3:.1f}", f"{other * 1e3:.1f}", f"{other / ours:.2f}")
    return table, whole


def _failure(call: Callable[[], Any]) -> str:
    """Why a call cannot be timed, empty if it can. Two calls: the second finds missing what the first one used up."""
    try:
        found = [jax.block_until_ready(call()) for _ in range(2)]
    except Exception as error:
        return _told(error)
    return "" if jax.tree.leaves(found) else "it returns no array, so that nothing can be waited for"


def in_turns(*calls: Callable[[], Any]) -> list[float]:
    """The least seconds of each call, the calls one after the other, as often as `REPEATS`."""
    least = [float("inf")] * len(calls)
    for call in calls:
        jax.block_until_ready(call())
    for _ in range(REPEATS):
        for number, call in enumerate(calls):
            start = time.perf_counter()
            jax.block_until_ready(call())
            least[number] = min(least[number], time.perf_counter() - start)
    return least


def main(arguments: list[str] | None = None) -> int:
    """Prints the table; returns 1 where another code failed."""
    parser = argparse.ArgumentParser(
        description=f"{__doc__}\nNames: {'; '.join(WORKLOADS)}.", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="another code's step beside ours")
    options = parser.parse_args(arguments)
    console = Console(width=120)
    if options.against is not None:
        try:
            shown, whole = race(options.against)
        except ConfigError as error:
            parser.error(str(error))
        console.print(shown)
        return int(not whole)
    table = Table("what", "ms", "GFLOP", "MB temp", "compile s", title=f"float32 on {jax.devices()[0].device_kind}")
    for name, compile_it in workloads():
        measured = compile_it()
        seconds = min(timed(measured.call))
        numbers = (f"{measured.gflop:.1f}", f"{measured.temporary:.0f}", f"{measured.compile_seconds:.1f}")
        table.add_row(name, f"{seconds * 1e3:.0f}", *numbers)
    console.print(table)
    central, random = (
        images_per_second(lambda pixels, size, _: centre_crop(pixels, size, size)),
        images_per_second(lambda pixels, size, seed: random_crop(pixels, size, size, seed)),
    )
    print(
        f"images decoded and cropped: {central:.0f} a second and core, at random {random:.0f} (JPEG, 400 x 500 to 256)"
    )
    side = jnp.ones((2048, 2048))
    product = compiled(jnp.matmul, side, side)
    print(f"matrix product of 2048 x 2048: {product.gflop / min(timed(product.call)):.0f} GFLOP/s")
    print("GFLOP of the generator's blocks count one block of four: the compiler counts the body of a loop once")
    bench_data.main()
    return 0


if __name__ == "__main__":
    sys.exit(main())
