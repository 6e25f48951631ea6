"""Sweeps: which cells there are, that finished ones are skipped, failed ones reported, and widths compile once."""

import csv
import json
import logging
import sys
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from drifting.cli.commands import main
from drifting.cli.settings import load_settings
from drifting.config.schema import Config
from drifting.errors import ConfigError, TrainingError
from drifting.experiments import sweep as sweep_module
from drifting.experiments.grid import Sweep, cells_of, check_cells, listing, read_cells, rows_of
from drifting.experiments.sweep import CompileCounts, run_sweep
from drifting.runs.directory import check_config, config_differences, read_config, write_config
from drifting.sampling import generator
from drifting.scoring.settings import ScoreSettings
from tests.support.runs import ROOT, TINY, tiny_config

WIDTHS = {"loss.widths": [(0.1,), (0.2,), (0.4,)]}

BASE = load_settings(str(TINY))


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logger = logging.getLogger("drifting")
    before = logger.handlers, logger.level, logger.propagate
    yield
    logger.handlers, logger.level, logger.propagate = before


def test_cells_are_the_product_in_order():
    grid = {("loss.objective", "loss.kernel"): [("log_kde", "gaussian"), ("drift", "laplace")], **WIDTHS}
    cells = cells_of(Sweep("", grid | {"train.seed": [0, 7]}, {"train.steps": 5}), BASE)
    assert len(cells) == 12 and [cell.index for cell in cells] == list(range(12))
    names = [cell.name for cell in cells]
    assert names[:3] == [f"log_kde-gaussian-width0.{w}-seed{s}" for w, s in ((1, 0), (1, 7), (2, 0))]
    last = list(cells.items())[-1]
    assert last[0].values == {
        "loss.objective": "drift",
        "loss.kernel": "laplace",
        "loss.widths": (0.4,),
        "train.seed": 7,
    }
    loss, train = last[1].loss, last[1].train
    assert (loss.objective, loss.kernel, loss.widths, train.seed, train.steps) == ("drift", "laplace", (0.4,), 7, 5)
    assert last[1].model == tiny_config().model


def test_a_table_shows_values_of_every_kind(tmp_path: Path):
    grid = {"features.encoders": [(), ("mae", "convnext")], "train.ema_decays": [(0.5, 0.25)], "data.flip": [True]}
    found = rows_of(list(cells_of(Sweep("", grid, {"loss.feature_scale": "per_map"}), BASE)), tmp_path)
    assert [row["features.encoders"] for row in found] == ["", "mae convnext"]
    assert [row["cell"] for row in found] == [f"encoder{e}-ema_decay0.5+0.25-flipTrue" for e in ("", "mae+convnext")]
    assert [(row["train.ema_decays"], row["data.flip"]) for row in found] == [("0.5 0.25", True)] * 2


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ({"loss.width": [1]}, r"^grid: loss\.width=1: there is no such key; did you mean loss\.widths\?"),
        ({"losses.widths": [1]}, r"^grid: .*there is no such key"),
        ({"loss.widths": []}, r"^grid loss\.widths: has no values"),
        ({"loss.widths": [0.1]}, r"^loss\.widths=0\.1: expected a tuple of float"),
        ({"loss.widths": [(0.1,), (-0.1,)]}, r"^cell width-0\.1: loss\.widths=\(-0\.1,\): kernel widths are positive"),
        ({"train.seed": [1, 1]}, r"^grid: two cells are 'seed1'"),
    ],
)
def test_wrong_grids(grid: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=words):
        cells_of(Sweep("", grid), BASE)


def test_a_wrong_setting_of_all_cells_is_none_of_the_grid():
    words = r"^settings: eval\.num=3: there is no such key; did you mean eval\.num_samples\?"
    with pytest.raises(ConfigError, match=words):
        cells_of(Sweep("", {"train.seed": [1]}, {"eval.num": 3}), BASE)


def test_runs_and_sweeps_do_not_share_a_folder(tmp_path: Path):
    cells = cells_of(Sweep("", {"train.seed": [1]}), BASE)
    begin = {
        "config.json": lambda: check_cells(cells, tmp_path),
        "sweep.json": lambda: check_config(tmp_path, next(iter(cells.values()))),
    }
    for held, begins in begin.items():
        begins()
        (tmp_path / held).write_text("{}")
        with pytest.raises(ConfigError, match=r"holds a (run|sweep); give"):
            begins()
        (tmp_path / held).unlink()


@pytest.mark.parametrize("variant", ["digits", "digits_long", "mnist", "ablation"])
def test_the_sweep_of_kernel_widths(variant: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = f"{ROOT / 'configs' / 'sweeps' / 'kernel_width.py'}:{variant}"
    assert main(["sweep", f"--config={config}", f"--workdir={tmp_path / 'new'}", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + {"digits": 16, "digits_long": 12, "mnist": 55, "ablation": 21}[variant]
    assert "waiting" in lines[1] and not (tmp_path / "new").exists()


# --- running, with a training that does nothing -----------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the cells that are trained; what is trained and scored takes no time."""
    trained: list[str] = []

    def train(config: Config, folder: Path, label: str) -> int:
        trained.append(folder.name)
        check_config(folder, config)
        write_config(folder, config)
        (folder / "metrics.jsonl").write_text('{"step": 1}\n')
        if folder.name in FAILING:
            raise TrainingError("loss is nan at step 3;\n try a lower rate")
        if folder.name in INTERRUPTED:
            return 2
        return config.train.steps

    def evaluate(trained: Any, source: str, settings: ScoreSettings) -> None:
        write_scores(Path(source), settings.alphas or [1.0])

    FAILING.clear(), INTERRUPTED.clear()
    monkeypatch.setattr(sweep_module, "train", train)
    monkeypatch.setattr(sweep_module, "evaluate_generator", evaluate)
    monkeypatch.setattr(generator.TrainedGenerator, "from_run", lambda folder: None)
    return trained


def write_scores(folder: Path, alphas: Sequence[float], distance: float = 3.0, **about: Any) -> None:
    """What `drifting evaluate` leaves of a run of the tiny configuration; larger guidance scales are better."""
    about = {"step": 120, "ema_decay": 0.9, "num": 40, "seed": 0, "uint8": "truncate", "neighbours": 3} | about
    about |= {"reference": "the run's own data"}
    scores = [{"alpha": alpha, "frechet_distance": distance - (alpha - 1) / 2} for alpha in alphas]
    (folder / "eval-120.json").write_text(json.dumps(about | {"scores": scores}))


FAILING: set[str] = set()

INTERRUPTED: set[str] = set()

NAMES = ["width0.1", "width0.2", "width0.4"]


def rows(workdir: Path) -> list[dict[str, str]]:
    with (workdir / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_finished_cells_are_skipped_and_failed_ones_retried_by_request(
    calls: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    sweep = Sweep("", WIDTHS, alphas=(1.0, 2.0))
    cells = cells_of(sweep, BASE)
    FAILING.add("width0.2")
    with caplog.at_level(logging.INFO, "drifting"):
        assert run_sweep(sweep, cells, tmp_path) == 1
    assert caplog.text.count("width0.2 has failed: TrainingError: loss is nan at step 3; try a lower rate") == 1
    assert "2 finished, 1 failed (a retry runs them again), programs: " in caplog.text
    assert calls == NAMES
    found = rows(tmp_path)
    assert [row["status"] for row in found] == ["finished", "failed", "finished"]
    assert [row["frechet_distance"] for row in found] == ["2.5", "", "2.5"]  # the best guidance scale
    assert found[0]["alpha"] == "2.0" and found[0]["loss.widths"] == "0.1" and "nan" in found[1]["error"]
    caplog.clear()
    assert run_sweep(sweep, cells, tmp_path) == 1 and calls == NAMES
    assert caplog.text.count("cell 1, width0.2 has failed: ") == 1
    FAILING.clear()
    assert run_sweep(sweep, cells, tmp_path, retry=True) == 0 and calls == [*NAMES, "width0.2"]
    assert [row["status"] for row in rows(tmp_path)] == ["finished"] * 3
    assert [line.split()[:3] for line in listing(list(cells), tmp_path).splitlines()[1:]] == [
        [str(i), "finished", "2.5000"] for i in range(3)
    ]


def test_a_stopped_sweep_goes_on(calls: list[str], tmp_path: Path):
    sweep = Sweep("", WIDTHS)
    cells = cells_of(sweep, BASE)
    INTERRUPTED.add("width0.2")
    assert run_sweep(sweep, cells, tmp_path) == 0
    assert calls == NAMES[:2] and [row["status"] for row in rows(tmp_path)] == ["finished", "started", "waiting"]
    INTERRUPTED.clear()
    assert run_sweep(sweep, cells, tmp_path) == 0 and calls == [*NAMES[:2], *NAMES[1:]]
    with pytest.raises(ConfigError, match=r"^index=3: cells are numbered from 0 to 2"):
        run_sweep(sweep, cells, tmp_path, index=3)


def test_other_settings_are_refused(calls: list[str], tmp_path: Path):
    cells = cells_of(Sweep("", WIDTHS), BASE)
    run_sweep(Sweep("", WIDTHS), cells, tmp_path, index=0)
    before = (tmp_path / "sweep.json").read_text()
    changed = Sweep("", WIDTHS, {"optimizer.learning_rate": 0.5})
    words = r"width0\.1: holds a run with other settings \(optimizer\.learning_rate was .*choose another folder$"
    with pytest.raises(ConfigError, match=words):
        run_sweep(changed, cells_of(changed, BASE), tmp_path)
    assert calls == NAMES[:1] and (tmp_path / "sweep.json").read_text() == before
    logging = Sweep("", WIDTHS, {"train.log_every": 7})  # which `train` allows
    assert run_sweep(logging, cells_of(logging, BASE), tmp_path) == 0 and calls == NAMES


def test_scores_are_the_sweep_s_own(calls: list[str], tmp_path: Path):
    sweep = Sweep("", {"loss.widths": [(0.1,)]})
    cells = cells_of(sweep, BASE)
    (cell,) = cells
    run_sweep(sweep, cells, tmp_path)
    before = cell.scores(tmp_path)
    assert before is not None
    folder = cell.folder(tmp_path)
    write_scores(folder, [1.0], distance=99.0, num=10)  # somebody's `drifting evaluate --num=10`
    assert cell.scores(tmp_path) == before and read_cells(tmp_path)[0].scores(tmp_path) == before
    # Of a sweep before it kept its own: only what it would have asked for counts.
    (folder / "sweep-scores.json").unlink()
    assert cell.status(tmp_path) == "started"
    for other in ({"seed": 1}, {"classes": ["0"]}, {"ema_decay": 0.99}, {"step": 100}):
        write_scores(folder, [1.0], **other)
        assert cell.scores(tmp_path) is None
    (folder / "eval-120.json").write_text("{")
    assert cell.scores(tmp_path) is None
    write_scores(folder, [1.0])
    assert cell.scores(tmp_path) == before
    # Other guidance scales: scored again.
    again = Sweep("", {"loss.widths": [(0.1,)]}, alphas=(1.0, 2.0))
    assert run_sweep(again, cells_of(again, BASE), tmp_path) == 0 and calls == ["width0.1"] * 2
    assert rows(tmp_path)[0]["frechet_distance"] == "2.5"


def test_one_cell_alone(calls: list[str], tmp_path: Path):
    sweep = Sweep("", WIDTHS)
    cells = cells_of(sweep, BASE)
    run_sweep(sweep, cells, tmp_path, index=2)
    assert calls == NAMES[2:] and [row["status"] for row in rows(tmp_path)] == ["waiting", "waiting", "finished"]


# --- SLURM, with a fake of submitit -----------------------------------------------------------------------------------


class FakeExecutor:
    """The part of `submitit.AutoExecutor` that is used."""

    made: "list[FakeExecutor]" = []  # noqa: RUF012

    def __init__(self, folder: Path, cluster: str | None) -> None:
        self.folder, self.cluster = folder, cluster
        self.parameters: dict[str, Any] = {}
        self.commands: list[list[str]] = []
        FakeExecutor.made.append(self)

    def update_parameters(self, **parameters: Any) -> None:
        if "wrong" in parameters:
            raise NameError("Unknown parameter: wrong")
        self.parameters = parameters

    def batch(self):
        from contextlib import nullcontext

        return nullcontext()

    def submit(self, command: list[str]) -> Any:
        self.commands.append(command)
        return types.SimpleNamespace(job_id=f"7_{len(self.commands) - 1}")


@pytest.fixture
def sweep_file(tmp_path: Path) -> Path:
    path = tmp_path / "widths.py"
    text = "from drifting.experiments.grid import Sweep\n\n\ndef get_sweep():\n"
    path.write_text(f'{text}    return Sweep("{TINY}", {WIDTHS!r}, {{"train.steps": 120, "train.log_every": 5}})\n')
    return path


def test_slurm_gets_an_array_of_what_is_not_finished(
    calls: list[str], sweep_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    workdir = tmp_path / "sweep"
    arguments = [f"--config={sweep_file}", f"--workdir={workdir}"]
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert main(["sweep", *arguments, "--slurm"]) == 2
    assert "submitit is not installed; pip install -e '.[slurm]'" in capsys.readouterr().err
    fake = types.SimpleNamespace(
        AutoExecutor=FakeExecutor, helpers=types.SimpleNamespace(CommandFunction=lambda words: words)
    )
    monkeypatch.setitem(sys.modules, "submitit", fake)
    assert main(["sweep", *arguments, "--index=1"]) == 0 and calls == ["width0.2"]
    options = "--slurm_options=cluster=local,timeout_min=60,slurm_partition=gpu"
    assert main(["sweep", *arguments, "--slurm", options]) == 0
    assert capsys.readouterr().out.endswith("2 jobs submitted: 7_0 7_1\n")
    executor = FakeExecutor.made[-1]
    assert executor.cluster == "local" and executor.folder == workdir / "slurm"
    assert executor.parameters == {"name": "drifting", "timeout_min": 60, "slurm_partition": "gpu"}
    started = [sys.executable, "-m", "drifting.cli", "sweep", *arguments]
    assert executor.commands == [[*started, "--index=0"], [*started, "--index=2"]]
    changed = ["--config.train.micro_batch=4", "--config.model.options.own='10'", "--config.model.options.width=1_0"]
    assert main(["sweep", arguments[0], f"--workdir={tmp_path / 'other'}", *changed, "--slurm"]) == 0
    passed_on = [*changed[:2], "--config.model.options.width=10"]
    assert FakeExecutor.made[-1].commands[0][-4:] == ["--index=0", *passed_on]
    assert main(["sweep", *arguments, "--slurm", "--slurm_options=wrong=1"]) == 2
    assert "--slurm_options: Unknown parameter: wrong" in capsys.readouterr().err


def test_settings_on_the_command_line_are_those_of_all_cells(
    calls: list[str], sweep_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """They come before those of the sweep's file, and a key that the cells differ in is refused."""
    arguments = ["sweep", f"--config={sweep_file}", f"--workdir={tmp_path / 'sweep'}"]
    assert main([*arguments, "--config.train.log_every=7", "--config.model.options.own=1"]) == 0 and len(calls) == 3
    for cell in read_cells(tmp_path / "sweep"):
        found = read_config(cell.folder(tmp_path / "sweep"))
        assert (found.train.log_every, found.train.steps, found.model.options) == (7, 120, {"own": 1})
    capsys.readouterr()
    assert main([*arguments, "--config.loss.widths=1"]) == 2
    assert capsys.readouterr().err.startswith("drifting: error: --config.loss.widths: the cells differ in it")


def test_a_sweep_of_ones_own_may_be_over_an_experiment_of_the_package(tmp_path: Path, capsys):
    text = "from drifting.experiments.grid import Sweep\n\n\ndef get_sweep():\n"
    (tmp_path / "mine.py").write_text(f'{text}    return Sweep("digits:tiny", {{"train.seed": [3, 4]}})\n')
    assert main(["sweep", f"--config={tmp_path / 'mine.py'}", f"--workdir={tmp_path / 'sweep'}", "--list"]) == 0
    assert "seed4" in capsys.readouterr().out


def test_wrong_sweeps(sweep_file: Path, tmp_path: Path, capsys):
    (tmp_path / "none.py").write_text("x = 1\n")
    (tmp_path / "dict.py").write_text("def get_sweep():\n    return {}\n")
    for arguments, words in [
        (["--workdir=x"], "--config: give the sweep's file"),
        ([f"--config={sweep_file}"], "--workdir: give the sweep's folder"),
        ([f"--config={tmp_path / 'none.py'}", "--workdir=x"], "defines no function get_sweep()"),
        ([f"--config={tmp_path / 'dict.py'}", "--workdir=x"], "return a drifting.experiments.grid.Sweep"),
        ([f"--config={sweep_file}", "--workdir=x", "--slurm", "--slurm_options=a"], "expected KEY=VALUE"),
    ]:
        assert main(["sweep", *arguments]) == 2
        assert words in capsys.readouterr().err
    assert not Path("x").exists()


def test_differences_of_settings():
    configs = {"a": {"loss": {"widths": [1], "kernel": "k"}}, "b": {"loss": {"widths": [2], "kernel": "k"}}}
    configs["c"] = {"loss": {"widths": [1], "kernel": "k"}, "train": {"seed": 1}}
    found = config_differences(configs)
    assert found["loss.widths"] == {"a": [1], "b": [2], "c": [1]} and "loss.kernel" not in found


# --- compiling --------------------------------------------------------------------------------------------------------


@pytest.fixture
def own_cache(tmp_path: Path) -> Iterator[None]:
    """No compilation cache but the sweep's own."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: jax.config.values[name] for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def _empty_scores(folder: str) -> None:
    (Path(folder) / "eval-2.json").write_text("{}")


def test_widths_share_one_compilation(own_cache: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sweep_module, "evaluate_generator", lambda trained, source, settings: _empty_scores(source))
    monkeypatch.setattr(sweep_module, "CACHED_SECONDS", 0.0)  # the smallest programs count, too
    small = {"model.name": "mlp", "model.hidden_size": 8, "model.depth": 2, "train.steps": 2, "train.sample_every": 0}
    sweep = Sweep("", {"loss.widths": [(0.1,), (0.2,)]}, small)
    cells = cells_of(sweep, BASE)
    compiled, found = [], []
    for cell in cells:
        counts = CompileCounts()
        assert run_sweep(sweep, cells, tmp_path, index=cell.index) == 0
        compiled.append(counts.compiled)
        found.append(counts.found)
    assert compiled[0] > 0 and compiled[1] == 0 and found[1] > 0
