"""Real images: where they come from (`sources`), the order in which they are read (`batches`), caches of latents.

To add a data set: a module in `sources` and an entry in `SOURCES`. A source knows no network.
"""
