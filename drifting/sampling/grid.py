"""Many images as one picture."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from drifting.errors import InputError, require_argument
from drifting.runs.files import atomic_path
from drifting.sampling.generator import TrainedGenerator
from drifting.sampling.images import to_uint8
from drifting.sampling.labels import class_labels

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
        ArgumentError: the images are not `[N, H, W, C]` with N > 0, or the path is not a PNG.
        InputError: the images are not finite.
    """
    images, path = np.asarray(images, np.float32), Path(path)
    shown = images.ndim == 4 and 0 not in images.shape
    require_argument(shown, "images", images.shape, "cannot be shown; expected [N, H, W, C], none of them 0")
    require_argument(columns > 0, "columns", columns, "use 1 or more")
    _check_png(path)
    number, height, width, channels = images.shape
    images = images[..., : 3 if channels >= 3 else 1]
    scale = scale or legible_scale(height, width)
    columns = min(columns, number)
    rows = math.ceil(number / columns)
    tile_height, tile_width = height * scale + GRID_GAP, width * scale + GRID_GAP
    canvas = np.full((rows * tile_height + GRID_GAP, columns * tile_width + GRID_GAP, images.shape[-1]), 255, np.uint8)
    try:
        tiles = to_uint8(images, "round")
    except InputError as error:
        raise InputError(f"{path}: the images to show have a pixel that is not finite; the run has diverged") from error
    for index, tile in enumerate(tiles.repeat(scale, axis=1).repeat(scale, axis=2)):
        top = index // columns * tile_height + GRID_GAP
        left = index % columns * tile_width + GRID_GAP
        canvas[top : top + height * scale, left : left + width * scale] = tile
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        Image.fromarray(canvas[..., 0] if canvas.shape[-1] == 1 else canvas).save(temporary, format="PNG")


def _check_png(path: Path) -> None:
    require_argument(path.suffix == ".png", "path", path, "must end in .png")


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
        trained: the generator.
        path: the file, ending in .png.
        classes: labels as numbers or names of the data's classes; None: all, at most 10.
        columns: how many images of each class there are.
        alpha: the guidance scale; None: the generator's own.
        seed: the seed of the first image; the others count on from it.
        batch_size: how many images are in flight.

    Raises:
        ArgumentError: no such class, or a path or scale that cannot be.
    """
    _check_png(path)
    rows = class_labels(classes, trained.usage.class_names)
    labels = np.repeat(np.asarray(rows if classes is not None else rows[:10], np.int32), columns)
    save_grid(trained.sample(labels, seed, alpha, batch_size), path, columns)
