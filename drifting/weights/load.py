"""One way to all weights: a reference, and the kind of network that must be there."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from drifting.errors import InputError
from drifting.weights.artifact import METADATA_FILE, Artifact, check_kind, flatten, listed, read_metadata
from drifting.weights.catalogue import released_usage, released_vae_sha256
from drifting.weights.download import HubFolder, fetch, fetch_url, parse_reference
from drifting.weights.readers import READERS, WeightsFormat

PIPELINE_FILE, PIPELINE_VAE = "model_index.json", "vae"
"""What a folder of a pipeline of diffusers has, and the folder in it with the only network of it that is read."""

FILE_SUFFIXES = (".safetensors", ".pth", ".pt")
"""Names that a file of weights by itself may have."""


def load_weights(reference: str | None, kind: str) -> Artifact:
    """Weights from a local folder or the hub, in whichever format of `READERS` they lie there.

    Args:
        reference: a folder or `hf://OWNER/REPO[@REVISION][/FOLDER]`; of an Inception also its file, or None or '' for
            the published one.
        kind: `generator`, or a name of `NETWORKS` such as `mae` or `vae`.

    Returns:
        The artifact; its metadata say where it is from: `source` is the reference, `commit` the repository's (None
        for a local folder), `sha256` the checksum of the tensors. `usage` says how to use a generator: what it states
        itself, or what is known of the released ones. `vae_sha256` are the checksums that files of the VAE may have in
        whose latents the network has learned, where that is known.

    Raises:
        InputError: there is nothing at the reference, or it is damaged, a run directory, or of another kind.
        HubError: it cannot be downloaded.
    """
    if not reference:
        return _load_published(kind)
    place = parse_reference(reference)
    if isinstance(place, Path):
        _refuse_run_directory(place, kind)
    found = _look(reference, place)
    check_kind(reference, found.kind or kind, kind)
    path = found.path
    if isinstance(found.place, HubFolder):
        there, names = dataclasses.replace(found.place, revision=found.commit), (found.reader.tensors,)
        variants = found.reader.variants
        path = (fetch(there, [], first_of=names + variants) if variants else fetch(there, names)).path
    artifact = found.reader.load(path)
    check_kind(reference, artifact.kind, kind)
    _check_finite(reference, artifact)
    metadata: dict[str, Any] = {"source": reference, "commit": found.commit}
    if isinstance(place, HubFolder):
        if usage := released_usage(place.repo, place.folder, artifact.model_config):
            metadata["usage"] = usage
        if checksums := released_vae_sha256(place.repo, place.folder):
            metadata["vae_sha256"] = checksums
    return dataclasses.replace(artifact, metadata=artifact.metadata | metadata)


def described(reference: str, kind: str) -> dict[str, Any]:
    """The constructor's arguments that weights state, as far as they are stated beside them: no tensors are read.

    Raises:
        InputError: there is nothing at the reference, or it is a run directory, or of another kind.
        HubError: it cannot be downloaded.
    """
    place = parse_reference(reference)
    if isinstance(place, Path):
        _refuse_run_directory(place, kind)
    found = _look(reference, place)
    check_kind(reference, found.kind or kind, kind)
    stated = read_metadata(found.path).get("model_config") if found.reader.description == METADATA_FILE else None
    return stated if isinstance(stated, dict) else {}


def find_kind(reference: str) -> str:
    """The kind of network at a reference, by what lies there: see `load_weights`.

    Raises:
        InputError: there is nothing at the reference, or nothing of a kind that `load_weights` reads.
        HubError: it cannot be downloaded.
    """
    place = parse_reference(reference)
    if isinstance(place, Path):
        _refuse_run_directory(place, "generator")
    found = _look(reference, place)
    if found.kind is None:
        raise InputError(f"{reference}: {found.reader.description} does not say of what kind the weights are")
    return found.kind


def load_folder(folder: Path) -> Artifact:
    """The weights in a local folder, of whichever kind they are and in any format of `READERS`.

    Raises:
        InputError: they are missing or damaged, or it is a run directory.
    """
    _refuse_run_directory(folder, "generator")
    return _look(str(folder), folder).reader.load(folder)


@dataclasses.dataclass(frozen=True)
class _Found:
    """What lies at a place: its format, the folder or file on this machine, its commit, and its kind if that is known.

    `place` is where it was found, which of a pipeline is a folder in it. Of a repository the descriptions are there,
    and no tensors but those of a format without a description.
    """

    reader: WeightsFormat
    place: Path | HubFolder
    path: Path
    commit: str | None
    kind: str | None


def _look(reference: str, place: Path | HubFolder) -> _Found:
    if isinstance(place, Path) and not place.is_dir():
        alone = [reader for reader in READERS.values() if reader.description is None]
        same = [reader for reader in alone if Path(reader.tensors).suffix == place.suffix]
        if not place.is_file():
            raise InputError(f"{reference}: there is no such {'file' if same else 'folder'}")
        if place.suffix not in FILE_SUFFIXES:
            raise InputError(f"{reference}: is no weights file: give a folder, or a {' or '.join(FILE_SUFFIXES)} file")
        reader = (same or alone)[0]
        return _Found(reader, place, place, None, reader.kind({}))
    names = list(dict.fromkeys(_marker(reader) for reader in READERS.values()))
    fetched = fetch(place, [], first_of=[*names, PIPELINE_FILE])
    name = next((name for name in (*names, PIPELINE_FILE) if (fetched.path / name).is_file()), None)
    if name is None:
        raise InputError(f"{reference}: has none of {', '.join(names)}: is this the folder of an artifact?")
    if name == PIPELINE_FILE:
        return _look(reference, _within(place, PIPELINE_VAE, fetched.commit))
    readers = [reader for reader in READERS.values() if name == _marker(reader)]
    for reader in readers:
        description = {} if reader.description is None else _read_description(fetched.path, name)
        if reader.description is None or description.get(reader.field) in reader.values:
            return _Found(reader, place, fetched.path, fetched.commit, reader.kind(description))
    raise InputError(f"{reference}: no weights of a known kind: {_expected(name, description, readers)}")


def _marker(reader: WeightsFormat) -> str:
    """The file by whose name a folder of this format is known."""
    return reader.description or reader.tensors


def _within(place: Path | HubFolder, folder: str, commit: str | None) -> Path | HubFolder:
    """A folder in a place."""
    if isinstance(place, Path):
        return place / folder
    return dataclasses.replace(place, folder=f"{place.folder}/{folder}".lstrip("/"), revision=commit)


def _read_description(folder: Path, name: str) -> dict[str, Any]:
    if name == METADATA_FILE:
        return read_metadata(folder)
    try:
        description = json.loads((folder / name).read_text(encoding="utf-8"))
    except ValueError as error:  # not JSON, or not even text
        raise InputError(f"{folder / name}: not JSON ({error})") from error
    if not isinstance(description, dict):
        raise InputError(f"{folder / name}: not the configuration of a network, which is a JSON object")
    return description


def _expected(name: str, description: Mapping[str, Any], readers: Sequence[WeightsFormat]) -> str:
    """What the fields that tell a format are, and what they could be."""
    known: dict[str, list[str]] = {}
    for reader in readers:
        known.setdefault(reader.field, []).extend(repr(value) for value in reader.values if value is not None)
    return f"{name}: " + "; ".join(
        f"{field} {description.get(field)!r}, expected one of {', '.join(values)}" for field, values in known.items()
    )


def _load_published(kind: str) -> Artifact:
    """The network that is meant where no reference is given."""
    for reader in READERS.values():
        if reader.published is not None and reader.kind({}) == kind:
            url, checksum = reader.published
            artifact = reader.load(fetch_url(url, checksum))
            return dataclasses.replace(artifact, metadata=artifact.metadata | {"source": url, "commit": None})
    raise InputError(f"no weights given for the {kind}: give a folder or hf://OWNER/REPO")


def _check_finite(reference: str, artifact: Artifact) -> None:
    """Raises `InputError` where a tensor holds NaN or infinity, of which nothing that is made with it would be free."""
    wrong = [name for name, value in flatten(artifact.params).items() if not np.isfinite(value).all()]
    if wrong:
        raise InputError(f"{reference}: {listed(wrong)}: has numbers that are not finite: copy it again")


def _refuse_run_directory(folder: Path, kind: str) -> None:
    if not ((folder / "config.json").is_file() and (folder / "checkpoints").is_dir()):
        return
    if kind == "mae":
        raise InputError(f"{folder}: is a run; its encoder is {folder / 'encoder'}, written when pre-training ends")
    raise InputError(f"{folder}: is a run; give the folder that `drifting export` makes of it")
