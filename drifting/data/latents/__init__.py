"""Caches of latents: `write` makes them shard by shard for `drifting cache`, `read` is the source `latents`."""
