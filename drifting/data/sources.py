"""Data sources: labelled images by index, and nothing else.

Every source delivers float32 images in [-1, 1], channels last. One convention: uint8 becomes x / 127.5 - 1, the
0..16 grey levels of the digits become x / 8 - 1, and float images are taken as they are.

A new source is one function (or class) that returns a `Source`, and one entry in `SOURCES`.
"""

import inspect
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from sklearn.datasets import load_digits

Indices = Sequence[int] | NDArray[np.integer]
Batch = tuple[NDArray[np.float32], NDArray[np.int32]]

SPLITS = ("train", "heldout")
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
DIGITS_HELDOUT = 397


class Source(Protocol):
    """A labelled image set that can be read at any index, from several threads at once."""

    @property
    def name(self) -> str:
        """The source's key in `SOURCES`."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape `(H, W, C)` of one image."""

    @property
    def num_classes(self) -> int:
        """Labels are 0 .. num_classes - 1."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name for each label."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[NDArray[np.float32], int]:
        """Image `[H, W, C]` float32 in [-1, 1], and its label."""

    def __getitems__(self, indices: Indices, /) -> Batch:
        """Images `[B, H, W, C]` float32 in [-1, 1], and labels `[B]` int32: the fast path for a batch."""


class LabelledSource(Source, Protocol):
    """A source whose labels are known without reading an image, as drawing by class needs. Every source here is one."""

    @property
    def labels(self) -> NDArray[np.int32]:
        """All labels, `[N]` int32."""


def to_float(images: NDArray) -> NDArray[np.float32]:
    """Images of any shape as float32: uint8 is mapped to [-1, 1] by x / 127.5 - 1, floats keep their values."""
    if images.dtype == np.uint8:
        return images.astype(np.float32) / np.float32(127.5) - np.float32(1)
    return images.astype(np.float32)


class ArraySource:
    """Images held in memory.

    Args:
        name: The source's name.
        images: `[N, H, W, C]`, uint8 or float32 in [-1, 1]; kept in that dtype, delivered as float32.
        labels: `[N]` integers.
        class_names: One name for each class.
    """

    def __init__(self, name: str, images: NDArray, labels: NDArray, class_names: tuple[str, ...]) -> None:
        self.name = name
        self.labels: NDArray[np.int32] = labels.astype(np.int32)
        self.class_names = class_names
        self.num_classes = len(class_names)
        self.shape: tuple[int, int, int] = (images.shape[1], images.shape[2], images.shape[3])
        self._images = images

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int, /) -> tuple[NDArray[np.float32], int]:
        return to_float(self._images[index]), int(self.labels[index])

    def __getitems__(self, indices: Indices, /) -> Batch:
        rows = np.asarray(indices, dtype=np.int64)
        return to_float(self._images[rows]), self.labels[rows]


def digits(split: str = "train") -> ArraySource:
    """scikit-learn's scanned digits: 8x8x1, ten classes, grey levels 0..16 delivered as x / 8 - 1. Needs no download.

    The 1,797 images are split once and for all into 1,400 for training and 397 held out (38 to 41 of each class).

    Raises:
        ValueError: `split` is not one of `SPLITS`.
    """
    _check_split(split)
    data = load_digits()
    labels = data.target
    # RandomState, because its stream is frozen: the split is the same under every version of NumPy.
    shuffled = np.random.RandomState(0).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    # Evenly spaced ranks of a list sorted by class: stratified to within one image, and exactly 397 in all.
    quota = np.arange(len(labels) + 1) * DIGITS_HELDOUT // len(labels)
    heldout = np.diff(quota) > 0
    rows = np.sort(by_class[heldout if split == "heldout" else ~heldout])
    images = (data.images[rows, :, :, None] / 8 - 1).astype(np.float32)
    return ArraySource("digits", images, labels[rows], tuple(str(c) for c in range(10)))


def array(path: str | Path, split: str = "train") -> ArraySource:
    """A user's own `.npz` file, read into memory once.

    Keys: `image`, `[N, H, W, C]` or `[N, H, W]`, uint8 or float in [-1, 1], and `label`, `[N]` integers numbered from
    0 without gaps. Optionally `image_heldout` and `label_heldout`, the same for the held-out split.

    Raises:
        ValueError: The file is missing or not an `.npz`, a key is missing, or an array is not as described.
    """
    _check_split(split)
    suffix = "_heldout" if split == "heldout" else ""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {k: archive[k] for k in (f"image{suffix}", f"label{suffix}", "label") if k in archive.files}
    # TypeError: a bare .npy loads as an array, which is no context manager.
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        # NumPy takes a file it does not know for a pickle and advises to allow that.
        reason = "it is something else, or holds pickled objects" if "pickle" in str(error).lower() else error
        raise ValueError(f"path={str(path)!r} cannot be read as an .npz file of plain arrays: {reason}") from error
    for key in (f"image{suffix}", f"label{suffix}", "label"):
        if key not in arrays:
            raise ValueError(f"path={str(path)!r} has no key {key!r}, which split={split!r} needs: add it")
    train_labels = _check_labels(arrays["label"], f"{path}: label")
    classes = np.unique(train_labels)
    if len(classes) != train_labels.max() + 1:
        raise ValueError(
            f"{path}: label has {len(classes)} classes but values up to {train_labels.max()}: "
            "number the classes 0, 1, ... without gaps"
        )
    images = _check_images(arrays[f"image{suffix}"], f"{path}: image{suffix}")
    labels = _check_labels(arrays[f"label{suffix}"], f"{path}: label{suffix}")
    if len(images) != len(labels):
        raise ValueError(f"{path}: split={split!r} has {len(images)} images but {len(labels)} labels: give one each")
    if labels.max() >= len(classes):
        raise ValueError(f"{path}: label{suffix} has class {labels.max()}, which no training image has: remove it")
    return ArraySource("array", images, labels, tuple(str(c) for c in classes))


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is unknown: use one of {', '.join(SPLITS)}")


def _check_labels(labels: NDArray, what: str) -> NDArray:
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or len(labels) == 0:
        raise ValueError(f"{what} has shape {labels.shape} and dtype {labels.dtype}: give one integer per image, [N]")
    if labels.min() < 0:
        raise ValueError(f"{what} has the value {labels.min()}: number the classes from 0")
    return labels


def _check_images(images: NDArray, what: str) -> NDArray:
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(f"{what} has shape {images.shape}: give [N, H, W, C] or [N, H, W], none of them 0")
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.floating):
        raise ValueError(f"{what} has dtype {images.dtype}: give uint8, or float in [-1, 1]")
    low, high = images.min(), images.max()
    if not (low >= -1 and high <= 1):  # written so that NaN fails too
        raise ValueError(f"{what} is float with values from {low} to {high}: rescale to [-1, 1], or give uint8")
    return images.astype(np.float32)


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
    _check_split(split)
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


SOURCES: dict[str, Callable[..., LabelledSource]] = {"digits": digits, "array": array, "imagefolder": imagefolder}


def make_source(
    name: str,
    *,
    split: str = "train",
    path: str | Path | None = None,
    image_size: int | None = None,
    channels: int | None = None,
) -> LabelledSource:
    """Build the source `SOURCES[name]`; arguments left at None are not passed on.

    Raises:
        ValueError: `name` is unknown, the source needs an argument that is None or takes none of that name, or the
            source itself refuses its arguments.
    """
    if name not in SOURCES:
        raise ValueError(f"source name={name!r} is unknown: use one of {', '.join(SOURCES)}")
    given = {"path": path, "image_size": image_size, "channels": channels}
    parameters = inspect.signature(SOURCES[name]).parameters
    for key, value in given.items():
        if value is None and key in parameters and parameters[key].default is inspect.Parameter.empty:
            raise ValueError(f"source {name!r} needs {key}: give it")
        if value is not None and key not in parameters:
            raise ValueError(f"source {name!r} takes no {key} (got {value!r}): leave it None")
    return SOURCES[name](split=split, **{key: value for key, value in given.items() if value is not None})
