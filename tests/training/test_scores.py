"""Scores in the course of a training: they are those of `drifting evaluate`, and the best state is a run of its own."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from drifting.errors import ConfigError
from drifting.sampling.generator import TrainedGenerator
from drifting.scoring import diagnosis
from drifting.scoring.evaluate import evaluate_generator
from drifting.scoring.settings import ScoreSettings
from drifting.studies import diagnose
from drifting.studies.settings import DiagnoseStudy
from drifting.training import loop
from drifting.training.course import Callbacks
from drifting.training.generator import train
from drifting.training.scores import TrainingEvaluator
from tests.cli.test_commands import line_of
from tests.support.runs import TINY, finished_run, metrics, tiny_config


@pytest.fixture
def run(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Path:
    shutil.copytree(finished_run(tmp_path_factory), tmp_path / "run")
    return tmp_path / "run"


def test_scores_are_those_of_evaluate_and_the_best_is_kept(run: Path):
    trained = TrainedGenerator.from_run(run)
    config = tiny_config(eval=dict(every=50, every_samples=20))

    def evaluator() -> TrainingEvaluator:
        return TrainingEvaluator(config, trained.generator, trained.space, trained.facts, run)

    def state(params) -> SimpleNamespace:
        return SimpleNamespace(ema={"0.9": params, "0.99": params})

    noisy = jax.tree.map(lambda leaf: leaf + 0.3 * np.cos(np.arange(leaf.size).reshape(leaf.shape)), trained.params)
    evaluate = evaluator()
    first = evaluate(1, state(trained.params))
    assert first["eval/num"] == 20 and not (run / "best").exists()  # the trial is not compared
    worse = evaluate(50, state(noisy))
    assert TrainedGenerator.from_run(run / "best").step == 50
    scores = evaluate(100, state(trained.params))
    assert scores["eval/frechet_distance"] < worse["eval/frechet_distance"] and scores == first
    found = evaluate_generator(trained, str(run), settings=ScoreSettings(num=20))
    assert found is not None
    for name in ("frechet_distance", "precision", "recall", "class_accuracy"):
        assert scores[f"eval/{name}"] == found[0][name]
    # A run that goes on remembers its best; the folder is a run that can be drawn from.
    evaluator()(120, state(noisy))
    kept = TrainedGenerator.from_run(run / "best")
    assert kept.step == 100 and kept.ema_decay == 0.9
    for a, b in zip(jax.tree.leaves(kept.params), jax.tree.leaves(trained.params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_when_it_is_scored():
    train = SimpleNamespace(steps=12, log_every=1, sample_every=0, checkpoint_every=0)

    def scored(**options: Any) -> list[int]:
        callbacks = Callbacks(flatten=dict, shown=(), watch=print, draw=print, remedy="", **options)
        run = SimpleNamespace(course=SimpleNamespace(config=SimpleNamespace(train=train), callbacks=callbacks))
        return [step for step in range(1, 13) if loop._Loop._due(run, step, False).score]

    assert scored(evaluate=print, evaluate_every=5) == [1, 5, 10, 12]
    assert scored(evaluate_every=5) == [] and scored(evaluate=print) == []


def test_diagnosed_in_training_as_afterwards(tmp_path: Path):
    config = tiny_config(train=dict(steps=2), eval=dict(every=2, diagnose=True))
    assert train(config, tmp_path) == 2
    logged = metrics(tmp_path)[-1]
    found = diagnose.run(DiagnoseStudy(), run=tmp_path).full
    assert found is not None
    (row,) = (dict(zip(found.columns, row, strict=True)) for row in found.rows)
    for quantity in diagnosis.LOGGED_QUANTITIES:
        np.testing.assert_allclose(logged[f"diagnose/{quantity}/global/{row['width']:g}"], row[quantity], rtol=1e-5)


def test_a_wrong_reference_is_found_before_anything_is_compiled(tmp_path: Path):
    config = tiny_config(eval=dict(every=50, reference=str(tmp_path / "absent.npz")))
    with pytest.raises(ConfigError, match=r"^eval\.reference=.*absent\.npz: there is no such file$"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("eval.every=-1", "eval.every=-1: use 0 or more"),
        ("eval.every_samples=3", "eval.every_samples=3: use 4 or more"),
        ("eval.diagnose=True", "eval.diagnose=True: is done with eval.every: set that"),
    ],
)
def test_wrong_settings(capsys: pytest.CaptureFixture[str], tmp_path: Path, setting: str, message: str):
    line = line_of(capsys, ["train", f"--config={TINY}", f"--workdir={tmp_path / 'run'}", f"--config.{setting}"])
    assert line == message
