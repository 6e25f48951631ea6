"""Caches of latents: written by `drifting cache`, read as the source `latents`."""
