"""The step compiled by the real compiler for chips that are not here: memory, collectives, launches, bytes.

JAX compiles for a description of devices (`jax.experimental.topologies`): a slice of TPUs by its name, GPUs by the
description of the card in `targets/`. Nothing runs, so there are no times but the compiler's own.
"""

import importlib.util
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType

from drifting.assembly.abstract import abstract_pretraining, abstract_step
from drifting.config.schema import PretrainConfig, TrainingConfig
from drifting.devices.mesh import BATCH_AXES, Layout
from drifting.errors import ArgumentError, one_line, require_argument
from drifting.experiments.plan.module import ModuleCounts, count_module
from drifting.experiments.plan.workload import Mesh, image_facts

SLICES = {"tpu-v4": "v4", "tpu-v5e": "v5e", "tpu-v5p": "v5p", "tpu-v6e": "v6e"}
"""TPUs that there is a compile-only target for, by the name of their slices."""

CARDS = ("a100-40", "a100-80", "h100", "h200", "b200")
"""GPUs whose description is a file in `targets/`."""

LARGEST = 10
"""Buffers that are named."""

# Without a card there is no autotuning: products that the compiler would write itself are left to cuBLAS, so that
# counts do not depend on guesses.
GPU_OPTIONS = {"xla_gpu_enable_triton_gemm": False}


@dataclass(frozen=True)
class CompiledStep:
    """What the compiler found, on each device. Sizes in bytes.

    Attributes:
        peak: the largest number of bytes at a time.
        arguments: state, batch and frozen networks.
        temporaries: everything else.
        aliased: outputs that take the place of arguments.
        largest: the largest temporaries: what they are, and their sizes.
        counts: what a step does.
        trace_seconds: time to trace and lower the step.
        compile_seconds: time to compile it.
    """

    peak: int
    arguments: int
    temporaries: int
    aliased: int
    largest: tuple[tuple[str, int], ...]
    counts: ModuleCounts
    trace_seconds: float
    compile_seconds: float

    def report(self) -> dict[str, Any]:
        """All of it as JSON values."""
        counts = {name: dict(counted) for name, counted in vars(self.counts).items()}
        return vars(self) | {"counts": counts}


def compile_step(config: TrainingConfig, mesh: Mesh, device: str) -> CompiledStep:
    """Compiles the step of a run, or of a pre-training, for a mesh of devices.

    Raises:
        ArgumentError: there is no compiler for a device of that name or it is not installed, no slice of that many
            chips, or the compiler refuses the program, as that for TPU does one that does not fit.
    """
    chips, images = _mesh(mesh, device), image_facts(config.data)
    options: dict[str, Any] = dict(GPU_OPTIONS) if device in CARDS else {}
    with tempfile.TemporaryDirectory() as folder:
        options |= {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        began = time.perf_counter()
        if isinstance(config, PretrainConfig):
            jitted, arguments = abstract_pretraining(config, images, Layout(chips))
            lowered = jitted.lower(*arguments)
        else:
            lowered = abstract_step(config, images, Layout(chips, config.bank.per_device)).lower()
        traced = time.perf_counter()
        try:
            with _nothing_kept():
                compiled = lowered.compile(compiler_options=options)
        except jax.errors.JaxRuntimeError as error:
            raise ArgumentError("device", device, f"cannot run it on {mesh}: {one_line(str(error))[:500]}") from error
        done = time.perf_counter()
        module, memory = compiled.as_text(), compiled.memory_analysis()
        return CompiledStep(
            peak=memory.peak_memory_in_bytes,
            arguments=memory.argument_size_in_bytes,
            temporaries=memory.temp_size_in_bytes,
            aliased=memory.alias_size_in_bytes,
            largest=_largest(Path(folder), module),
            counts=count_module(module),
            trace_seconds=traced - began,
            compile_seconds=done - traced,
        )


@contextmanager
def _nothing_kept() -> Iterator[None]:
    """Without JAX's cache of what it compiled: it can be read on the devices alone that it was compiled for."""
    kept = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", kept)


def _mesh(mesh: Mesh, device: str) -> jax.sharding.Mesh:
    """A mesh of devices that are not here."""
    devices = _tpu_devices(mesh.devices, device) if device in SLICES else _gpu_devices(mesh.devices, device)
    found = np.array(devices).reshape(mesh.data, mesh.fsdp)
    return jax.sharding.Mesh(found, BATCH_AXES, axis_types=(AxisType.Auto,) * 2)


def _gpu_devices(count: int, device: str) -> list[Any]:
    names = (*CARDS, *SLICES)
    require_argument(device in CARDS, "device", device, f"no compiler is for it: use one of {', '.join(names)}")
    _require_plugin("jax_cuda12_plugin", "plan-gpu", device)
    card = (resources.files("drifting.experiments.plan") / "targets" / f"{device}.txtpb").read_text(encoding="utf-8")
    return _topology(device, platform="cuda", target_config=card, topology=f"1x{count}x1")


def _tpu_devices(count: int, device: str) -> list[Any]:
    _require_plugin("libtpu", "plan-tpu", device)
    # Only quietens the library, which looks for the machine that it is not on.
    for key, value in {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}.items():
        os.environ.setdefault(key, value)
    shape = slice_shape(device, count)
    devices = _topology(device, topology_name=f"{SLICES[device]}:{shape}", platform="tpu")
    chips = [found for found in devices if found.core_on_chip == 0]
    return sorted(chips, key=lambda found: (found.process_index, found.id))[:count]


def slice_shape(device: str, chips: int) -> str:
    """The shape of a slice of so many TPU chips, such as `4x8`; of one or two chips that of the smallest slice.

    Raises:
        ArgumentError: there is none.
    """
    flat = device in ("tpu-v5e", "tpu-v6e")
    most, power = (256 if flat else 4096), chips.bit_length() - 1
    if chips != 2**power or chips > most:
        raise ArgumentError("mesh", chips, f"no slice of {device} has {chips} chips: use a power of 2 up to {most}")
    power = max(power, 2)
    sides = [power // 2, power - power // 2] if flat else [power // 3, (power + 1) // 3, (power + 2) // 3]
    if not flat and power == 2:
        sides = [1, 1, 0]
    return "x".join(str(2**side) for side in sides)


def _require_plugin(module: str, extra: str, device: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise ArgumentError("device", device, f"its compiler is not installed: pip install 'drifting[{extra}]'")


def _topology(device: str, **description: Any) -> list[Any]:
    from jax.experimental import topologies

    try:
        return list(topologies.get_topology_desc(**description).devices)
    except (NotImplementedError, RuntimeError, ValueError) as error:
        reason = one_line(str(error))[:300]
        remedy = f"cannot be described to the compiler, which wants JAX_PLATFORMS=cpu ({reason})"
        if "lockfile" in reason:  # libtpu serves one process at a time
            remedy = "another process uses the compiler for TPUs: try again when it has ended"
        raise ArgumentError("device", device, remedy) from error


_ALLOCATION = re.compile(r"^allocation \d+: .*preallocated-temp")

_VALUE = re.compile(r"^ value: <\d+ (\S+) @\d+> \(size=(\d+),offset=(\d+)\): (\S+)")


def _largest(folder: Path, module: str) -> tuple[tuple[str, int], ...]:
    """The largest temporaries that the compiler assigned, by what makes them; one of those that share a place."""
    made_by = dict(re.findall(r'^\s+(?:ROOT )?%?(\S+) = .*op_name="([^"]*)"', module, flags=re.MULTILINE))
    found: dict[int, tuple[int, str]] = {}
    for path in folder.glob("*buffer-assignment.txt"):
        temporary = False
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("allocation"):
                temporary = bool(_ALLOCATION.match(line))
            value = _VALUE.match(line) if temporary else None
            if value:
                name, size, offset, shape = value[1].split("{")[0], int(value[2]), int(value[3]), value[4]
                what = f"{shape.split('{')[0]} {made_by.get(name, name)}"
                found[offset] = max(found.get(offset, (0, "")), (size, what))
    return tuple((what, size) for size, what in sorted(found.values(), reverse=True)[:LARGEST])
