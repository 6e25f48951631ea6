"""A made-up image folder as the world's are: odd sizes, grey, CMYK, one turned by its EXIF tag, five that are damaged.

python -m tests.image_folder FOLDER [IMAGES]
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = 100

MODES = {3: "L", 5: "CMYK"}
"""The modes of image i by i % 8; the others are RGB."""

ROTATED = 1

EXIF_ORIENTATION, QUARTER_TURN = 0x0112, 6


def make_image_folder(folder: Path, images: int = 20_000) -> list[Path]:
    """Writes JPEGs of 12 to 40 pixels in `CLASSES` classes, the classes in turn; returns the five damaged ones."""
    rng = np.random.default_rng(0)
    paths = [folder / f"class_{i % CLASSES:03}" / f"{i:05}.jpg" for i in range(images)]
    for i, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        width, height = rng.integers(12, 41, 2)
        mode = MODES.get(i % 8, "RGB")
        colours = {"L": (), "RGB": (3,), "CMYK": (4,)}[mode]
        # Smooth, because the networks are compared on them and noise would be all alike.
        corners = rng.integers(0, 256, (3, 3, *colours), dtype=np.uint8)
        small = Image.fromarray(corners) if mode != "CMYK" else Image.fromarray(corners, mode="CMYK")
        image = small.resize((int(width), int(height)), Image.Resampling.BILINEAR)
        exif = Image.Exif()
        if i == ROTATED:
            exif[EXIF_ORIENTATION] = QUARTER_TURN
        image.save(path, quality=90, exif=exif)
    damaged = paths[7 :: images // 5 + 1]  # of five classes
    for path, keep in zip(damaged, (0.0, 0.1, 0.5, 0.6, 0.0), strict=True):
        data = path.read_bytes()
        path.write_bytes(data[: int(keep * len(data))])
    damaged[-1].write_text("not found")
    return damaged


if __name__ == "__main__":
    make_image_folder(Path(sys.argv[1]), *map(int, sys.argv[2:]))
