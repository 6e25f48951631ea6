"""What a source is: a labelled image set that can be read at any index."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from drifting.config.arguments import checked_arguments
from drifting.data.crop import Seed, random_crops
from drifting.data.npz import check_axes, check_range
from drifting.errors import DriftingError, InputError, counted, one_line, unusable

Indices = Sequence[int] | NDArray[np.integer]

LabelledImages = tuple[NDArray[np.float32], NDArray[np.int32]]

Records = tuple[NDArray, NDArray[np.int32]]

SPLITS = ("train", "heldout")


@dataclass(frozen=True)
class Delivery:
    """What `read_records` of a source delivers for each index.

    Attributes:
        shape: the shape of one array.
        dtype: the dtype of the arrays; images are `uint8`, or `float32` in [-1, 1].
        vae: None where these are images. Otherwise they are moments of latents, mean and log-variance along the last
            axis, and this is a reference to the VAE that encoded them; '' where nobody says which.
        vae_checksum: checksum of that VAE's weights; None: nobody says.
        mirrored: whether mirror images can be had. Those of images are made by turning them, those of moments are read.
        path: the folder they lie in, for messages; '' if there is none.
        vae_scale: how that VAE scales its latents, see `drifting.networks.autoencoder.scale_of`; None: not known.
        measured: `mean` and `std` of each channel of the latents, not scaled; None: they have not been measured.
    """

    shape: tuple[int, int, int]
    dtype: str = "float32"
    vae: str | None = None
    vae_checksum: str | None = None
    mirrored: bool = True
    path: str = ""
    vae_scale: Mapping[str, Any] | None = None
    measured: Mapping[str, Sequence[float]] | None = None

    @property
    def are_moments(self) -> bool:
        """Whether these are moments of latents rather than images."""
        return self.vae is not None


class Source(Protocol):
    """A labelled image set that can be read at any index, from several threads at once.

    A source that delivers anything but `float32` images says so by a further attribute, `delivers: Delivery`.
    """

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

    def __getitems__(self, indices: Indices, /) -> LabelledImages:
        """Images `[B, H, W, C]` float32 in [-1, 1], and labels `[B]` int32: the fast path for a batch."""


class LabelledSource(Source, Protocol):
    """A source whose labels are known without reading an image, as drawing by class needs. Every source here is one."""

    @property
    def labels(self) -> NDArray[np.int32]:
        """All labels, `[N]` int32."""


@runtime_checkable
class AugmentingSource(Source, Protocol):
    """A source that delivers its images as it keeps them, and mirrors and crops them itself."""

    def read(self, indices: Indices, mirrored: NDArray[np.bool_], crop_seeds: Sequence[Seed] | None) -> Records:
        """Reads as `read_records` says."""


@runtime_checkable
class VerifiableSource(Source, Protocol):
    """A source whose files can be compared with checksums, which reads all of them."""

    def verify(self) -> None:
        """Raises `ValueError`, one line, where they differ."""


def delivery(source: Source) -> Delivery:
    """What `read_records` of the source delivers."""
    found: Delivery = getattr(source, "delivers", None) or Delivery(source.shape)
    return found


@contextmanager
def reading_configured(path: str | None) -> Iterator[None]:
    """What cannot be read of a source that settings describe is said of its setting, `data.path`; None: of nothing."""
    try:
        yield
    except InputError as error:
        if path is None:
            raise
        raise InputError(unusable("data.path", path, error)) from error


def read_records(
    source: Source, indices: Indices, mirrored: NDArray[np.bool_], crop_seeds: Sequence[Seed] | None
) -> Records:
    """Augmented images `[B, H, W, C]` as training takes them, and labels `[B]` int32.

    They are uint8 or float32 in [-1, 1], or of a cache of latents float16 moments: what is smaller on the way to the
    device, and in a bank there, than numbers made of it. Sources that have a method `read` do it themselves; of the
    others the delivered images are cropped.

    Args:
        source: the source that delivers them.
        indices: the numbers `[B]` of the images.
        mirrored: `[B]`, which of them are mirrored left to right.
        crop_seeds: a seed for each random resized crop (`drifting.data.crop.random_box`); None: no random crops.

    Raises:
        InputError: the source cannot crop, or an image cannot be read.
    """
    if isinstance(source, AugmentingSource):
        return source.read(indices, mirrored, crop_seeds)
    images, labels = source.__getitems__(indices)
    return augmented(images, mirrored, crop_seeds), labels


def augmented(images: NDArray, mirrored: NDArray[np.bool_], crop_seeds: Sequence[Seed] | None) -> NDArray:
    """Images `[B, H, W, C]` uint8 or float32, cropped and mirrored as `read_records` says."""
    if crop_seeds is not None:
        images = random_crops(images, crop_seeds)
    if mirrored.any():
        images = np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
    return images


def to_float(images: NDArray) -> NDArray[np.float32]:
    """Images of any shape as float32: uint8 is mapped to [-1, 1] by x / 127.5 - 1, floats keep their values."""
    if images.dtype == np.uint8:
        return images.astype(np.float32) / np.float32(127.5) - np.float32(1)
    return images.astype(np.float32)


class ArraySource:
    """Images held in memory.

    Args:
        images: `[N, H, W, C]` or `[N, H, W]`, uint8, or float in [-1, 1]. They are kept and delivered in that dtype.
        labels: `[N]` integers from 0 on.
        class_names: a name for each class; None: their numbers.
        name: the source's name.
        called: what messages call the images.

    Raises:
        InputError: an array is not as described, or a label has no name.
    """

    @checked_arguments
    def __init__(
        self,
        images: NDArray,
        labels: NDArray,
        class_names: Sequence[str] | None = None,
        *,
        name: str = "array",
        called: str = "images",
    ) -> None:
        images, labels = checked_images(np.asarray(images), called), checked_labels(np.asarray(labels), "labels")
        if len(images) != len(labels):
            raise InputError(f"labels: are {len(labels)}, of {counted(len(images), 'image')}: give one for each")
        names = range(labels.max() + 1) if class_names is None else class_names
        known = tuple(map(str, names))
        if labels.max() >= len(known):
            raise InputError(f"labels: hold {labels.max()}, which is none of the {len(known)} class_names")
        self.name = name
        self.labels: NDArray[np.int32] = labels.astype(np.int32)
        self.class_names = known
        self.num_classes = len(known)
        self.shape: tuple[int, int, int] = (images.shape[1], images.shape[2], images.shape[3])
        self.delivers = Delivery(self.shape, str(images.dtype))
        self._images = images

    def __repr__(self) -> str:
        shape, classes = "x".join(map(str, self.shape)), counted(self.num_classes, "class")
        return f"<{self.name}: {counted(len(self), 'image')} of {shape}, {classes}>"

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int, /) -> tuple[NDArray[np.float32], int]:
        return to_float(self._images[index]), int(self.labels[index])

    def __getitems__(self, indices: Indices, /) -> LabelledImages:
        rows = np.asarray(indices, dtype=np.int64)
        return to_float(self._images[rows]), self.labels[rows]

    def read(self, indices: Indices, mirrored: NDArray[np.bool_], crop_seeds: Sequence[Seed] | None) -> Records:
        """Images in the dtype they are kept in, augmented, and labels."""
        rows = np.asarray(indices, dtype=np.int64)
        return augmented(self._images[rows], mirrored, crop_seeds), self.labels[rows]


class OneClass:
    """What another source delivers, without its labels: all is of the class `all`."""

    num_classes = 1
    class_names = ("all",)

    def __init__(self, source: LabelledSource) -> None:
        self.name, self.shape, self.delivers = source.name, source.shape, delivery(source)
        self.labels: NDArray[np.int32] = np.zeros(len(source), np.int32)
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int, /) -> tuple[NDArray[np.float32], int]:
        return self._source[index][0], 0

    def __getitems__(self, indices: Indices, /) -> LabelledImages:
        images, labels = self._source.__getitems__(indices)
        return images, np.zeros_like(labels)

    def read(self, indices: Indices, mirrored: NDArray[np.bool_], crop_seeds: Sequence[Seed] | None) -> Records:
        """The source's images, augmented by its own method where it has one."""
        images, labels = read_records(self._source, indices, mirrored, crop_seeds)
        return images, np.zeros_like(labels)


def check_split(split: str) -> None:
    """Raises `InputError` unless `split` is one of `SPLITS`."""
    if split not in SPLITS:
        raise InputError(f"split={split!r} is unknown: use one of {', '.join(SPLITS)}")


def checked_labels(labels: NDArray, what: str) -> NDArray:
    """The labels, if they are `[N]` integers from 0 on; `what` begins the error if they are not."""
    if labels.ndim and not len(labels):
        raise InputError(f"{what} is empty (shape {labels.shape}): give one integer per image, [N]")
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"{what} has shape {labels.shape} and dtype {labels.dtype}: give one integer per image, [N]")
    if labels.min() < 0:
        raise InputError(f"{what} has the value {labels.min()}: number the classes from 0")
    return labels


def checked_images(images: NDArray, what: str) -> NDArray:
    """Images `[N, H, W, C]` uint8 or float32 in [-1, 1]; `what` begins the error if they are something else."""
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim and not len(images):
        raise InputError(f"{what} is empty (shape {images.shape}): give at least one image")
    if images.ndim != 4 or 0 in images.shape:
        raise InputError(f"{what} has shape {images.shape}: give [N, H, W, C] or [N, H, W], none of them 0")
    check_axes(images.shape, what)
    if images.dtype == np.uint8:
        check_range(0, int(images.max()), images.dtype, what)
        return images
    low, high = _checked_range(images, what)
    check_range(low, high, images.dtype, what)
    return images.astype(np.float32)


def _checked_range(images: NDArray, what: str) -> tuple[float, float]:
    """The lowest and the highest value of images, if they are floats in [-1, 1]."""
    if not np.issubdtype(images.dtype, np.floating):
        raise InputError(f"{what} has dtype {images.dtype}: give uint8, or float in [-1, 1]")
    if not np.isfinite(low := images.min()) or not np.isfinite(high := images.max()):
        count = int(np.sum(~np.isfinite(images).all(axis=(1, 2, 3))))
        raise InputError(f"{what} holds NaN or infinite values, in {count} of {len(images)}: mend or remove those")
    if not (low >= -1 and high <= 1):
        raise InputError(f"{what} is float with values from {low} to {high}: rescale to [-1, 1], or give uint8")
    return float(low), float(high)


_MEMBERS = ("name", "shape", "num_classes", "class_names", "labels", "__len__", "__getitem__", "__getitems__")


def checked_source(source: Any) -> LabelledSource:
    """The source, if it has what a `LabelledSource` has, and its first and last image are what it says.

    Raises:
        InputError: something is missing, or does not fit the rest; or an image cannot be read.
    """
    if missing := [name for name in _MEMBERS if not hasattr(source, name)]:
        what = f"is a {type(source).__name__} without {', '.join(missing)}"
        raise InputError(f"{what}: give ArraySource(images, labels), or a source that has them")
    if not isinstance(source.name, str):
        raise InputError(f"name is {source.name!r}: give a text")
    shape = source.shape
    if not (isinstance(shape, tuple) and len(shape) == 3 and all(type(size) is int and size > 0 for size in shape)):
        raise InputError(f"shape is {shape!r}: give (height, width, channels) of an image, each 1 or more")
    classes, names = source.num_classes, source.class_names
    if type(classes) is not int or classes < 1:
        raise InputError(f"num_classes is {classes!r}: give a whole number, 1 or more")
    if not (isinstance(names, tuple | list) and all(isinstance(name, str) for name in names)):
        raise InputError(f"class_names is {names!r}: give a tuple of texts")
    if len(names) != classes:
        raise InputError(f"class_names has {counted(len(names), 'name')}, and num_classes is {classes}: name each once")
    if not isinstance(source.labels, np.ndarray):
        raise InputError(f"labels is a {type(source.labels).__name__}: give a NumPy array of integers, [N]")
    labels = checked_labels(source.labels, "labels")
    if len(labels) != len(source):
        raise InputError(f"labels are {len(labels)}, of {counted(len(source), 'image')}: give one for each")
    if labels.max() >= classes:
        raise InputError(f"labels go to {labels.max()}, and num_classes is {classes}: number the classes from 0")
    _check_delivered(source, np.array([0, len(labels) - 1]))
    found: LabelledSource = source
    return found


def _check_delivered(source: LabelledSource, indices: NDArray[np.integer]) -> None:
    """Raises `InputError` unless the records of these indices are what the source says of them."""
    numbers = " and ".join(map(str, indices))
    delivers = delivery(source)
    if not isinstance(delivers, Delivery):
        raise InputError(f"delivers is a {type(delivers).__name__}: give a Delivery")
    try:
        images, labels = read_records(source, indices, np.zeros(len(indices), bool), None)
        images, labels = np.asarray(images), np.asarray(labels)
    except DriftingError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise InputError(f"images and labels of {numbers} cannot be read ({reason})") from error
    if images.shape != (expected := (len(indices), *delivers.shape)):
        raise InputError(
            f"images {numbers} have shape {images.shape}, and are said to have {expected}: make them equal"
        )
    if images.dtype != delivers.dtype:
        remedy = f"deliver {delivers.dtype}, or set delivers=Delivery(shape, dtype)"
        raise InputError(f"images {numbers} have dtype {images.dtype}, and are said to have {delivers.dtype}: {remedy}")
    if images.dtype != np.uint8 and not delivers.are_moments:
        _checked_range(images, f"images {numbers}")
    if labels.shape != indices.shape or not np.array_equal(labels, source.labels[indices]):
        raise InputError(f"images {numbers} come with labels {labels.tolist()}, which are not those of `labels`")
