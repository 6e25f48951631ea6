"""What version 0.1 wrote still works: a run's folder, exported weights, files of settings."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

import drifting
from drifting.cli.commands import main
from drifting.cli.settings import load_function, load_settings
from tests.support.runs import ROOT, TINY, metrics

WRITTEN = ROOT / "tests" / "fixtures" / "v0.1"
"""A run of two steps, exported weights, images drawn of both, and the line that resuming the run to step 4 logged."""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    with tarfile.open(WRITTEN / "run.tar.gz") as packed:
        packed.extractall(tmp_path, filter="data")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def drawn() -> dict[str, np.ndarray]:
    with np.load(WRITTEN / "drawn.npz") as images:
        return {name: np.clip(drawn, -1, 1) for name, drawn in images.items()}


def test_exported_weights_draw_the_same_images(drawn: dict[str, np.ndarray]):
    images = drifting.load(WRITTEN / "dit").sample(range(3), seed=5, alpha=1.5)
    np.testing.assert_allclose(images, drawn["dit"], rtol=0, atol=1e-5)


def test_a_run_draws_the_same_images(run: Path, drawn: dict[str, np.ndarray]):
    np.testing.assert_allclose(drifting.load(run).sample(range(3), seed=5, alpha=1.5), drawn["run"], rtol=0, atol=1e-5)


def test_a_run_goes_on_as_it_would_have(run: Path):
    """Banks, data order, optimiser and averages are read back, so that the next steps log the same numbers."""
    expected = json.loads((WRITTEN / "resumed.jsonl").read_text())
    changed = ["--config.model.name=mlp", "--config.model.depth=2", "--config.train.steps=4"]
    assert main(["train", f"--config={TINY}", f"--workdir={run}", *changed]) == 0
    last = metrics(run)[-1]
    assert last.keys() >= expected.keys() and len(expected) > 8
    for key, value in expected.items():
        assert last[key] == pytest.approx(value, rel=1e-5, abs=1e-6), key


def test_files_of_settings_import_from_former_modules(tmp_path: Path):
    study, sweep = tmp_path / "study.py", tmp_path / "sweep.py"
    study.write_text(
        "from drifting.analysis.settings import CurlStudy, study_config\n\n\n"
        "def get_config():\n    return study_config(CurlStudy())\n"
    )
    sweep.write_text("from drifting.sweep import Sweep\n\n\ndef get_sweep():\n    return Sweep\n")
    assert load_settings(str(study)).study.extent == 2.0
    assert load_function(str(sweep), "get_sweep").__name__ == "Sweep"
