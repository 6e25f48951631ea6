"""A step again: the metrics that the run logged, and what a step that goes wrong consists of."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from drifting.cli.commands import main
from drifting.config.schema import MeshConfig
from drifting.errors import ArgumentError, ConfigError
from drifting.experiments.replay import _start, _with_devices_here, replay
from tests.support.runs import finished_run, metrics, tiny_config, train_arguments, tree


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory)


def test_a_replayed_step_is_the_one_that_was(run: Path):
    """From the checkpoint after step 110 to step 116, which was logged; nothing is written."""
    before = tree(run)
    lines = list(replay(run, 116))
    assert tree(run) == before
    assert [line.split(":")[0] for line in lines if line.startswith("step ")] == [f"step {n}" for n in range(111, 117)]
    (logged,) = (line for line in metrics(run) if line["step"] == 116)
    shown = dict(pair.split(" ") for pair in lines[-1].removeprefix("step 116: ").split("  "))
    for name, value in shown.items():
        np.testing.assert_allclose(float(value), logged[name], rtol=2e-3)
    assert any(line.startswith("labels: ") for line in lines) and not any("NOT FINITE" in line for line in lines)
    assert any(line.startswith("features of samples, global: ") for line in lines)


def test_steps_without_a_checkpoint_before_them(run: Path):
    for step in (0, 9, 110):
        wanted = rf"^step={step}: the oldest checkpoint is of step 110; ask for a later step"
        with pytest.raises(ConfigError, match=wanted):
            list(replay(run, step))


def test_steps_that_the_run_does_not_have(run: Path, capsys: pytest.CaptureFixture[str]):
    for step in (121, 1000):
        with pytest.raises(ConfigError, match=rf"^step={step}: the run ends with step 120; ask for an earlier step$"):
            list(replay(run, step))
    for step, words in ((110, "the oldest checkpoint"), (121, "the run ends with"), (0, "expected a positive integer")):
        assert main(["replay", f"--workdir={run}", f"--step={step}"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"drifting: error: --step={step}: {words}")


def test_the_bounds_of_what_can_be_replayed():
    assert (_start(111, [120, 110], 120), _start(120, [120, 110], 120)) == (110, 110)
    assert (_start(1, [], 120), _start(120, [], 120), _start(120, [119], 120)) == (0, 0, 119)
    for step, saved in ((110, [120, 110]), (121, [120, 110]), (120, [120]), (0, []), (-1, []), (121, [])):
        with pytest.raises(ArgumentError, match=rf"^step={step}: "):
            _start(step, saved, 120)


def test_the_mesh_of_other_machines_is_not_asked_for(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(logging.getLogger("drifting"), "propagate", True)
    one, eight = tiny_config(), tiny_config(mesh=dict(data=4, fsdp=2))
    assert _with_devices_here(one) == one and not caplog.text
    assert _with_devices_here(eight).mesh == MeshConfig() and "mesh.data=4, mesh.fsdp=2 of the run" in caplog.text


def test_a_run_that_diverged_says_how_to_look_and_the_look_shows_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = tmp_path / "run"
    flags = ["--config.optimizer.learning_rate=1e30", "--config.train.checkpoint_every=1", "--config.train.log_every=1"]
    assert main(train_arguments(run, *flags)) == 1
    said = capsys.readouterr().err
    assert "at step 2; " in said and "`drifting replay` looks into that step" in said
    assert main(["replay", f"--workdir={run}", "--step=5"]) == 0
    looked = capsys.readouterr()
    assert "step 3 is the first whose loss is not finite" in looked.err
    lines = looked.out.splitlines()
    assert any(line.startswith("samples: ") and line.endswith("NOT FINITE") for line in lines)
    assert any(line.startswith("step 3: loss nan") for line in lines) and "loss/global: nan" in lines
    assert any(line.startswith("positives: ") and not line.endswith("NOT FINITE") for line in lines)
    assert json.loads((run / "config.json").read_text())["train"]["checkpoint_every"] == 1
