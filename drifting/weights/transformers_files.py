"""What all networks in the layout of the transformers library share: a folder's two files, and blocks one by one."""

import json
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from safetensors import SafetensorError
from safetensors.numpy import load_file

from drifting.errors import InputError
from drifting.networks.network import Params
from drifting.runs.files import sha256
from drifting.weights.artifact import Artifact, existing, flatten, unflatten
from drifting.weights.torch_names import from_torch

TRANSFORMERS_CONFIG = "config.json"
TRANSFORMERS_TENSORS = "model.safetensors"


def load_transformers(
    directory: str | os.PathLike[str],
    kind: str,
    *,
    prefix: str,
    dropped: tuple[str, ...],
    kwargs_from: Callable[[Mapping[str, Any]], dict[str, Any]],
    params_from: Callable[..., Params],
) -> Artifact:
    """Read a folder of transformers as an artifact of `kind`; half-precision weights become float32.

    Args:
        directory: the folder with `config.json` and `model.safetensors`.
        kind: the kind of the artifact.
        prefix: begins the tensors' names where the network is part of another, such as `convnextv2.`.
        dropped: beginnings of the names, without the prefix, of tensors to leave out.
        kwargs_from: the configuration to the constructor's keyword arguments, without `rngs`.
        params_from: the tensors and those keyword arguments to nested parameters.

    Returns:
        Artifact whose metadata are `sha256`, of the weights' file, and `source`, the folder.

    Raises:
        InputError: a file is missing or unreadable, or one of the functions raises; the line begins with the file.
    """
    folder = Path(directory)
    kwargs = _kwargs(existing(folder / TRANSFORMERS_CONFIG), kwargs_from)
    path = existing(folder / TRANSFORMERS_TENSORS)
    try:
        tensors = {name.removeprefix(prefix): tensor for name, tensor in load_file(path).items()}
        params = params_from({k: v for k, v in tensors.items() if not k.startswith(dropped)}, **kwargs)
    except SafetensorError as error:
        raise InputError(f"{path}: not a safetensors file ({error}): copy it again") from error
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    return Artifact(kind, kwargs, params, {"sha256": sha256(path), "source": str(directory)})


def _kwargs(path: Path, kwargs_from: Callable[[Mapping[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # not JSON, or not even text
        raise InputError(f"{path}: not JSON ({error})") from error
    if not isinstance(config, dict):
        raise InputError(f"{path}: not the configuration of a network, which is a JSON object")
    try:
        return kwargs_from(config)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def stacked_from_torch(
    tensors: Mapping[str, np.ndarray], network: Callable[[], nnx.Module], naming: Callable[[str], str]
) -> Params:
    """`from_torch` for a network that stacks its blocks: ours are `blocks/NAME`, the library's are numbered. Exact.

    Args:
        tensors: arrays by PyTorch name.
        network: makes the network; it is only shape-evaluated.
        naming: our flat name of one block's part, such as `blocks/4/norm/gain`, to the PyTorch name.

    Raises:
        InputError: tensors missing, unexpected or of the wrong shape.
    """
    shapes = flatten(nnx.to_pure_dict(nnx.state(nnx.eval_shape(network))))
    stacked = {name: leaf.shape[0] for name, leaf in shapes.items() if "/blocks/" in f"/{name}"}
    single = {name: leaf for name, leaf in shapes.items() if name not in stacked}
    for name, depth in stacked.items():
        leaf = jax.ShapeDtypeStruct(shapes[name].shape[1:], shapes[name].dtype)
        single |= {_of_block(name, k): leaf for k in range(depth)}
    params = flatten(from_torch(tensors, unflatten(single), naming))
    for name, depth in stacked.items():
        params[name] = np.stack([params.pop(_of_block(name, k)) for k in range(depth)])
    return unflatten(params)


def _of_block(name: str, block: int) -> str:
    """Name of one block's part of a stacked tensor."""
    return re.sub("(^|/)blocks/", rf"\g<0>{block}/", name)


def check_fields(config: Mapping[str, Any], *fields: tuple[str, Any, Any]) -> None:
    """Raises `InputError` unless each field `(key, value, default)` of a configuration has that value."""
    for key, value, default in fields:
        if (found := config.get(key, default)) != value:
            raise unsupported(key, found, json.dumps(value))


def positive_integer(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """A field that must be a positive integer. Raises `InputError` where it is not."""
    if not is_positive_integer(value := config.get(key, default)):
        raise unsupported(key, value, "a positive integer")
    return value


def positive_number(config: Mapping[str, Any], key: str, default: float | None = None) -> float:
    """A field that must be a positive finite number. Raises `InputError` where it is not."""
    value = config.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise unsupported(key, value, "a positive number")
    return value


def is_positive_integer(value: Any) -> bool:
    """Whether a JSON value is one; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def unsupported(key: str, value: Any, expected: str) -> InputError:
    """The error that says what a configuration's field is, and what it should be."""
    return InputError(f"{key} is {json.dumps(value)}, expected {expected}")
