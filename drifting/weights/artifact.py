"""Self-describing folders of weights: safetensors and JSON, written whole or not at all, and checked when read."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from drifting.errors import ArgumentError, InputError, require_argument
from drifting.networks.network import Params
from drifting.runs.files import check_readable, exists, sha256, while_writing
from drifting.runs.places import is_stored, local_copy, place

ARTIFACT_FORMAT = "drifting-safetensors-1"

TENSORS_FILE = "params.safetensors"

METADATA_FILE = "metadata.json"

GENERATOR_KIND = "generator"

VAE_KIND = "vae"

SEVERAL_NETWORKS = (GENERATOR_KIND, VAE_KIND)
"""The kinds of artifacts that are one of several networks."""

AUTOENCODERS = ("vae", "dcae")
"""The networks of which an artifact of `VAE_KIND` is one."""


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
    params: Params = field(repr=False)
    metadata: dict[str, Any] = field(repr=False)

    @property
    def network(self) -> str:
        """The name in `NETWORKS`: what the metadata say of `SEVERAL_NETWORKS`; every other kind is its own."""
        if self.kind not in SEVERAL_NETWORKS:
            return self.kind
        older = self.kind if self.kind == VAE_KIND else network_of_older(self.model_config)
        return self.metadata.get("network") or older


def network_of_older(arguments: Mapping[str, Any]) -> str:
    """The network of a generator's artifact from before they said it: two there were, told apart by their arguments."""
    return "mlp" if "noise_dim" in arguments else "dit"


def save_artifact(
    directory: str | os.PathLike[str],
    *,
    kind: str,
    model_config: Mapping[str, Any],
    params: Params,
    step: int | None,
    ema_decay: float | None,
    network: str | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write `params.safetensors` and `metadata.json` into `directory`, replacing it whole or not at all.

    Args:
        directory: the artifact's folder; its parents are made, an older artifact there is replaced.
        kind, model_config, params: see `Artifact`; `model_config` must be JSON.
        step: training steps behind the weights; None = unknown.
        ema_decay: decay of the average that `params` is; None = not an average.
        network: the name in `NETWORKS`, of `SEVERAL_NETWORKS`; every other kind is its own network.
        extra: further JSON metadata, whose keys must be new.

    Raises:
        ArgumentError: a generator without `network`; `extra` redefines a key; `directory` exists and is no artifact.
    """
    require_argument(kind != GENERATOR_KIND or network is not None, "network", network, "say which of NETWORKS it is")
    stated = {"network": network} if kind in SEVERAL_NETWORKS and network is not None else {}
    metadata = artifact_metadata(
        ARTIFACT_FORMAT, TENSORS_FILE, kind, model_config, step, ema_decay, stated | dict(extra or {})
    )
    with new_folder(directory) as new:
        flat = {name: np.ascontiguousarray(value) for name, value in flatten(jax.device_get(params)).items()}
        save_file(flat, new / TENSORS_FILE)
        write_metadata(new, metadata | {"sha256": sha256(new / TENSORS_FILE)})
        (new / TENSORS_FILE).chmod((new / METADATA_FILE).stat().st_mode)  # safetensors lets nobody else read it


def load_artifact(directory: str | os.PathLike[str], *, kind: str | None = None) -> Artifact:
    """Read what `save_artifact` wrote.

    Args:
        directory: the artifact's folder.
        kind: what it must be; None takes any.

    Raises:
        InputError: a file is missing or unreadable, the format or the kind is another, or the checksum differs.
    """
    directory = local_copy(place(directory))
    metadata = read_metadata(Path(directory), ("format", "kind", "path", "sha256", "model_config"))
    if metadata["format"] != ARTIFACT_FORMAT:
        raise InputError(f"{directory}: format {metadata['format']!r}, expected {ARTIFACT_FORMAT!r}")
    check_kind(directory, metadata["kind"], kind)
    tensors = existing(Path(directory) / TENSORS_FILE)
    check_sha256(tensors, metadata["sha256"])
    try:
        params = unflatten(load_file(tensors))
    except SafetensorError as error:
        raise InputError(f"{tensors}: not a safetensors file ({error})") from error
    return Artifact(metadata["kind"], metadata["model_config"], params, metadata)


@contextmanager
def new_folder(directory: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder to fill, which takes the place of the artifact `directory` when the block ends well.

    When it does not, nothing stays of it, and an older artifact is as it was. Parents are made.

    Raises:
        InputError: `directory` exists and is no artifact.
        MachineError: it cannot be written.
    """
    target = place(directory)
    if exists(target) and not exists(target / METADATA_FILE):
        raise InputError(f"{target} exists and is no artifact (no {METADATA_FILE}): choose another directory")
    if is_stored(target):  # a reader meets old tensors with the old checksum, or a checksum that differs
        with while_writing(target), tempfile.TemporaryDirectory(prefix="drifting-") as folder:
            yield Path(folder)
            target.upload(Path(folder), last=METADATA_FILE)
        return
    with while_writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            new = work / "new"
            new.mkdir()
            yield new
            if target.exists():
                target.rename(work / "old")
            new.rename(target)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def check_kind(where: str | os.PathLike[str], found: str, expected: str | None) -> None:
    """Raises `InputError` unless the artifact at `where` is of the kind `expected`; None takes any."""
    if expected is not None and found != expected:
        raise InputError(f"{where}: holds a {found!r}, expected a {expected!r}")


def check_sha256(path: Path, expected: str) -> None:
    """Raises `InputError` unless a file's content has this SHA-256."""
    if (found := sha256(path)) != expected:
        raise InputError(f"{path}: SHA-256 {found}, expected {expected}: copy the artifact again")


def check_names(found: Mapping[str, Any], expected: Any, what: str) -> None:
    """Raises `InputError` unless the names are those expected; `what` says what they name."""
    missing, unexpected = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or unexpected:
        parts = [f"missing {what} {listed(missing)}"] if missing else []
        parts += [f"unexpected {what} {listed(unexpected)}"] if unexpected else []
        raise InputError("; ".join(parts))


def vae_facts(checksums: Mapping[str, str]) -> dict[str, list[str]]:
    """What metadata say of the VAE of a network's latents, of the checksums of a run's frozen networks: see below."""
    return {"vae_sha256": [checksums[VAE_KIND]]} if VAE_KIND in checksums else {}


def other_vae(learned: Any, here: str | None) -> str:
    """What there is to say of a VAE whose weights are not those in whose latents a network has learned; '': nothing.

    Args:
        learned: `metadata["vae_sha256"]`, the checksums that the file of those may have; None: they are not known.
        here: the checksum of the VAE here; None: there is none.
    """
    if here is None or not isinstance(learned, list) or not learned or here in learned:
        return ""
    there, found = (f"{text[:12]}.." if len(text) == 64 else text for text in (str(learned[0]), here))
    return f"its weights are {found}, by their SHA-256, and {there} in the training of what is drawn with it"


def listed(names: list[str], most: int = 8) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts to one of `outer/inner` names."""
    return flatten_dict(dict(tree), sep="/")


def unflatten(flat: dict[str, Any]) -> Params:
    """Inverse of `flatten`."""
    return unflatten_dict(flat, sep="/")


def existing(path: Path) -> Path:
    """`path`, which must be a file."""
    if not path.is_file():
        raise InputError(f"no file {path}: is this the folder of an artifact?")
    check_readable(path)  # safetensors would call it missing
    return path


def read_metadata(directory: Path, keys: tuple[str, ...] = ()) -> dict[str, Any]:
    """The folder's `metadata.json`, which must have `keys`; of those every artifact has, the types are checked."""
    path = existing(directory / METADATA_FILE)
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # not JSON, or not even text
        raise InputError(f"{path}: not JSON ({error}): copy the artifact again") from error
    types = {"format": str, "kind": str, "sha256": str, "model_config": dict}
    if not isinstance(metadata, dict) or not all(isinstance(metadata.get(k, t()), t) for k, t in types.items()):
        raise InputError(f"{path}: not the description of an artifact: copy the artifact again")
    if missing := [key for key in keys if key not in metadata]:
        raise InputError(f"{path}: no {', '.join(missing)}")
    return metadata


def artifact_metadata(
    format_name: str,
    tensors: str,
    kind: str,
    model_config: Mapping[str, Any],
    step: int | None,
    ema_decay: float | None,
    extra: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The content of `metadata.json` but for `sha256`. Raises `ArgumentError` where `extra` redefines a key."""
    metadata: dict[str, Any] = {"format": format_name, "kind": kind, "backend": "jax", "ema_decay": ema_decay}
    metadata |= {"step": step, "path": tensors, "model_config": dict(model_config)}
    if clash := sorted({*metadata, "sha256"} & set(extra or {})):
        raise ArgumentError("extra", None, f"redefines {', '.join(clash)}: rename them")
    return metadata | dict(extra or {})


def write_metadata(directory: Path, metadata: Mapping[str, Any]) -> None:
    """Write the folder's `metadata.json`."""
    (directory / METADATA_FILE).write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
