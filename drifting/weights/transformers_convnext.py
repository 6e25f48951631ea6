"""Reads ConvNeXt V2 in the layout of the transformers library: `config.json` and `model.safetensors`."""

import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx

from drifting.networks.convnext import STEM_SIDE, ConvNeXtV2
from drifting.networks.network import Params
from drifting.weights.artifact import Artifact
from drifting.weights.transformers_files import (
    check_fields,
    is_positive_integer,
    load_transformers,
    positive_integer,
    positive_number,
    stacked_from_torch,
    unsupported,
)


def load_convnext(directory: str | os.PathLike[str]) -> Artifact:
    """Read a folder with transformers' `ConvNextV2Model`, such as `facebook/convnextv2-base-22k-224`.

    Of `ConvNextV2ForImageClassification` the classifier is left out. Half-precision weights become float32.
    `model_config` has dtype `float32` and no `remat`; both may be changed.

    Returns:
        Artifact of kind `convnext`; its metadata are `sha256`, of the weights' file, and `source`, the folder.

    Raises:
        InputError: a file is missing or unreadable, the network is another, or tensors are missing, unexpected or of
            the wrong shape.
    """
    return load_transformers(
        directory,
        "convnext",
        prefix="convnextv2.",
        dropped=("classifier.",),
        kwargs_from=convnext_kwargs_from_transformers,
        params_from=convnext_from_torch,
    )


def convnext_from_torch(tensors: Mapping[str, np.ndarray], **kwargs: Any) -> Params:
    """`ConvNeXtV2` parameters from those of `ConvNextV2Model`; `kwargs` are the constructor's, without `rngs`. Exact.

    Raises:
        InputError: tensors missing, unexpected or of the wrong shape.
    """
    return stacked_from_torch(tensors, lambda: ConvNeXtV2(**kwargs, rngs=nnx.Rngs(0)), convnext_name)


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


def convnext_kwargs_from_transformers(config: Mapping[str, Any]) -> dict[str, Any]:
    """`ConvNeXtV2`'s keyword arguments (JSON values, without `rngs`) from transformers' `config.json`.

    Fields may be absent, as transformers leaves out its defaults, but for the sizes; those without a bearing on the
    encoder's outputs are not read.

    Raises:
        InputError: a field is missing, or asks for what `ConvNeXtV2` has not.
    """
    check_fields(
        config, ("model_type", "convnextv2", None), ("patch_size", STEM_SIDE, STEM_SIDE), ("hidden_act", "gelu", "gelu")
    )
    for key in ("hidden_sizes", "depths"):
        numbers = config.get(key)
        if not isinstance(numbers, list) or not numbers or not all(is_positive_integer(number) for number in numbers):
            raise unsupported(key, numbers, "a list of positive integers")
    dims, depths = config["hidden_sizes"], config["depths"]
    if len(dims) != len(depths):
        raise unsupported("depths", depths, f"as many numbers as hidden_sizes {dims}")
    return dict(
        in_channels=positive_integer(config, "num_channels", 3),
        dims=dims,
        depths=depths,
        pooled_epsilon=positive_number(config, "layer_norm_eps", 1e-12),
        dtype="float32",
        remat=False,
    )
