"""The folder of a run: settings, checkpoints, metrics, progress, and files that processes share."""
