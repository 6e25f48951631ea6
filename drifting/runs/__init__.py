"""The folder of a run: settings, checkpoints, metrics, progress, and the work that processes share.

To add a file to it: a name and a function that writes it whole or not at all, see `files.atomic_path`.
"""
