"""Numbers for images: distances, precision and recall, and what a trained generator looks like by feature map."""
