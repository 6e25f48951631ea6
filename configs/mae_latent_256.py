"""`configs/mae_imagenet.py:latent_256` by its former name."""

from mae_imagenet import latent_256 as get_config  # noqa: F401
