"""Networks: what computes. No sharding, no settings and no files in here.

To add one: a module here, and an entry in `NETWORKS`. Its constructor takes JSON-able keyword arguments (numbers,
lists, names of dtypes) and `rngs`. A generator is called with noise, labels and alpha, has `sample_noise(key)`, and
says what it draws by `sample_shape`: height, width and channels, or one number where any shape of so many will do. One
that `drifting train` can train also has two static methods: `arguments(settings, shape, num_classes)`, its constructor
arguments from the section `model` of the settings, and `check_settings(settings)`, which refuses what cannot work.

One whose training may start from other weights says what of them may differ: `adaptable`, arguments on which nothing
depends that was learned, or only what follows; `class_axes`, the tensors with an axis of classes, by their names as
`block/kernel`, and which axis it is; `position_tables`, tensors `[rows * columns, features]`, and
`token_grid(arguments)`, those rows and columns.
"""

from collections.abc import Callable
from typing import Any

from flax import nnx

from drifting.networks import convnext, dcae, dinov2, mae, vae
from drifting.networks.convnext import ConvNeXtV2
from drifting.networks.dcae import AutoencoderDC
from drifting.networks.dinov2 import DINOv2
from drifting.networks.dit import DiT
from drifting.networks.inception import Inception
from drifting.networks.mae import MAE
from drifting.networks.mlp import MLP
from drifting.networks.vae import AutoencoderKL

__all__ = ["NETWORKS", "PRESETS"]

NETWORKS: dict[str, Callable[..., nnx.Module]] = {
    "dit": DiT,
    "mlp": MLP,
    "mae": MAE,
    "vae": AutoencoderKL,
    "dcae": AutoencoderDC,
    "convnext": ConvNeXtV2,
    "dinov2": DINOv2,
    "inception": Inception,
}
"""The constructor of each network, by the name that settings and artifacts have for it."""

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "mae": mae.PRESETS,
    "vae": vae.PRESETS,
    "dcae": dcae.PRESETS,
    "convnext": convnext.PRESETS,
    "dinov2": dinov2.PRESETS,
}
"""Constructor arguments, but for `dtype` and `remat`, of frozen networks that have a name: by network, then by name."""
