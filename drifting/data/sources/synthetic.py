"""Made-up images of any size: a machine or a configuration can be tried out without data."""

import numpy as np
from numpy.typing import NDArray

from drifting.data.decode import ImageShape
from drifting.data.source import Indices, LabelledImages, check_split
from drifting.errors import InputError

SYNTHETIC_PER_CLASS = 256


class SyntheticSource:
    """Smooth random patterns, one for each class, with noise: see `synthetic`."""

    name = "synthetic"

    def __init__(self, shape: ImageShape, classes: int, offset: int) -> None:
        self.shape = shape
        self.num_classes = classes
        self.class_names = tuple(str(c) for c in range(classes))
        self.labels: NDArray[np.int32] = np.tile(np.arange(classes, dtype=np.int32), SYNTHETIC_PER_CLASS)
        self._offset = offset

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int, /) -> tuple[NDArray[np.float32], int]:
        height, width, channels = self.shape
        index = range(len(self))[index]
        label = int(self.labels[index])
        corners = np.random.default_rng([label]).uniform(-0.7, 0.7, (2, 2, channels))
        pattern = np.einsum("ha,wb,abc->hwc", _across(height), _across(width), corners)
        noise = np.random.default_rng([self._offset + index, 1]).uniform(-0.3, 0.3, self.shape)
        return (pattern + noise).astype(np.float32), label

    def __getitems__(self, indices: Indices, /) -> LabelledImages:
        images = np.empty((len(indices), *self.shape), np.float32)
        for row, index in enumerate(indices):
            images[row] = self[int(index)][0]
        return images, self.labels[np.asarray(indices, dtype=np.int64)]


def _across(length: int) -> NDArray[np.float64]:
    """Weights `[length, 2]` of the two ends."""
    place = np.linspace(0, 1, length)[:, None]
    return np.concatenate([1 - place, place], axis=1)


def synthetic(
    image_size: int, split: str = "train", channels: int = 3, classes: int = 10, image_width: int | None = None
) -> SyntheticSource:
    """Made-up images of any size, for trying out a machine or a configuration without data.

    An image is its class's colour gradient and noise, a function of its index alone. There are `SYNTHETIC_PER_CLASS` of
    each class.

    Args:
        image_size: height, in pixels, and width but where `image_width` says another.
        split: `train` or `heldout`, which differ in the noise.
        channels, classes: how many channels and classes there are.
        image_width: see `image_size`.

    Raises:
        InputError: an argument is out of range.
    """
    check_split(split)
    given = dict(image_size=image_size, image_width=image_width, channels=channels, classes=classes)
    for key, value in given.items():
        if value is not None and value <= 0:
            raise InputError(f"{key}={value} must be positive")
    shape = (image_size, image_width or image_size, channels)
    return SyntheticSource(shape, classes, 0 if split == "train" else classes * SYNTHETIC_PER_CLASS)
