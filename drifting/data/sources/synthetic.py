"""Made-up images of any size: a machine or a configuration can be tried out without data."""

import numpy as np
from numpy.typing import NDArray

from drifting.data.source import Indices, LabelledImages, check_split
from drifting.errors import InputError

SYNTHETIC_PER_CLASS = 256


class SyntheticSource:
    """Smooth random patterns, one for each class, with noise: see `synthetic`."""

    name = "synthetic"

    def __init__(self, size: int, channels: int, classes: int, offset: int) -> None:
        self.shape: tuple[int, int, int] = (size, size, channels)
        self.num_classes = classes
        self.class_names = tuple(str(c) for c in range(classes))
        self.labels: NDArray[np.int32] = np.tile(np.arange(classes, dtype=np.int32), SYNTHETIC_PER_CLASS)
        self._offset = offset

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int, /) -> tuple[NDArray[np.float32], int]:
        size, _, channels = self.shape
        index = range(len(self))[index]
        label = int(self.labels[index])
        corners = np.random.default_rng([label]).uniform(-0.7, 0.7, (2, 2, channels))
        across = np.linspace(0, 1, size)[:, None]
        weights = np.concatenate([1 - across, across], axis=1)
        pattern = np.einsum("ha,wb,abc->hwc", weights, weights, corners)
        noise = np.random.default_rng([self._offset + index, 1]).uniform(-0.3, 0.3, self.shape)
        return (pattern + noise).astype(np.float32), label

    def __getitems__(self, indices: Indices, /) -> LabelledImages:
        images = np.empty((len(indices), *self.shape), np.float32)
        for row, index in enumerate(indices):
            images[row] = self[int(index)][0]
        return images, self.labels[np.asarray(indices, dtype=np.int64)]


def synthetic(image_size: int, split: str = "train", channels: int = 3, classes: int = 10) -> SyntheticSource:
    """Made-up images of any size, for trying out a machine or a configuration without data.

    An image is its class's colour gradient and noise, a function of its index alone. There are `SYNTHETIC_PER_CLASS` of
    each class.

    Args:
        image_size: height and width, in pixels.
        split: `train` or `heldout`, which differ in the noise.
        channels, classes: how many channels and classes there are.

    Raises:
        InputError: an argument is out of range.
    """
    check_split(split)
    for key, value in dict(image_size=image_size, channels=channels, classes=classes).items():
        if value <= 0:
            raise InputError(f"{key}={value} must be positive")
    return SyntheticSource(image_size, channels, classes, 0 if split == "train" else classes * SYNTHETIC_PER_CLASS)
