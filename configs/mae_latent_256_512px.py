"""`configs/mae_imagenet.py:latent_256_512px` by a name of its own."""

from mae_imagenet import latent_256_512px as get_config  # noqa: F401
