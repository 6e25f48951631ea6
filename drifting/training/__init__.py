"""The loops: generator, feature encoder, and the encoding of latents."""
