"""Frozen networks named by references, or untrained ones by `random://PRESET`."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from drifting.errors import InputError, use_one_of
from drifting.networks import PRESETS
from drifting.networks.network import Network, Params, as_used, make_network
from drifting.weights.artifact import AUTOENCODERS, VAE_KIND, check_kind
from drifting.weights.catalogue import KNOWN_PRESETS
from drifting.weights.load import load_weights

RANDOM_SCHEME = "random://"

FROZEN_PARTS = {"mae": "encoder"}
"""The part of a network that is used where it is frozen, if not all of it."""


def network(reference: str | None, kind: str, abstract: bool = False, **changes: Any) -> Network:
    """The frozen network at a reference.

    Args:
        reference: a folder, `hf://OWNER/REPO[@REVISION][/FOLDER]`, or `random://PRESET` with a preset of `PRESETS`, an
            untrained network with which a machine or a configuration can be tried out before anything is downloaded.
        kind: a name of `NETWORKS` such as `mae` (of which the encoder is taken) or `convnext`; or `vae`, any of
            `AUTOENCODERS`.
        abstract: parameters are shapes only, and published networks are not downloaded, others of the catalogue need
            not have been trained.
        changes: constructor arguments that the run chooses: `dtype`, `remat`.

    Raises:
        InputError: it cannot be had, is damaged, or is of another kind. The message begins with the reference.
        HubError: it cannot be downloaded.
    """
    if not reference:
        raise InputError(f"{reference}: give a folder, hf://OWNER/REPO, or {RANDOM_SCHEME}PRESET")
    networks = AUTOENCODERS if kind == VAE_KIND else (kind,)
    presets = {preset: name for name in networks for preset in PRESETS.get(name, {})}
    preset = reference.removeprefix(RANDOM_SCHEME) if reference.startswith(RANDOM_SCHEME) else None
    if preset is not None and preset not in presets:
        raise InputError(f"{reference}: there is no such preset, {use_one_of(preset, presets)}")
    if abstract and KNOWN_PRESETS.get(reference, ("", ""))[0] == kind and not Path(reference).is_dir():
        preset = KNOWN_PRESETS[reference][1]
    if preset is None:
        artifact = load_weights(reference, kind)
        check_kind(reference, artifact.network, artifact.network if artifact.network in networks else kind)
        arguments, checksum = artifact.model_config | changes, artifact.metadata["sha256"]
        params = artifact.params[FROZEN_PARTS[kind]] if kind in FROZEN_PARTS else artifact.params
        graphdef = nnx.graphdef(nnx.eval_shape(partial(_module, artifact.network, arguments)))
        params, learned = jax.tree.map(jnp.asarray, params), artifact.metadata.get("vae_sha256")
        return Network(graphdef, as_used(graphdef, params), arguments, checksum, learned)
    name = presets[preset]
    arguments = PRESETS[name][preset] | changes
    graphdef, shapes = nnx.split(nnx.eval_shape(partial(_module, name, arguments)))
    if abstract:
        return Network(graphdef, as_used(graphdef, nnx.to_pure_dict(shapes)), arguments, reference)
    params = jax.jit(lambda: nnx.to_pure_dict(nnx.state(_module(name, arguments))))()
    return Network(graphdef, as_used(graphdef, params), arguments, reference)


def mae_classifier(reference: str) -> Params | None:
    """The classifier that the autoencoder at a reference ends with: `kernel` `[D, K]`, `bias` `[K]`; None: it has none.

    Raises:
        InputError, HubError: see `network`.
    """
    if reference.startswith(RANDOM_SCHEME):
        return None
    found = load_weights(reference, "mae").params.get("classifier")
    return None if found is None else jax.tree.map(jnp.asarray, found)


def _module(name: str, arguments: Mapping[str, Any]) -> nnx.Module:
    module = make_network(name, arguments)
    return getattr(module, FROZEN_PARTS[name]) if name in FROZEN_PARTS else module
