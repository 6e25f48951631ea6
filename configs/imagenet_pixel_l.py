"""`configs/imagenet_pixel.py:l` by its former name."""

from imagenet_pixel import drift_l as get_config  # noqa: F401
