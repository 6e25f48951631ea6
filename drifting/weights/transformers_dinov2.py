"""Reads DINOv2 in the layout of the transformers library: `config.json` and `model.safetensors`."""

import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx

from drifting.networks.dinov2 import DINOv2
from drifting.networks.network import Params
from drifting.weights.artifact import Artifact
from drifting.weights.transformers_files import (
    check_fields,
    load_transformers,
    positive_integer,
    positive_number,
    stacked_from_torch,
    unsupported,
)


def load_dinov2(directory: str | os.PathLike[str]) -> Artifact:
    """Read a folder with transformers' `Dinov2Model`, such as `facebook/dinov2-small` or `facebook/dinov2-base`.

    The token of masked patches, which only training uses, is left out, and so is the classifier of
    `Dinov2ForImageClassification`. Half-precision weights become float32. `model_config` has dtype `float32` and no
    `remat`; both may be changed.

    Returns:
        Artifact of kind `dinov2`; its metadata are `sha256`, of the weights' file, and `source`, the folder.

    Raises:
        InputError: a file is missing or unreadable, the network is another, or tensors are missing, unexpected or of
            the wrong shape.
    """
    return load_transformers(
        directory,
        "dinov2",
        prefix="dinov2.",
        dropped=("classifier.", "embeddings.mask_token"),
        kwargs_from=dinov2_kwargs_from_transformers,
        params_from=dinov2_from_torch,
    )


def dinov2_from_torch(tensors: Mapping[str, np.ndarray], **kwargs: Any) -> Params:
    """`DINOv2` parameters from those of `Dinov2Model`; `kwargs` are the constructor's, without `rngs`. Exact.

    The tensors are named as in the files of the library, less `embeddings.mask_token`.

    Raises:
        InputError: tensors missing, unexpected or of the wrong shape.
    """
    return stacked_from_torch(tensors, lambda: DINOv2(**kwargs, rngs=nnx.Rngs(0)), dinov2_name)


_RENAMED = {
    "class_token": "embeddings/cls_token",
    "positions": "embeddings/position_embeddings",
    "patch_embed/": "embeddings/patch_embeddings/projection/",
    "/query/": "/attention/attention/query/",
    "/key/": "/attention/attention/key/",
    "/value/": "/attention/attention/value/",
    "/attention_out/": "/attention/output/dense/",
    "/mlp_in/": "/mlp/fc1/",
    "/mlp_out/": "/mlp/fc2/",
    "/gain": "/weight",
    "/kernel": "/weight",
}


def dinov2_name(name: str) -> str:
    """`blocks/4/query/kernel` to `encoder.layer.4.attention.attention.query.weight`."""
    for ours, theirs in _RENAMED.items():
        name = name.replace(ours, theirs)
    name = re.sub(r"^blocks/(\d+)/", r"encoder/layer/\1/", name)
    name = re.sub(r"/scale(\d)$", r"/layer_scale\1/lambda1", name)
    name = re.sub(r"^norm/", "layernorm/", name)
    return name.replace("/", ".")


def dinov2_kwargs_from_transformers(config: Mapping[str, Any]) -> dict[str, Any]:
    """`DINOv2`'s keyword arguments (JSON values, without `rngs`) from transformers' `config.json`.

    Fields may be absent, as transformers leaves out its defaults, but for the width, the depth and the heads; those
    without a bearing on the encoder's outputs are not read.

    Raises:
        InputError: a field is missing, or asks for what `DINOv2` has not, such as the gated MLP of ViT-g/14.
    """
    check_fields(
        config, ("model_type", "dinov2", None), ("hidden_act", "gelu", "gelu"), ("use_swiglu_ffn", False, False)
    )
    width, heads = positive_integer(config, "hidden_size"), positive_integer(config, "num_attention_heads")
    if width % heads:
        raise unsupported("num_attention_heads", heads, f"a divisor of hidden_size {width}")
    patch, side = positive_integer(config, "patch_size", 14), positive_integer(config, "image_size", 224)
    if side % patch:
        raise unsupported("image_size", side, f"a multiple of patch_size {patch}")
    qkv_bias = config.get("qkv_bias", True)
    if not isinstance(qkv_bias, bool):
        raise unsupported("qkv_bias", qkv_bias, "true or false")
    return dict(
        hidden_size=width,
        depth=positive_integer(config, "num_hidden_layers"),
        num_heads=heads,
        mlp_ratio=positive_number(config, "mlp_ratio", 4),
        patch_size=patch,
        image_size=side,
        in_channels=positive_integer(config, "num_channels", 3),
        qkv_bias=qkv_bias,
        epsilon=positive_number(config, "layer_norm_eps", 1e-6),
        dtype="float32",
        remat=False,
    )
