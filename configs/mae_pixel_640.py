"""`configs/mae_imagenet.py:pixel_640` by its former name."""

from mae_imagenet import pixel_640 as get_config  # noqa: F401
