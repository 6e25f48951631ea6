"""Images out of a generator."""
