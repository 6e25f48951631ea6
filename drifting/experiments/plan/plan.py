"""`drifting plan`: whether a run fits on given devices, what a step of it costs, and how long it will take.

Nothing is downloaded and nothing is trained: `workload.py` says what is counted. Times are the operations of a step at
a stated share of the device's peak.
"""

import dataclasses
import json
import math
import os
import sys
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from drifting.config.checks import check, check_layout
from drifting.config.schema import PretrainConfig, TrainingConfig
from drifting.errors import ArgumentError, ConfigError, counted, require, require_argument, use_one_of
from drifting.experiments.plan.compiled import CARDS, SLICES, compile_step
from drifting.experiments.plan.compiled_report import print_compiled
from drifting.experiments.plan.workload import Mesh, Workload, measure_workload, parse_mesh

EFFICIENCY = 0.125
"""Share of the bf16 peak that the published ablation reached: 99 of 790 TFLOP/s on each of 8 H200."""

GPU_SHARE, TPU_SHARE = 0.75, 0.9
"""Share of a device's memory that a run has: what JAX takes of a GPU when it starts, and a TPU without its runtime."""

SHARE_VARIABLE = "XLA_PYTHON_CLIENT_MEM_FRACTION"
"""The environment variable that says which share of a GPU JAX takes."""


MARGIN = 0.15
"""How much more than is counted here the compiler may assign to micro-batches (docs/chips.md compares them)."""

ABOUT = 0.1
"""How much more memory than the least is worth larger micro-batches, where none leave that much to spare."""

LARGEST_SHARE = 0.95
"""The largest share of a GPU that JAX can be told to take: the rest is the runtime's."""


@dataclass(frozen=True)
class Device:
    """An accelerator.

    Attributes:
        memory: bytes.
        peak: dense bfloat16 products, operations a second.
        platform: `gpu` or `tpu`.
    """

    memory: float
    peak: float
    platform: str

    @property
    def usable(self) -> float:
        """Bytes that a run has.

        Raises:
            ConfigError: the environment variable that says it for GPUs holds no share.
        """
        return self.memory * (TPU_SHARE if self.platform == "tpu" else _gpu_share())


def _gpu_share() -> float:
    given = os.environ.get(SHARE_VARIABLE, str(GPU_SHARE))
    try:
        share = float(given)
    except ValueError:
        share = 0.0
    require(0 < share <= 1, SHARE_VARIABLE, given, "give a share of a GPU's memory, in (0, 1]")
    return share


def _device(gigabytes: float, teraflops: float, platform: str = "gpu") -> Device:
    return Device(gigabytes * 1e9, teraflops * 1e12, platform)


# Vendors' published figures, dense (no sparsity), accumulated in float32; TPUs by chip.
DEVICE_KINDS = {
    "b200": _device(180, 2250),
    "h200": _device(141, 989),
    "h100": _device(80, 989),
    "a100-80": _device(80, 312),
    "a100-40": _device(40, 312),
    "l40s": _device(48, 362),
    "l4": _device(24, 121),
    "a6000": _device(48, 155),
    "rtx5090": _device(32, 209),
    "rtx4090": _device(24, 165),
    "rtx3090": _device(24, 71),
    "tpu-v4": _device(32, 275, "tpu"),
    "tpu-v5e": _device(16, 197, "tpu"),
    "tpu-v5p": _device(95, 459, "tpu"),
    "tpu-v6e": _device(32, 918, "tpu"),
}


def plan(
    config: TrainingConfig,
    *,
    mesh: str,
    device: str,
    micro_batch: int | None = None,
    efficiency: float = EFFICIENCY,
    console: Console | None = None,
) -> bool:
    """Prints what a run needs and takes on `mesh` of `device`; returns whether it fits.

    Args:
        config: the settings of `drifting train` or `drifting pretrain`.
        mesh: the axes of the mesh, see `parse_mesh`.
        device: a key of `DEVICE_KINDS`.
        micro_batch: samples at a time, 0 all; None: `train.micro_batch` if it is set, else as many as fit with room to
            spare.
        efficiency: share of the device's bf16 peak that training reaches.

    Raises:
        ConfigError: an unknown device, a mesh that is none, a batch that cannot be split so, wrong settings.
    """
    check(config)
    require_argument(device in DEVICE_KINDS, "device", device, use_one_of(device, DEVICE_KINDS))
    layout, found = parse_mesh(mesh), DEVICE_KINDS[device]
    require_argument(0 < efficiency <= 1, "efficiency", efficiency, "a share lies in (0, 1]")
    asked = micro_batch if micro_batch is not None else config.train.micro_batch or None
    check_spread(config, layout, asked)
    workload = measure_workload(config)
    fitting = [size for size in workload.micro_batches(layout) if _fits(workload, layout, size, found)]
    fits = bool(fitting) if asked is None else _fits(workload, layout, asked, found)
    size = asked if asked is not None else _chosen(workload, layout, found)
    if size is None:
        size = workload.micro_batches(layout)[-1]
    console = console or Console(width=110, highlight=False)
    _print_step(console, workload, size)
    _print_memory(console, workload, layout, found, size)
    _print_outcome(console, config, workload, layout, device, size, efficiency, fits, fitting)
    return fits


def _fits(workload: Workload, mesh: Mesh, micro_batch: int, device: Device, margin: float = 0.0) -> bool:
    return workload.total(mesh, micro_batch, device.platform) * (1 + margin) <= device.usable


def _chosen(workload: Workload, mesh: Mesh, device: Device) -> int | None:
    """All samples at a time if they fit; the most that fit with a margin, or else the most of about the least memory.

    Smaller micro-batches cost no more operations. None: nothing fits.
    """
    fitting = [size for size in workload.micro_batches(mesh) if _fits(workload, mesh, size, device)]
    safe = [size for size in fitting if size == 0 or _fits(workload, mesh, size, device, MARGIN)]
    totals = {size: workload.total(mesh, size, device.platform) for size in fitting}
    # Not the least itself: the last few percent would be bought with many times as many kernels.
    tight = [size for size in fitting if totals[size] <= (1 + ABOUT) * min(totals.values())]
    return next(iter(safe or tight), None)


def plan_compiled(
    config: TrainingConfig,
    *,
    mesh: str,
    device: str,
    micro_batch: int | None = None,
    as_json: bool = False,
    console: Console | None = None,
) -> bool:
    """Prints what the compiler for `device` makes of a training step; returns whether it fits.

    Args:
        config: the settings of a training.
        mesh: the axes of the mesh, see `parse_mesh`.
        device: a key of `SLICES`, or one of `CARDS`, of the module `compiled`.
        micro_batch: samples at a time, 0 all; None: `train.micro_batch`.
        as_json: print one JSON object in place of tables.
        console: where to print; None: the standard output.

    Raises:
        ConfigError: there is no compiler for the device, or it is not installed; otherwise as `plan`.
    """
    check(config)
    layout, found = parse_mesh(mesh), DEVICE_KINDS.get(device)
    require_argument(found is not None, "device", device, use_one_of(device, (*CARDS, *SLICES)))
    assert found is not None
    check_spread(config, layout, micro_batch)
    size = config.train.micro_batch if micro_batch is None else micro_batch
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, micro_batch=size))
    step = compile_step(config, layout, device)
    fits, usable = step.peak <= found.usable, found.usable
    console = console or Console(width=110, highlight=False)
    if as_json:
        asked = {"device": device, "mesh": str(layout), "micro_batch": size, "usable": usable, "fits": fits}
        print(json.dumps(asked | step.report(), indent=1), file=console.file)
        return fits
    print_compiled(console, step, usable)
    name = f"{layout.devices} x {device} ({layout}) with train.micro_batch={size}"
    if fits:
        console.print(f"fits on {name}")
    else:
        console.print(
            f"does not fit on {name}: {step.peak / 1e9:.1f} of {usable / 1e9:.1f} GB; the largest arrays above"
        )
    return fits


def check_spread(config: TrainingConfig, mesh: Mesh, micro_batch: int | None) -> None:
    """Raises `ConfigError` where a step, or a micro-batch of it, does not spread evenly over a mesh."""
    if isinstance(config, PretrainConfig):
        samples, what = config.train.batch_size, "train.batch_size"
    else:
        samples, what = config.loss.labels * config.loss.generated, "loss.labels * loss.generated"
    _check_mesh(config, mesh)
    if micro_batch:
        remedy = f"must divide {what}={samples} and be divisible by the {counted(mesh.devices, 'device')}"
        fits = micro_batch > 0 and samples % micro_batch == 0 and micro_batch % mesh.devices == 0
        require_argument(fits, "micro_batch", micro_batch, remedy)


def _check_mesh(config: TrainingConfig, mesh: Mesh) -> None:
    """What training asks for: its micro-batches are chosen here, and its data are not looked at."""
    whole = dataclasses.replace(config, train=dataclasses.replace(config.train, micro_batch=0))
    try:
        check_layout(whole, mesh.devices, processes=1, samples=sys.maxsize)
    except ConfigError as error:
        raise ArgumentError("mesh", mesh, str(error)) from error


# --- the report -------------------------------------------------------------------------------------------------------


def _print_step(console: Console, workload: Workload, size: int) -> None:
    networks = Table("network", "parameters", title="Networks")
    for name, count in workload.parameters.items():
        networks.add_row(name, f"{count:,}")
    parts = Table("part", "TFLOP a step", title="Operations (matrix products and convolutions)")
    again = workload.again if size not in (0, workload.samples) else {}
    for name, operations in (workload.flops | again).items():
        parts.add_row(name, f"{operations / 1e12:,.4g}")
    parts.add_row("total", f"{workload.operations(size) / 1e12:,.4g}", style="bold")
    console.print(networks)
    console.print(parts)


def _print_memory(console: Console, workload: Workload, mesh: Mesh, device: Device, size: int) -> None:
    memory = Table("on each device", "GB", title=f"Memory, mesh {mesh}")
    for name, held in workload.memory(mesh, size, device.platform).items():
        memory.add_row(name, f"{held / 1e9:.2f}")
    memory.add_row("total", f"{workload.total(mesh, size, device.platform) / 1e9:.2f}", style="bold")
    memory.add_row("usable", f"{device.usable / 1e9:.2f}")
    console.print(memory)
    activations = Table("activations of a sample", "MB kept by differentiation")
    for name, kept in workload.activations.items():
        activations.add_row(name, f"{kept / 1e6:.1f}")
    console.print(activations)
    sizes = Table("micro_batch", "GB", "TFLOP a step", "")
    for choice in workload.micro_batches(mesh):
        total = workload.total(mesh, choice, device.platform)
        verdict = "fits" if total <= device.usable else "too large"
        whole = "0 (all)" if choice == 0 else str(choice)
        sizes.add_row(whole, f"{total / 1e9:.2f}", f"{workload.operations(choice) / 1e12:,.4g}", verdict)
    console.print(sizes)


def _print_outcome(
    console: Console,
    config: TrainingConfig,
    workload: Workload,
    mesh: Mesh,
    device: str,
    size: int,
    efficiency: float,
    fits: bool,
    fitting: list[int],
) -> None:
    for note in workload.notes:
        console.print(f"note: {note}")
    name = f"{mesh.devices} x {device} ({mesh})"
    if not fits:
        console.print(f"does not fit on {name}: {_remedy(config, workload, mesh, device, fitting)}")
        return
    seconds = workload.operations(size) / (efficiency * DEVICE_KINDS[device].peak * mesh.devices)
    hours = seconds * config.train.steps / 3600
    console.print(f"fits on {name} with train.micro_batch={size}{' (all at a time)' if size == 0 else ''}")
    if size and not _fits(workload, mesh, size, DEVICE_KINDS[device], MARGIN):
        console.print("but nearly fills it, and the count is good to 15 %: ask the compiler, or leave it more room")
    console.print(
        f"{counted(config.train.steps, 'step')} of {seconds:.3g} s: {hours:,.1f} hours, "
        f"{hours * mesh.devices:,.1f} device-hours, at {efficiency:.3g} of the bf16 peak"
    )


def _remedy(config: TrainingConfig, workload: Workload, mesh: Mesh, device: str, fitting: list[int]) -> str:
    """What would fit: smaller micro-batches, more of these devices, or as many of another kind."""
    found = DEVICE_KINDS[device]
    if fitting:
        return f"use train.micro_batch={_chosen(workload, mesh, found)}"
    share = workload.total(mesh, workload.micro_batches(mesh)[-1], found.platform) / found.memory
    if found.platform == "gpu" and share <= LARGEST_SHARE:
        return f"set {SHARE_VARIABLE}={math.ceil(100 * share) / 100:g} when the training starts, and ask again with it"

    def best(mesh: Mesh, name: str) -> int | None:
        return _chosen(workload, mesh, DEVICE_KINDS[name])

    def possible(mesh: Mesh) -> bool:
        try:
            _check_mesh(config, mesh)
        except ConfigError:
            return False
        return True

    options = []
    for factor in (2, 4, 8, 16, 32, 64):
        more = [Mesh(mesh.data * factor, mesh.fsdp), Mesh(mesh.data, mesh.fsdp * factor)]
        larger = [m for m in more if possible(m) and best(m, device) is not None]
        if larger:
            options.append(f"{device} with mesh {larger[0]} and train.micro_batch={best(larger[0], device)}")
            break
    others = [name for name in DEVICE_KINDS if best(mesh, name) is not None]
    if others:
        smallest = min(others, key=lambda name: DEVICE_KINDS[name].memory)
        options.append(f"{smallest} with mesh {mesh} and train.micro_batch={best(mesh, smallest)}")
    return "what would: " + (", or ".join(options) or "none of the devices known; make the model or the batch smaller")
