"""Many images as one picture."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from drifting.errors import require
from drifting.runs.files import atomic_path
from drifting.sampling.generator import TrainedGenerator
from drifting.sampling.labels import class_labels
from drifting.sampling.sampler import draw

LEGIBLE_PIXELS = 64

GRID_GAP = 2


def legible_scale(height: int, width: int) -> int:
    """Whole-number magnification that shows an image with at least 64 pixels along its longer side."""
    return max(1, math.ceil(LEGIBLE_PIXELS / max(height, width)))


def save_grid(images: ArrayLike, path: str | Path, columns: int, scale: int | None = None) -> None:
    """Writes images as one PNG, row by row, on a white ground with two pixels between them.

    The file appears whole or not at all. One channel is shown in grey, three as RGB; of more channels (latents) the
    first three are shown, of two the first.

    Args:
      images: `[N, H, W, C]` floats in `[-1, 1]`; values outside are clipped.
      path: a `.png` file; its folders are created.
      columns: images in a row.
      scale: nearest-neighbour magnification; without it tiny images are magnified until legible.

    Raises:
      ValueError: if the images are not `[N, H, W, C]` with N > 0, are not finite, or the path is not a PNG.
    """
    images, path = np.asarray(images, np.float32), Path(path)
    if images.ndim != 4 or 0 in images.shape or columns < 1:
        raise ValueError(
            f"images {images.shape} in {columns} columns cannot be shown; expected [N, H, W, C] and columns > 0"
        )
    if path.suffix != ".png":
        raise ValueError(f"{path}: a grid of images must end in .png")
    if not np.isfinite(images).all():
        raise ValueError(f"{path}: the images to show have a pixel that is not finite; the run has diverged")
    number, height, width, channels = images.shape
    images = images[..., : 3 if channels >= 3 else 1]
    scale = scale or legible_scale(height, width)
    columns = min(columns, number)
    rows = math.ceil(number / columns)
    tile_height, tile_width = height * scale + GRID_GAP, width * scale + GRID_GAP
    canvas = np.full((rows * tile_height + GRID_GAP, columns * tile_width + GRID_GAP, images.shape[-1]), 255, np.uint8)
    tiles = np.rint((np.clip(images, -1.0, 1.0) + 1.0) * 127.5).astype(np.uint8)
    for index, tile in enumerate(tiles.repeat(scale, axis=1).repeat(scale, axis=2)):
        top = index // columns * tile_height + GRID_GAP
        left = index % columns * tile_width + GRID_GAP
        canvas[top : top + height * scale, left : left + width * scale] = tile
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        Image.fromarray(canvas[..., 0] if canvas.shape[-1] == 1 else canvas).save(temporary, format="PNG")


def write_grid(
    trained: TrainedGenerator,
    path: Path,
    *,
    classes: Sequence[str] | None = None,
    columns: int = 10,
    alpha: float | None = None,
    seed: int = 0,
    batch_size: int = 64,
) -> None:
    """Writes a PNG grid of images, a row for each class.

    Args:
        trained: the generator. path: the file, ending in .png.
        classes: labels as numbers or names of the data's classes; None: all, at most 10.
        columns: images of each class. alpha: guidance scale; None: the generator's own.
        seed: seed of the first image; the others count on from it. batch_size: images in flight.

    Raises:
        ConfigError: no such class, or a path or scale that cannot be.
    """
    require(path.suffix == ".png", "--out", str(path), "must end in .png")
    rows = class_labels(classes, trained.usage.class_names)
    labels = np.repeat(np.asarray(rows if classes is not None else rows[:10], np.int32), columns)
    save_grid(draw(trained, labels, seed, trained.alpha(alpha), batch_size), path, columns)
