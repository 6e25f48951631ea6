"""Our parameters as the tensors of PyTorch libraries, to write such libraries' files."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from drifting.weights.artifact import flatten


def to_torch(params: Mapping[str, Any], naming: Callable[[str], str]) -> dict[str, np.ndarray]:
    """Inverse of `from_torch`: our nested parameters as PyTorch tensors by name."""
    axes = {4: (3, 2, 0, 1), 2: (1, 0)}
    return {
        naming(name): np.ascontiguousarray(np.transpose(value, axes[value.ndim]) if name.endswith("kernel") else value)
        for name, value in flatten(params).items()
    }
