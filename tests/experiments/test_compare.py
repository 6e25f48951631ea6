"""Comparisons: intervals against closed forms, the same images in both, and one page that needs nothing else."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from drifting.cli.commands import main
from drifting.data.sources.digits import digits
from drifting.errors import ArgumentError
from drifting.experiments.compare import compare_generators, comparison_table
from drifting.experiments.report.comparison import _setting_section
from drifting.sampling.generator import TrainedGenerator
from drifting.sampling.images import GeneratedImages
from drifting.scoring.evaluate import evaluate_generator, score
from drifting.scoring.image_sets import SourceImages
from drifting.scoring.intervals import Comparison, Interval, intervals
from drifting.scoring.metrics import ImageSet
from drifting.scoring.metrics.frechet import frechet_distance
from drifting.scoring.metrics.gaussian import moments
from drifting.scoring.metrics.precision_recall import precision_recall, resampled_precision_recall
from drifting.scoring.settings import ScoreSettings
from tests.scoring.test_evaluate import inception_like
from tests.support.runs import finished_run

RNG = np.random.default_rng(5)

REAL, FAKE = RNG.normal(size=(150, 3)), RNG.normal(size=(120, 3)) * 0.9 + 0.2


@pytest.fixture
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory)


def real() -> ImageSet:
    return ImageSet({"features": REAL}, {"features": (REAL.mean(axis=0), np.cov(REAL, rowvar=False))})


def compared(first: np.ndarray, second: np.ndarray, resamples: int) -> Comparison:
    """Two sets of features, image by image, against `REAL`."""
    sides = [ImageSet({"features": x}) for x in (first, second)]
    return intervals(sides, real(), neighbours=3, seed=0, name="real", resamples=resamples)


def test_resamples_of_precision_and_recall():
    counts = np.stack([np.ones(120), *RNG.multinomial(120, np.full(120, 1 / 120), 3)])
    precision, recall = resampled_precision_recall(REAL, FAKE, counts, k=3, tile=40)
    assert (precision[0], recall[0]) == precision_recall(REAL, FAKE)
    distance = np.linalg.norm(REAL[:, None] - FAKE, axis=2)
    radii = [np.sort(np.linalg.norm(x[:, None] - x, axis=2), axis=1)[:, 3] for x in (REAL, FAKE)]
    for row in range(1, 4):
        drawn = np.repeat(np.arange(120), counts[row].astype(int))
        inside = (distance <= radii[0][:, None]).any(axis=0)[drawn]
        covered = (distance <= radii[1])[:, drawn].any(axis=1)
        assert (precision[row], recall[row]) == pytest.approx((inside.mean(), covered.mean()))
    with pytest.raises(ValueError, match=r"counts have shape \(2, 3\): give \[S, 120\]"):
        resampled_precision_recall(REAL, FAKE, np.ones((2, 3)))


def test_weighted_moments_are_those_of_repeated_rows():
    counts = RNG.integers(0, 4, 120)
    rows = np.repeat(FAKE, counts, axis=0)
    mean, covariance = moments(FAKE, counts)
    np.testing.assert_allclose(mean, rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(rows, rowvar=False), rtol=1e-12)


def test_intervals():
    other = FAKE * 1.5
    found = compared(FAKE, other, 400)
    first, second, difference = found.scores["frechet_distance"]
    expected = frechet_distance(*real().statistics["features"], FAKE.mean(axis=0), np.cov(FAKE, rowvar=False))
    assert first.value == pytest.approx(expected) and difference.value == pytest.approx(first.value - second.value)
    precision, recall = precision_recall(REAL, other)
    assert (found.scores["precision"][1].value, found.scores["recall"][1].value) == (precision, recall)
    # A share of independent images: its deviation is known.
    share = found.scores["precision"][1]
    assert share.half == pytest.approx(1.96 * np.sqrt(precision * (1 - precision) / 120), rel=0.15)
    # The same draws for both: what they have in common cancels.
    same = compared(FAKE, FAKE, 50).scores
    assert all((three[2].value, three[2].half) == (0, 0) for three in same.values())
    close = compared(FAKE, FAKE + 0.01, 100).scores["frechet_distance"]
    assert close[2].half < close[0].half / 4
    assert not same["recall"][2].excludes_zero and Interval(-2.0, 1.9).excludes_zero


def test_a_comparison_of_runs(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    other, out = tmp_path / "other", tmp_path / "new" / "page.html"
    shutil.copytree(run, other)
    config = (other / "config.json").read_text()
    (other / "config.json").write_text(config.replace('"clip_norm": 2.0', '"clip_norm": 1.5'))
    assert main(["compare", str(run), str(other), f"--out={out}", "--num=40", "--resamples=10", "--alpha=1.5"]) == 0
    printed, told = capsys.readouterr()
    assert re.search(r"^intervals 0/(\d+)\n(.*\n)*intervals \1/\1  ", told, re.MULTILINE) and "untrained" not in told
    assert "40 images each, 10 resamples" in printed and printed.splitlines()[-1] == str(out)
    assert re.search(r"frechet_distance .* 0\.0000 ± 0\.0000\n", printed)
    text = out.read_text(encoding="utf-8")
    assert text.count("data:image/png;base64,") == 2 and "optimizer.clip_norm" in text
    pictures = re.findall(r'src="(data:image/png[^"]*)"', text)
    assert pictures[0] == pictures[1]  # the same weights at the same seeds
    assert text.count('<li title="9"><span>9</span></li>') == 2 and "to the last digit" in text
    assert "the same</td>" in text and "0.0000 ± 0.0000" not in text and "within the interval" not in text
    assert [path.name for path in out.parent.iterdir()] == ["page.html"]


def test_settings_that_weights_came_with_are_compared(run: Path):
    """The page about a run and its own export says that nothing differs; of weights without settings it says so."""
    trained = TrainedGenerator.from_run(run)
    settings = json.loads((run / "config.json").read_text())
    exported = dataclasses.replace(trained, config=None, facts={"settings": settings | {"bank": {"push": 17}}})
    shown = _setting_section(["a", "b"], [trained, exported])
    assert "bank.push" in shown and "17" in shown and "loss.widths" not in shown.partition("<details>")[0]
    bare = dataclasses.replace(exported, facts={})
    assert "b came without the settings" in _setting_section(["a", "b"], [trained, bare])


def test_scores_are_those_of_evaluate(run: Path, tmp_path: Path):
    found = compare_generators(str(run), str(run), tmp_path / "page.html", num=50, resamples=2)
    trained, settings = TrainedGenerator.from_run(run), ScoreSettings(num=50)
    expected = evaluate_generator(trained, str(run), tmp_path / "scores.json", settings=settings)
    assert expected is not None
    for name, (first, second, _) in found.scores.items():
        assert first == second and first.value == pytest.approx(expected[0][name], rel=1e-6), name


def test_of_the_inception_network_and_by_the_runs_own_reference(run: Path, tmp_path: Path, monkeypatch):
    """ADM's reference, which the run's settings name, and whose images' features are taken."""
    monkeypatch.setattr("drifting.scoring.against_reference.score_encoder", lambda given, shape: inception_like(shape))
    monkeypatch.setattr("drifting.scoring.against_reference.known_widths", lambda given, shape: {})
    images = SourceImages(digits(), {}).part(range(200))
    x = images.reshape(200, 64) / 255
    statistics = dict(mu=x[:, :12].mean(0), sigma=np.cov(x[:, :12], rowvar=False))
    statistics |= dict(mu_s=x[:, 5:10].mean(0), sigma_s=np.cov(x[:, 5:10], rowvar=False))
    np.savez(tmp_path / "adm.npz", arr_0=images, **statistics)
    shutil.copytree(run, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["eval"] |= {"reference": str(tmp_path / "adm.npz"), "encoder": "inception"}
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    found = compare_generators(str(tmp_path / "run"), str(run), tmp_path / "page.html", num=30, resamples=3)
    trained, settings = TrainedGenerator.from_run(tmp_path / "run"), ScoreSettings(num=30)
    expected = evaluate_generator(trained, "run", tmp_path / "scores.json", settings=settings)
    assert expected is not None
    assert found.scores.keys() == {
        "fid",
        "sfid",
        "inception_score",
        "precision",
        "recall",
        "f1",
        "kid",
        "density",
        "coverage",
    }
    for name, (first, _, _) in found.scores.items():
        assert first.value == pytest.approx(expected[0][name], rel=1e-6), name
    assert found.scores["inception_score"][0].half > 0


def test_what_cannot_be_compared(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "new").mkdir()
    shutil.copy(run / "config.json", tmp_path / "new")
    for arguments, words in [
        ([], "compare: give two runs or weights, drifting compare A B"),
        ([str(run)], "compare: give two runs or weights"),
        ([str(run), str(run), "x"], "'x': is one argument too many"),
        ([str(run), str(tmp_path / "none")], f"error: B={tmp_path / 'none'}: there is no such folder"),
        ([str(tmp_path / "new"), str(run)], f"error: A={tmp_path / 'new'}: has no checkpoint yet"),
        ([str(run), str(run), "--num=3"], "--num=3: must exceed eval.neighbours=3"),
        ([str(run), str(run), "--reference=none.npz"], "--reference=none.npz: there is no such file"),
    ]:
        assert main(["compare", *arguments]) == 2
        assert words in capsys.readouterr().err


def test_the_table():
    found = compared(FAKE, FAKE * 3, 20)
    names = ["runs/" + "long" * 9 + "/a", "runs/" + "long" * 9 + "/b"]
    lines = comparison_table(found, names).splitlines()
    assert lines[0].split() == ["A", "B", "A", "-", "B"] and lines[1].endswith("*")
    assert lines[-2:] == [f"A: {names[0]}", f"B: {names[1]}"]


UNTRAINED = [(0.9999, 120, 99), (0.99, 60, 55), (0.99, 120, None), (0.0, 1, None), (None, None, None)]


@pytest.mark.parametrize(("decay", "step", "share"), UNTRAINED)
def test_an_average_that_is_hardly_trained_is_told_when_it_draws(
    decay: float | None, step: int | None, share: int | None, run: Path, caplog: pytest.LogCaptureFixture
):
    """After what is wrong with the arguments."""
    trained = dataclasses.replace(TrainedGenerator.from_run(run), ema_decay=decay, step=step)
    images = GeneratedImages(trained, np.zeros(16, int), source="x", alpha=1.0)
    with pytest.raises(ArgumentError, match=r"^num=3: must exceed eval\.neighbours=3$"):
        score(trained, num=3)
    assert not caplog.records
    images.tell()
    words = f"x: the average of decay {decay} after {step} steps holds {share} % of the untrained parameters: "
    found = [record.getMessage().partition("it draws")[0] for record in caplog.records]
    assert found == ([words] if share else [])
