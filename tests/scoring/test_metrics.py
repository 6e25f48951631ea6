"""A metric of somebody else: one entry in `METRICS`, and every table, file, comparison, sweep and page shows it."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from drifting.cli.commands import main
from drifting.data.sources.digits import digits
from drifting.experiments.grid import collect, listing
from drifting.experiments.report.data import read_folder
from drifting.experiments.report.page import page
from drifting.runs.metrics import MetricsWriter
from drifting.sampling.generator import TrainedGenerator
from drifting.sampling.images import GeneratedImages
from drifting.sampling.labels import balanced_labels
from drifting.scoring.image_sets import SourceImages
from drifting.scoring.intervals import intervals
from drifting.scoring.metrics import METRICS, ImageSet, Metric, Score
from drifting.scoring.metrics.metric import OneByOne
from tests.support.runs import finished_run
from tests.support.sweeps import made_up_sweep


def brightness(real: ImageSet, fake: ImageSet, _: int) -> dict[str, float]:
    return {"brightness": float(fake.gaussian("features")[0].mean() - real.gaussian("features")[0].mean())}


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Metric:
    """The mean of generated features less that of real ones."""
    scores = {"brightness": Score("Brightness <gap>", "higher", places=5)}
    metric = Metric("brightness", scores, brightness, real="statistics", resample=OneByOne(brightness))
    monkeypatch.setitem(METRICS, "brightness", metric)
    return metric


@pytest.fixture
def run(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Path:
    shutil.copytree(finished_run(tmp_path_factory), tmp_path / "run")
    return tmp_path / "run"


def test_it_is_scored_shown_and_reported(toy: Metric, run: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["evaluate", f"--workdir={run}", "--num=40"]) == 0
    table = capsys.readouterr().out
    (scores,) = json.loads((run / "eval-120.json").read_text())["scores"]
    drawn = GeneratedImages(TrainedGenerator.from_run(run), balanced_labels(40, 10), source="", alpha=1.0)
    real = (SourceImages(source, {}).part(range(len(source))) for source in (digits(), digits("heldout")))
    generated, train, heldout = (levels.mean() / 127.5 for levels in (drawn.part(range(40)), *real))
    assert scores["brightness"] == pytest.approx(generated - train, abs=1e-6)
    assert scores["brightness_heldout"] == pytest.approx(heldout - train, abs=1e-6)
    assert re.search(
        rf"^brightness +{scores['brightness']:.5f} +{scores['brightness_heldout']:.5f}$", table, re.MULTILINE
    )
    with MetricsWriter(run, tensorboard=False) as writer:  # as `eval.every` logs it
        writer.write(120, {"eval/brightness": scores["brightness"]})
    text = page(read_folder(run))
    head = '<th scope="row">Brightness &lt;gap&gt;</th>'
    assert f'{head}<td class="n" data-key="brightness" data-value="{scores["brightness"]}"' in text
    assert "<dt>Brightness &lt;gap&gt;</dt>" in text and 'data-chart="eval/brightness"' in text


def test_it_is_compared(toy: Metric, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "page.html"
    assert main(["compare", str(run), str(run), f"--out={out}", "--num=40", "--resamples=10"]) == 0
    assert re.search(
        r"^brightness +-?0\.\d{5} ± 0\.\d{5} .* 0\.00000 ± 0\.00000$", capsys.readouterr().out, re.MULTILINE
    )
    assert '<th scope="row">Brightness &lt;gap&gt;</th>' in out.read_text(encoding="utf-8")


def test_without_resamples_there_is_no_interval(monkeypatch: pytest.MonkeyPatch):
    scores = {"brightness": Score("Brightness", "lower"), "noise": Score("Noise", "neither")}
    metric = Metric("brightness", scores, lambda *sides: brightness(*sides) | {"noise": 1.0})
    monkeypatch.setitem(METRICS, "brightness", metric)
    rng = np.random.default_rng(0)
    sides = [ImageSet({"features": rng.normal(size=(20, 3)) + shift}) for shift in (0, 5)]
    found = intervals(sides, sides[0], neighbours=3, seed=0, name="x", resamples=5).scores
    assert str(found["brightness"][2]) == f"{-brightness(sides[0], sides[1], 3)['brightness']:.4f}"
    assert not found["brightness"][2].excludes_zero and "±" in str(found["recall"][0]) and "noise" not in found


def test_it_is_a_column_of_a_sweep(toy: Metric, tmp_path: Path):
    workdir = tmp_path / "sweep"
    cells = list(made_up_sweep(workdir))
    values = {cell.name: 0.1 + cell.index for cell in cells}
    for cell in cells:  # scored by nothing else: cells are ranked by it
        path = cell.folder(workdir) / "eval-40.json"
        found = json.loads(path.read_text())
        found["scores"] = [{"alpha": 1.0, "num": found["num"], "brightness": values[cell.name]}]
        path.write_text(json.dumps(found))
    collect(cells, workdir)
    with (workdir / "sweep.csv").open(newline="") as file:
        assert {row["cell"]: float(row["brightness"]) for row in csv.DictReader(file)} == values
    lines = listing(cells, workdir).splitlines()
    assert "brightness" in lines[0] and f"{values[cells[3].name]:.4f}" in lines[4]
    text = page(read_folder(workdir))
    figure = re.search(r'<figure data-chart="brightness">(.*?)</figure>', text, re.DOTALL)
    assert figure is not None and "Brightness &lt;gap&gt; <small>higher is better" in figure[1]
    assert figure[1].count('role="img"') == 12
    assert "Highest Brightness &lt;gap&gt;</dt><dd>11.1<" in text and "with the highest Brightness" in text
    assert '<button type="button">Brightness &lt;gap&gt;</button>' in text
    best = re.search(r'<table data-table="best">.*?<tbody>(.*?)</tbody>', text, re.DOTALL)
    assert best is not None
    shown = [float(value) for value in re.findall(r'data-key="brightness" data-value="([^"]*)"', best[1])]
    assert shown == sorted(shown, reverse=True) and shown[0] == pytest.approx(11.1) and len(shown) == 4
