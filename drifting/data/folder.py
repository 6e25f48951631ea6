"""Images of a user's own in folders, one for each class, decoded when they are read."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from drifting.data.source import Batch, Indices, check_split, to_float

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})


class FolderSource:
    """Class folders of image files, decoded when they are read: see `imagefolder`."""

    name = "imagefolder"

    def __init__(self, files: Sequence[Path], labels: NDArray, class_names: tuple[str, ...], size: int, channels: int):
        self.labels: NDArray[np.int32] = labels.astype(np.int32)
        self.class_names = class_names
        self.num_classes = len(class_names)
        self.shape: tuple[int, int, int] = (size, size, channels)
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int, /) -> tuple[NDArray[np.float32], int]:
        return to_float(self._read(index)), int(self.labels[index])

    def __getitems__(self, indices: Indices, /) -> Batch:
        images = np.empty((len(indices), *self.shape), np.uint8)
        for row, index in enumerate(indices):
            images[row] = self._read(index)
        return to_float(images), self.labels[np.asarray(indices, dtype=np.int64)]

    def _read(self, index: int | np.integer) -> NDArray[np.uint8]:
        file = self._files[int(index)]
        try:
            with Image.open(file) as image:
                pixels = _decode(image, self.shape[2])
        # PIL raises SyntaxError and ValueError, too, on damaged files.
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(f"cannot read the image {file}: {error}; repair or remove it") from error
        return centre_crop(pixels, self.shape[0]).reshape(self.shape)


def imagefolder(path: str | Path, image_size: int, split: str = "train", channels: int = 3) -> FolderSource:
    """A folder with one sub-folder of images for each class; labels follow the sorted folder names.

    The layout is `path/CLASS/...` (training images only) or `path/train/CLASS/...` beside `path/heldout/CLASS/...` or
    `path/val/CLASS/...`. Images are turned as their EXIF tag says, converted to grey or RGB (alpha is dropped), and
    reduced to `image_size` squares by `centre_crop`. Names that begin with a dot are ignored.

    Args:
        path: The folder.
        image_size: Height and width of the delivered images, in pixels.
        split: `train` or `heldout`.
        channels: 3 for RGB, 1 for grey.

    Raises:
        ValueError: An argument is out of range, or the folder has no images, no classes or no such split. Reading an
            image that is damaged raises one, too, that names the file.
    """
    check_split(split)
    if image_size <= 0:
        raise ValueError(f"image_size={image_size} must be positive")
    if channels not in (1, 3):
        raise ValueError(f"channels={channels} must be 1 (grey) or 3 (RGB)")
    train, heldout = _split_folders(Path(path))
    class_names = tuple(f.name for f in _class_folders(train))
    if not class_names:
        raise ValueError(f"path={str(path)!r} has no class folders: expected {train}/CLASS/IMAGE")
    folder = train if split == "train" else heldout
    if folder is None:
        raise ValueError(f"path={str(path)!r} has no held-out images: add heldout/CLASS/ or val/CLASS/ beside train/")
    files: list[Path] = []
    labels: list[int] = []
    for class_folder in _class_folders(folder):
        if class_folder.name not in class_names:
            raise ValueError(f"{class_folder} is a class that {train} lacks: remove it or add training images")
        found = [f for f in sorted(class_folder.rglob("*")) if _is_image(f)]
        if not found:
            raise ValueError(
                f"{class_folder} holds no images: remove it or add some: {' '.join(sorted(IMAGE_SUFFIXES))}"
            )
        files += found
        labels += [class_names.index(class_folder.name)] * len(found)
    return FolderSource(files, np.asarray(labels), class_names, image_size, channels)


def centre_crop(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The central square of an image, resized to `[size, size, ...]` as ADM does (Dhariwal & Nichol 2021, section 4).

    The image `[H, W]` or `[H, W, C]` uint8 is halved with a box filter while its shorter side is at least twice `size`,
    then resized so that the shorter side is `size` (bicubic, up or down), then cropped.
    """
    image = Image.fromarray(pixels)
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.asarray(image)[top : top + size, left : left + size]


def _decode(image: Image.Image, channels: int) -> NDArray[np.uint8]:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # convert() would clip 16-bit levels at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"32-bit images (mode {image.mode}) have no fixed range, use 8 or 16 bits")
    return np.asarray(image.convert("RGB" if channels == 3 else "L"))


def _split_folders(path: Path) -> tuple[Path, Path | None]:
    if not path.is_dir():
        raise ValueError(f"path={str(path)!r} is not a folder: give one with a sub-folder of images for each class")
    heldout = next((path / name for name in ("heldout", "val") if (path / name).is_dir()), None)
    if (path / "train").is_dir():
        return path / "train", heldout
    if heldout is not None:
        raise ValueError(
            f"path={str(path)!r} has {heldout.name}/ but no train/, whose classes number the labels: add it"
        )
    return path, None


def _class_folders(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".") and file.is_file()
