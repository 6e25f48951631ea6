"""Evaluation of a run: which images are scored against what, and what is written."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from drifting.config import ConfigError
from drifting.data.sources import digits
from drifting.evaluate.pixels import pixel_scores
from drifting.sample import balanced_labels, draw
from drifting.scores import evaluate, score_table
from drifting.trained import TrainedGenerator
from tests.runs import finished_run

PAIRS = ("class_accuracy", "frechet_distance", "precision", "recall", "f1")


@pytest.fixture
def run(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Path:
    """A copy of the finished run, which evaluation may write to."""
    shutil.copytree(finished_run(tmp_path_factory), tmp_path / "run")
    return tmp_path / "run"


def test_scores(run: Path):
    scores = evaluate(run, alpha=1.5, ema_decay=0.99)
    assert json.loads((run / "eval.json").read_text()) == scores
    assert not list(run.glob(".*"))  # written in one piece
    wanted = {*PAIRS, *(f"{name}_heldout" for name in PAIRS), "frechet_ratio", "n_generated"}
    assert set(scores) == wanted | {"step", "alpha", "seed", "ema_decay", "data"}
    facts = {"n_generated": 40, "step": 120, "alpha": 1.5, "seed": 0, "ema_decay": 0.99, "data": "digits"}
    assert {name: scores[name] for name in facts} == facts

    labels = balanced_labels(40, 10)
    images = draw(TrainedGenerator.from_run(run, 0.99), labels, seed=0, alpha=1.5, batch_size=40).clip(-1, 1)
    train, heldout = ([*source.__getitems__(np.arange(len(source)))] for source in (digits(), digits("heldout")))
    expected = pixel_scores(images, labels, *train, *heldout, 3)
    for name, value in expected.items():
        assert scores[name] == pytest.approx(value, rel=1e-4), name
    # The held-out digits are real: the figures of the task they were chosen for.
    assert scores["class_accuracy_heldout"] > 0.98 and scores["precision_heldout"] > 0.85

    table = score_table(scores)
    for name in PAIRS:
        assert f"{scores[name]:.4f}" in table and f"{scores[name + '_heldout']:.4f}" in table
    assert table.splitlines()[-1] == "40 images, alpha 1.5, step 120"


def test_what_cannot_be_scored(run: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"^--num=3: must exceed eval\.neighbours=3$"):
        evaluate(run, num_samples=3)
    with pytest.raises(ConfigError, match=r"^--ema="):
        evaluate(run, ema_decay=0.5)
    settings = json.loads((run / "config.json").read_text())
    images, labels = digits().__getitems__(np.arange(1400))
    for name, arrays, words in [
        ("bare", dict(image=images, label=labels), r"has no key 'image_heldout'"),
        ("other", dict(image=images[1:], label=labels[1:]), r"has no key 'image_heldout'"),
        (
            "whole",
            dict(image=images[1:], label=labels[1:], image_heldout=images[:1], label_heldout=labels[:1]),
            r"data, samples, checksum are not what .* was trained with",
        ),
    ]:
        np.savez(tmp_path / f"{name}.npz", **arrays)
        settings["data"] |= {"name": "array", "path": str(tmp_path / f"{name}.npz")}
        (run / "config.json").write_text(json.dumps(settings))
        with pytest.raises(ConfigError, match=rf"^data\.name='array': .*{words}"):
            evaluate(run)
    assert not (run / "eval.json").exists()
