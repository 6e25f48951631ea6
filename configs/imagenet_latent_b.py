"""`configs/imagenet_latent.py:b` by its former name."""

from imagenet_latent import drift_b as get_config  # noqa: F401
