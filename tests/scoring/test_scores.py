"""All metrics of some images: what real digits score, which failure shows in which score, and when one is left out."""

import numpy as np
import pytest

from drifting.data.sources.digits import digits
from drifting.scoring.metrics import METRICS, ImageSet, Metric, Score, compared_scores, known_scores, rank, ranked_by
from drifting.scoring.metrics.frechet import frechet_distance
from drifting.scoring.metrics.precision_recall import f1, precision_recall
from drifting.scoring.scores import beside_heldout, scores_of

Images = tuple[np.ndarray, np.ndarray]

NAMES = ("class_accuracy", "frechet_distance", "precision", "recall", "f1", "kid", "kid_std", "density", "coverage")


def side(images: np.ndarray, labels: np.ndarray) -> ImageSet:
    return ImageSet({"features": images.reshape(len(images), -1)}, labels=labels)


def pixel_scores(images: np.ndarray, labels: np.ndarray, train: Images, heldout: Images) -> dict[str, float]:
    """Scores of images against the training images, beside those of held-out ones."""
    scores = (scores_of(side(*train), side(*some), 3, "digits") for some in ((images, labels), heldout))
    return beside_heldout(*scores)


@pytest.fixture(scope="module")
def train() -> Images:
    return digits("train").__getitems__(range(1400))


@pytest.fixture(scope="module")
def heldout() -> Images:
    return digits("heldout").__getitems__(range(397))


@pytest.fixture(scope="module")
def noisy(train: Images, heldout: Images) -> dict[str, float]:
    images = train[0][:300] + np.random.default_rng(0).normal(size=(300, 8, 8, 1)).astype(np.float32) * 0.5
    return pixel_scores(images, train[1][:300], train, heldout)


def test_held_out_digits_are_classified_and_close_to_the_training_digits(
    noisy: dict[str, float], train: Images, heldout: Images
) -> None:
    assert noisy.keys() == {*NAMES, *(f"{name}_heldout" for name in NAMES), "frechet_ratio", "num"}
    assert noisy["num"] == 300
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
    scores = pixel_scores(images[few], (labels[few] + 1) % 10, train, heldout)
    assert scores["recall"] < 0.5 < scores["precision"]
    assert scores["frechet_ratio"] > 5 and scores["class_accuracy"] < 0.05
    assert scores["class_accuracy_heldout"] > 0.98


def test_the_training_images_themselves_score_perfectly(train: Images) -> None:
    part = train[0][:200], train[1][:200]
    scores = pixel_scores(*part, part, part)
    assert scores["class_accuracy"] > 0.99 and scores["precision"] == scores["recall"] == scores["f1"] == 1
    assert scores["frechet_distance"] < 1e-9


def test_refuses_bad_input(train: Images, heldout: Images) -> None:
    bad = heldout[0].copy()
    bad[3, 2, 1] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        pixel_scores(bad, heldout[1], train, heldout)
    with pytest.raises(ValueError, match="shapes"):
        pixel_scores(heldout[0][:5, :4], heldout[1][:5], train, heldout)
    with pytest.raises(ValueError, match=r"rows have shapes .*: give \[N, D\] with one N"):
        ImageSet({"features": np.zeros((4, 2)), "spatial": np.zeros((5, 2))})
    with pytest.raises(ValueError, match=r"labels have shape \(3,\): give one for each of 4 images"):
        ImageSet({"features": np.zeros((4, 2))}, labels=np.zeros(3, int))


# --- which metrics there are ------------------------------------------------------------------------------------------


def names_of(real: ImageSet, fake: ImageSet, k: int = 3) -> set[str]:
    return set(scores_of(real, fake, k, "x.npz")) - {"num"}


def test_each_metric_is_given_where_what_it_needs_is_there(caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    rows = {kind: rng.normal(size=(20, 4)) for kind in ("features", "spatial", "logits", "class_logits")}
    statistics = {kind: (np.zeros(4), np.eye(4)) for kind in ("features", "spatial")}
    near = {"precision", "recall", "f1", "kid", "kid_std", "density", "coverage"}
    scored = {"inception_score", "inception_score_std"}
    fake = ImageSet(rows, encoder="inception")
    assert names_of(ImageSet({"features": rows["features"]}, statistics), fake) == {"fid", "sfid"} | scored | near
    assert caplog.messages == []
    only = {"features": statistics["features"]}
    assert names_of(ImageSet({}, only), fake) == {"fid"} | scored
    assert sorted(caplog.messages) == [
        "x.npz: holds no features: no precision and recall, KID, density and coverage",
        "x.npz: holds no statistics of spatial: no sFID",
    ]
    caplog.clear()
    # Kinds that the encoder has not, and classes that nobody knows, are nothing to be warned of.
    pixels = ImageSet({"features": rows["features"]}, encoder="pixels")
    assert names_of(pixels, pixels) == {"frechet_distance"} | near and caplog.messages == []
    few = ImageSet({kind: array[:5] for kind, array in rows.items()}, encoder="inception")
    assert names_of(ImageSet({"features": rows["features"]}, statistics), few, k=5) == {"fid", "sfid", "kid", "kid_std"}
    assert caplog.messages == [
        "x.npz: too few images, 5: no Inception Score, precision and recall, density and coverage"
    ]


def test_every_entry_says_what_it_gives() -> None:
    rng = np.random.default_rng(1)
    rows = {kind: rng.normal(size=(30, 4)) for kind in ("features", "spatial", "logits", "class_logits")}
    labels = np.arange(30) % 2
    statistics = {kind: (np.zeros(4), np.eye(4)) for kind in rows}
    real, fake = (
        ImageSet(rows, statistics, labels),
        ImageSet({kind: x + 0.1 for kind, x in rows.items()}, labels=labels),
    )
    names = [name for metric in METRICS.values() for name in metric.scores]
    assert len(names) == len(set(names))  # no two metrics give the same number
    counts = np.stack([np.ones(30, int), rng.multinomial(30, np.full(30, 1 / 30))])
    for metric in METRICS.values():
        assert metric.applies(real, fake) and metric.lacks(real, fake, 3) is None
        found = metric.compute(real, fake, 3)
        assert found and found.keys() <= metric.scores.keys()
        assert all(isinstance(value, float) for value in found.values())
        if metric.resample is not None:
            drawn = metric.resample(real, fake, counts, 3)
            assert {name: values[0] for name, values in drawn.items()} == pytest.approx(found, rel=1e-12)
            assert all(values.shape == (2,) for values in drawn.values())
    assert all(score.ratio in known_scores() for score in known_scores().values() if score.ratio)


def test_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """FID before all others; what is better high counts negatively."""
    assert ranked_by({"alpha": 1, "recall": 0.5, "fid": 3, "frechet_distance": 4}) == "fid"
    assert rank({"precision": 0.5, "frechet_distance": 4}) == 4 and rank({"recall": 0.25}) == -0.25
    assert "inception_score_std" not in compared_scores()
    with pytest.raises(ValueError, match="no score is known among alpha, inception_score_std"):
        ranked_by({"alpha": 1, "inception_score_std": 0.1})
    monkeypatch.setitem(METRICS, "toy", Metric("toy", {"toy": Score("Toy", "higher")}, lambda *_: {"toy": 1.0}))
    assert rank({"toy": 2.0}) == -2 and ranked_by({"toy": 2.0, "recall": 0.5}) == "recall"
