"""Parts cut out of images: the central one as ADM takes it, and random ones."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Seed = int | Sequence[int]
"""What `numpy.random.default_rng` takes."""

Box = tuple[int, int, int, int]

CROP_AREA = (0.2, 1.0)

CROP_ASPECT = (3 / 4, 4 / 3)

CROP_TRIES = 10


def centre_crop(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The central part of an image, resized to `[height, width, ...]`.

    Of squares it is ADM's (Dhariwal & Nichol 2021, section 4): the image `[H, W]` or `[H, W, C]` uint8 is halved with a
    box filter while both sides are at least twice those asked for, then resized so that it just covers them (bicubic,
    up or down), then cropped.
    """
    image = Image.fromarray(pixels)
    while image.width >= 2 * width and image.height >= 2 * height:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = max(width / image.width, height / image.height)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return np.asarray(image)[top : top + height, left : left + width]


def random_box(width: int, height: int, seed: Seed, aspect: float = 1.0) -> Box:
    """A random part of an image, `(left, top, right, bottom)` in pixels: the rule of torchvision's `RandomResizedCrop`.

    A share of the image's area is drawn uniformly from `CROP_AREA` and a ratio of width to height log-uniformly from
    `CROP_ASPECT` times `aspect`, at most `CROP_TRIES` times until the part fits into the image; then it is placed
    uniformly. If none fits, it is the largest central part whose ratio lies there.

    Args:
        width: the width of the image, in pixels.
        height: its height.
        seed: the part is a function of it, of the image's size and of `aspect`.
        aspect: width over height of what the part will be resized to, so that nothing is squeezed beyond `CROP_ASPECT`.
    """
    narrowest, widest = (aspect * bound for bound in CROP_ASPECT)
    rng = np.random.default_rng(seed)
    for _ in range(CROP_TRIES):
        area = width * height * rng.uniform(*CROP_AREA)
        ratio = math.exp(rng.uniform(math.log(narrowest), math.log(widest)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    w = min(width, round(height * widest))
    h = min(height, round(width / narrowest))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def random_crop(pixels: NDArray[np.uint8], height: int, width: int, seed: Seed) -> NDArray[np.uint8]:
    """A random part (`random_box`) of an image `[H, W]` or `[H, W, C]` uint8, as `[height, width, ...]` (bicubic).

    The part is cut out first: no pixel outside it has a say.
    """
    image = Image.fromarray(pixels)
    part = image.crop(random_box(image.width, image.height, seed, width / height))
    return np.asarray(part.resize((width, height), Image.Resampling.BICUBIC))


def random_crops(images: NDArray, seeds: Sequence[Seed]) -> NDArray:
    """Cuts a random part by its own seed out of each image `[B, H, W, C]` and resizes it to `H x W`.

    Images are uint8 or float32 in [-1, 1]."""
    _, height, width, channels = images.shape
    out = np.empty_like(images)
    for row, seed in enumerate(seeds):
        box = random_box(width, height, seed, width / height)
        for c in range(channels):
            part = Image.fromarray(np.ascontiguousarray(images[row, :, :, c])).crop(box)
            out[row, :, :, c] = np.asarray(part.resize((width, height), Image.Resampling.BICUBIC))
    return out if out.dtype == np.uint8 else out.clip(-1, 1)  # cubics overshoot
