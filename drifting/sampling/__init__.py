"""Images out of a generator, of a run or of published weights: labels, seeds, files, grids.

To add a form of files: a writer in `files`, and a class with the attributes of `images.Images` that reads it.
"""
