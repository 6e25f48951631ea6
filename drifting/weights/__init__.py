"""Weights in files: our artifacts, the released ones, other libraries' networks (`READERS`), and the way to the hub."""
