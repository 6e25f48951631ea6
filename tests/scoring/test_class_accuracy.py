"""Class accuracy: the fraction of labels met, whatever the shapes."""

import numpy as np
import pytest

from drifting.data.sources.digits import digits
from drifting.scoring.metrics import ImageSet
from drifting.scoring.metrics.class_accuracy import CLASSIFIER_ACCURACY, class_accuracy

Images = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def train() -> Images:
    return digits("train").__getitems__(range(1400))


@pytest.fixture(scope="module")
def heldout() -> Images:
    return digits("heldout").__getitems__(range(397))


def test_class_accuracy_is_the_fraction_of_labels_met(train: Images, heldout: Images) -> None:
    real = class_accuracy(*train, *heldout)
    labels = heldout[1].copy()
    wrong = np.arange(0, len(labels), 4)
    labels[wrong] = (labels[wrong] + 5) % 10
    assert class_accuracy(*train, heldout[0], labels) == pytest.approx(real * 0.75, abs=0.02)


def test_other_shapes_and_a_single_class() -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(40, 3, 5, 2)), np.arange(40) % 2
    images[labels == 1] += 2
    assert class_accuracy(images, labels, images[:10], labels[:10]) == 1
    assert class_accuracy(images, np.zeros(40), images[:4], np.array([0, 0, 0, 1])) == 0.75


def test_refuses_bad_input(train: Images, heldout: Images) -> None:
    bad = heldout[0].copy()
    bad[3, 2, 1] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        class_accuracy(*train, bad, heldout[1])
    with pytest.raises(ValueError, match="at least two images"):
        class_accuracy(*train, bad[:1], heldout[1][:1])


def test_an_encoders_own_classifier_needs_nothing_of_the_real_images() -> None:
    rng = np.random.default_rng(0)
    logits, real = rng.normal(size=(50, 4)).astype(np.float32), ImageSet({})
    asked = logits.argmax(axis=1)
    asked[:10] = (asked[:10] + 1) % 4
    fake = ImageSet({"features": logits, "class_logits": logits}, labels=asked)
    assert CLASSIFIER_ACCURACY.applies(real, fake) and CLASSIFIER_ACCURACY.lacks(real, fake, 3) is None
    assert CLASSIFIER_ACCURACY.compute(real, fake, 3) == {"classifier_accuracy": 0.8}
    drawn = np.stack([np.repeat([5, 0], [10, 40]), np.repeat([1, 1], [10, 40])])
    assert CLASSIFIER_ACCURACY.resample is not None
    np.testing.assert_allclose(CLASSIFIER_ACCURACY.resample(real, fake, drawn, 3)["classifier_accuracy"], [0, 0.8])
    for other in (ImageSet({"features": logits}, labels=asked), ImageSet({"class_logits": logits})):
        assert not CLASSIFIER_ACCURACY.applies(real, other)
