"""Weights that travel: self-describing artifact folders, and exact conversion from and to the released tensor names.

Nothing is ever unpickled: artifacts are safetensors and JSON, the released files Flax msgpack and JSON.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx, serialization
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from drifting.models.dit import DiT
from drifting.models.mae import MAE

Params = dict[str, Any]
"""Nested parameters: `nnx.to_pure_dict` of a module's state."""

FORMAT = "drifting-safetensors-1"
TENSORS = "params.safetensors"
METADATA = "metadata.json"
RELEASED_TENSORS = "ema_params.msgpack"


@dataclass(frozen=True)
class Artifact:
    """Weights and what is needed to use them.

    Attributes:
        kind: what the model is, e.g. `generator` or `mae`.
        model_config: the constructor's keyword arguments, as JSON values.
        params: nested float32 NumPy arrays.
        metadata: all of `metadata.json`.
    """

    kind: str
    model_config: dict[str, Any]
    params: Params
    metadata: dict[str, Any]


def save_artifact(
    directory: str | os.PathLike[str],
    *,
    kind: str,
    model_config: Mapping[str, Any],
    params: Params,
    step: int,
    ema_decay: float | None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write `params.safetensors` and `metadata.json` into `directory`, replacing it whole or not at all.

    Args:
        directory: the artifact's folder; its parents are made, an older artifact there is replaced.
        kind, model_config, params: see `Artifact`; `model_config` must be JSON.
        step: training steps behind the weights.
        ema_decay: decay of the average that `params` is; None = not an average.
        extra: further JSON metadata, whose keys must be new.

    Raises:
        ValueError: `extra` redefines a key; `directory` exists and is no artifact.
    """
    target = Path(directory)
    if target.exists() and not (target / METADATA).is_file():
        raise ValueError(f"{target} exists and is no artifact (no {METADATA}): choose another directory")
    metadata: dict[str, Any] = {"format": FORMAT, "kind": kind, "backend": "jax", "ema_decay": ema_decay, "step": step}
    metadata |= {"path": TENSORS, "model_config": dict(model_config)}
    if clash := sorted(set(metadata | {"sha256": ""}) & set(extra or {})):
        raise ValueError(f"extra metadata redefines {', '.join(clash)}: rename them")
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        new = work / "new"
        new.mkdir()
        flat = {name: np.ascontiguousarray(value) for name, value in _flatten(jax.device_get(params)).items()}
        save_file(flat, new / TENSORS)
        metadata |= {"sha256": _sha256(new / TENSORS), **(extra or {})}
        (new / METADATA).write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
        if target.exists():
            target.rename(work / "old")
        new.rename(target)
    finally:
        shutil.rmtree(work)


def load_artifact(directory: str | os.PathLike[str], *, kind: str | None = None) -> Artifact:
    """Read what `save_artifact` wrote.

    Args:
        directory: the artifact's folder.
        kind: what it must be; None takes any.

    Raises:
        ValueError: a file is missing or unreadable, the format or the kind is another, or the checksum differs.
    """
    metadata = _metadata(Path(directory), ("format", "kind", "path", "sha256", "model_config"))
    if metadata["format"] != FORMAT:
        raise ValueError(f"{directory}: format {metadata['format']!r}, expected {FORMAT!r}")
    if kind is not None and metadata["kind"] != kind:
        raise ValueError(f"{directory}: holds a {metadata['kind']!r}, expected a {kind!r}")
    tensors = _existing(Path(directory) / TENSORS)
    if (found := _sha256(tensors)) != metadata["sha256"]:
        raise ValueError(f"{tensors}: SHA-256 {found}, expected {metadata['sha256']}: copy the artifact again")
    try:
        params = _unflatten(load_file(tensors))
    except SafetensorError as error:
        raise ValueError(f"{tensors}: not a safetensors file ({error})") from error
    return Artifact(metadata["kind"], metadata["model_config"], params, metadata)


def load_released(directory: str | os.PathLike[str]) -> Artifact:
    """Read a folder of the released weights: `ema_params.msgpack` and `metadata.json`; the names become ours.

    Raises:
        ValueError: a file is missing, or the tensors or the configuration are not those of a generator or MAE.
    """
    metadata = _metadata(Path(directory), ("model_config",))
    tree = serialization.msgpack_restore(_existing(Path(directory) / RELEASED_TENSORS).read_bytes())
    flat = _flatten(tree["params"] if set(tree) == {"params"} else tree)
    if any(name.startswith("encoder/") for name in flat):
        kwargs = mae_kwargs_from_released(metadata["model_config"])
        return Artifact("mae", kwargs, mae_from_released(flat, **kwargs), metadata)
    kwargs = generator_kwargs_from_released(metadata["model_config"])
    return Artifact("generator", kwargs, generator_from_released(flat, **kwargs), metadata)


def generator_kwargs_from_released(config: Mapping[str, Any]) -> dict[str, Any]:
    """`DiT`'s keyword arguments (JSON values, without `rngs`) from a released `model_config`.

    Raises:
        ValueError: a field is missing or unknown.
    """
    same = "cond_dim num_classes input_size in_channels patch_size hidden_size depth num_heads mlp_ratio out_channels"
    renamed = dict(use_swiglu="swiglu", use_rope="rope", use_rmsnorm="rms_norm", use_qknorm="qk_norm")
    renamed |= dict(n_cls_tokens="register_tokens", use_remat="remat")
    renamed |= {name: name for name in same.split()}
    _check_names(config, [*renamed, "noise_classes", "noise_coords", "use_bf16", "attn_fp32"], "model_config field")
    kwargs = {ours: config[theirs] for theirs, ours in renamed.items()}
    codebook = config["noise_classes"]
    kwargs |= dict(style_tokens=config["noise_coords"] if codebook else 0, style_codebook=codebook)
    kwargs["dtype"] = "bfloat16" if config["use_bf16"] else "float32"
    return kwargs | {"attention_dtype": "float32" if config["attn_fp32"] else None}


def mae_kwargs_from_released(config: Mapping[str, Any]) -> dict[str, Any]:
    """`MAE`'s keyword arguments (JSON values, without `rngs`) from a released `model_config`.

    Raises:
        ValueError: a field is missing or unknown.
    """
    same = ("num_classes", "in_channels", "base_channels", "patch_size", "layers", "input_patch_size")
    _check_names(config, [*same, "dropout_prob", "use_bf16"], "model_config field")
    kwargs = {name: config[name] for name in same}
    return kwargs | {"dtype": "bfloat16" if config["use_bf16"] else "float32", "remat": False}


def generator_to_released(params: Params) -> dict[str, np.ndarray]:
    """`DiT` parameters as released flat names to arrays; exact."""
    return _split(params, _generator_name)


def mae_to_released(params: Params) -> dict[str, np.ndarray]:
    """`MAE` parameters as released flat names to arrays; exact."""
    return _split(params, _mae_name)


def generator_from_released(flat: Mapping[str, np.ndarray], **kwargs: Any) -> Params:
    """`DiT` parameters from released flat names; `kwargs` are the constructor's, without `rngs`. Exact.

    Raises:
        ValueError: tensors missing, unexpected or of the wrong shape.
    """
    return _join(flat, lambda: DiT(**kwargs, rngs=nnx.Rngs(0)), _generator_name)


def mae_from_released(flat: Mapping[str, np.ndarray], **kwargs: Any) -> Params:
    """`MAE` parameters from released flat names; `kwargs` are the constructor's, without `rngs`. Exact.

    Raises:
        ValueError: tensors missing, unexpected or of the wrong shape.
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
    flat, released = _flatten(params), {}
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
    _check_names(flat, expected, "tensor")
    wrong = [f"{k} {flat[k].shape} instead of {v.shape}" for k, v in expected.items() if flat[k].shape != v.shape]
    if wrong:
        raise ValueError(f"wrong tensor shape: {_listed(wrong)}: are weights and configuration of the same model?")
    ours = {}
    for name, leaf in (tensors := _flatten(shapes)).items():
        template = naming(name, tensors)
        parts = [flat[template.format(i=i)] for i in range(leaf.shape[0])] if "{i}" in template else [flat[template]]
        ours[name] = np.stack(parts).astype(np.float32).reshape(leaf.shape)
    return _unflatten(ours)


def _check_names(found: Mapping[str, Any], expected: Any, what: str) -> None:
    missing, unexpected = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or unexpected:
        parts = [f"missing {what} {_listed(missing)}"] if missing else []
        parts += [f"unexpected {what} {_listed(unexpected)}"] if unexpected else []
        raise ValueError("; ".join(parts))


def _listed(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    return flatten_dict(dict(tree), sep="/")


def _unflatten(flat: dict[str, Any]) -> Params:
    return unflatten_dict(flat, sep="/")


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"no file {path}: is this the folder of an artifact?")
    return path


def _metadata(directory: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    path = _existing(directory / METADATA)
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    if missing := [key for key in keys if key not in metadata]:
        raise ValueError(f"{path}: no {', '.join(missing)}")
    return metadata


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
