"""Frozen networks named by references."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from drifting.errors import ConfigError, unusable
from drifting.networks import convnext, mae, vae
from drifting.networks.convnext import ConvNeXtV2
from drifting.networks.mae import MAE
from drifting.networks.network import Network, Params
from drifting.networks.vae import AutoencoderKL
from drifting.weights.catalogue import KNOWN
from drifting.weights.load import load_weights

RANDOM = "random://"

PRESETS: dict[str, dict[str, dict[str, Any]]] = {"mae": mae.PRESETS, "convnext": convnext.PRESETS, "vae": vae.PRESETS}


def network(key: str, reference: str | None, kind: str, abstract: bool = False, **changes: Any) -> Network:
    """The network that the setting `key` names by `reference`.

    Args:
        key: names the setting in errors.
        reference: see the head of this module.
        kind: `mae` (of which the encoder is taken), `convnext` or `vae`.
        abstract: parameters are shapes only, and published networks are not downloaded.
        changes: constructor arguments that the run chooses: `dtype`, `remat`.

    Raises:
        ConfigError: it cannot be had, is damaged, or is of another kind.
    """
    if not reference:
        raise ConfigError(f"{key}=None: give a folder, hf://OWNER/REPO, or {RANDOM}PRESET")
    preset = KNOWN.get(reference) if abstract else None
    if reference.startswith(RANDOM):
        preset = reference.removeprefix(RANDOM)
        if preset not in PRESETS[kind]:
            raise ConfigError(f"{key}={reference!r}: there is no such preset, use one of {', '.join(PRESETS[kind])}")
    if preset is not None:
        arguments = PRESETS[kind][preset] | changes
        graphdef, shapes = _abstract(kind, arguments)
        params = shapes if abstract else jax.jit(lambda: nnx.to_pure_dict(nnx.state(_create(kind, arguments))))()
        return Network(graphdef, params, arguments, reference)
    try:
        artifact = load_weights(reference, kind)
    except ValueError as error:
        raise ConfigError(unusable(key, reference, error)) from error
    arguments = artifact.model_config | changes
    params = artifact.params["encoder"] if kind == "mae" else artifact.params
    graphdef, _ = _abstract(kind, arguments)
    return Network(graphdef, jax.tree.map(jnp.asarray, params), arguments, artifact.metadata["sha256"])


def _create(kind: str, arguments: Mapping[str, Any]) -> nnx.Module:
    rngs = nnx.Rngs(0)
    if kind == "vae":
        return AutoencoderKL(**arguments, rngs=rngs)
    if kind == "convnext":
        return ConvNeXtV2(**arguments, rngs=rngs)
    classes = {"num_classes": 0} | dict(arguments)
    return MAE(**classes | {"layers": tuple(arguments["layers"])}, rngs=rngs).encoder


def _abstract(kind: str, arguments: Mapping[str, Any]) -> tuple[Any, Params]:
    """The network's structure, and the shapes of its parameters."""
    graphdef, state = nnx.split(nnx.eval_shape(partial(_create, kind, arguments)))
    return graphdef, nnx.to_pure_dict(state)
