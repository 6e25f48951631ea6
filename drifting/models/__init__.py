"""Networks: the transformer generator, the MLP generator and the masked autoencoder. No sharding, config or files here."""

from drifting.models.dit import PRESETS, DiT
from drifting.models.mae import MAE
from drifting.models.mlp import MLP

__all__ = ["MAE", "MLP", "PRESETS", "DiT"]
