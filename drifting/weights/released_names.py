"""Configurations and tensor names of the released networks as ours, and back: pure, exact, nothing left over.

Source: the released artifacts of "Generative Modeling via Drifting" (Deng et al.).
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from drifting.errors import InputError
from drifting.networks.dit import DiT
from drifting.networks.mae import MAE
from drifting.networks.network import Params
from drifting.weights.artifact import check_names, flatten, listed, unflatten

_SAME = (
    "cond_dim", "num_classes", "input_size", "in_channels", "patch_size", "hidden_size", "depth", "num_heads",
    "mlp_ratio", "out_channels",
)  # fmt: skip

_GENERATOR_FIELDS = {name: name for name in _SAME} | {
    "use_qknorm": "qk_norm",
    "use_swiglu": "swiglu",
    "use_rope": "rope",
    "use_rmsnorm": "rms_norm",
    "n_cls_tokens": "register_tokens",
    "use_remat": "remat",
}
"""Released field to our keyword argument, where they mean the same."""

_GENERATOR_DEFAULTS: dict[str, Any] = dict(
    num_classes=1001, noise_classes=0, noise_coords=1, input_size=32, in_channels=3, n_cls_tokens=0, patch_size=2,
    hidden_size=1152, depth=28, num_heads=16, mlp_ratio=4.0, out_channels=3, use_qknorm=False, use_swiglu=False,
    use_rope=False, use_rmsnorm=False, use_bf16=False, attn_fp32=True, use_remat=False,
)  # fmt: skip

_MAE_FIELDS = ("num_classes", "in_channels", "base_channels", "patch_size", "layers", "input_patch_size")

_MAE_DEFAULTS: dict[str, Any] = dict(
    num_classes=1000, in_channels=3, base_channels=64, patch_size=4, dropout_prob=0.0, layers=[2, 2, 2, 2],
    use_bf16=False, input_patch_size=1,
)  # fmt: skip
"""The defaults of the released constructors: a `model_config` written before a field existed, or without those left
alone, means these."""

_BOOKKEEPING = ("scope", "parent", "name")
"""What the release may have noted of the module object, always null."""


def generator_kwargs_from_released(config: Mapping[str, Any]) -> dict[str, Any]:
    """`DiT`'s keyword arguments (JSON values, without `rngs`) from a released `model_config`.

    Raises:
        InputError: a field is missing, unknown or of another type.
    """
    config = _filled(config, _GENERATOR_DEFAULTS, cond_dim=1)
    kwargs = {ours: config[theirs] for theirs, ours in _GENERATOR_FIELDS.items()}
    codebook = config["noise_classes"]
    kwargs |= dict(style_tokens=config["noise_coords"] if codebook else 0, style_codebook=codebook)
    kwargs["dtype"] = "bfloat16" if config["use_bf16"] else "float32"
    return kwargs | {"attention_dtype": "float32" if config["attn_fp32"] else None}


def mae_kwargs_from_released(config: Mapping[str, Any]) -> dict[str, Any]:
    """`MAE`'s keyword arguments (JSON values, without `rngs`) from a released `model_config`.

    Raises:
        InputError: a field is unknown or of another type.
    """
    config = _filled(config, _MAE_DEFAULTS)
    kwargs = {name: config[name] for name in _MAE_FIELDS}
    return kwargs | {"dtype": "bfloat16" if config["use_bf16"] else "float32", "remat": False}


def _filled(config: Mapping[str, Any], defaults: Mapping[str, Any], **examples: Any) -> dict[str, Any]:
    """The configuration with the defaults filled in; a value has the type of its default, or else of its example."""
    noted = {name for name in _BOOKKEEPING if name in config and config[name] is None}
    filled = {**defaults, **{name: value for name, value in config.items() if name not in noted}}
    check_names(filled, examples := {**defaults, **examples}, "model_config field")
    for name, value in filled.items():
        kind = type(examples[name])
        alike = {float: (float, int), list: (list, tuple)}.get(kind, (kind,))
        if type(value) not in alike:  # and no bool for an int
            raise InputError(f"model_config field {name} is {value!r}, expected {kind.__name__}")
    return filled


def generator_kwargs_to_released(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of `generator_kwargs_from_released`, up to the codebook of no style tokens and without `remat_mlp`.

    Raises:
        InputError: the generator has a setting that the released one lacks.
    """
    kwargs = {"mlp_ratio": _GENERATOR_DEFAULTS["mlp_ratio"], "remat_mlp": False, **kwargs}
    ours = [*_GENERATOR_FIELDS.values(), "style_tokens", "style_codebook", "dtype", "attention_dtype"]
    check_names(kwargs, [*ours, "remat_mlp"], "generator setting")
    if (attention := kwargs["attention_dtype"]) not in (None, "float32"):
        raise InputError(f"attention_dtype {attention!r} has no released form: use None or float32, or our format")
    if not isinstance(size := kwargs["input_size"], int):
        raise InputError(f"input_size {size!r} has no released form: its generator draws squares; use our format")
    config = {theirs: kwargs[ours] for theirs, ours in _GENERATOR_FIELDS.items()}
    tokens = kwargs["style_tokens"]
    config |= dict(noise_classes=kwargs["style_codebook"] if tokens else 0, noise_coords=tokens or 1)
    return config | dict(use_bf16=_is_bf16(kwargs["dtype"]), attn_fp32=attention == "float32")


def mae_kwargs_to_released(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of `mae_kwargs_from_released`, without `remat`.

    Raises:
        InputError: the MAE has a setting that the released one lacks.
    """
    check_names(kwargs, [*_MAE_FIELDS, "dtype", "remat"], "MAE setting")
    if not kwargs["num_classes"]:
        raise InputError(
            f"num_classes {kwargs['num_classes']!r} has no released form: its MAE has a classifier; use our format"
        )
    if len(kwargs["layers"]) != 4:
        raise InputError(f"layers {kwargs['layers']!r} has no released form: its MAE has 4 stages; use our format")
    config = {name: kwargs[name] for name in _MAE_FIELDS}
    return config | dict(layers=list(kwargs["layers"]), dropout_prob=0.0, use_bf16=_is_bf16(kwargs["dtype"]))


def _is_bf16(dtype: str) -> bool:
    if dtype not in ("float32", "bfloat16"):
        raise InputError(f"dtype {dtype!r} has no released form: use float32 or bfloat16, or our format")
    return dtype == "bfloat16"


def generator_to_released(params: Params) -> dict[str, np.ndarray]:
    """`DiT` parameters as released flat names to arrays; exact."""
    return _split(params, _generator_name)


def mae_to_released(params: Params) -> dict[str, np.ndarray]:
    """`MAE` parameters as released flat names to arrays; exact."""
    return _split(params, _mae_name)


def generator_from_released(flat: Mapping[str, np.ndarray], **kwargs: Any) -> Params:
    """`DiT` parameters from released flat names; `kwargs` are the constructor's, without `rngs`. Exact.

    Raises:
        InputError: tensors missing, unexpected or of the wrong shape.
    """
    return _join(flat, lambda: DiT(**kwargs, rngs=nnx.Rngs(0)), _generator_name)


def mae_from_released(flat: Mapping[str, np.ndarray], **kwargs: Any) -> Params:
    """`MAE` parameters from released flat names; `kwargs` are the constructor's, without `rngs`. Exact.

    Raises:
        InputError: tensors missing, unexpected or of the wrong shape.
    """
    return _join(flat, lambda: MAE(**kwargs, rngs=nnx.Rngs(0)), _mae_name)


Naming = Callable[[str, Mapping[str, Any]], str]
"""Our flat name, and all our tensors, to the released name, in which `{i}` stands for our leading axis."""

_GENERATOR_PREFIXES = {
    "label_embed": "Embed_0/embedding",
    "style_embed": "noise_embeds_{i}/embedding",
    "alpha_in": "TimestepEmbedder_0/TorchLinear_0/Dense_0",
    "alpha_out": "TimestepEmbedder_0/TorchLinear_1/Dense_0",
    "alpha_norm": "RMSNorm_0",
    "patch_embed": "LightningDiT_0/TorchLinear_0/Dense_0",
    "pos_embed": "LightningDiT_0/pos_embed",
    "register_proj": "LightningDiT_0/TorchLinear_1/Dense_0",
    "register_embed": "LightningDiT_0/cls_embed",
    "modulation_kernel": "LightningDiT_0/blocks_{i}/TorchLinear_0/Dense_0/kernel",
    "modulation_bias": "LightningDiT_0/blocks_{i}/TorchLinear_0/Dense_0/bias",
    "blocks/norm1": "LightningDiT_0/blocks_{i}/RMSNorm_0",
    "blocks/norm2": "LightningDiT_0/blocks_{i}/RMSNorm_1",
    "blocks/qkv": "LightningDiT_0/blocks_{i}/Attention_0/TorchLinear_0/Dense_0",
    "blocks/q_norm": "LightningDiT_0/blocks_{i}/Attention_0/q_norm",
    "blocks/k_norm": "LightningDiT_0/blocks_{i}/Attention_0/k_norm",
    "blocks/attention_out": "LightningDiT_0/blocks_{i}/Attention_0/TorchLinear_1/Dense_0",
    "blocks/mlp_in": "LightningDiT_0/blocks_{i}/MLP/TorchLinear_0/Dense_0",
    "blocks/mlp_gate": "LightningDiT_0/blocks_{i}/MLP/TorchLinear_1/Dense_0",
    "blocks/mlp_out": "LightningDiT_0/blocks_{i}/MLP/TorchLinear_2/Dense_0",
    "final_modulation": "LightningDiT_0/FinalLayer_0/TorchLinear_0/Dense_0",
    "final_norm": "LightningDiT_0/FinalLayer_0/RMSNorm_0",
    "final": "LightningDiT_0/FinalLayer_0/TorchLinear_1/Dense_0",
}


def _generator_name(name: str, tensors: Mapping[str, Any]) -> str:
    prefix, _, leaf = name.rpartition("/")
    if not prefix:
        return _GENERATOR_PREFIXES[name]
    swiglu, layer_norm = "blocks/mlp_gate/kernel" in tensors, f"{prefix}/bias" in tensors
    released = _GENERATOR_PREFIXES[prefix]
    if not swiglu:
        released = released.replace("MLP/TorchLinear_2", "MLP/TorchLinear_1")
    released = released.replace("/MLP/", "/SwiGLUFFN_0/" if swiglu else "/StandardMLP_0/")
    gain = "scale" if layer_norm else "weight"
    return f"{released}/{gain if leaf == 'gain' else leaf}"


def _mae_name(name: str, tensors: Mapping[str, Any]) -> str:
    name = re.sub(r"stages/layer(\d+)/norm", r"layer\1_norm", name)
    name = re.sub(
        r"stages/layer(\d+)/blocks/blk(\d+)", lambda m: f"stages_{int(m[1]) - 1}/layers_{int(m[2]) - 1}", name
    )
    name = re.sub(r"ups/(up\d\d)/norm", r"\1/concat_norm_fn", name).replace("/ups/", "/")
    name = name.replace("shortcut_conv", "proj_conv").replace("shortcut_norm", "proj_gn")
    name = re.sub(r"/norm(\d?)/", r"/gn\1/", name)
    return re.sub(r"/gain$", "/scale", re.sub("^classifier/", "fc/", name))


def _split(params: Params, naming: Naming) -> dict[str, Any]:
    """Our nested parameters as released ones: stacked tensors split, position tables with their axis of 1."""
    flat, released = flatten(params), {}
    for name, value in flat.items():
        template = naming(name, flat)
        if "{i}" in template:
            released.update({template.format(i=i): value[i] for i in range(value.shape[0])})
        else:
            released[template] = value[None] if template.endswith(("/pos_embed", "/cls_embed")) else value
    return released


def _join(flat: Mapping[str, np.ndarray], build: Callable[[], nnx.Module], naming: Naming) -> Params:
    """Inverse of `_split` for the module that `build` makes, which gives names and shapes."""
    shapes = nnx.to_pure_dict(nnx.state(nnx.eval_shape(build)))
    expected = jax.eval_shape(lambda params: _split(params, naming), shapes)
    check_names(flat, expected, "tensor")
    wrong = [f"{k} {flat[k].shape} instead of {v.shape}" for k, v in expected.items() if flat[k].shape != v.shape]
    if wrong:
        raise InputError(f"wrong tensor shape: {listed(wrong)}: are weights and configuration of the same model?")
    ours = {}
    for name, leaf in (tensors := flatten(shapes)).items():
        template = naming(name, tensors)
        parts = [flat[template.format(i=i)] for i in range(leaf.shape[0])] if "{i}" in template else [flat[template]]
        ours[name] = np.stack(parts).astype(np.float32).reshape(leaf.shape)
    return unflatten(ours)
