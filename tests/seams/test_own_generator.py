"""A generator of somebody else, in this one file: trained, drawn with, scored, exported and reported."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import drifting
from drifting.cli.commands import main
from drifting.networks import NETWORKS
from tests.support.runs import TINY, metrics


class Blobs(nnx.Module):
    """One linear map of noise, shifted by the class."""

    def __init__(self, *, side: int, width: int, num_classes: int, rngs: nnx.Rngs) -> None:
        self.sample_shape = (side, side, 1)
        self.kernel = nnx.Param(0.1 * jax.random.normal(rngs.params(), (width, side * side)))
        self.shift = nnx.Param(jnp.zeros((num_classes, side * side)))

    def __call__(self, noise: dict[str, jax.Array], labels: jax.Array, alpha: jax.Array) -> jax.Array:
        flat = jnp.tanh(noise["image"] @ self.kernel[...] + self.shift[...][labels])
        return flat.reshape(len(labels), *self.sample_shape)

    def sample_noise(self, key: jax.Array) -> dict[str, jax.Array]:
        return {"image": jax.random.normal(key, self.kernel.shape[:1])}

    @staticmethod
    def check_settings(settings: dict[str, Any]) -> None:
        if settings["options"].get("width", 1) < 1:
            raise ValueError(f"options.width={settings['options']['width']}: use 1 or more")

    @staticmethod
    def arguments(settings: dict[str, Any], shape: tuple[int, int, int], num_classes: int) -> dict[str, Any]:
        if shape[0] != shape[1] or shape[2] != 1:
            raise ValueError("name='blobs': draws grey squares")
        return dict(side=shape[0], width=settings["options"].get("width", 4), num_classes=num_classes)


@pytest.fixture
def blobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NETWORKS, "blobs", Blobs)


def command(workdir: Path, *more: str) -> list[str]:
    model = ["--config.model.name=blobs", "--config.model.options.width=6"]
    steps = ["--config.train.steps=3", "--config.train.log_every=1", "--config.train.sample_every=0"]
    return ["train", f"--config={TINY}", f"--workdir={workdir}", *model, *steps, *more]


@pytest.mark.usefixtures("blobs")
def test_it_trains_draws_scores_and_travels(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = tmp_path / "run"
    assert main(command(run)) == 0
    assert "model: blobs, 1,024 parameters" in capsys.readouterr().err  # 6 x 64 and 10 x 64
    assert np.isfinite(metrics(run)[-1]["loss"])
    assert main(["evaluate", f"--workdir={run}", "--num=40"]) == 0
    assert main(["report", f"--workdir={run}", f"--out={tmp_path / 'report.html'}"]) == 0
    assert "blobs" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert main(["export", f"--workdir={run}", f"--out={tmp_path / 'net'}"]) == 0
    images = [drifting.load(folder).sample(["3", 7], seed=5) for folder in (run, tmp_path / "net")]
    np.testing.assert_array_equal(*images)
    assert images[0].shape == (2, 8, 8, 1)


@pytest.mark.usefixtures("blobs")
def test_its_settings_are_checked_by_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for flag, message in (
        ("--config.model.options.width=0", "model.options.width=0: use 1 or more"),
        ("--config.model.name=blob", "model.name='blob': use one of dit, mlp, blobs (did you mean 'blobs'?)"),
    ):
        assert main(command(tmp_path / "run", flag)) == 2
        assert capsys.readouterr().err.startswith(f"drifting: error: {message}")
