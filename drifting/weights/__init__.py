"""Weights in files: our artifacts, the released ones, those of other libraries, and the way to the hub.

To add a format: a module that reads it and an entry in `readers.READERS`.
"""
