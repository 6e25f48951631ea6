"""Reads the Stable Diffusion VAE in the layout of the diffusers library: `config.json` and a safetensors file."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from safetensors import SafetensorError
from safetensors.numpy import load_file

from drifting.errors import InputError
from drifting.networks.vae import AutoencoderKL
from drifting.runs.files import sha256
from drifting.weights.artifact import Artifact, existing
from drifting.weights.torch_names import from_torch
from drifting.weights.transformers_files import (
    check_fields,
    is_positive_integer,
    positive_integer,
    positive_number,
    unsupported,
)

VAE_CONFIG = "config.json"

VAE_TENSORS = "diffusion_pytorch_model.safetensors"

DEFAULT_SCALING_FACTOR = 0.18215
"""The factor of Stable Diffusion's latents; `config.json` files older than the field mean this one."""


def load_vae(directory: str | os.PathLike[str]) -> Artifact:
    """Read a folder with diffusers' `AutoencoderKL`, such as `stabilityai/sd-vae-ft-mse`.

    Half-precision weights become float32. `model_config` has dtype `float32` and no `remat`; both may be changed.

    Returns:
        Artifact of kind `vae`; its metadata are `sha256`, of the weights' file, and `source`, the folder.

    Raises:
        InputError: a file is missing or unreadable, the network is another, or tensors are missing, unexpected or of
            the wrong shape.
    """
    folder = Path(directory)
    path = existing(folder / VAE_CONFIG)
    try:
        kwargs = vae_kwargs_from_diffusers(_read_json(path))
        shapes = nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: AutoencoderKL(**kwargs, rngs=nnx.Rngs(0)))))
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    path = existing(folder / VAE_TENSORS)
    try:
        params = from_torch(_modern_attention(load_file(path)), shapes, diffusers_name)
    except SafetensorError as error:
        raise InputError(f"{path}: not a safetensors file ({error}): copy it again") from error
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    return Artifact("vae", kwargs, params, {"sha256": sha256(path), "source": str(directory)})


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # also where it is no text at all
        raise InputError(f"not JSON ({error})") from error


_SIZES = {
    "in_channels": "in_channels",
    "out_channels": "out_channels",
    "latent_channels": "latent_channels",
    "layers_per_block": "layers_per_block",
    "norm_num_groups": "norm_groups",
}

_SWITCHES = {
    "use_quant_conv": "use_quant_conv",
    "use_post_quant_conv": "use_post_quant_conv",
    "mid_block_add_attention": "mid_attention",
}

_WITHOUT_EFFECT = {"sample_size", "force_upcast"}


def vae_kwargs_from_diffusers(config: Mapping[str, Any]) -> dict[str, Any]:
    """`AutoencoderKL`'s keyword arguments (JSON values, without `rngs`) from diffusers' `config.json`.

    Fields that diffusers added later may be absent and then have its defaults.

    Raises:
        InputError: a field is missing, or asks for what `AutoencoderKL` has not.
    """
    if not isinstance(config, Mapping):
        raise InputError("must be a JSON object with the fields of diffusers' AutoencoderKL")
    channels = config.get("block_out_channels")
    if not isinstance(channels, list) or not channels or not all(is_positive_integer(width) for width in channels):
        raise unsupported("block_out_channels", channels, "a list of positive integers")
    levels = len(channels)
    fixed = {"_class_name": "AutoencoderKL", "down_block_types": ["DownEncoderBlock2D"] * levels}
    fixed |= {"up_block_types": ["UpDecoderBlock2D"] * levels}
    optional = {"act_fn": "silu", "shift_factor": None, "latents_mean": None, "latents_std": None}
    check_fields(config, *((key, value, optional.get(key)) for key, value in (fixed | optional).items()))
    kwargs: dict[str, Any] = {"block_channels": channels, "dtype": "float32", "remat": False}
    for key, name in _SIZES.items():
        kwargs[name] = positive_integer(config, key)
    for key, name in _SWITCHES.items():
        kwargs[name] = config.get(key, True)
        if not isinstance(kwargs[name], bool):
            raise unsupported(key, kwargs[name], "true or false")
    kwargs["scaling_factor"] = positive_number(config, "scaling_factor", DEFAULT_SCALING_FACTOR)
    known = {"block_out_channels", "scaling_factor", *fixed, *optional, *_SIZES, *_SWITCHES, *_WITHOUT_EFFECT}
    for key, value in config.items():
        if key not in known and not key.startswith("_") and value is not None:
            raise unsupported(key, value, "no such field")
    return kwargs


def _modern_attention(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tensors with the attention's present names and shapes; it once had 1x1 convolutions, and later other names."""
    present = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    renamed: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        if match := re.fullmatch(r"(.*\.attentions\.\d+)\.(.*)\.(weight|bias)", name):
            name = f"{match[1]}.{present.get(match[2], match[2])}.{match[3]}"
            tensor = tensor[:, :, 0, 0] if tensor.shape[2:] == (1, 1) else tensor
        if name in renamed:
            raise InputError(f"two tensors for {name}, under its present and its former name: keep one")
        renamed[name] = tensor
    return renamed


_RENAMED = {
    "middle/": "mid_block/",
    "attention/": "attentions.0/",
    "attentions.0/norm/": "attentions.0/group_norm/",
    "/query/": "/to_q/",
    "/key/": "/to_k/",
    "/value/": "/to_v/",
    "/out/": "/to_out.0/",
    "/down/": "/downsamplers.0.conv/",
    "/up/": "/upsamplers.0.conv/",
    "/shortcut/": "/conv_shortcut/",
    "head/norm/": "conv_norm_out/",
    "head/conv/": "conv_out/",
    "/gain": "/weight",
    "/kernel": "/weight",
}


def diffusers_name(name: str) -> str:
    """`encoder/levels/level1/blocks/block2/norm1/gain` to `encoder.down_blocks.0.resnets.1.norm1.weight`."""
    levels = "down_blocks" if name.startswith("encoder/") else "up_blocks"
    name = re.sub(r"levels/level(\d+)", lambda m: f"{levels}.{int(m[1]) - 1}", name)
    name = re.sub(r"(blocks/)?block(\d+)/", lambda m: f"resnets.{int(m[2]) - 1}/", name)
    for ours, theirs in _RENAMED.items():
        name = name.replace(ours, theirs)
    return name.replace("/", ".")
