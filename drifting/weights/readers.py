"""The formats of weights, ours, the released one and those of other libraries: how each is recognised and read.

To add one: a module that reads it, and an entry in `READERS`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from drifting.devices.backend import require_devices
from drifting.errors import InputError, one_line
from drifting.networks import NETWORKS
from drifting.networks.network import structure
from drifting.weights.artifact import (
    ARTIFACT_FORMAT,
    METADATA_FILE,
    TENSORS_FILE,
    Artifact,
    check_names,
    flatten,
    listed,
    load_artifact,
)
from drifting.weights.catalogue import INCEPTION_FILE, INCEPTION_SHA256, INCEPTION_URL
from drifting.weights.diffusers_dcae import load_dcae
from drifting.weights.diffusers_vae import VAE_CONFIG, VAE_TENSORS, load_vae
from drifting.weights.fid_inception import check_source, load_inception
from drifting.weights.released import RELEASED_FORMAT, RELEASED_KINDS, RELEASED_TENSORS, load_released
from drifting.weights.transformers_convnext import load_convnext
from drifting.weights.transformers_dinov2 import load_dinov2
from drifting.weights.transformers_files import TRANSFORMERS_CONFIG, TRANSFORMERS_TENSORS


@dataclass(frozen=True)
class WeightsFormat:
    """One format of weights.

    Attributes:
        load: reads the folder, or the one file, and returns its artifact; it checks names and shapes of all tensors.
        kind: the kind of network, for the description of a folder: JSON fields; None: only the tensors tell.
        tensors: the file with the tensors in a folder of this format.
        variants: further names that it may have, of which the first that is there is meant where `tensors` is not.
        description: the JSON file that describes the folder; None: there is none, and a reference may also be the file
            with the tensors itself, under any name.
        field: the field of the description that names the format.
        values: what stands in that field; None among them: it may be missing.
        published: address and SHA-256 of the file that is meant where no reference is given; None: one must be given.
    """

    load: Callable[[Path], Artifact]
    kind: Callable[[Mapping[str, Any]], str | None]
    tensors: str
    description: str | None = None
    field: str = ""
    values: tuple[str | None, ...] = ()
    published: tuple[str, str] | None = None
    variants: tuple[str, ...] = ()


def load_ours(folder: Path) -> Artifact:
    """An artifact in our format whose tensors are those of the network that it says it is.

    Raises:
        InputError: it is damaged, of a network that `NETWORKS` has not, or of another one than it says; or it is an
            Inception of other weights than the published.
    """
    artifact = load_artifact(folder)
    try:
        check_tensors(artifact)
    except ValueError as error:
        raise InputError(f"{folder}: {error}") from error
    if artifact.kind == "inception":
        check_source(folder, artifact)
    return artifact


def check_tensors(artifact: Artifact) -> None:
    """Raises `InputError` unless the artifact's parameters are float32 and of its network's names and shapes."""
    if artifact.network not in NETWORKS:
        raise InputError(f"holds a {artifact.network!r}, expected one of {', '.join(NETWORKS)}")
    try:
        _, shapes = structure(artifact.network, artifact.model_config)
    except Exception as error:  # whatever a constructor makes of wrong values
        require_devices()
        reason = one_line(f"{type(error).__name__}: {error}")[:200]
        raise InputError(f"model_config is not that of a {artifact.network} ({reason})") from error
    expected, found = flatten(shapes), flatten(artifact.params)
    same = "are weights and configuration of the same model?"
    try:
        check_names(found, expected, "tensor")
    except ValueError as error:
        raise InputError(f"{error}: {same}") from error
    wrong = [
        f"{name} {found[name].dtype}{list(found[name].shape)} instead of float32{list(leaf.shape)}"
        for name, leaf in expected.items()
        if found[name].shape != leaf.shape or found[name].dtype != np.float32
    ]
    if wrong:
        raise InputError(f"wrong tensor: {listed(wrong)}: {same}")


READERS: dict[str, WeightsFormat] = {
    "drifting": WeightsFormat(
        load_ours,
        kind=lambda description: description.get("kind"),
        tensors=TENSORS_FILE,
        description=METADATA_FILE,
        field="format",
        values=(ARTIFACT_FORMAT,),
    ),
    "released": WeightsFormat(
        load_released,
        kind=lambda description: RELEASED_KINDS.get(description.get("kind", ""), description.get("kind")),
        tensors=RELEASED_TENSORS,
        description=METADATA_FILE,
        field="format",
        values=(RELEASED_FORMAT, None),
    ),
    "diffusers VAE": WeightsFormat(
        load_vae,
        kind=lambda _: "vae",
        tensors=VAE_TENSORS[0],
        variants=VAE_TENSORS[1:],
        description=VAE_CONFIG,
        field="_class_name",
        values=("AutoencoderKL",),
    ),
    "diffusers DC-AE": WeightsFormat(
        load_dcae,
        kind=lambda _: "vae",
        tensors=VAE_TENSORS[0],
        variants=VAE_TENSORS[1:],
        description=VAE_CONFIG,
        field="_class_name",
        values=("AutoencoderDC",),
    ),
    "transformers ConvNeXt-V2": WeightsFormat(
        load_convnext,
        kind=lambda _: "convnext",
        tensors=TRANSFORMERS_TENSORS,
        description=TRANSFORMERS_CONFIG,
        field="model_type",
        values=("convnextv2",),
    ),
    "transformers DINOv2": WeightsFormat(
        load_dinov2,
        kind=lambda _: "dinov2",
        tensors=TRANSFORMERS_TENSORS,
        description=TRANSFORMERS_CONFIG,
        field="model_type",
        values=("dinov2",),
    ),
    "pytorch-fid Inception": WeightsFormat(
        load_inception,
        kind=lambda _: "inception",
        tensors=INCEPTION_FILE,
        published=(INCEPTION_URL, INCEPTION_SHA256),
    ),
}
"""All formats, by a name for messages. The first one that fits is taken."""
