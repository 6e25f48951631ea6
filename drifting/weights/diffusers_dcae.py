"""Reads the deep compression autoencoder in the layout of the diffusers library; its files are those of the VAE."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from drifting.errors import InputError
from drifting.weights.artifact import Artifact
from drifting.weights.diffusers_vae import check_known, latent_scale, load_autoencoder
from drifting.weights.transformers_files import check_fields, is_positive_integer, positive_integer, unsupported

_BLOCKS = {"ResBlock": False, "EfficientViTBlock": True}

_NORMS = {"rms_norm": "rms", "batch_norm": "batch"}

_SHUFFLES = {
    "downsample_block_type": ("shuffled_down", {"pixel_unshuffle": True, "conv": False}),
    "upsample_block_type": ("shuffled_up", {"pixel_shuffle": True, "interpolate": False}),
}

_STAGES = ("block_out_channels", "layers_per_block", "block_types", "qkv_multiscales")

_DECODER_ALONE = ("norm_types", "act_fns")


def load_dcae(directory: str | os.PathLike[str]) -> Artifact:
    """Read a folder with diffusers' `AutoencoderDC`, such as `mit-han-lab/dc-ae-f32c32-in-1.0-diffusers`.

    See `load_autoencoder`.
    """
    return load_autoencoder(directory, "dcae", dcae_kwargs_from_diffusers, dcae_naming, _without_counters)


def dcae_kwargs_from_diffusers(config: Mapping[str, Any]) -> dict[str, Any]:
    """`AutoencoderDC`'s keyword arguments (JSON values, without `rngs`) from diffusers' `config.json`.

    Raises:
        InputError: a field is missing, or asks for what `AutoencoderDC` has not.
    """
    if not isinstance(config, Mapping):
        raise InputError("must be a JSON object with the fields of diffusers' AutoencoderDC")
    fixed = (("_class_name", "AutoencoderDC", None), ("decoder_conv_act_fn", "relu", "relu"))
    shortcuts = config.get("encoder_out_shortcut", True)
    if not isinstance(shortcuts, bool):
        raise unsupported("encoder_out_shortcut", shortcuts, "true or false")
    check_fields(config, *fixed, ("decoder_in_shortcut", shortcuts, True))
    kwargs: dict[str, Any] = {"dtype": "float32", "remat": False, "shortcuts": shortcuts}
    kwargs |= {key: positive_integer(config, key) for key in ("in_channels", "latent_channels")}
    kwargs["head_features"] = positive_integer(config, "attention_head_dim", 32)
    for key, (name, choices) in _SHUFFLES.items():
        kwargs[name] = _choice(key, config.get(key, next(iter(choices))), choices)
    kwargs |= {part: _stages(config, part) for part in ("encoder", "decoder")}
    kwargs |= latent_scale(config, 1.0)
    parts = [f"{part}_{key}" for part in ("encoder", "decoder") for key in _STAGES]
    parts += [f"decoder_{key}" for key in _DECODER_ALONE]
    own = ("in_channels", "latent_channels", "attention_head_dim", "encoder_out_shortcut", "decoder_in_shortcut")
    check_known(config, "decoder_conv_act_fn", *_SHUFFLES, *parts, *own)
    return kwargs


def _stages(config: Mapping[str, Any], part: str) -> list[dict[str, Any]]:
    """The stages of the encoder or the decoder, as the attributes of `Stage`."""
    widths_key, layers_key, types_key, scales_key = (f"{part}_{key}" for key in _STAGES)
    widths = config.get(widths_key)
    if not isinstance(widths, list) or not widths or not all(is_positive_integer(width) for width in widths):
        raise unsupported(widths_key, widths, "a list of positive integers")
    layers = _per_stage(config, layers_key, len(widths), None)
    if not all(value == 0 or is_positive_integer(value) for value in layers):
        raise unsupported(layers_key, layers, "a list of numbers of blocks")
    types = _per_stage(config, types_key, len(widths), "ResBlock")
    scales = _per_stage(config, scales_key, len(widths), None)
    sides: list[Any] = [side for stage in scales for side in (stage if isinstance(stage, list) else [None])]
    if not all(is_positive_integer(side) and side % 2 for side in sides):
        raise unsupported(scales_key, scales, "a list of lists of odd numbers")
    own = config if part == "decoder" else {}  # an encoder has no choice
    norms = _per_stage(own, "decoder_norm_types", len(widths), "rms_norm")
    activations = _per_stage(own, "decoder_act_fns", len(widths), "silu")
    stages: list[dict[str, Any]] = []
    for k, width in enumerate(widths):
        attention = _choice(types_key, types[k], _BLOCKS)
        stage = dict(channels=width, blocks=layers[k], attention=attention)
        norm = _choice("decoder_norm_types", norms[k], _NORMS)
        activation = _choice("decoder_act_fns", activations[k], {"relu": "relu", "silu": "silu"})
        if attention and norm != "rms":
            raise unsupported("decoder_norm_types", norms, "rms_norm where there is attention")
        stages.append(stage | (dict(scales=scales[k]) if attention else dict(norm=norm, activation=activation)))
    return stages


def _per_stage(config: Mapping[str, Any], key: str, stages: int, default: str | None) -> Sequence[Any]:
    """A field with one value for each stage; where `default` is a word, one word may stand for all."""
    values = config.get(key, default)
    if default is not None and isinstance(values, str):
        return [values] * stages
    if not isinstance(values, list) or len(values) != stages:
        raise unsupported(key, values, f"a list of {stages}, one for each of the channels")
    return values


def _choice(key: str, value: Any, choices: Mapping[str, Any]) -> Any:
    if not isinstance(value, str) or value not in choices:
        raise unsupported(key, value, f"one of {', '.join(choices)}")
    return choices[value]


def _without_counters(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tensors without those that count the batches that norms have seen in training."""
    return {name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}


_RENAMED = {
    "attention/query": "attn/to_q",
    "attention/key": "attn/to_k",
    "attention/value": "attn/to_v",
    "attention/out": "attn/to_out",
    "attention/norm": "attn/norm_out",
    "attention/scales": "attn/to_qkv_multiscale",
    "gated/expand": "conv_out/conv_inverted",
    "gated/depth": "conv_out/conv_depth",
    "gated/contract": "conv_out/conv_point",
    "gated/norm": "conv_out/norm",
    "/depth/": "/proj_in/",
    "/mix/": "/proj_out/",
    "/gain": "/weight",
    "/kernel": "/weight",
    "norm/mean": "norm/running_mean",
    "norm/variance": "norm/running_var",
    "decoder/norm/": "decoder/norm_out/",
}


def dcae_naming(kwargs: Mapping[str, Any]) -> Callable[[str], str]:
    """A function that gives diffusers' name of a parameter of the network with these arguments.

    `encoder/stages/stage4/blocks/block1/gated/norm/gain` becomes `encoder.down_blocks.3.0.conv_out.norm.weight`.
    """
    counts = [stage["blocks"] for stage in kwargs["encoder"]]

    def block(match: re.Match[str]) -> str:
        stage, number = int(match[2]) - 1, int(match[3]) - 1
        if match[1] == "encoder":
            return f"encoder/down_blocks/{stage}/{number}/"
        return f"decoder/up_blocks/{stage}/{number + (stage < len(counts) - 1)}/"  # behind the doubling of sides

    def change(match: re.Match[str]) -> str:
        stage = int(match[2]) - 1
        return (
            f"encoder/down_blocks/{stage}/{counts[stage]}/" if match[1] == "downs" else f"decoder/up_blocks/{stage}/0/"
        )

    def naming(name: str) -> str:
        name = re.sub(r"(encoder|decoder)/stages/stage(\d+)/blocks/block(\d+)/", block, name)
        name = re.sub(r"(?:en|de)coder/(downs|ups)/stage(\d+)/", change, name)
        for ours, theirs in _RENAMED.items():
            name = name.replace(ours, theirs)
        name = re.sub(r"to_qkv_multiscale/scale(\d+)", lambda match: f"to_qkv_multiscale/{int(match[1]) - 1}", name)
        return name.replace("/", ".")

    return naming
