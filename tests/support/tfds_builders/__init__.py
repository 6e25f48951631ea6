"""Tiny data sets that TFDS prepares without TensorFlow."""
