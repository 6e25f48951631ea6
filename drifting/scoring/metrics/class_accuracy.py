"""The share of generated images that show the class they were asked for, as a classifier of real ones sees it.

That is a classifier which is trained on the features of the real images here, or the one that an encoder ends with.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from drifting.scoring.metrics.metric import ImageSet, Metric, Score, undrawn


def class_accuracy(train_images: ArrayLike, train_labels: ArrayLike, images: ArrayLike, labels: ArrayLike) -> float:
    """The fraction of `images` that a classifier of the training images puts in the class they were meant to be.

    The classifier is a support vector machine with an RBF kernel (C = 10, scikit-learn's scaled width); on pixels it is
    right on 98.7 % of the held-out digits. Training takes time quadratic in the training set: use it up to some 10,000
    images.

    Args:
        train_images: `[N, ...]`, pixels in [-1, 1] or features.
        train_labels: `[N]`.
        images: `[M, ...]`, shaped as the training images.
        labels: `[M]`.

    Raises:
        ValueError: a label is missing, the shapes do not fit, or a value is not finite.
    """
    return float(_right(train_images, train_labels, images, labels).mean())


def _right(train_images: ArrayLike, train_labels: ArrayLike, images: ArrayLike, labels: ArrayLike) -> NDArray[np.bool_]:
    """Whether each image is put in its class, `[M]`."""
    x, y = _flatten(train_images, "train_images"), np.asarray(train_labels)
    asked = np.asarray(labels)
    if len(np.unique(y)) == 1:  # nothing to tell apart, and SVC refuses it
        return np.asarray(asked == y[0])
    from sklearn.svm import SVC  # a second to load, which pages that show scores need not wait for

    return np.asarray(SVC(C=10.0).fit(x, y).predict(_flatten(images, "images")) == asked)


def _flatten(images: ArrayLike, what: str) -> NDArray[np.float64]:
    pixels = np.asarray(images, np.float64)
    if pixels.ndim < 2 or len(pixels) < 2:
        raise ValueError(f"{what} have shape {pixels.shape}: give at least two images, [N, ...]")
    if not np.isfinite(pixels).all():
        raise ValueError(f"{what} have a pixel that is not finite")
    return pixels.reshape(len(pixels), -1)


def _resample(real: ImageSet, fake: ImageSet, counts: NDArray[np.integer], _: int) -> Mapping[str, NDArray[np.float64]]:
    assert real.labels is not None and fake.labels is not None
    right = _right(real.array("features"), real.labels, fake.array("features"), fake.labels)
    return {"class_accuracy": counts @ right / counts.sum(axis=1)}


CLASS_ACCURACY = Metric(
    "class accuracy",
    {"class_accuracy": Score("Class accuracy", "higher")},
    undrawn(_resample),
    labels=True,
    resample=_resample,
)


def _classified(_: ImageSet, fake: ImageSet, counts: NDArray[np.integer], __: int) -> Mapping[str, NDArray[np.float64]]:
    assert fake.labels is not None
    right = np.argmax(fake.array("class_logits"), axis=1) == fake.labels
    return {"classifier_accuracy": counts @ right / counts.sum(axis=1)}


CLASSIFIER_ACCURACY = Metric(
    "classifier accuracy",
    {"classifier_accuracy": Score("Classifier accuracy", "higher")},
    undrawn(_classified),
    kinds=("class_logits",),
    real="nothing",
    labels=True,
    images=1,
    resample=_classified,
)
