"""One way to all weights: a reference, and the kind of network that must be there."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from drifting.networks.convnext import ConvNeXtV2
from drifting.networks.dit import DiT
from drifting.networks.inception import Inception
from drifting.networks.mae import MAE
from drifting.networks.mlp import MLP
from drifting.networks.vae import AutoencoderKL
from drifting.weights.artifact import (
    FORMAT,
    METADATA,
    TENSORS,
    Artifact,
    check_kind,
    check_names,
    flatten,
    listed,
    load_artifact,
    read_metadata,
)
from drifting.weights.catalogue import INCEPTION_FILE, INCEPTION_URL
from drifting.weights.diffusers_vae import VAE_CONFIG, VAE_TENSORS, load_vae
from drifting.weights.download import HubFolder, fetch, fetch_url, parse_reference
from drifting.weights.fid_inception import PT_INCEPTION_SHA256, load_inception
from drifting.weights.released import KINDS, RELEASED_FORMAT, RELEASED_TENSORS, load_released
from drifting.weights.transformers_convnext import load_convnext
from drifting.weights.transformers_files import TRANSFORMERS_CONFIG, TRANSFORMERS_TENSORS

_FORMATS: dict[str, tuple[str, Callable[..., Artifact]]] = {
    FORMAT: (TENSORS, load_artifact),
    RELEASED_FORMAT: (RELEASED_TENSORS, load_released),
}

_CLASSES = {"AutoencoderKL": "vae", "convnextv2": "convnext"}
"""What the configuration of a library calls the network, and what we do."""

_LIBRARIES: dict[str, tuple[tuple[str, ...], Callable[..., Artifact]]] = {
    "vae": ((VAE_CONFIG, VAE_TENSORS), load_vae),
    "convnext": ((TRANSFORMERS_CONFIG, TRANSFORMERS_TENSORS), load_convnext),
}


def load_weights(reference: str | None, kind: str) -> Artifact:
    """Weights from a local folder or the hub, in whichever format they lie there.

    Args:
        reference: a folder or `hf://OWNER/REPO[@REVISION][/FOLDER]`; of an Inception also its file, or None or '' for
            the published one.
        kind: `generator` or `mae`, in our format or the released one; `vae` of diffusers, `convnext` of transformers,
            or `inception` of pytorch-fid.

    Returns:
        The artifact; its metadata say where it is from: `source` is the reference, `commit` the repository's (None
        for a local folder), `sha256` the checksum of the tensors.

    Raises:
        ValueError: there is nothing at the reference, or it is damaged, a run directory, or not of that kind.
        HubError: it cannot be downloaded.
    """
    if kind == "inception":
        return _load_inception(reference)
    if not reference:
        raise ValueError(f"no weights given for the {kind}: give a folder or hf://OWNER/REPO")
    place = parse_reference(reference)
    if isinstance(place, Path):
        _refuse_run_directory(place, kind)
    if kind in _LIBRARIES and not _is_ours(place):
        names, load = _LIBRARIES[kind]
        fetched = fetch(place, names)
        return _with_source(load(fetched.path), reference, fetched.commit)
    fetched = fetch(place, [METADATA])
    tensors, load_format = _format(reference, read_metadata(fetched.path), kind)
    if isinstance(place, HubFolder):
        fetched = fetch(dataclasses.replace(place, revision=fetched.commit), [tensors])
    return _with_source(_checked(load_format(fetched.path, kind=kind), reference), reference, fetched.commit)


def find_kind(reference: str) -> str:
    """The kind of network at a reference, by what lies there: see `load_weights`.

    Raises:
        ValueError: there is nothing at the reference, or nothing of a kind that `load_weights` reads.
        HubError: it cannot be downloaded.
    """
    place = parse_reference(reference)
    if isinstance(place, Path) and place.is_file():
        return "inception"
    folder = fetch(place, [], optional=[METADATA, "config.json"]).path
    if (folder / METADATA).is_file():
        stated = read_metadata(folder, ("kind",))["kind"]
        return KINDS.get(stated, stated)
    if isinstance(place, Path):
        _refuse_run_directory(place, "generator")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return _CLASSES[config.get("_class_name", config.get("model_type"))]
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ValueError("no weights of a known kind: ours, released ones, a VAE, a ConvNeXt-V2") from error


def load_folder(folder: Path, kind: str | None = None) -> Artifact:
    """A local artifact in our format or the released one, of whichever kind it is.

    Raises:
        ValueError: it is missing, damaged, or not of that kind.
    """
    _, load_format = _format(str(folder), read_metadata(folder), kind)
    return _checked(load_format(folder, kind=kind), str(folder))


def _is_ours(place: Path | HubFolder) -> bool:
    """Whether a library's network lies there in our format, as `drifting import` writes it."""
    if isinstance(place, Path):
        return (place / METADATA).is_file()
    try:
        fetch(place, [], optional=[METADATA])
    except ValueError:  # there is none
        return False
    return True


def _checked(artifact: Artifact, where: str) -> Artifact:
    """The artifact, if its tensors are those of the network that its configuration describes."""
    if artifact.kind not in _NETWORKS:
        raise ValueError(f"{where}: holds a {artifact.kind!r}, expected one of {', '.join(_NETWORKS)}")
    config = {name: tuple(v) if isinstance(v, list) else v for name, v in artifact.model_config.items()}
    config |= {name: jnp.dtype(v) for name, v in config.items() if name.endswith("dtype") and isinstance(v, str)}
    try:
        state = nnx.state(nnx.eval_shape(lambda: _NETWORKS[artifact.kind](**config)))
    except Exception as error:  # whatever a constructor makes of wrong values
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ValueError(f"{where}: model_config is not that of a {artifact.kind} ({reason})") from error
    expected, found = flatten(nnx.to_pure_dict(state)), flatten(artifact.params)
    try:
        check_names(found, expected, "tensor")
    except ValueError as error:
        raise ValueError(f"{where}: {error}: are weights and configuration of the same model?") from error
    wrong = [
        f"{name} {found[name].dtype}{list(found[name].shape)} instead of float32{list(leaf.shape)}"
        for name, leaf in expected.items()
        if found[name].shape != leaf.shape or found[name].dtype != np.float32
    ]
    if wrong:
        raise ValueError(f"{where}: wrong tensor: {listed(wrong)}: are weights and configuration of the same model?")
    return artifact


def _generator(**config: Any) -> nnx.Module:
    return (MLP if "noise_dim" in config else DiT)(**config, rngs=nnx.Rngs(0))


_NETWORKS: dict[str, Callable[..., nnx.Module]] = {
    "generator": _generator,
    "mae": lambda **config: MAE(**config, rngs=nnx.Rngs(0)),
    "vae": lambda **config: AutoencoderKL(**config, rngs=nnx.Rngs(0)),
    "convnext": lambda **config: ConvNeXtV2(**config, rngs=nnx.Rngs(0)),
    "inception": lambda **config: Inception(**config, rngs=nnx.Rngs(0)),
}


def _format(reference: str, metadata: Mapping[str, Any], kind: str | None) -> tuple[str, Callable[..., Artifact]]:
    """The file of tensors and its reader, if what the metadata describe is of that kind."""
    stated = metadata.get("kind", kind)
    check_kind(reference, KINDS.get(stated, stated), kind)
    name = metadata.get("format", RELEASED_FORMAT)
    if name not in _FORMATS:
        raise ValueError(f"{reference}: format {name!r}, expected one of {', '.join(map(repr, _FORMATS))}")
    return _FORMATS[name]


def _refuse_run_directory(folder: Path, kind: str) -> None:
    if not ((folder / "config.json").is_file() and (folder / "checkpoints").is_dir()):
        return
    if kind == "mae":
        raise ValueError(f"{folder}: is a run; its encoder is {folder / 'encoder'}, written when pre-training ends")
    raise ValueError(f"{folder}: is a run; give the folder that `drifting export` makes of it")


def _load_inception(reference: str | None) -> Artifact:
    if not reference:
        return _with_source(load_inception(fetch_url(INCEPTION_URL, PT_INCEPTION_SHA256)), INCEPTION_URL, None)
    place = parse_reference(reference)
    if isinstance(place, Path):
        if not place.exists():
            raise ValueError(f"{reference}: there is no such file or folder")
        return _with_source(load_inception(place), reference, None)
    fetched = fetch(place, [], optional=[METADATA, TENSORS, INCEPTION_FILE])
    return _with_source(load_inception(fetched.path), reference, fetched.commit)


def _with_source(artifact: Artifact, source: str, commit: str | None) -> Artifact:
    return dataclasses.replace(artifact, metadata=artifact.metadata | {"source": source, "commit": commit})
