"""The variants `fashion_` of `configs/mnist.py`, by their former names."""

from mnist import fashion as get_config  # noqa: F401
