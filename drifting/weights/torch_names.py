"""Tensors of PyTorch libraries as our parameters: other names, other axes, nothing missing and nothing left over."""

from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np

from drifting.errors import InputError
from drifting.networks.network import Params
from drifting.weights.artifact import check_names, flatten, listed, unflatten


def from_torch(tensors: Mapping[str, np.ndarray], shapes: Params, naming: Callable[[str], str]) -> Params:
    """Nested float32 parameters from PyTorch tensors; exact for float32 ones.

    Convolution kernels `[out, in, h, w]` become `[h, w, in, out]`, linear ones `[out, in]` become `[in, out]`; other
    tensors keep their axes.

    Args:
        tensors: arrays by PyTorch name; the caller drops those that have no counterpart.
        shapes: our nested parameters, of which only names and shapes count (`nnx.eval_shape`).
        naming: our flat name, such as `conv_in/kernel`, to the PyTorch name.

    Raises:
        InputError: tensors are missing, unexpected or of the wrong shape; each by its PyTorch name.
    """
    ours = flatten(shapes)
    names = {name: naming(name) for name in ours}
    check_names(tensors, names.values(), "tensor")
    wrong = []
    for name, theirs in names.items():
        tensor, shape = tensors[theirs], _torch_shape(name, ours[name].shape)
        if list(tensor.shape) != shape or not jnp.issubdtype(tensor.dtype, jnp.floating):
            wrong.append(f"{theirs} {tensor.dtype}{list(tensor.shape)} instead of float32{shape}")
    if wrong:
        raise InputError(f"wrong tensor shape: {listed(wrong)}: are weights and configuration of the same model?")
    return unflatten({name: _transposed(tensors[theirs], name) for name, theirs in names.items()})


_AXES = {4: (2, 3, 1, 0), 2: (1, 0)}
"""Axes of our kernels among those of PyTorch's, by their number."""


def _torch_shape(name: str, shape: tuple[int, ...]) -> list[int]:
    if not name.endswith("kernel"):
        return list(shape)
    return [shape[_AXES[len(shape)].index(axis)] for axis in range(len(shape))]


def _transposed(tensor: np.ndarray, name: str) -> np.ndarray:
    if name.endswith("kernel"):
        tensor = tensor.transpose(_AXES[tensor.ndim])
    return np.ascontiguousarray(tensor, dtype=np.float32)
