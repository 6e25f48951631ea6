"""Reads ConvNeXt V2 in the layout of the transformers library: `config.json` and `model.safetensors`."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from safetensors import SafetensorError
from safetensors.numpy import load_file

from drifting.networks.convnext import STEM, ConvNeXtV2
from drifting.runs.files import sha256
from drifting.weights.artifact import Artifact, Params, existing, flatten, unflatten
from drifting.weights.torch_names import from_torch

CONVNEXT_CONFIG = "config.json"

CONVNEXT_TENSORS = "model.safetensors"


def load_convnext(directory: str | os.PathLike[str]) -> Artifact:
    """Read a folder with transformers' `ConvNextV2Model`, such as `facebook/convnextv2-base-22k-224`.

    Of `ConvNextV2ForImageClassification` the classifier is left out. Half-precision weights become float32.
    `model_config` has dtype `float32` and no `remat`; both may be changed.

    Returns:
        Artifact of kind `convnext`; its metadata are `sha256`, of the weights' file, and `source`, the folder.

    Raises:
        ValueError: a file is missing or unreadable, the network is another, or tensors are missing, unexpected or of
            the wrong shape.
    """
    folder = Path(directory)
    kwargs = _kwargs(existing(folder / CONVNEXT_CONFIG))
    path = existing(folder / CONVNEXT_TENSORS)
    try:
        tensors = {
            name.removeprefix("convnextv2."): tensor
            for name, tensor in load_file(path).items()
            if not name.startswith("classifier.")
        }
        params = convnext_from_torch(tensors, **kwargs)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file ({error}): copy it again") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return Artifact("convnext", kwargs, params, {"sha256": sha256(path), "source": str(directory)})


def convnext_from_torch(tensors: Mapping[str, np.ndarray], **kwargs: Any) -> Params:
    """`ConvNeXtV2` parameters from those of `ConvNextV2Model`; `kwargs` are the constructor's, without `rngs`. Exact.

    Raises:
        ValueError: tensors missing, unexpected or of the wrong shape.
    """
    shapes = flatten(nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: ConvNeXtV2(**kwargs, rngs=nnx.Rngs(0))))))
    stacked = {name: leaf.shape[0] for name, leaf in shapes.items() if "/blocks/" in name}
    single = {name: leaf for name, leaf in shapes.items() if name not in stacked}
    for name, depth in stacked.items():
        leaf = jax.ShapeDtypeStruct(shapes[name].shape[1:], shapes[name].dtype)
        single |= {_of_block(name, k): leaf for k in range(depth)}
    params = flatten(from_torch(tensors, unflatten(single), convnext_name))
    for name, depth in stacked.items():
        params[name] = np.stack([params.pop(_of_block(name, k)) for k in range(depth)])
    return unflatten(params)


def _of_block(name: str, block: int) -> str:
    """Name of one block's part of a stacked tensor."""
    return name.replace("/blocks/", f"/blocks/{block}/")


_RENAMED = {
    "stem/": "embeddings/patch_embeddings/",
    "stem_norm/": "embeddings/layernorm/",
    "/depthwise/": "/dwconv/",
    "/mlp_in/": "/pwconv1/",
    "/mlp_out/": "/pwconv2/",
    "/response_norm/": "/grn/",
    "/down/": "/downsampling_layer/1/",
    "/gain": "/weight",
    "/kernel": "/weight",
    "/scale": "/weight",
}


def convnext_name(name: str) -> str:
    """`levels/stage3/blocks/4/norm/gain` to `encoder.stages.2.layers.4.layernorm.weight`."""
    name = re.sub(r"levels/stage(\d+)/blocks/(\d+)/", lambda m: f"encoder/stages/{int(m[1]) - 1}/layers/{m[2]}/", name)
    name = re.sub(r"levels/stage(\d+)/", lambda m: f"encoder/stages/{int(m[1]) - 1}/", name)
    name = re.sub(r"stages/(\d+)/norm/", r"stages/\1/downsampling_layer/0/", name)
    name = re.sub(r"(^|/)norm/", r"\1layernorm/", name)
    for ours, theirs in _RENAMED.items():
        name = name.replace(ours, theirs)
    return name.replace("/", ".")


def _kwargs(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # not JSON, or not even text
        raise ValueError(f"{path}: not JSON ({error})") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path}: not the configuration of a network, which is a JSON object")
    try:
        return convnext_kwargs_from_transformers(config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def convnext_kwargs_from_transformers(config: Mapping[str, Any]) -> dict[str, Any]:
    """`ConvNeXtV2`'s keyword arguments (JSON values, without `rngs`) from transformers' `config.json`.

    Fields may be absent, as transformers leaves out its defaults, but for the sizes; those without a bearing on the
    encoder's outputs are not read.

    Raises:
        ValueError: a field is missing, or asks for what `ConvNeXtV2` has not.
    """
    for key, value, default in (
        ("model_type", "convnextv2", None),
        ("patch_size", STEM, STEM),
        ("hidden_act", "gelu", "gelu"),
    ):
        if (found := config.get(key, default)) != value:
            raise _unsupported(key, found, json.dumps(value))
    for key in ("hidden_sizes", "depths"):
        numbers = config.get(key)
        if not isinstance(numbers, list) or not numbers or not all(_positive(number) for number in numbers):
            raise _unsupported(key, numbers, "a list of positive integers")
    dims, depths = config["hidden_sizes"], config["depths"]
    if len(dims) != len(depths):
        raise _unsupported("depths", depths, f"as many numbers as hidden_sizes {dims}")
    channels, epsilon = config.get("num_channels", 3), config.get("layer_norm_eps", 1e-12)
    if not _positive(channels):
        raise _unsupported("num_channels", channels, "a positive integer")
    if not isinstance(epsilon, float) or not epsilon > 0:
        raise _unsupported("layer_norm_eps", epsilon, "a positive number")
    sizes = dict(in_channels=channels, dims=dims, depths=depths)
    return sizes | dict(pooled_epsilon=epsilon, dtype="float32", remat=False)


def _positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _unsupported(key: str, value: Any, expected: str) -> ValueError:
    return ValueError(f"{key} is {json.dumps(value)}, expected {expected}")
