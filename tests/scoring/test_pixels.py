"""Scores of small images: what real digits score, and that each kind of failure shows in the score meant for it."""

import numpy as np
import pytest

from drifting.data.sources.digits import digits
from drifting.scoring.metrics.frechet import frechet_distance
from drifting.scoring.metrics.pixels import class_accuracy, pixel_scores
from drifting.scoring.metrics.precision_recall import f1, precision_recall

Images = tuple[np.ndarray, np.ndarray]

KEYS = {
    *("class_accuracy", "frechet_distance", "precision", "recall", "f1"),
    *("class_accuracy_heldout", "frechet_distance_heldout", "precision_heldout", "recall_heldout", "f1_heldout"),
    *("frechet_ratio", "n_generated"),
}


@pytest.fixture(scope="module")
def train() -> Images:
    return digits("train").__getitems__(range(1400))


@pytest.fixture(scope="module")
def heldout() -> Images:
    return digits("heldout").__getitems__(range(397))


@pytest.fixture(scope="module")
def noisy(train: Images, heldout: Images) -> dict[str, float]:
    images = train[0][:300] + np.random.default_rng(0).normal(size=(300, 8, 8, 1)).astype(np.float32) * 0.5
    return pixel_scores(images, train[1][:300], *train, *heldout)


def test_held_out_digits_are_classified_and_close_to_the_training_digits(
    noisy: dict[str, float], train: Images, heldout: Images
) -> None:
    assert noisy.keys() == KEYS and noisy["n_generated"] == 300
    assert noisy["class_accuracy_heldout"] > 0.98
    assert 0.28 < noisy["frechet_distance_heldout"] < 0.46  # over other random splits: 0.29 to 0.44
    assert noisy["precision_heldout"] == pytest.approx(0.90, abs=0.03)
    assert noisy["recall_heldout"] == pytest.approx(0.91, abs=0.03)


def test_scores_are_those_of_the_flattened_pixels(noisy: dict[str, float], train: Images, heldout: Images) -> None:
    x, y = (images.reshape(len(images), 64).astype(np.float64) for images in (train[0], heldout[0]))
    distance = frechet_distance(x.mean(axis=0), np.cov(x.T), y.mean(axis=0), np.cov(y.T))
    assert noisy["frechet_distance_heldout"] == pytest.approx(distance, rel=1e-9)
    assert noisy["frechet_ratio"] == pytest.approx(noisy["frechet_distance"] / distance)
    precision, recall = precision_recall(x, y, k=3)
    assert (noisy["precision_heldout"], noisy["recall_heldout"]) == (precision, recall)
    assert noisy["f1_heldout"] == pytest.approx(f1(precision, recall))


def test_noise_shows_in_precision_and_distance(noisy: dict[str, float]) -> None:
    assert noisy["precision"] < 0.3 and noisy["frechet_ratio"] > 5
    assert noisy["f1"] == pytest.approx(f1(noisy["precision"], noisy["recall"]))


def test_a_missing_class_shows_in_recall_and_a_wrong_class_in_accuracy(train: Images, heldout: Images) -> None:
    images, labels = heldout
    few = labels < 3
    scores = pixel_scores(images[few], (labels[few] + 1) % 10, *train, *heldout)
    assert scores["recall"] < 0.5 < scores["precision"]
    assert scores["frechet_ratio"] > 5 and scores["class_accuracy"] < 0.05
    assert scores["class_accuracy_heldout"] > 0.98


def test_the_training_images_themselves_score_perfectly(train: Images) -> None:
    part = train[0][:200], train[1][:200]
    scores = pixel_scores(*part, *part, *part)
    assert scores["class_accuracy"] > 0.99 and scores["precision"] == scores["recall"] == scores["f1"] == 1
    assert scores["frechet_distance"] < 1e-9


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
        pixel_scores(bad, heldout[1], *train, *heldout)
    with pytest.raises(ValueError, match="at least two images"):
        pixel_scores(bad[:1], heldout[1][:1], *train, *heldout)
    with pytest.raises(ValueError, match="shapes"):
        pixel_scores(heldout[0][:5, :4], heldout[1][:5], *train, *heldout)
