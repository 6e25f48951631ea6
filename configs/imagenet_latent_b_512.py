"""`configs/imagenet_latent.py:b_512` by a name of its own."""

from imagenet_latent import drift_b_512 as get_config  # noqa: F401
