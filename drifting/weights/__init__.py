"""Weights that travel: our own artifacts, the released ones, other libraries' networks, and the way to the hub."""
