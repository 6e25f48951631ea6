"""Networks: transformer and MLP generators, masked autoencoder. No sharding, configuration or files in here."""

__all__ = ["MAE", "MLP", "PRESETS", "DiT"]
