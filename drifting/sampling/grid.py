"""Many images as one picture."""

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from drifting.errors import InputError, counted, require_argument
from drifting.runs.files import atomic_path
from drifting.runs.places import place
from drifting.sampling.generator import TrainedGenerator
from drifting.sampling.images import to_uint8
from drifting.sampling.labels import ROWS_TEXT, class_line, distinct_class_labels, titles

logger = logging.getLogger("drifting")

LEGIBLE_PIXELS = 64

GRID_GAP = 2

NAME_GREY = 128
"""Names of this grey have a contrast of 4 with white, and of 5 with black."""

DEFAULT_ROWS = 10
"""Classes in a grid where none are asked for."""


def legible_scale(height: int, width: int) -> int:
    """Whole-number magnification that shows an image with at least 64 pixels along its longer side."""
    return max(1, math.ceil(LEGIBLE_PIXELS / max(height, width)))


def save_grid(
    images: ArrayLike, path: str | Path, columns: int, scale: int | None = None, names: Sequence[str] = ()
) -> None:
    """Writes images as one PNG, row by row, two pixels apart, with the names of the rows beside them.

    What is no image is transparent, and names are of a grey that is read on white and on black. The file says in its
    text `Rows`, JSON, what the names are and where the images begin, so that a page can set them in its own type. The
    file appears whole or not at all. One channel is shown in grey, three as RGB; of more channels (latents) the first
    three are shown, of two the first.

    Args:
        images: `[N, H, W, C]` floats in `[-1, 1]`; values outside are clipped.
        path: a `.png` file; its folders are created.
        columns: images in a row.
        scale: nearest-neighbour magnification; without it tiny images are magnified until legible.
        names: what each row shows, one for each row; (): there are none.

    Raises:
        ArgumentError: the images are not `[N, H, W, C]` with N > 0, the names are not as many as the rows, or the path
            is not a PNG.
        InputError: the images are not finite.
    """
    images, path = np.asarray(images, np.float32), place(path)
    shown = images.ndim == 4 and 0 not in images.shape
    require_argument(shown, "images", images.shape, "cannot be shown; expected [N, H, W, C], none of them 0")
    require_argument(columns > 0, "columns", columns, "use 1 or more")
    _check_png(path)
    number, height, width, channels = images.shape
    scale, columns = scale or legible_scale(height, width), min(columns, number)
    rows = math.ceil(number / columns)
    remedy = f"give a name for each of the {counted(rows, 'row')}"
    require_argument(len(names) in (0, rows), "names", len(names), remedy)
    try:
        tiles = to_uint8(images[..., : 3 if channels >= 3 else 1], "round")
    except InputError as error:
        raise InputError(f"{path}: the images to show have a pixel that is not finite; the run has diverged") from error
    tile_height, tile_width = height * scale + GRID_GAP, width * scale + GRID_GAP
    beside = row_names(names, tile_height, columns * tile_width // 3) if names else np.zeros((0, 0), np.uint8)
    left = beside.shape[1]
    size = (rows * tile_height + GRID_GAP, left + columns * tile_width + GRID_GAP)
    canvas = np.zeros((*size, tiles.shape[-1] + 1), np.uint8)  # the last channel is how opaque a pixel is
    if names:
        canvas[GRID_GAP:, :left, :-1], canvas[GRID_GAP:, :left, -1] = NAME_GREY, beside
    for index, tile in enumerate(tiles.repeat(scale, axis=1).repeat(scale, axis=2)):
        spot = canvas[index // columns * tile_height + GRID_GAP :, left + index % columns * tile_width + GRID_GAP :]
        spot[: height * scale, : width * scale, :-1] = tile
        spot[: height * scale, : width * scale, -1] = 255
    said = PngInfo()
    said.add_itxt(ROWS_TEXT, json.dumps({"names": list(names), "left": left}))
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        Image.fromarray(canvas).save(temporary, format="PNG", pnginfo=said)


def row_names(names: Sequence[str], height: int, widest: int) -> NDArray[np.uint8]:
    """Words below one another, aligned right: how opaque each pixel is, `[len(names) * height, W]`.

    Args:
        names: what is written, a line each.
        height: the height of a line in pixels.
        widest: what a word longer than so many pixels is shortened to.
    """
    size = min(max(height // 5, 12), 40)
    font = ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)
    shown = [_shortened(" ".join(name.split()), font, max(widest, 4 * size)) for name in names]
    gap = size // 2
    width = math.ceil(max(font.getlength(name) for name in shown)) + 2 * gap
    canvas = Image.new("L", (width, height * len(names)))
    draw = ImageDraw.Draw(canvas)
    for row, name in enumerate(shown):
        draw.text((width - gap, (row + 0.5) * height), name, fill=255, font=font, anchor="rm")
    return np.asarray(canvas)


def _shortened(name: str, font: ImageFont.FreeTypeFont, widest: int) -> str:
    if font.getlength(name) <= widest:
        return name
    while name and font.getlength(f"{name}…") > widest:
        name = name[:-1]
    return f"{name.rstrip(' ,')}…"


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
        classes: labels as numbers or names of the data's classes, each once; None: all, at most 10.
        columns: how many images of each class there are.
        alpha: the guidance scale; None: the generator's own.
        seed: the seed of the first image; the others count on from it.
        batch_size: how many images are in flight.

    Raises:
        ArgumentError: no such class, one that is given twice, or a path or scale that cannot be.
    """
    _check_png(path)
    known = trained.usage.class_names
    rows = distinct_class_labels(classes, known)[: None if classes is not None else DEFAULT_ROWS]
    trained.tell("the generator")
    images = trained.sample(np.repeat(np.asarray(rows, np.int32), columns), seed, alpha, batch_size)
    logger.info("rows: %s", class_line(rows, known))
    save_grid(images, path, columns, names=titles(rows, known))
