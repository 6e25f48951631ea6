"""Trainings that start from weights: what they say of it, what is refused before anything is made, and going on."""

import json
import shutil
from pathlib import Path

import pytest

from drifting.cli.commands import main
from tests.support.runs import finished_run, saved, train_arguments


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
