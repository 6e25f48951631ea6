"""Drifting generative models in JAX: one-step image generators trained by moving samples along a kernel field."""

__version__ = "0.1.0"
