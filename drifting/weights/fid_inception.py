"""Reads the weights of the FID Inception network, converted to PyTorch, and insists that they are those weights."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from flax import nnx
from safetensors import SafetensorError
from safetensors.numpy import load_file

from drifting.errors import InputError
from drifting.networks.inception import Inception
from drifting.networks.network import Params
from drifting.runs import files
from drifting.runs.torch_file import read_state_dict
from drifting.weights.artifact import METADATA_FILE, Artifact, load_artifact
from drifting.weights.catalogue import INCEPTION_FILE, INCEPTION_SHA256
from drifting.weights.torch_names import from_torch


def load_inception(path: str | os.PathLike[str], sha256: str = INCEPTION_SHA256) -> Artifact:
    """Read the Inception network: scores of other weights are no FID, so the checksum must be right.

    Args:
        path: a `.pth` file; or a `.safetensors` file with the same tensors; or a folder with one such file, or with
            our own artifact of kind `inception`.
        sha256: checksum of the file, in hexadecimal; of an artifact, its metadata's `source_sha256`. A `.safetensors`
            file is not the published one, whatever its content, so that its own checksum has to be given: who made it
            vouches for it.

    Returns:
        Artifact of kind `inception`; `model_config` has dtype `float32`. Its metadata are `sha256` and
        `source_sha256`, both of the file, and `source`, its path; or those of the artifact.

    Raises:
        InputError: a file is missing or unreadable or another one, or tensors are missing, unexpected or of the wrong
            shape.
    """
    path = Path(path)
    if (path / METADATA_FILE).is_file():
        found = load_artifact(path, kind="inception")
        check_source(path, found, sha256)
        return found
    file = _weights(path)
    checksum = files.sha256(file)
    _check(file, checksum, sha256)
    tensors = _tensors(file)
    try:
        params = inception_from_torch(tensors)
    except ValueError as error:
        raise InputError(f"{file}: {error}") from error
    metadata = {"sha256": checksum, "source_sha256": checksum, "source": str(path)}
    return Artifact("inception", {"dtype": "float32"}, params, metadata)


def _weights(path: Path) -> Path:
    """`path`, or the one file of weights in it."""
    files = [path] if path.is_file() else sorted(path.glob("*"))
    files = [file for file in files if file.suffix in (".pth", ".safetensors")]
    if len(files) != 1:
        raise InputError(f"{path}: expected one .pth or .safetensors file, found {len(files)}")
    return files[0]


def _tensors(file: Path) -> dict[str, np.ndarray]:
    if file.suffix == ".pth":
        return read_state_dict(file)
    try:
        return load_file(file)
    except SafetensorError as error:
        raise InputError(f"{file}: not a safetensors file ({error}): copy it again") from error


def check_source(path: Path, artifact: Artifact, expected: str = INCEPTION_SHA256) -> None:
    """Raises `InputError` unless an artifact was made from the file of that SHA-256."""
    _check(path, artifact.metadata.get("source_sha256"), expected)


def _check(path: Path, found: str | None, expected: str) -> None:
    if found != expected:
        raise InputError(
            f"{path}: SHA-256 {found}, expected {expected}: use {INCEPTION_FILE}, or give the checksum of a file that "
            "you trust"
        )


def inception_from_torch(tensors: Mapping[str, np.ndarray]) -> Params:
    """`Inception` parameters from PyTorch tensors; counters of training steps (`num_batches_tracked`) are left out.

    Raises:
        InputError: tensors missing, unexpected or of the wrong shape.
    """
    kept = {name: tensor for name, tensor in tensors.items() if not name.endswith(".num_batches_tracked")}
    model = nnx.eval_shape(lambda: Inception(dtype="float32", rngs=nnx.Rngs(0)))
    return from_torch(kept, nnx.to_pure_dict(nnx.state(model)), inception_name)


_RENAMED = {
    "stem/": "",
    "blocks/": "",
    "/convs/": "/",
    "/kernel": "/weight",
    "/gain": "/weight",
    "/mean": "/running_mean",
    "/variance": "/running_var",
}


def inception_name(name: str) -> str:
    """`blocks/Mixed_5b/convs/branch1x1/bn/mean` to `Mixed_5b.branch1x1.bn.running_mean`."""
    for ours, theirs in _RENAMED.items():
        name = name.replace(ours, theirs)
    return name.replace("/", ".")
