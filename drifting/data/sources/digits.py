"""The 1,797 scanned digits that come with scikit-learn, as a source."""

from importlib.metadata import distribution

import numpy as np

from drifting.data.source import ArraySource, check_split

DIGITS_HELDOUT = 397


def digits(split: str = "train") -> ArraySource:
    """scikit-learn's scanned digits: 8x8x1, ten classes, grey levels 0..16 delivered as x / 8 - 1. Needs no download.

    The 1,797 images are split once and for all into 1,400 for training and 397 held out (38 to 41 of each class).

    Raises:
        InputError: `split` is not one of `SPLITS`.
    """
    check_split(split)
    # Read where it lies: to import scikit-learn takes a second of every start.
    table = np.loadtxt(
        str(distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")), delimiter=","
    )
    images, labels = table[:, :-1].reshape(-1, 8, 8, 1), table[:, -1].astype(np.int64)
    # RandomState, because its stream is frozen: the split is the same under every version of NumPy.
    shuffled = np.random.RandomState(0).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    # Evenly spaced ranks of a list sorted by class: stratified to within one image, and exactly 397 in all.
    quota = np.arange(len(labels) + 1) * DIGITS_HELDOUT // len(labels)
    heldout = np.diff(quota) > 0
    rows = np.sort(by_class[heldout if split == "heldout" else ~heldout])
    return ArraySource(
        (images[rows] / 8 - 1).astype(np.float32), labels[rows], tuple(str(c) for c in range(10)), name="digits"
    )
