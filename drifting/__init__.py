"""Drifting generative models: one-step image generators trained by moving samples along a kernel field.

The names below are all that most programs need. Each is loaded when it is first asked for, so that importing the
package takes no time.

A loss on own arrays: `drift_loss`, `drift_field`, `Kernel`, and the dicts `KERNELS`, `FIELDS`, `LOSSES`.
A training: `Config`, `prepare`, `train`, `ArraySource`. A trained generator: `load`, `score`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drifting.assembly.run import prepare
    from drifting.config import Config
    from drifting.data.source import ArraySource
    from drifting.method.drift_loss import drift_loss
    from drifting.method.fields import FIELDS, drift_field
    from drifting.method.kernels import KERNELS, Kernel
    from drifting.method.potentials import LOSSES
    from drifting.sampling.generator import load
    from drifting.scoring.evaluate import score
    from drifting.training.generator import train

__version__ = "0.2.0"

_HOMES = {
    "drift_loss": "method.drift_loss",
    "drift_field": "method.fields",
    "Kernel": "method.kernels",
    "KERNELS": "method.kernels",
    "FIELDS": "method.fields",
    "LOSSES": "method.potentials",
    "Config": "config",
    "prepare": "assembly.run",
    "train": "training.generator",
    "ArraySource": "data.source",
    "load": "sampling.generator",
    "score": "scoring.evaluate",
}

__all__ = [
    "FIELDS",
    "KERNELS",
    "LOSSES",
    "ArraySource",
    "Config",
    "Kernel",
    "drift_field",
    "drift_loss",
    "load",
    "prepare",
    "score",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "errors":
        return importlib.import_module("drifting.errors")
    if name not in _HOMES:
        raise AttributeError(f"module 'drifting' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"drifting.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__", "errors"])
