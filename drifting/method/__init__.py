"""The papers: objectives, fields, banks and the training step, as pure functions of arrays."""
