"""Real images: where they come from (`sources`) and the order in which they are read (`batches`)."""
