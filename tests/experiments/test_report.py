"""The page about a run or a sweep: its numbers are those of the files, and a browser shows it without complaint."""

import csv
import html
import itertools
import json
import os
import re
import shutil
import subprocess
import threading
import urllib.request
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from drifting.cli.commands import main
from drifting.config.schema import PretrainConfig
from drifting.errors import ConfigError, InputError
from drifting.experiments.report import charts
from drifting.experiments.report.charts import Series, axis, chart, number
from drifting.experiments.report.data import RunData, SweepData, picture, read_folder
from drifting.experiments.report.elements import image
from drifting.experiments.report.page import page
from drifting.experiments.report.serve import server, write_report
from drifting.runs.directory import write_config
from drifting.runs.metrics import MetricsWriter
from drifting.sampling.grid import save_grid
from tests.support.sweeps import made_up_sweep

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of twelve cells, one of which has failed and one is waiting."""
    workdir = tmp_path_factory.mktemp("report") / "widths & objectives"
    made_up_sweep(workdir, failed=4, waiting=11)
    return workdir


@pytest.fixture(scope="module")
def report(sweep: Path) -> Path:
    out = sweep.parent / "report.html"
    write_report(sweep, out)
    return out


class Page(HTMLParser):
    """Elements with their attributes, ids, and whether tags are closed as they were opened."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attributes}))
        if tag not in ("meta", "link", "img", "input", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attributes}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, tag: str, **attributes: str) -> list[dict[str, str]]:
        wanted = {name.replace("_", "-"): value for name, value in attributes.items()}
        return [found for name, found in self.elements if name == tag and wanted.items() <= {**found}.items()]


# --- what the page holds ----------------------------------------------------------------------------------------------


def test_the_page_needs_nothing_else(report: Path):
    text = report.read_text(encoding="utf-8")
    found = Page(text)
    assert found.open == []
    for _, attributes in found.elements:
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("data:", "#"))
    assert "url(" not in text and "@import" not in text
    assert [policy["content"] for policy in found.all("meta", http_equiv="Content-Security-Policy")] == [POLICY]
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a in found.all("a")} <= set(ids)  # every link of the page has its place
    assert "widths &amp; objectives" in text and "&lt;b&gt;" in text  # names and errors are text
    assert all(image["alt"] for image in found.all("img")) and len(found.all("img")) == 11


def test_numbers_are_those_of_the_table(sweep: Path, report: Path):
    cells = re.findall(r'<tr data-cell="([^"]*)">(.*?)</tr>', report.read_text(encoding="utf-8"))
    shown = {name: dict(re.findall(r'data-key="([^"]*)" data-value="([^"]*)"', row)) for name, row in cells}
    with (sweep / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(shown) == 12
    for row in rows:
        expected = {key: value for key, value in row.items() if key not in ("index", "cell", "status", "error")}
        assert {key: html.unescape(value) for key, value in shown[row["cell"]].items()} == expected
    assert [row["status"] for row in rows].count("finished") == 10
    assert rows[4]["status"] == "failed" and rows[11]["status"] == "waiting"


def test_charts_show_every_finished_cell(sweep: Path, report: Path):
    text = report.read_text(encoding="utf-8")
    data = read_folder(sweep)
    assert isinstance(data, SweepData)
    for name in ("frechet_distance", "precision", "recall", "f1"):
        figure = re.search(rf'<figure data-chart="{name}">(.*?)</figure>', text, re.DOTALL)
        assert figure is not None
        notes = re.findall(r'role="img" aria-label="([^"]*)"', figure[1])
        wanted = {
            f"{run.objective}, width {run.widths[0]:g}: {value}"
            for run in data.runs
            if run.scores
            for value in [f"{TITLE[name]} {number(run.scores[name])}"]
        }
        assert {html.unescape(note) for note in notes} == wanted and len(notes) == 10
    best = re.search(r'<table data-table="best">.*?<tbody>(.*?)</tbody>', text, re.DOTALL)
    assert best is not None
    distances = [float(v) for v in re.findall(r'data-key="frechet_distance" data-value="([^"]*)"', best[1])]
    by_objective: dict[str, list[float]] = {}
    for run in data.runs:
        if run.scores:
            by_objective.setdefault(run.objective, []).append(run.scores["frechet_distance"])
    assert distances == sorted(min(values) for values in by_objective.values()) and len(distances) == 4


TITLE = {"frechet_distance": "Fréchet distance", "precision": "Precision", "recall": "Recall", "f1": "F1"}


def test_several_seeds_are_averaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        "tests.support.sweeps.GRID",
        {
            "loss.widths": [(0.1,), (0.2,)],
            "optimizer.learning_rate": [1e-3, 2e-3],
            "train.seed": [0, 1, 2],
            "loss.objective": ["drift"],
        },
    )
    made_up_sweep(tmp_path / "seeds")
    data = read_folder(tmp_path / "seeds")
    assert isinstance(data, SweepData)
    text, means, ranges = page(data), {}, {}
    for width in (0.1, 0.2):
        for rate in (1e-3, 2e-3):  # not seeds of each other
            runs = [run.scores for run in data.runs if run.widths == (width,) and run.varied["learning_rate"] == rate]
            values = [scores["frechet_distance"] for scores in runs if scores]
            means[rate, width] = float(np.mean(values))
            said = f"two-axis drift, Gauss, learning_rate {rate:g}, width {width:g}: Fréchet distance "
            assert f"{said}{number(means[rate, width])} (mean of 3 seeds: " in text
            ranges[rate, width] = f"{number(min(values))}–{number(max(values))}"
    best = re.search(r'<table data-table="best">.*?<tbody>(.*?)</tbody>', text, re.DOTALL)
    assert best is not None
    shown = [float(v) for v in re.findall(r'data-key="frechet_distance" data-value="([^"]*)"', best[1])]
    assert shown == sorted(min(means[rate, width] for width in (0.1, 0.2)) for rate in (1e-3, 2e-3))
    assert ranges[min(means, key=means.__getitem__)] in best[1]
    assert f"<dd>{number(min(means.values()))}<small>two-axis drift, Gauss, learning_rate" in text
    chart = re.search(r'<figure data-chart="recall">(.*?)</figure>', text, re.DOTALL)
    assert chart is not None and chart[1].count('class="span"') == len(means)
    # Lines of several seeds are told apart, and hidden together.
    assert text.count('data-series="width 0.1" data-name="width 0.1, seed 1"') == 4 * 2
    assert "learning_rate 0.002, width 0.2, seed 2</strong>" in text


def test_curves_of_a_metric_have_one_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    widths = [(0.1 * i,) for i in range(1, 12)]
    monkeypatch.setattr("tests.support.sweeps.GRID", {"loss.widths": widths, "loss.objective": ["drift", "log_kde"]})
    workdir = tmp_path / "sweep"
    for cell in made_up_sweep(workdir):
        value = {"drift": 100.0, "log_kde": 1.0}[cell.values["loss.objective"]]
        rows = [json.dumps({"step": step, "gap": value * step, "loss": 1.0 + step / 40}) for step in (1, 10)]
        (cell.folder(workdir) / "metrics.jsonl").write_text("\n".join(rows))
    gap, loss = re.findall(r'<div class="panel">(.*?)</div></div>', page(read_folder(workdir)), re.DOTALL)
    assert "; logarithmic axis." in gap and "logarithmic" not in loss  # each kind by itself would be linear
    ticks = [re.findall(r'text-anchor="end">([^<]*)<', figure) for figure in gap.split("<figure>")[1:]]
    assert len(ticks) == 2 and ticks[0] == ticks[1]
    assert len(set(re.findall(r'style="--t: (\d+%)"', gap))) == len(widths)  # a tone for each


def test_heldout_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tests.support.sweeps.GRID", {"loss.widths": [(0.1,), (0.2,), (0.4,)]})
    workdir = tmp_path / "sweep"
    cells = list(made_up_sweep(workdir))
    for cell, distance in zip(cells, (5.0, 3.0, 9.0), strict=True):
        path = cell.folder(workdir) / "eval-40.json"
        found = json.loads(path.read_text())
        found["scores"][0] |= {"frechet_distance": distance, "frechet_distance_heldout": 0.5}
        found["scores"][0] |= {"recall": distance / 1000, "recall_heldout": 0.9}
        path.write_text(json.dumps(found))
    text = page(read_folder(workdir))
    near, far = (re.search(rf'data-chart="{name}">(.*?)</figure>', text) for name in ("frechet_distance", "recall"))
    assert near is not None and "held-out 0.5" in near[1] and 'class="level"' in near[1]
    assert far is not None and "held-out 0.9" in far[1] and 'class="level"' not in far[1]  # it would flatten the lines
    assert '<button type="button">Recall, held-out</button>' in text
    scores = re.search(r'data-table="scores">(.*?)</table>', page(read_folder(cells[0].folder(workdir))))
    assert scores is not None and "Held-out</th>" in scores[1] and "First seed of the images" in scores[1]
    assert re.findall(r'<th scope="row">([^<]*[_a-z]_[^<]*)</th>', scores[1]) == []  # no bare keys


def test_a_single_run(sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = next(path for path in sorted(sweep.iterdir()) if (path / "eval-40.json").is_file())
    out = tmp_path / "run.html"
    assert main(["report", f"--workdir={folder}", f"--out={out}"]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    text = out.read_text(encoding="utf-8")
    found = Page(text)
    assert found.open == [] and len(found.all("img")) == 2 and found.all("input", type="range")
    scores = json.loads((folder / "eval-40.json").read_text())["scores"][0]
    assert f'data-key="frechet_distance" data-value="{scores["frechet_distance"]}"' in text
    assert {figure["data-chart"] for figure in found.all("figure") if "data-chart" in figure} >= {"gap", "loss"}
    # Values that are not finite break the curve, and are no values.
    gap = re.search(r'<figure data-chart="gap">(.*?)</figure>', text, re.DOTALL)
    assert gap is not None and gap[1].count("<polyline") == 2 and "nan" not in gap[1].lower()


def test_an_empty_sweep_and_what_is_none(tmp_path: Path):
    for path in made_up_sweep(tmp_path / "sweep"):
        shutil.rmtree(path.folder(tmp_path / "sweep"))
    text = page(read_folder(tmp_path / "sweep"))
    assert "0 of 12" in text and Page(text).open == []
    with pytest.raises(ConfigError, match=r"holds no run and no sweep"):
        read_folder(tmp_path)


def test_damaged_cells_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tests.support.sweeps.GRID", {"loss.widths": [(0.1,), (0.2,), (0.3,), (0.4,)]})
    workdir = tmp_path / "sweep"
    folders = [cell.folder(workdir) for cell in made_up_sweep(workdir, failed=0)]
    for folder in folders[:2]:
        (folder / "config.json").write_text("{")
    (folders[2] / "eval-40.json").write_text('{"scores": [')
    (folders[3] / "samples" / "step_0000040.png").write_bytes(b"no picture")
    with (folders[3] / "metrics.jsonl").open("ab") as file:
        file.write(b"7\n\xff\n")
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    data = read_folder(workdir)
    assert before == {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}  # reading writes nothing
    assert isinstance(data, SweepData)
    assert [row["status"] for row in data.rows] == ["damaged", "damaged", "started", "finished"]
    text = page(data)
    assert "1 of 4" in text and "2 damaged" in text and text.count("config.json: cannot be read") == 2
    assert "loss is nan at step 3" in text and "step_0000040.png cannot be read" in text and Page(text).open == []
    with pytest.raises(InputError, match=r"eval-40\.json: cannot be read .*; remove it"):
        read_folder(folders[2])


def test_large_pictures_are_shrunk(tmp_path: Path):
    noise = np.random.default_rng(0).uniform(-1, 1, (2, 600, 600, 3))
    save_grid(noise, tmp_path / "large.png", 2)
    large = picture(tmp_path / "large.png")
    assert large.source.startswith("data:image/webp;base64,") and max(large.width, large.height) == 960
    save_grid(noise[:, :8, :8], tmp_path / "small.png", 2)
    assert picture(tmp_path / "small.png").source.startswith("data:image/png;base64,")


def test_names_of_rows_are_cut_off_and_set_by_the_page(tmp_path: Path):
    """What is left of the picture is the picture without names; of other files' texts nothing is believed."""
    tiles = np.random.default_rng(0).uniform(-1, 1, (4, 8, 8, 1))
    save_grid(tiles, tmp_path / "named.png", 2, names=["1 one", "2 <two>"])
    save_grid(tiles, tmp_path / "plain.png", 2)
    named, plain = picture(tmp_path / "named.png"), picture(tmp_path / "plain.png")
    assert named.source == plain.source and (named.width, named.height) == (plain.width, plain.height)
    assert list(named.names) == ["1 one", "2 <two>"] and not plain.names
    assert ">2 &lt;two&gt;</span></li>" in image(tmp_path / "named.png", "samples")
    for text in ("{", "[]", '{"left": "x", "names": []}', '{"names": ["a"]}'):
        said = PngInfo()
        said.add_itxt("Rows", text)
        Image.new("L", (4, 4)).save(tmp_path / "other.png", pnginfo=said)
        assert picture(tmp_path / "other.png").width == 4


def test_an_encoders_run(tmp_path: Path):
    """Curves, reconstructions with what their rows are, what the run said of itself and how long it took."""
    write_config(tmp_path / "mae", PretrainConfig())
    about = ["model: mae, 1,234 parameters, on 1 x cpu", "data: digits, 1,400 samples of 8x8x1, 10 classes"]
    for last_step in (None, 10):
        with MetricsWriter(tmp_path / "mae", tensorboard=False, last_step=last_step, about=about) as writer:
            for step in range((last_step or 0) + 1, (last_step or 0) + 11):
                values = {"recon_loss": 1 / step, "accuracy": step / 40, "loss": 2 / step, "learning_rate": step * 1e-5}
                writer.write(step, values, {"speed/seconds_per_step": 0.25, "speed/device_memory_gb": 1.5})
    save_grid(np.zeros((6, 8, 8, 1)), tmp_path / "mae" / "samples" / "step_0000020.png", 2, names=["a", "b", "c"])
    out = tmp_path / "page.html"
    assert main(["report", f"--workdir={tmp_path / 'mae'}", f"--out={out}"]) == 0
    text = out.read_text(encoding="utf-8")
    found = Page(text)
    assert found.open == []
    charts = {figure["data-chart"] for figure in found.all("figure") if "data-chart" in figure}
    assert charts == {"recon_loss", "accuracy", "loss", "learning_rate"}
    rate = re.search(r'<figure data-chart="learning_rate">(.*?)</figure>', text, re.DOTALL)
    assert rate is not None and "logarithmic" not in rate[1]
    assert "<h2>Reconstructions</h2>" in text and re.findall(r'<li title="[abc]">', text) == [
        f'<li title="{name}">' for name in "abc"
    ]
    assert "<dt>Reconstruction error</dt><dd>0.05<" in text and "0.25 s a step" in text
    assert "mae, 1,234 parameters, on 1 x cpu" in text and "2 starts in all" in text and "1.5 GB" in text


def test_a_run_of_an_earlier_version_has_no_times(sweep: Path, tmp_path: Path):
    folder = next(path for path in sorted(sweep.iterdir()) if (path / "eval-40.json").is_file())
    shutil.copytree(folder, tmp_path / "old")
    (tmp_path / "old" / "timings.jsonl").unlink()
    text = page(read_folder(tmp_path / "old"))
    assert Page(text).open == [] and "<dt>Time</dt>" not in text and 'data-table="facts"' not in text


def test_the_time_of_a_run_is_that_of_all_its_starts():
    rows = [{"started": "x"}, {"step": 1, "seconds": 2.0}, {"step": 2, "seconds": 5.0}, {"started": "y"}]
    run = RunData("r", {}, [], None, "", None, [], timings=[*rows, {"step": 3, "seconds": 4.0}])
    assert run.seconds == 9.0 and RunData("r", {}, [], None, "", None, []).seconds is None


def test_no_cell_is_praised_where_all_are_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Nor is a distance given without that of held-out images."""
    monkeypatch.setattr("tests.support.sweeps.GRID", {"loss.widths": [(0.1,), (0.2,)]})
    workdir = tmp_path / "sweep"
    for cell, distance in zip(made_up_sweep(workdir), (45.3, 45.38), strict=True):
        path = cell.folder(workdir) / "eval-40.json"
        found = json.loads(path.read_text())
        scores = {"frechet_distance": distance, "frechet_distance_heldout": 0.35, "f1": 0.0, "f1_heldout": 0.9}
        found["scores"][0] |= scores
        path.write_text(json.dumps(found))
    text = page(read_folder(workdir))
    tiles = re.search(r'<dl class="tiles">(.*?)</dl>', text)
    assert tiles is not None and "Highest F1" not in tiles[1]
    assert "Lowest Fréchet distance</dt><dd>45.3<" in tiles[1] and "129 × held-out 0.35<" in tiles[1]
    figure = re.search(r'data-chart="frechet_distance">(.*?)</figure>', text)
    assert figure is not None
    places = [float(y) for y in re.findall(r'<circle class="target" cx="[^"]*" cy="([^"]*)"', figure[1])]
    assert len(places) == 2 and abs(places[0] - places[1]) < 0.05 * charts.HEIGHT  # noise, and no slope


# --- charts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "low", "high", "ticks"),
    [
        ([0.0, 1.0], 0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ([3.0, 97.0], 0.0, 100, None),
        ([0.31, 0.32], 0.31, 0.32, None),
        ([-0.4, 100.0], -0.4, 100, [0, 25, 50, 75, 100]),
        ([-4.0, 4.0], -4, 4, [-4, -2, 0, 2, 4]),
        ([0.0, 0.0], 0, 1, None),
        ([5.0], 2, 8, None),
        ([8.0, 8.0000005], 4, 12, [4, 6, 8, 10, 12]),  # the noise of float32 is no curve
    ],
)
def test_linear_axes(values: list[float], low: float, high: float, ticks: list[float] | None):
    found = axis("y", values, log=False)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert min(values) >= found.low - 1e-12 and max(values) <= found.high + 1e-12
    assert 2 <= len(found.ticks) <= 8 and (ticks is None or list(found.ticks) == pytest.approx(ticks))
    assert found.place(found.low) == 0 and found.place(found.high) == 1


def test_logarithmic_axes():
    found = axis("y", [0.02, 300.0])
    assert found.log and list(found.ticks) == pytest.approx([0.1, 1, 10, 100])
    assert found.place(np.sqrt(found.low * found.high)) == pytest.approx(0.5)
    assert not axis("y", [1.0, 20.0]).log and not axis("y", [-1.0, 300.0]).log
    assert len(axis("y", [2.0, 2.5], log=True).ticks) >= 2


def test_logarithmic_axes_around_zero():
    found = axis("gap", [80.0, 9.0, 0.5, 0.1, 0.02, -0.01, 0.0])
    assert found.log and found.scale == "logarithmic axis, linear around 0"
    assert list(found.ticks) == pytest.approx([0, 0.1, 1, 10])
    places = [found.place(v) for v in (found.low, 0.0, 0.1, 1.0, 10.0, found.high)]
    assert places == sorted(places) and (places[0], places[-1]) == (0, 1)
    assert places[4] - places[3] == pytest.approx(places[3] - places[2], rel=0.1) and found.shows(-0.005)
    assert not axis("y", [1.0, 20.0, -3.0]).log and not axis("y", [0.0, 0.0, 0.0, 0.3]).log
    assert axis("y", [1.0, 20.0]).scale == ""


def test_numbers_below_an_axis_do_not_overlap():
    widths = (0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 1.0)
    drawn = chart("t", axis("x", widths, log=True, ticks=widths), axis("y", [0.0, 1.0]), [])
    found = re.findall(rf'<text x="([^"]*)" y="{charts.HEIGHT - charts.BOTTOM + 17}"[^>]*>([^<]*)<', drawn)
    ends = [(float(x) - 3 * len(text), float(x) + 3 * len(text)) for x, text in found]
    assert all(a[1] < b[0] for a, b in itertools.pairwise(ends)) and 6 <= len(ends) < len(widths)
    assert drawn.count('class="tick"') == len(widths)


def test_points_lie_where_their_values_are():
    x, y = axis("x", [0.0, 10.0], log=False), axis("y", [0.0, 2.0], log=False)
    drawn = chart("t", x, y, [Series("a", [(0, 0), (5, 1), (10, 2)], "s0", "circle", ["one", "two", "three"])])
    points = re.search(r'<polyline class="line" points="([^"]*)"', drawn)
    assert points is not None
    places = np.asarray([[float(v) for v in pair.split(",")] for pair in points[1].split()])
    left, right, bottom = charts.LEFT, charts.WIDTH - charts.RIGHT, charts.HEIGHT - charts.BOTTOM
    expected = [(left, bottom), ((left + right) / 2, (charts.TOP + bottom) / 2), (right, charts.TOP)]
    np.testing.assert_allclose(places, expected, rtol=0, atol=0.06)
    assert re.findall(r'aria-label="([^"]*)"', drawn)[1:] == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (13.5181, "13.52"), (1234.5, "1,234"), (1.5e-5, "1.5e-5"), (-0.25, "-0.25"), (2e6, "2e6"), (1.0, "1")],
)
def test_numbers_for_a_person(value: float, text: str):
    assert number(value) == text


# --- in a browser -----------------------------------------------------------------------------------------------------

MEASURE = """<script>
const texts = [...document.querySelectorAll('.figures .chart text')].filter(text => text.getBoundingClientRect().width);
const measured = {
  width: innerWidth, scroll: document.documentElement.scrollWidth,
  smallest: Math.min(...texts.map(text => parseFloat(getComputedStyle(text).fontSize) * text.getScreenCTM().a)),
  charts: [...document.querySelectorAll('[data-chart] svg.chart')].filter(c => c.clientWidth > 250).length,
  requests: performance.getEntriesByType('resource').map(entry => entry.name).filter(name => !name.startsWith('data:')),
  shown: [...document.querySelectorAll('.shown img')].map(image => image.naturalWidth),
  panels: [...document.querySelectorAll('.panel')].filter(panel => panel.offsetHeight).length,
};
document.querySelector('label[for="metric-1"]').click();
document.querySelector('.point').focus();
measured.tip = document.getElementById('tip').textContent;
document.querySelector('.point').dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight', bubbles: true}));
measured.next = document.getElementById('tip').textContent;
document.querySelector('.legend button').click();
measured.off = document.querySelectorAll('.series.off').length;
const stops = () => [...document.querySelectorAll('[data-chart] .chart')].map(
  chart => [...chart.querySelectorAll('.series:not(.off) .point')].filter(point => point.tabIndex === 0).length);
measured.stops = stops();
const buttons = [...document.querySelector('.legend').querySelectorAll('button')];
buttons.slice(1).forEach(button => button.click());
buttons[2].click();
measured.last_stops = stops();
const head = document.querySelector('[data-table="cells"] thead tr');
const column = [...head.children].findIndex(cell => cell.textContent === 'Recall');
head.children[column].querySelector('button').click();
const rows = [...document.querySelectorAll('[data-table="cells"] tbody tr')];
measured.sorted = rows.map(row => row.children[column].dataset.value);
const wide = document.querySelector('[data-table="cells"]').closest('.scroll');
wide.scrollLeft = 150;
measured.scrolled = wide.scrollLeft;
measured.first = rows[0].children[0].getBoundingClientRect().left - wide.getBoundingClientRect().left;
const title = document.querySelector('h1'), theme = document.getElementById('theme');
title.textContent = 'a_long_name_'.repeat(12);
measured.beside = theme.getBoundingClientRect().top < title.getBoundingClientRect().top + 10;
measured.dark = getComputedStyle(document.body).backgroundColor;
parent.postMessage(JSON.stringify(measured), '*');
</script>"""

FRAME = """<!doctype html><body style="margin: 0"><script>
addEventListener('message', event => {
  const pre = document.createElement('pre');
  pre.id = 'measured';
  pre.textContent = event.data;
  document.body.append(pre);
});
</script><iframe src="measured.html" style="border: 0; width: WIDTHpx; height: 2000px"></iframe>"""
"""Windows have a least width, frames have not."""


def browse(report: Path, folder: Path, width: int, dark: bool = False) -> dict[str, Any]:
    """Opens a page in a headless browser; returns what it measured, and its console."""
    copy = folder / "measured.html"
    copy.write_text(report.read_text(encoding="utf-8").replace("</body>", f"{MEASURE}</body>"), encoding="utf-8")
    (folder / "frame.html").write_text(FRAME.replace("WIDTH", str(width)), encoding="utf-8")
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--log-level=0",
            f"--user-data-dir={folder / 'profile'}", "--window-size=1600,2000", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--virtual-time-budget=3000",
            "--dump-dom", (folder / "frame.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=False, env=os.environ | {"HOME": str(folder)},
    )  # fmt: skip
    found = re.search(r'<pre id="measured">(.*?)</pre>', done.stdout)
    assert found is not None, done.stderr[-2000:]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(html.unescape(found[1])) | {"console": console}


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium")
@pytest.mark.parametrize(("width", "dark"), [(1440, False), (390, True)])
def test_a_browser_shows_it(sweep: Path, report: Path, tmp_path: Path, width: int, dark: bool):
    found = browse(report, tmp_path, width, dark)
    # The page forbids itself all requests: one would be an error of the console.
    assert found["console"] == [] and found["requests"] == []
    assert found["width"] == width and found["scroll"] <= found["width"]  # nothing sticks out
    assert found["charts"] == 4 and found["smallest"] >= 9.5 and found["panels"] == 1
    assert len(found["shown"]) == 2 and min(found["shown"]) > 0
    assert found["tip"].startswith("log-KDE, Gauss, width 0.1: Fréchet distance")
    assert found["next"].startswith("log-KDE, Gauss, width 0.2: Fréchet distance")
    assert found["off"] == 4
    # The tab key stops once in each chart, whichever series are hidden.
    assert found["stops"] == found["last_stops"] == [1] * 4
    with (sweep / "sweep.csv").open(newline="") as file:
        recalls = [row["recall"] for row in csv.DictReader(file)]
    assert found["sorted"] == sorted(filter(None, recalls), key=float) + [""] * recalls.count("")
    assert found["beside"]  # the button, of however long a title
    assert width > 600 or (found["scrolled"] == 150 and 0 <= found["first"] <= 2)  # the first column stays
    assert found["dark"] == ("rgb(18, 20, 23)" if dark else "rgb(247, 247, 245)")


# --- served -----------------------------------------------------------------------------------------------------------


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=20) as answer:
        return answer.read().decode()


def test_it_is_served_and_follows_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tests.support.sweeps.GRID", {"loss.widths": [(0.1,), (0.2,)]})
    workdir = tmp_path / "sweep"
    cells = list(made_up_sweep(workdir, waiting=0))
    with server(workdir, 0) as serving:
        thread = threading.Thread(target=serving.serve_forever, daemon=True)
        thread.start()
        home = f"http://127.0.0.1:{serving.server_port}"
        first = get(f"{home}/version")
        assert f'data-version="{first}"' in get(home) and get(f"{home}/version") == first
        shutil.copytree(cells[1].folder(workdir), cells[0].folder(workdir))
        second = get(f"{home}/version")
        assert second != first and f'data-version="{second}"' in get(home)
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(f"{home}/etc/passwd")
        with urllib.request.urlopen(urllib.request.Request(home, method="HEAD"), timeout=20) as answer:
            assert answer.status == 200 and int(answer.headers["Content-Length"]) > 1000 and answer.read() == b""
        with pytest.raises(ConfigError, match=rf"^port={serving.server_port}: Address .* in use; use another one"):
            server(workdir, serving.server_port)
        (workdir / "sweep.json").write_text("{")
        with pytest.raises(urllib.error.HTTPError, match="503") as refused:
            get(home)
        assert "holds no sweep that can be read" in refused.value.read().decode()
        serving.shutdown()
        thread.join()
