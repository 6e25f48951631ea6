"""Reads autoencoders in the layout of the diffusers library: a `config.json` and a file of tensors."""

import json
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from drifting.errors import InputError
from drifting.networks.network import Params, structure
from drifting.runs.files import sha256
from drifting.runs.torch_file import read_state_dict
from drifting.weights.artifact import Artifact, existing
from drifting.weights.ldm_names import with_diffusers_names
from drifting.weights.torch_names import from_torch
from drifting.weights.transformers_files import (
    check_fields,
    is_positive_integer,
    positive_integer,
    positive_number,
    unsupported,
)

VAE_CONFIG = "config.json"

VAE_TENSORS = tuple(
    f"diffusion_pytorch_model{variant}.{suffix}"
    for suffix in ("safetensors", "bin")
    for variant in ("", ".fp16", ".bf16")
)
"""Names of the file of tensors; the first one that is there is read."""

DEFAULT_SCALING_FACTOR = 0.18215
"""The factor of Stable Diffusion's latents; `config.json` files older than the field mean this one."""


def load_vae(directory: str | os.PathLike[str]) -> Artifact:
    """Read a folder with diffusers' `AutoencoderKL`, such as `stabilityai/sd-vae-ft-mse`; see `load_autoencoder`.

    The tensors may have the names of latent diffusion's own code, see `with_diffusers_names`.
    """
    return load_autoencoder(
        directory, "vae", vae_kwargs_from_diffusers, lambda kwargs: diffusers_name, _modern_attention
    )


def load_autoencoder(
    directory: str | os.PathLike[str],
    name: str,
    kwargs_from: Callable[[Mapping[str, Any]], dict[str, Any]],
    naming: Callable[[Mapping[str, Any]], Callable[[str], str]],
    renewed: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]],
) -> Artifact:
    """Read a folder with an autoencoder of diffusers. Half-precision weights become float32.

    `model_config` has dtype `float32` and no `remat`; both may be changed.

    Args:
        directory: the folder, with `VAE_CONFIG` and one of `VAE_TENSORS`.
        name: the network, a key of `NETWORKS`.
        kwargs_from: the configuration to the constructor's keyword arguments, without `rngs`.
        naming: those to a function of our flat name that gives the PyTorch name.
        renewed: the file's tensors to those of the present version of diffusers.

    Returns:
        Artifact of kind `vae`; its metadata are `network`, `sha256`, of the weights' file, and `source`, the folder.

    Raises:
        InputError: a file is missing or unreadable, the network is another, or tensors are missing, unexpected or of
            the wrong shape.
    """
    folder = Path(directory)
    path = existing(folder / VAE_CONFIG)
    try:
        kwargs = kwargs_from(_read_json(path))
        _, shapes = structure(name, kwargs)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    path = existing(next((folder / file for file in VAE_TENSORS if (folder / file).is_file()), folder / VAE_TENSORS[0]))
    params = _params(path, shapes, naming(kwargs), renewed)
    return Artifact("vae", kwargs, params, {"network": name, "sha256": sha256(path), "source": str(directory)})


def _params(
    path: Path,
    shapes: Params,
    naming: Callable[[str], str],
    renewed: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]],
) -> Params:
    if path.suffix == ".bin":
        tensors = read_state_dict(path)  # says the file's name itself
    try:
        if path.suffix != ".bin":
            tensors = load_file(path)
        return from_torch(renewed(tensors), shapes, naming)
    except SafetensorError as error:
        raise InputError(f"{path}: not a safetensors file ({error}): copy it again") from error
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


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
    attention = _attention(config, len(channels))
    fixed = {"_class_name": "AutoencoderKL"}
    optional = {"act_fn": "silu"}
    check_fields(config, *((key, value, optional.get(key)) for key, value in (fixed | optional).items()))
    kwargs: dict[str, Any] = {"block_channels": channels, "dtype": "float32", "remat": False}
    kwargs |= {name: levels for name, levels in attention.items() if any(levels)}
    for key, name in _SIZES.items():
        kwargs[name] = positive_integer(config, key)
    for key, name in _SWITCHES.items():
        kwargs[name] = config.get(key, True)
        if not isinstance(kwargs[name], bool):
            raise unsupported(key, kwargs[name], "true or false")
    kwargs |= latent_scale(config)
    check_known(config, "block_out_channels", *_BLOCK_TYPES, *fixed, *optional, *_SIZES, *_SWITCHES)
    return kwargs


_BLOCK_TYPES = {
    "down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D", "AttnUpDecoderBlock2D"],
}
"""The kinds of blocks of each resolution, without attention and with it."""


def _attention(config: Mapping[str, Any], levels: int) -> dict[str, list[bool]]:
    """`encoder_attention` and `decoder_attention` of `AutoencoderKL`.

    Raises:
        InputError: blocks are of other kinds.
    """
    attention = {}
    for (key, (plain, attends)), name in zip(_BLOCK_TYPES.items(), ("encoder", "decoder"), strict=True):
        given = config.get(key)
        if not isinstance(given, list) or len(given) != levels or not all(kind in (plain, attends) for kind in given):
            raise unsupported(key, given, f"{levels} of {plain} or {attends}")
        attention[f"{name}_attention"] = [kind == attends for kind in given]
    return attention


_SCALE = ("scaling_factor", "shift_factor", "latents_mean", "latents_std")

_WITHOUT_EFFECT = ("sample_size", "force_upcast")


def latent_scale(config: Mapping[str, Any], default: float = DEFAULT_SCALING_FACTOR) -> dict[str, Any]:
    """The arguments of `Autoencoder` that say how latents are scaled; `default`: the scaling factor if none is stated.

    Raises:
        InputError: a field is no number, or not one for each channel.
    """
    found: dict[str, Any] = {"scaling_factor": positive_number(config, "scaling_factor", default)}
    if config.get("shift_factor") is not None:
        found["shift_factor"] = _number(config, "shift_factor", config["shift_factor"])
    for key in ("latents_mean", "latents_std"):
        if (values := config.get(key)) is not None:
            if not isinstance(values, list):
                raise unsupported(key, values, "a list of numbers")
            found[key] = [_number(config, key, value) for value in values]
    return found


def _number(config: Mapping[str, Any], key: str, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise unsupported(key, config[key], "finite numbers")
    return value


def check_known(config: Mapping[str, Any], *known: str) -> None:
    """Raises `InputError` for a field that is not `known`, and that not every autoencoder may have."""
    for key, value in config.items():
        if key not in {*known, *_SCALE, *_WITHOUT_EFFECT} and not key.startswith("_") and value is not None:
            raise unsupported(key, value, "no such field")


def _modern_attention(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tensors with the attention's present names and shapes; it once had 1x1 convolutions, and later other names."""
    present = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    renamed: dict[str, np.ndarray] = {}
    for name, tensor in with_diffusers_names(tensors).items():
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
    name = re.sub(r"attentions/block(\d+)/", lambda m: f"attentions.{int(m[1]) - 1}/", name)
    name = re.sub(r"(blocks/)?block(\d+)/", lambda m: f"resnets.{int(m[2]) - 1}/", name)
    for ours, theirs in _RENAMED.items():
        name = name.replace(ours, theirs)
    name = re.sub(r"(attentions\.\d+)/norm/", r"\1/group_norm/", name)
    return name.replace("/", ".")
