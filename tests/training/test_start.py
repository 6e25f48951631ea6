"""Trainings that start from weights: what they say of it, what is refused before anything is made, and going on."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from drifting.cli.commands import main
from drifting.data.sources.digits import digits
from tests.support.runs import FULL, ROOT, command, finished_run, saved, train_arguments


def test_what_a_run_started_from_is_told_and_needed_once(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    start, run = tmp_path / "net", tmp_path / "run"
    assert main(["export", f"--workdir={finished_run(tmp_path_factory)}", f"--out={start}"]) == 0
    metadata = json.loads((start / "metadata.json").read_text())
    capsys.readouterr()

    def train(workdir: Path, *more: str) -> tuple[int, str]:
        given = [f"--config.train.start={start}", "--config.train.sample_every=0", *more]
        return main(train_arguments(workdir, *given)), capsys.readouterr().err

    code, said = train(tmp_path / "wide", "--config.model.hidden_size=32")
    assert code == 2 and "model.hidden_size is 16 there and 32 here" in said and not (tmp_path / "wide").exists()
    assert said.count("\n") == 1
    code, said = train(run, "--config.train.steps=2")
    assert code == 0 and said.count(f"start: the parameters of {start}, after 120 steps; the same 10 classes\n") == 1
    shutil.rmtree(start)
    code, said = train(tmp_path / "late")
    assert code == 2 and f"train.start='{start}': there is no such folder" in said and not (tmp_path / "late").exists()
    code, said = train(run, "--config.train.steps=3")
    assert code == 0 and "going on after step 2" in said and "start: the" not in said
    facts = saved(run)[2]["identity"]["start"]
    assert facts == {"from": str(start), "commit": None, "sha256": metadata["sha256"], "step": 120, "ema_decay": 0.9,
                     "classes": list(range(10)), "positions": None}  # fmt: skip
    assert main(["export", f"--workdir={run}", f"--out={tmp_path / 'tuned'}"]) == 0
    assert json.loads((tmp_path / "tuned" / "metadata.json").read_text())["start"] == facts | {"from": "net"}
    assert "| started from | net |" in (tmp_path / "tuned" / "README.md").read_text()


@pytest.mark.skipif(not FULL, reason="trains digits for ten minutes; set DRIFTING_FULL_TESTS=1")
def test_half_the_classes_take_a_third_of_the_steps(tmp_path: Path):
    """Five digits: 200 steps from a run of all ten come nearer to the data than 600 from drawn parameters."""
    arrays = {}
    for split, end in (("train", ""), ("heldout", "_heldout")):
        source = digits(split=split)
        images, labels = source.__getitems__(np.arange(len(source)))
        arrays |= {f"image{end}": images[labels < 5], f"label{end}": labels[labels < 5]}
    np.savez(tmp_path / "half.npz", **arrays)
    optimised = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}

    def call(*arguments: str | Path) -> None:
        given = command(*arguments)
        done = subprocess.run(given, capture_output=True, text=True, timeout=1800, check=False, env=optimised)
        assert done.returncode == 0, done.stderr

    def train(name: str, steps: int, *more: str) -> None:
        weights = f"--config.features.options.mae.weights={tmp_path / 'mae' / 'encoder'}"
        given = [f"--config={ROOT / 'configs' / 'digits.py'}", weights, f"--config.train.steps={steps}"]
        call("train", *given, f"--workdir={tmp_path / name}", "--config.train.sample_every=0", *more)

    def distance(name: str, steps: int, *more: str) -> float:
        half = ["--config.data.name=array", f"--config.data.path={tmp_path / 'half.npz'}", "--config.loss.labels=5"]
        train(name, steps, *half, *more)
        call("evaluate", f"--workdir={tmp_path / name}", f"--out={tmp_path / name}.json")
        return float(json.loads((tmp_path / f"{name}.json").read_text())["scores"][0]["frechet_distance"])

    call("pretrain", f"--config={ROOT / 'configs' / 'mae_digits.py'}", f"--workdir={tmp_path / 'mae'}")
    train("ten", 600)
    call("export", f"--workdir={tmp_path / 'ten'}", f"--out={tmp_path / 'net'}")
    started = distance("started", 200, f"--config.train.start={tmp_path / 'net'}")
    assert started < distance("scratch", 600)
