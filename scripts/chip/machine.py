"""What was measured on: devices, driver, versions, commit."""

import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import jax

import drifting
from drifting.devices.backend import require_devices
from drifting.errors import MachineError, one_line
from drifting.experiments.plan.plan import DEVICE_KINDS
from scripts.chip.rows import Row

ROOT = Path(__file__).resolve().parents[2]

# What JAX calls the devices that `drifting plan` knows. Not the slower PCIe forms of H100, whose peak is another.
NAMES = {
    "b200": r"\bB200\b",
    "h200": r"\bH200\b",
    "h100": r"\bH100\b.*HBM3",
    "a100-80": r"\bA100\b.*80GB",
    "a100-40": r"\bA100\b.*40GB",
    "l40s": r"\bL40S\b",
    "l4": r"\bL4\b",
    "a6000": r"\bRTX A6000\b",
    "rtx5090": r"\bRTX 5090$",
    "rtx4090": r"\bRTX 4090$",
    "rtx3090": r"\bRTX 3090$",
    "tpu-v4": r"^TPU v4$",
    "tpu-v5e": r"^TPU v5 ?(lite|e)",
    "tpu-v5p": r"^TPU v5p?$",
    "tpu-v6e": r"^TPU v6 ?(lite|e)",
}

SETTINGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_PREALLOCATE")
"""Environment variables that change what is measured."""


def rows(tiny: bool, seconds: float) -> Iterator[Row]:
    """One row, of facts.

    Raises:
        MachineError: there is no device, or none but the CPU and `tiny` was not asked for.
    """
    require_devices()
    device = jax.local_devices()[0]
    if device.platform == "cpu" and not tiny:
        raise MachineError("JAX finds no device here but the CPU; tiny tries the report out on it")
    yield {
        "name": "machine",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": device.device_kind,
        "platform": device.platform,
        "devices": jax.local_device_count(),
        "known_as": known_device(device.device_kind),
        "memory_gb": None if (usable := usable_memory()) is None else usable / 1e9,
        "driver": driver(),
        "runtime": one_line(device.client.platform_version),
        "host": host(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy")},
        "drifting": drifting.__version__,
        "commit": commit(),
        "environment": {name: os.environ[name] for name in SETTINGS if name in os.environ},
        "tiny": tiny,
    }


def known_device(kind: str) -> str | None:
    """The name in `DEVICE_KINDS` of what JAX calls `kind`; None: it is none of these."""
    return next((name for name in DEVICE_KINDS if re.search(NAMES[name], kind)), None)


def usable_memory() -> float | None:
    """Bytes that this process may use of the device with the least; None: JAX does not say, as of the CPU."""
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in jax.local_devices()]
    return None if None in limits else float(min(limit for limit in limits if limit is not None))


def driver() -> str | None:
    """The version of NVIDIA's driver; None where there is none."""
    found = _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return found.splitlines()[0] if found else None


def host() -> str:
    """System, architecture, cores."""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"


def commit() -> str | None:
    """The commit of this clone, with `+` where files differ from it; None: this is no clone."""
    found = _said("git", "-C", str(ROOT), "rev-parse", "HEAD")
    changed = _said("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no")
    return f"{found}{'+' if changed else ''}" if found else None


def _said(*command: str) -> str | None:
    """What a command prints; None: it is not there, or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
