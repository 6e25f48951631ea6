"""Scores of generated images: Fréchet distance, precision and recall, inception score, and scores of small images."""
