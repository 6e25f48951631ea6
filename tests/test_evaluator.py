"""Scores in the course of a training: they are those of `drifting evaluate`, and the best state is a run of its own."""

import json
from pathlib import Path

import pytest

from drifting.config import ConfigError
from drifting.scores import Settings, evaluate_generator
from drifting.train import train
from drifting.trained import TrainedGenerator
from tests.runs import TINY, metrics, tiny_config
from tests.test_cli import line_of


def test_training_is_scored_and_the_best_is_kept(tmp_path: Path):
    config = tiny_config(eval=dict(every=50, every_samples=20))
    workdir = tmp_path / "run"
    assert train(config, workdir) == 120
    rows = {row["step"]: row for row in metrics(workdir) if "eval/frechet_distance" in row}
    assert sorted(rows) == [1, 50, 100, 120]
    assert [rows[step]["eval/num"] for step in (1, 50)] == [20, 20]
    found = evaluate_generator(TrainedGenerator.from_run(workdir), str(workdir), settings=Settings(num=20))
    assert found is not None
    for name in ("frechet_distance", "precision", "recall", "class_accuracy"):
        assert rows[120][f"eval/{name}"] == found[0][name]
    best = min((50, 100, 120), key=lambda step: rows[step]["eval/frechet_distance"])
    kept = TrainedGenerator.from_run(workdir / "best")
    assert kept.step == best
    again = evaluate_generator(kept, str(workdir / "best"), settings=Settings(num=20))
    assert again is not None and again[0]["frechet_distance"] == rows[best]["eval/frechet_distance"]
    assert json.loads((workdir / "best" / "config.json").read_text())["eval"]["every"] == 50


def test_a_wrong_reference_is_found_before_anything_is_compiled(tmp_path: Path):
    config = tiny_config(eval=dict(every=50, reference=str(tmp_path / "absent.npz")))
    with pytest.raises(ConfigError, match=r"^--reference=.*absent\.npz"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("eval.every=-1", "eval.every=-1: use 0 or more"),
        ("eval.every_samples=3", "eval.every_samples=3: use 4 or more"),
    ],
)
def test_wrong_settings(capsys: pytest.CaptureFixture[str], tmp_path: Path, setting: str, message: str):
    line = line_of(capsys, ["train", f"--config={TINY}", f"--workdir={tmp_path / 'run'}", f"--config.{setting}"])
    assert line == message
