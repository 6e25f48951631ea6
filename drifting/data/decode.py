"""Images that are kept encoded, as files or as records, and decoded when they are read."""

import abc
import errno
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from drifting.data.crop import Seed, centre_crop, random_crop
from drifting.data.source import Delivery, Indices, LabelledImages, Records, reading_configured, to_float
from drifting.errors import InputError, one_line

LONGEST_RATIO = 50
"""Ratio of an image's sides from which on it is no picture: of a strip 2 pixels wide, resized before it is cropped, a
square of 256 would cost gigabytes."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What shows an image upright, by the value of its EXIF tag; angles are counter-clockwise."""

ImageShape = tuple[int, int, int]
"""Height and width in pixels, and channels."""


class EncodedSource(abc.ABC):
    """Images of various sizes in the formats that Pillow reads; delivered in one shape (`crop.py`).

    They are decoded by `decode`: turned as their EXIF tag says, unlike in ADM's published preprocessing, and converted
    to RGB or grey. CMYK, palettes and 16 bits are understood, alpha is dropped.

    Args:
        name: the source's name.
        labels: `[N]` integers.
        class_names: one name for each class.
        shape: of the delivered images, see `delivered_shape`.

    Reading an image that is damaged raises an `InputError` that says which, and where `configured_path` is the setting
    `data.path` that the source is of, begins with that.
    """

    configured_path: str | None = None

    def __init__(self, name: str, labels: NDArray, class_names: tuple[str, ...], shape: ImageShape) -> None:
        self.name = name
        self.labels: NDArray[np.int32] = labels.astype(np.int32)
        self.class_names = class_names
        self.num_classes = len(class_names)
        self.shape = shape
        self.delivers = Delivery(self.shape, "uint8")

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
        with reading_configured(self.configured_path):
            return self._pictures(indices, mirrored, crop_seeds), self.labels[np.asarray(indices, dtype=np.int64)]

    def _pictures(
        self, indices: Indices, mirrored: NDArray[np.bool_], crop_seeds: Sequence[Seed] | None
    ) -> NDArray[np.uint8]:
        images = np.empty((len(indices), *self.shape), np.uint8)
        height, width, channels = self.shape
        for row, (name, data) in enumerate(self.encoded(indices)):
            pixels = decode(name, data, channels)
            if crop_seeds is None:
                part = centre_crop(pixels, height, width)
            else:
                part = random_crop(pixels, height, width, crop_seeds[row])
            images[row] = (part[:, ::-1] if mirrored[row] else part).reshape(self.shape)
        return images


def delivered_shape(image_size: int, image_width: int | None, channels: int) -> ImageShape:
    """The shape of delivered images: squares of `image_size` pixels, or so high and `image_width` pixels wide.

    Raises:
        InputError: a side is not positive, or there are neither 1 nor 3 channels.
    """
    for key, side in (("image_size", image_size), ("image_width", image_width)):
        if side is not None and side <= 0:
            raise InputError(f"{key}={side} must be positive")
    if channels not in (1, 3):
        raise InputError(f"channels={channels} must be 1 (grey) or 3 (RGB)")
    return image_size, image_width or image_size, channels


def decode(name: str, data: Path | bytes, channels: int) -> NDArray[np.uint8]:
    """The pixels of an encoded image, `[H, W, 3]`, or `[H, W]` for one channel. All images are read here.

    Of several frames or pages it is the first. The image is turned as its EXIF tag says where that can be read,
    whatever else is wrong with its EXIF.

    Args:
        name: what to call it in an error.
        data: its file or its bytes.
        channels: 3 for RGB, 1 for grey.

    Raises:
        InputError: it cannot be read, whatever Pillow raises. The message has the name.
    """
    with _opened(name, data) as image:
        image.load()
        turn = _turn(image)
        image.info.pop("transparency", None)  # alpha is dropped, and Pillow warns of some kinds of it
        if _has_16_bits(image):  # convert() would clip their levels at 255
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        elif image.mode in ("I", "F"):
            raise InputError(f"32-bit images (mode {image.mode}) have no fixed range, use 8 or 16 bits")
        image = image.convert("L" if channels == 1 else "RGB")
        return np.asarray(image if turn is None else image.transpose(turn))


def is_grey(name: str, data: Path | bytes) -> bool:
    """Whether an encoded image has no colours; only its header is read.

    Raises:
        InputError: it cannot be read.
    """
    with _opened(name, data) as image:
        if image.mode in ("P", "PA"):
            colours = np.asarray(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
            return bool((colours == colours[:, :1]).all())
        return image.mode in ("1", "L", "LA", "La", "I", "F") or image.mode.startswith("I;16")


@contextmanager
def _opened(name: str, data: Path | bytes) -> Iterator[Image.Image]:
    """An opened image; what is raised while it is used becomes an `InputError` that names it."""
    try:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as image:
            if max(image.size) > LONGEST_RATIO * min(image.size):
                raise InputError(f"it is a strip of {image.width}x{image.height} pixels")
            yield image
    except Exception as error:  # Pillow raises errors of any kind on damaged files
        known = isinstance(error, OSError | ValueError)
        reason = one_line(error if known else f"{type(error).__name__}: {error}").rstrip(": ")
        reason = re.sub(r" ?'?<[^<>]* at 0x[0-9a-f]+>'?", "", reason)  # where in memory its bytes are
        if isinstance(error, UnidentifiedImageError):  # whose words are the name once more
            empty = not (data if isinstance(data, bytes) else data.stat().st_size)
            reason = "it is empty" if empty else "it is no image of a format that Pillow knows"
        remedy = "repair or remove it"
        if isinstance(error, MemoryError):
            remedy = "free some memory"
        elif isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.ELOOP):
            remedy = "it is a link to nothing, or was removed meanwhile: put it back, or remove the link"
        elif isinstance(error, OSError) and error.errno is not None:
            remedy = "make it readable"
        raise InputError(f"cannot read the image {name}: {reason}; {remedy}") from error


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What shows the image upright; None: nothing needs to be done, or its EXIF cannot be read."""
    try:
        return TURNS.get(image.getexif()[ExifTags.Base.Orientation])
    except Exception:  # Pillow raises any kind, as above; pixels do not depend on it
        return None


def _has_16_bits(image: Image.Image) -> bool:
    """Whether levels go to 65,535. Pillow gives those of PGM and PNG files as 32-bit integers."""
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PPM", "PNG"))
