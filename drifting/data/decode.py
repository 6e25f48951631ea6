"""Images that are kept encoded, as files or as records, and decoded when they are read."""

import abc
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from drifting.data.crop import Seed, centre_crop, random_crop
from drifting.data.source import Indices, LabelledImages, Records, to_float
from drifting.errors import InputError, one_line

LONGEST_RATIO = 50
"""Ratio of an image's sides from which on it is no picture: of a strip 2 pixels wide, resized before it is cropped, a
square of 256 would cost gigabytes."""


class EncodedSource(abc.ABC):
    """Images of various sizes in the formats that Pillow reads; delivered as squares (`crop.py`).

    They are turned as their EXIF tag says, unlike in ADM's published preprocessing, and converted to RGB or grey: CMYK,
    palettes and 16 bits are understood, alpha is dropped.

    Args:
        name: the source's name.
        labels: `[N]` integers.
        class_names: one name for each class.
        image_size: height and width of the delivered images, in pixels.
        channels: 3 for RGB, 1 for grey.

    Raises:
        InputError: `image_size` or `channels` is out of range. Reading an image that is damaged raises one, too, that
            says which.
    """

    def __init__(
        self, name: str, labels: NDArray, class_names: tuple[str, ...], image_size: int, channels: int
    ) -> None:
        check_size(image_size, channels)
        self.name = name
        self.labels: NDArray[np.int32] = labels.astype(np.int32)
        self.class_names = class_names
        self.num_classes = len(class_names)
        self.shape: tuple[int, int, int] = (image_size, image_size, channels)

    @abc.abstractmethod
    def encoded(self, indices: Indices) -> Iterable[tuple[str, Path | bytes]]:
        """Yields for each image what an error calls it, and its file or its bytes."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int, /) -> tuple[NDArray[np.float32], int]:
        images, labels = self.__getitems__([range(len(self))[index]])
        return images[0], int(labels[0])

    def __getitems__(self, indices: Indices, /) -> LabelledImages:
        images, labels = self.read(indices, np.zeros(len(indices), bool), None)
        return to_float(images), labels

    def read(self, indices: Indices, mirrored: NDArray[np.bool_], crop_seeds: Sequence[Seed] | None) -> Records:
        """Images uint8 and labels; the whole images are mirrored and cropped, as `read_records` says."""
        images, size = np.empty((len(indices), *self.shape), np.uint8), self.shape[0]
        for row, (name, data) in enumerate(self.encoded(indices)):
            pixels = decode(name, data, self.shape[2])
            square = centre_crop(pixels, size) if crop_seeds is None else random_crop(pixels, size, crop_seeds[row])
            images[row] = (square[:, ::-1] if mirrored[row] else square).reshape(self.shape)
        return images, self.labels[np.asarray(indices, dtype=np.int64)]


def check_size(image_size: int, channels: int) -> None:
    """Raises `InputError` unless images of so many pixels a side and so many channels can be delivered."""
    if image_size <= 0:
        raise InputError(f"image_size={image_size} must be positive")
    if channels not in (1, 3):
        raise InputError(f"channels={channels} must be 1 (grey) or 3 (RGB)")


def decode(name: str, data: Path | bytes, channels: int) -> NDArray[np.uint8]:
    """The pixels of an encoded image, `[H, W, 3]`, or `[H, W]` for one channel.

    Args:
        name: what to call it in an error.
        data: its file or its bytes.
        channels: 3 for RGB, 1 for grey.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as opened:
            if max(opened.size) > LONGEST_RATIO * min(opened.size):
                raise InputError(f"it is a strip of {opened.width}x{opened.height} pixels")
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I;16"):  # convert() would clip 16-bit levels at 255
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            elif image.mode in ("I", "F"):
                raise InputError(f"32-bit images (mode {image.mode}) have no fixed range, use 8 or 16 bits")
            return np.asarray(image.convert("RGB" if channels == 3 else "L"))
    # Pillow raises SyntaxError and ValueError, too, on damaged files.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = one_line(error)
        raise InputError(f"cannot read the image {name}: {reason}; repair or remove it") from error
