"""Sources of somebody else, in this one file: images, and latents that were encoded elsewhere."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest

from drifting.cli.commands import main
from drifting.config.schema import DataConfig
from drifting.data.source import ArraySource, Delivery
from drifting.data.sources import SOURCES, source
from tests.support.runs import TINY, metrics


@dataclass(frozen=True)
class StripeOptions:
    """How the stripes look."""

    contrast: Annotated[float, "the level of light stripes"] = 0.8


def stripes(split: str = "train", image_size: int = 8, options: StripeOptions = StripeOptions()) -> ArraySource:
    """Horizontal and vertical stripes, light or dark."""
    rng = np.random.default_rng(split == "train")
    labels = np.arange(120) % 2
    lines = np.sign(rng.normal(size=(120, image_size, 1))) * options.contrast
    images = np.where(labels[:, None, None] == 0, lines, lines.transpose(0, 2, 1))
    return ArraySource(np.repeat(images[..., None], 1, -1).astype(np.float32), labels, ("rows", "columns"))


class Moments:
    """Somebody's own file of moments: only what the protocol asks for, and what it delivers."""

    name, num_classes, class_names = "moments", 2, ("a", "b")
    shape = (16, 16, 3)
    delivers = Delivery((8, 8, 8), "float16", "random://smoke", "random://smoke", mirrored=False)

    def __init__(self, split: str = "train") -> None:
        self.labels = (np.arange(60) % 2).astype(np.int32)
        self._moments = np.random.default_rng(0).normal(size=(60, 8, 8, 8)).astype(np.float16)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Any:
        return self._moments[index], int(self.labels[index])

    def __getitems__(self, indices: Any) -> Any:
        return self._moments[np.asarray(indices)], self.labels[np.asarray(indices)]

    def read(self, indices: Any, mirrored: Any, crop_seeds: Any) -> Any:
        return self.__getitems__(indices)


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOURCES, "stripes", stripes)
    monkeypatch.setitem(SOURCES, "moments", Moments)


def command(workdir: Path, *more: str) -> list[str]:
    size = ["--config.model.name=mlp", "--config.model.num_heads=None", "--config.model.depth=2"]
    steps = ["--config.train.steps=3", "--config.train.log_every=1", "--config.train.sample_every=0"]
    return ["train", f"--config={TINY}", f"--workdir={workdir}", *size, *steps, "--config.loss.labels=2", *more]


@pytest.mark.usefixtures("sources")
def test_images_are_trained_on_scored_against_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = tmp_path / "run"
    assert main(command(run, "--config.data.name=stripes", "--config.data.image_size=6")) == 0
    assert "data: array, 120 samples of 6x6x1, 2 classes" in capsys.readouterr().err
    assert np.isfinite(metrics(run)[-1]["loss"])
    assert main(["evaluate", f"--workdir={run}", "--num=40"]) == 0
    assert "heldout" in capsys.readouterr().out or (run / "eval-3.json").is_file()
    assert main(["report", f"--workdir={run}", f"--out={tmp_path / 'report.html'}"]) == 0
    assert main(["sample", f"--workdir={run}", "--classes=columns", f"--out={tmp_path / 'grid.png'}"]) == 0


@pytest.mark.usefixtures("sources")
@pytest.mark.parametrize("resident", ["None", "device"])
def test_latents_of_somebody_elses_cache_are_trained_on(tmp_path: Path, resident: str):
    run = tmp_path / "run"
    assert main(command(run, "--config.data.name=moments", f"--config.data.resident={resident}")) == 0
    assert np.isfinite(metrics(run)[-1]["loss"])


@pytest.mark.usefixtures("sources")
def test_options_are_explained_and_reach_it(capsys: pytest.CaptureFixture[str]):
    assert main(["help", "data.options.stripes.contrast"]) == 0
    assert "the level of light stripes" in capsys.readouterr().out
    dark = source(DataConfig(name="stripes", options={"stripes": {"contrast": 0.25}}))
    assert np.abs(dark[0][0]).max() == 0.25


@pytest.mark.usefixtures("sources")
def test_what_it_does_not_take_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for flags, message in (
        (["--config.data.name=stripe"], "data.name='stripe': use one of digits, array"),
        (["--config.data.name=stripes", "--config.data.path=x"], "data.path='x': source 'stripes' takes no path"),
        (["--config.data.options.stripes.contrast=dark"], "data.options.stripes.contrast='dark': expected float"),
        (["--config.data.options.stripes.colour=1"], "data.options.stripes.colour=1: there is no such key"),
        (["--config.data.options.moments.colour=1"], "data.options='moments': use one of "),
        (["--config.data.name=moments", "--config.data.flip=True"], "data.name='moments': "),
        (["--config.data.name=moments", "--config.data.vae=random://sd"], "data.vae='random://sd': "),
    ):
        assert main(command(tmp_path / "run", *flags)) == 2
        assert capsys.readouterr().err.startswith(f"drifting: error: {message}")
