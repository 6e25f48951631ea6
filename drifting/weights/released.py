"""Folders of the released weights, `ema_params.msgpack` and `metadata.json`: read, and written as the release does.

Source: the released artifacts of "Generative Modeling via Drifting" (Deng et al.). Flax msgpack is data, not code:
nothing is unpickled.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import serialization

from drifting.errors import InputError, one_line
from drifting.runs.files import sha256
from drifting.weights.artifact import (
    GENERATOR_KIND,
    Artifact,
    Params,
    artifact_metadata,
    check_kind,
    check_sha256,
    existing,
    flatten,
    new_folder,
    read_metadata,
    unflatten,
    write_metadata,
)
from drifting.weights.released_names import (
    generator_from_released,
    generator_kwargs_from_released,
    generator_kwargs_to_released,
    generator_to_released,
    mae_from_released,
    mae_kwargs_from_released,
    mae_kwargs_to_released,
    mae_to_released,
)

RELEASED_FORMAT = "flax.msgpack"

RELEASED_TENSORS = "ema_params.msgpack"

RELEASED_KINDS = {"gen": "generator", "generator": "generator", "mae": "mae"}
"""Kinds as released metadata spell them, and as we do."""

RELEASED_GENERATOR = "dit"
"""The network of every released generator."""

_READERS: dict[str, tuple[Callable[..., dict[str, Any]], Callable[..., Params]]] = {
    "generator": (generator_kwargs_from_released, generator_from_released),
    "mae": (mae_kwargs_from_released, mae_from_released),
}

_WRITERS: dict[str, tuple[Callable[..., dict[str, Any]], Callable[..., dict[str, np.ndarray]], str]] = {
    "generator": (generator_kwargs_to_released, generator_to_released, "gen"),
    "mae": (mae_kwargs_to_released, mae_to_released, "mae"),
}


def load_released(directory: str | os.PathLike[str], *, kind: str | None = None) -> Artifact:
    """Read a folder of the released weights: `ema_params.msgpack` and `metadata.json`; the names become ours.

    Args:
        directory: the artifact's folder.
        kind: `generator` or `mae`, which it must be; None takes either.

    Returns:
        The artifact, of kind `generator` or `mae`; its metadata are those of the folder, `sha256` of the msgpack, and
        of a generator `network`.

    Raises:
        InputError: a file is missing or unreadable, the kind is another, or the tensors or the configuration are not
            those of a generator or MAE.
    """
    metadata = read_metadata(Path(directory), ("model_config",))
    if (found := metadata.get("format", RELEASED_FORMAT)) != RELEASED_FORMAT:
        raise InputError(f"{directory}: format {found!r}, expected {RELEASED_FORMAT!r}")
    if (stated := metadata.get("kind")) is not None:
        if stated not in RELEASED_KINDS:
            raise InputError(f"{directory}: holds a {stated!r}, expected one of {', '.join(map(repr, RELEASED_KINDS))}")
        check_kind(directory, RELEASED_KINDS[stated], kind)
    path = existing(Path(directory) / RELEASED_TENSORS)
    if "sha256" in metadata:  # ours; the release itself has none
        check_sha256(path, metadata["sha256"])
    flat = _read_msgpack(path)
    actual = "mae" if any(name.startswith("encoder/") for name in flat) else "generator"
    check_kind(directory, actual, RELEASED_KINDS[stated] if stated else kind)
    kwargs_from_released, from_released = _READERS[actual]
    try:
        kwargs = kwargs_from_released(metadata["model_config"])
        params = from_released(flat, **kwargs)
    except ValueError as error:
        raise InputError(f"{directory}: {error}") from error
    metadata |= {"sha256": metadata.get("sha256") or sha256(path)}
    return Artifact(
        actual, kwargs, params, metadata | ({"network": RELEASED_GENERATOR} if actual == GENERATOR_KIND else {})
    )


def _read_msgpack(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a msgpack by their flat names, without the outer `params` that some have."""
    try:
        tree = serialization.msgpack_restore(path.read_bytes())
    except (ValueError, TypeError, KeyError) as error:
        reason = one_line(error)
        raise InputError(f"{path}: not a whole msgpack of arrays ({reason}): copy or download it again") from error
    if isinstance(tree, dict) and set(tree) == {"params"}:
        tree = tree["params"]
    if not isinstance(tree, dict) or not _names_are_text(tree):
        raise InputError(f"{path}: not a tree of named arrays: is this the file of released weights?")
    flat = flatten(tree)
    for name, value in flat.items():
        if not isinstance(value, np.ndarray) or not jax.numpy.issubdtype(value.dtype, np.floating):
            what = getattr(value, "dtype", type(value).__name__)
            raise InputError(f"{path}: {name} is of type {what}, expected an array of numbers with a fraction")
    return flat


def _names_are_text(tree: Mapping[Any, Any]) -> bool:
    return all(isinstance(k, str) and (not isinstance(v, dict) or _names_are_text(v)) for k, v in tree.items())


def save_released(
    directory: str | os.PathLike[str],
    *,
    kind: str,
    model_config: Mapping[str, Any],
    params: Params,
    step: int | None,
    ema_decay: float | None,
    network: str | None = RELEASED_GENERATOR,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write `ema_params.msgpack` and `metadata.json` in the released layout, replacing `directory` whole or not at all.

    The arguments are those of `save_artifact`. What `load_released` reads from it are the same parameters, exactly;
    of `model_config` it does not keep the `remat` of an MAE or the `remat_mlp` of a generator, nor a style codebook of
    no style tokens. The metadata have our `sha256` beside the released fields.

    Raises:
        InputError: the model has no released form, the parameters are not those of `model_config`, `extra` redefines
            a field, or `directory` exists and is no artifact.
    """
    if kind not in _WRITERS:
        raise InputError(f"kind {kind!r} has no released form: only {' and '.join(_WRITERS)} have; use our format")
    if kind == GENERATOR_KIND and network != RELEASED_GENERATOR:
        raise InputError(f"a generator {network!r} has no released form: only {RELEASED_GENERATOR} has; use our format")
    to_config, to_released, released_kind = _WRITERS[kind]
    config = to_config(model_config)
    flat = to_released(jax.device_get(params))
    kwargs_from_released, from_released = _READERS[kind]
    from_released(flat, **kwargs_from_released(config))  # raises now what would be raised on loading
    metadata = artifact_metadata(RELEASED_FORMAT, RELEASED_TENSORS, released_kind, config, step, ema_decay, extra)
    with new_folder(directory) as new:
        (new / RELEASED_TENSORS).write_bytes(serialization.msgpack_serialize(unflatten(flat)))
        write_metadata(new, metadata | {"sha256": sha256(new / RELEASED_TENSORS)})
