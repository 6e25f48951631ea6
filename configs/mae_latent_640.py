"""`configs/mae_imagenet.py:latent_640` by its former name."""

from mae_imagenet import latent_640 as get_config  # noqa: F401
