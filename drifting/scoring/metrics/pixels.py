"""Scores of small labelled images, taken on their pixels: no feature network, seconds on a CPU.

Pixels are used as the sources deliver them, flattened, in [-1, 1]. On that scale the Fréchet distance of the held-out
digits to the training digits is 0.35 (it goes with the square of the scale), precision and recall are 0.89 and 0.91.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.svm import SVC

from drifting.scoring.metrics.frechet import frechet_distance
from drifting.scoring.metrics.precision_recall import f1, precision_recall


def class_accuracy(train_images: ArrayLike, train_labels: ArrayLike, images: ArrayLike, labels: ArrayLike) -> float:
    """The fraction of `images` that a classifier of the training images puts in the class they were meant to be.

    The classifier is a support vector machine with an RBF kernel (C = 10, scikit-learn's scaled width); it is right on
    98.7 % of the held-out digits. Training takes time quadratic in the training set: use it up to some 10,000 images.

    Args:
        train_images: `[N, ...]`, in [-1, 1].
        train_labels: `[N]`.
        images: `[M, ...]`, shaped as the training images, in [-1, 1].
        labels: `[M]`.

    Raises:
        ValueError: A label is missing or the shapes do not fit.
    """
    x, y = _flatten(train_images, "train_images"), np.asarray(train_labels)
    if len(np.unique(y)) == 1:  # nothing to tell apart, and SVC refuses it
        return float((np.asarray(labels) == y[0]).mean())
    return float(SVC(C=10.0).fit(x, y).score(_flatten(images, "images"), np.asarray(labels)))


def pixel_scores(
    images: ArrayLike,
    labels: ArrayLike,
    train_images: ArrayLike,
    train_labels: ArrayLike,
    heldout_images: ArrayLike,
    heldout_labels: ArrayLike,
    k: int = 3,
) -> dict[str, float]:
    """All scores of generated images against the training images, beside those of real, held-out images.

    Keys: `class_accuracy frechet_distance precision recall f1`, each also with `_heldout` appended; `frechet_ratio`
    (generated over held-out: 1 is as close to the training set as new real images are), `n_generated`. Fréchet distance
    falls and recall rises with the number of images, so the two columns compare fairly when as many images are
    generated as are held out.

    Args:
        images, labels: Generated images `[M, ...]` in [-1, 1] and the classes `[M]` asked for.
        train_images, train_labels: Real images `[N, ...]` in [-1, 1] that the generator was trained on, and `[N]`.
        heldout_images, heldout_labels: Real images that it was not trained on.
        k: The neighbour that sets the radii of precision and recall.

    Raises:
        ValueError: Shapes do not fit, there are too few images for `k`, or a pixel is not finite.
    """
    train = _flatten(train_images, "train_images")
    scores: dict[str, float] = {}
    columns = {"": (images, labels), "_heldout": (heldout_images, heldout_labels)}
    for suffix, (column_images, column_labels) in columns.items():
        pixels = _flatten(column_images, f"images{suffix}")
        precision, recall = precision_recall(train, pixels, k)
        scores |= {
            f"class_accuracy{suffix}": class_accuracy(train, train_labels, pixels, column_labels),
            f"frechet_distance{suffix}": frechet_distance(*_gaussian(train), *_gaussian(pixels)),
            f"precision{suffix}": precision,
            f"recall{suffix}": recall,
            f"f1{suffix}": f1(precision, recall),
        }
    heldout_distance = scores["frechet_distance_heldout"]
    scores["frechet_ratio"] = scores["frechet_distance"] / heldout_distance if heldout_distance > 0 else float("inf")
    scores["n_generated"] = len(np.asarray(labels))
    return scores


def _flatten(images: ArrayLike, what: str) -> NDArray[np.float64]:
    pixels = np.asarray(images, np.float64)
    if pixels.ndim < 2 or len(pixels) < 2:
        raise ValueError(f"{what} have shape {pixels.shape}: give at least two images, [N, ...]")
    if not np.isfinite(pixels).all():
        raise ValueError(f"{what} have a pixel that is not finite")
    return pixels.reshape(len(pixels), -1)


def _gaussian(pixels: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return pixels.mean(axis=0), np.cov(pixels, rowvar=False)
