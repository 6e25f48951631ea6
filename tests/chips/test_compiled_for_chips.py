"""Steps compiled for TPUs and GPUs that are not here. They need the extras [plan-gpu] and [plan-tpu]: `make chips`."""

import importlib.util
import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding

from drifting.cli.settings import load_settings
from drifting.config.parse import parse
from drifting.config.schema import Config, PretrainConfig
from drifting.experiments.plan.compiled import GPU_OPTIONS, CompiledStep, _mesh, _nothing_kept, compile_step
from drifting.experiments.plan.module import count_module
from drifting.experiments.plan.plan import DEVICE_KINDS
from drifting.experiments.plan.workload import Mesh, measure_workload
from drifting.method import bank
from drifting.method.bank import Bank
from drifting.method.fields import FIELDS
from drifting.method.kernels import KERNELS
from drifting.method.loss import objective_loss
from drifting.method.objective import LOSS_MEMORY, Objective
from drifting.method.potentials import LOSSES
from tests.support.runs import FULL, ROOT

NEEDS = {"h200": "jax_cuda12_plugin", "tpu-v6e": "libtpu"}

pytestmark = pytest.mark.skipif(
    not all(importlib.util.find_spec(module) for module in NEEDS.values()), reason="no compilers for chips: make chips"
)

EXPERIMENTS = sorted(path.stem for path in (ROOT / "configs").glob("imagenet_*.py"))

ENCODERS = sorted(path.stem for path in (ROOT / "configs").glob("mae_*.py"))

DEVICES = pytest.mark.parametrize("device", NEEDS)


def tiny_step(experiment: str, device: str, mesh: Mesh = Mesh(8), **changes: Any) -> CompiledStep:  # noqa: B008
    """The smallest form of an experiment on 8 devices, each with a label of its own.

    Of 8 generated samples: for 4 images of 32x32 the gradient of the pixel encoder crashes libtpu 0.0.42.
    """
    settings = load_settings(f"{ROOT / 'configs' / experiment}.py:tiny").to_dict()
    settings["loss"]["labels"] = settings["bank"]["push"] = settings["loss"]["generated"] = 8
    for section, values in changes.items():
        settings[section].update(values)
    config = parse(settings)
    assert isinstance(config, Config)
    return compile_step(config, mesh, device)


@DEVICES
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_the_smallest_form_of_every_experiment_compiles(experiment: str, device: str):
    step = tiny_step(experiment, device)
    assert 0 < step.peak < 2**30 and set(step.counts.launches) >= {"generator", "loss"}
    # What travels is added up: no device sends its own part, and none takes part in another's encoding.
    assert not step.counts.collectives.keys() - {"all-reduce", "reduce-scatter"}


def test_parameters_that_are_spread_travel_in_the_dtype_they_are_used_in():
    """And gradients are added up where they are kept."""
    half, single = (
        tiny_step("imagenet_ablation", "h200", Mesh(1, 8), model={"dtype": dtype}).counts.collective_bytes
        for dtype in ("bfloat16", "float32")
    )
    assert half["all-gather"] < 0.75 * single["all-gather"]  # tables of labels stay float32
    assert half["reduce-scatter"] > 0.5 * single["all-gather"] > half["all-reduce"]


@DEVICES
@pytest.mark.parametrize("experiment", ENCODERS)
def test_the_smallest_form_of_every_encoder_compiles(experiment: str, device: str):
    settings = load_settings(f"{ROOT / 'configs' / experiment}.py:tiny").to_dict()
    settings["train"]["batch_size"] = 8
    step = compile_step(parse(settings, PretrainConfig), Mesh(8), device)
    assert 0 < step.peak < 2**30 and not step.counts.collectives.keys() - {"all-reduce"}


@DEVICES
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_attention_is_a_kernel(dtype: str, device: str):
    step = tiny_step("imagenet_ablation", device, model={"dtype": "bfloat16", "attention_dtype": dtype})
    kernels = {"h200": ("triton", "__gpu$"), "tpu-v6e": ("tpu_custom_call",)}[device]
    assert any(kernel in name for name in step.counts.opcodes for kernel in kernels)


def compiled_pool(device: str, held: Bank, draws: int) -> tuple[Any, int]:
    """Push and draw of one device, the bank donated; and the bytes of the bank."""
    place = SingleDeviceSharding(_mesh(Mesh(), device).devices.flat[0])

    def at(x: Any) -> Any:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)

    def step(held: Bank, records: Any, labels: Any, ids: Any, key: Any) -> Any:
        held = bank.push(held, records, labels, ids)
        return held, bank.sample(held, key, labels, draws)

    numbers = jax.ShapeDtypeStruct((8,), jnp.int32)
    records = jax.ShapeDtypeStruct((8, *held.record.shape), held.record.dtype)
    ids, key = jax.ShapeDtypeStruct((8,), jnp.uint32), jax.eval_shape(partial(jax.random.key, 0))
    arguments = jax.tree.map(at, (held, records, numbers, ids, key))
    with _nothing_kept():
        compiled = jax.jit(step, donate_argnums=0).lower(*arguments).compile()
    return compiled, sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(held))


@DEVICES
@pytest.mark.parametrize(
    ("shape", "dtype", "classes"), [((32, 32, 8), "float16", 1000), ((256, 256, 3), "uint8", 1000)]
)
def test_banks_are_written_in_place(device: str, shape: tuple[int, ...], dtype: str, classes: int):
    """At the size that one device has, of the latent recipes (2 GB) and of the pixel recipe (25 GB)."""
    held = jax.eval_shape(lambda: bank.empty_bank(1000, 128, shape, dtype))
    compiled, size = compiled_pool(device, held, draws=1)
    memory, text = compiled.memory_analysis(), compiled.as_text()
    assert memory.alias_size_in_bytes >= size
    assert memory.temp_size_in_bytes < 0.01 * size
    assert not re.search(r"= \w+\[1000,128,\d+\]\S* copy", text)


@pytest.mark.parametrize(("micro_batch", "peak"), [(0, 45e9), (512, 16e9)])
def test_the_published_ablation_on_eight_h200(micro_batch: int, peak: float):
    """The bounds that docs/chips.md gives figures for; and what `drifting plan` says without the compiler."""
    settings = load_settings(str(ROOT / "configs" / "imagenet_ablation.py")).to_dict()
    settings["train"]["micro_batch"] = micro_batch
    config = parse(settings)
    assert isinstance(config, Config)
    step = compile_step(config, Mesh(8), "h200")
    counts = step.counts
    assert step.peak <= peak
    assert measure_workload(config).total(Mesh(8), micro_batch) == pytest.approx(step.peak, rel=0.15)
    assert counts.collectives.keys() == {"all-reduce"} and counts.launches["loss"] <= 900
    assert max(counts.loops) <= 12
    if micro_batch == 0:
        assert counts.launches.total() <= 4200 and counts.moved.total() <= 1050e9 and counts.moved["loss"] <= 150e9


def test_the_published_ablation_with_the_loss_in_kernels():
    """Three launches for the maps that are computed together, besides what is between them; and no array of pairs."""
    settings = load_settings(str(ROOT / "configs" / "imagenet_ablation.py")).to_dict()
    settings["loss"]["kernel_backend"] = "pallas"
    config = parse(settings)
    assert isinstance(config, Config)
    counts = compile_step(config, Mesh(8), "h200").counts
    assert counts.launches["loss"] <= 500 and counts.moved["loss"] <= 60e9


def test_the_loss_moves_as_much_where_the_compiler_writes_the_products_itself():
    """On a card it chooses between those and cuBLAS's; either way the fields are written once and read twice."""
    place = SingleDeviceSharding(_mesh(Mesh(), "h200").devices.flat[0])

    def at(*shape: int, dtype: Any = jnp.float32) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=place)

    arguments = at(3), *({"map": at(8, count, 1024, 256, dtype=jnp.bfloat16)} for count in (64, 64, 16)), at(8)
    objective = Objective("drift", "laplace", memory=LOSS_MEMORY["gpu"])
    lowered = jax.jit(jax.grad(partial(objective_loss, objective, measure=False), 1, has_aux=True)).lower(*arguments)
    moved = []
    for options in ({}, GPU_OPTIONS):
        with _nothing_kept():
            moved.append(sum(count_module(lowered.compile(compiler_options=options).as_text()).moved.values()))
    assert moved[0] == pytest.approx(moved[1], rel=0.02)
    assert moved[0] < 17e9


@DEVICES
@pytest.mark.parametrize("objective", [name for name in (*FIELDS, *LOSSES) if name != "inverse_profile_kde"])
def test_the_loss_in_kernels_compiles(objective: str, device: str):
    """Of the published numbers of samples, with each kernel and at more channels than a GPU's program has at a time."""
    place = SingleDeviceSharding(_mesh(Mesh(), device).devices.flat[0])

    def at(*shape: int, dtype: Any = jnp.float32) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=place)

    maps = [{"map": at(2, count, 3, 100, dtype=jnp.bfloat16)} for count in (64, 64, 16)]
    for kernel in KERNELS:
        loss = partial(objective_loss, Objective(objective, kernel, fused=DEVICE_KINDS[device].platform))
        with _nothing_kept():
            text = jax.jit(jax.grad(loss, 1, has_aux=True)).lower(at(3), *maps, at(2)).compile().as_text()
        assert len(set(re.findall(r"loss_(?:scales|norms|gradient)", text))) == 3


@pytest.mark.skipif(not FULL, reason="takes a quarter of an hour; set DRIFTING_FULL_TESTS=1")
@pytest.mark.parametrize(
    ("experiment", "device", "mesh", "micro_batch", "kernels"),
    [
        ("imagenet_latent_l", "h200", Mesh(8), 2048, 20_000),
        ("imagenet_pixel_b", "h200", Mesh(8), 4096, 20_000),
        ("imagenet_ablation", "tpu-v6e", Mesh(64), 0, None),
        ("imagenet_latent_l", "tpu-v6e", Mesh(64), 2048, None),
    ],
)
def test_the_larger_recipes_at_full_size(
    experiment: str, device: str, mesh: Mesh, micro_batch: int, kernels: int | None
):
    """They fit, in the micro-batches that `drifting plan` chooses, and as it says; nothing travels but sums."""
    settings = load_settings(str(ROOT / "configs" / f"{experiment}.py")).to_dict()
    settings["train"]["micro_batch"] = micro_batch
    config = parse(settings)
    assert isinstance(config, Config)
    # The TPU compiler takes very long for so large a step unless it is told not to look for the best of everything.
    before = jax.config.jax_optimization_level
    jax.config.update("jax_optimization_level", "O0" if device.startswith("tpu") else before)
    try:
        step = compile_step(config, mesh, device)
    finally:
        jax.config.update("jax_optimization_level", before)
    found = DEVICE_KINDS[device]
    assert step.peak <= found.usable
    total = measure_workload(config).total(mesh, micro_batch, found.platform)
    assert total == pytest.approx(step.peak, rel=0.15)
    assert step.counts.collectives.keys() == {"all-reduce"}
    assert kernels is None or step.counts.launches.total() <= kernels
