"""`configs/imagenet_pixel.py:b` by its former name."""

from imagenet_pixel import drift_b as get_config  # noqa: F401
