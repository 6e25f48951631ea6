"""`configs/imagenet_latent.py:l` by its former name."""

from imagenet_latent import drift_l as get_config  # noqa: F401
