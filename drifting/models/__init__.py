"""Networks: transformer and MLP generators, masked autoencoder. No sharding, configuration or files in here."""

from drifting.models.dit import PRESETS, DiT
from drifting.models.mae import MAE
from drifting.models.mlp import MLP

__all__ = ["MAE", "MLP", "PRESETS", "DiT"]
