"""The variants `fashion_` of `configs/mnist.py`, each by its former name."""

from mnist import fashion as get_config  # noqa: F401
