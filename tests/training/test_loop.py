"""The loop with a model of two numbers: what it logs and saves, how it stops, that it goes on as if it had not."""

import dataclasses
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from drifting.config.schema import MAEConfig, OptimizerConfig, PretrainConfig, RunConfig, to_dict
from drifting.data.batches import Pipeline
from drifting.data.source import ArraySource
from drifting.data.sources.digits import digits
from drifting.errors import CheckpointError, ConfigError, InputError, TrainingError
from drifting.runs import metrics
from drifting.runs.checkpoints import Checkpoints, abstract
from drifting.sampling.grid import save_grid
from drifting.training import loop
from drifting.training.course import Callbacks, Course, describe_data, describe_model, whole
from tests.support.runs import tree
from tests.support.wandb_stand_in import Wandb


class Run:
    """A run of the loop. `step_hook` is called with the number of every step that is about to be done."""

    def __init__(self, workdir: Path, source: Any = None, **train: Any) -> None:
        settings = dict(steps=12, log_every=3, sample_every=5, checkpoint_every=4, tensorboard=False) | train
        self.workdir, self.source = workdir, source or digits()
        self.config = PretrainConfig(train=RunConfig(**settings), optimizer=OptimizerConfig(decay="constant"))
        self.drawn: list[int] = []
        self.watched: list[int] = []
        self.measured: list[int] = []
        self.done = 0
        self.step_hook: Callable[[int], None] = lambda step: None
        self.bad: dict[str, tuple[int, float]] = {}
        self.identity: dict[str, Any] = {"data": "digits"}
        self.events: list[tuple[str, int]] = []
        self.scores: Callable[[int], dict[str, float]] | None = None
        self.scores_every = 0
        self.finished: list[tuple[int, float]] = []
        self.besides: list[tuple[int, float]] = []

    def __call__(self) -> int:
        @jax.jit
        def advance(state: Any, batch: Any) -> Any:
            x = state["x"] * 0.9 + jnp.mean(batch["image"])
            metrics = {name: jnp.abs(x) for name in loop.FINITE_METRICS}
            return {"step": state["step"] + 1, "x": x}, metrics

        def step_fn(state: Any, batch: Any, measure: bool) -> Any:
            self.done += 1
            number = int(state["step"]) + 1
            if measure:
                self.measured.append(number)
            self.step_hook(number)
            state, metrics = advance(state, batch)
            for name, (first, value) in self.bad.items():
                if number >= first:
                    metrics = metrics | {name: jnp.float32(value)}
            return state, metrics

        pipeline = Pipeline(self.source, 8, seed=0, prefetch=0)
        course = Course(
            workdir=self.workdir,
            config=self.config,
            feed=pipeline,
            initial=lambda: {"step": jnp.int32(0), "x": jnp.float32(1)},
            step_fn=step_fn,
            callbacks=Callbacks(
                flatten=lambda metrics: {name: float(value) for name, value in metrics.items()},
                shown=("loss",),
                watch=lambda step, values: self.watched.append(step),
                draw=self._draw,
                remedy="try a lower optimizer.learning_rate",
                evaluate=self._evaluate if self.scores else None,
                evaluate_every=self.scores_every,
                finish=lambda step, state: self.finished.append((step, float(state["x"]))),
                keep=lambda step, state: self.besides.append((step, float(state["x"]))),
            ),
            identity=self.identity,
            label="test",
            about=("a model of two numbers",),
            packing=whole(abstract({"step": jnp.int32(0), "x": jnp.float32(1)})),
            samples=8,
        )
        return loop.run_loop(course)

    def _draw(self, step: int, state: Any) -> Path:
        self.drawn.append(step)
        self.events.append(("draw", step))
        picture = self.workdir / "samples" / f"step_{step:07d}.png"
        save_grid(np.full((1, 8, 8, 1), step / 20), picture, 1)
        return picture

    def _evaluate(self, step: int, state: Any) -> dict[str, float]:
        assert self.scores is not None
        self.events.append(("score", step))
        return self.scores(step)

    @property
    def logged(self) -> list[int]:
        return [json.loads(line)["step"] for line in (self.workdir / "metrics.jsonl").read_text().splitlines()]

    @property
    def kept(self) -> list[int]:
        return sorted(int(path.name) for path in (self.workdir / "checkpoints").iterdir())

    def final(self) -> Any:
        shapes = {"step": jax.ShapeDtypeStruct((), jnp.int32), "x": jax.ShapeDtypeStruct((), jnp.float32)}
        return jax.device_get(Checkpoints(self.workdir).restore(self.kept[-1], shapes))


def killed(step: int) -> None:
    raise InterruptedError(f"killed before step {step}")


@pytest.fixture
def uninterrupted(tmp_path: Path) -> Run:
    run = Run(tmp_path / "uninterrupted")
    assert run() == 12
    return run


def test_intervals_and_the_end(uninterrupted: Run):
    assert uninterrupted.logged == uninterrupted.watched == [1, 3, 6, 9, 12]
    assert uninterrupted.drawn == [5, 10, 12]
    assert uninterrupted.kept == [8, 12]
    assert uninterrupted.measured == [1, 3, 4, 5, 6, 8, 9, 10, 12]  # whatever is logged, drawn, or saved
    x, pipeline = np.float32(1), Pipeline(digits(), 8, seed=0, prefetch=0)
    for _ in range(12):
        x = x * np.float32(0.9) + next(pipeline)["image"].mean()
    np.testing.assert_allclose(uninterrupted.final()["x"], x, rtol=1e-5)
    facts = {"identity": {"data": "digits"}, "data": {"position": 12}, "layout": {}}
    found = Checkpoints(uninterrupted.workdir).read_run(12)
    assert set(found.pop("values")) == set(loop.FINITE_METRICS) and found == facts


def test_what_is_measured_goes_to_every_sink_but_the_metrics(
    uninterrupted: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    wandb, board = Wandb(), TensorBoard()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setattr(metrics, "EventFile", board)
    run = Run(tmp_path / "run", tensorboard=True, wandb_project="p", wandb_tags=("a",))
    run.step_hook = lambda number: killed(number) if number == 6 and len(wandb.started) == 1 else None
    with pytest.raises(InterruptedError):
        run()
    assert run() == 12
    speeds = {"speed/seconds_per_step", "speed/images_per_second", "speed/data_wait"}
    measured = speeds | {"speed/device_memory_gb"}
    assert (run.workdir / "metrics.jsonl").read_bytes() == (uninterrupted.workdir / "metrics.jsonl").read_bytes()
    for logged in (wandb.logged, board.logged):
        steps = {step: set(values) for step, values in logged if "samples" not in values}
        assert steps[1] & measured == {"speed/device_memory_gb"}  # the first step was compiled
        assert all(measured | set(loop.FINITE_METRICS) == names for step, names in steps.items() if step > 1)
        assert [step for step, values in logged if "samples" in values] == [5, 5, 10, 12]  # made up for
    timings = [json.loads(line) for line in (run.workdir / "timings.jsonl").read_text().splitlines()]
    assert [line["step"] for line in timings] == [0, 1, 3, 4, 6, 9, 12]
    assert all(measured <= set(line) for line in timings if line["step"] in (3, 6, 12))
    assert [line["about"] for line in timings if "about" in line] == [["a model of two numbers"]] * 2
    shown = capsys.readouterr().err
    assert all(words in shown for words in ("s/step", "images/s", "% data wait", " GB"))
    first, again = wandb.started
    assert first["id"] == again["id"] and first["config"] == to_dict(run.config) and first["tags"] == ["a"]


class TensorBoard:
    """Stands in for the event files of a run; remembers what was written."""

    def __init__(self) -> None:
        self.logged: list[tuple[int, dict[str, Any]]] = []

    def __call__(self, folder: Path, purge_step: int | None) -> "TensorBoard":
        return self

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self.logged.append((step, values))

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        assert pixels.dtype == np.uint8 and pixels.ndim == 3
        self.logged.append((step, {name: pixels}))

    def close(self) -> None:
        pass


def test_wandb_that_is_missing_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"train\.wandb_project: wandb is not installed"):
        Run(tmp_path / "run", wandb_project="p")()
    assert not (tmp_path / "run").exists()


def test_a_profile_of_some_steps(uninterrupted: Run, tmp_path: Path):
    """Of those steps alone, also where the run resumes between them; the run is the same."""
    run = Run(tmp_path / "run", profile=(7, 10))
    run.step_hook = lambda number: killed(number) if number == 9 else None
    with pytest.raises(InterruptedError):
        run()
    profile = run.workdir / "profile"
    assert list(profile.rglob("*.xplane.pb"))
    profile.rename(tmp_path / "first")
    seen: list[bool] = []
    run.step_hook = lambda number: seen.append(profile.exists())
    assert run() == 12
    assert list(profile.rglob("*.xplane.pb")) and seen == [True] * 4  # steps 9 to 12
    assert (run.workdir / "metrics.jsonl").read_bytes() == (uninterrupted.workdir / "metrics.jsonl").read_bytes()


def test_intervals_that_are_off_still_save_and_log_at_the_end(tmp_path: Path):
    run = Run(tmp_path, steps=5, log_every=100, sample_every=0, checkpoint_every=0)
    run()
    assert (run.logged, run.drawn, run.kept) == ([1, 5], [], [5])


@pytest.mark.parametrize(
    ("log_every", "step"), [*((3, step) for step in (1, 3, 4, 5, 8, 9, 12)), (1, 5), (1, 6), (1, 12), (2, 7), (2, 8)]
)
def test_a_crash_before_any_step_changes_nothing_in_the_end(tmp_path: Path, log_every: int, step: int):
    """Whether or not the last checkpoint is of a step that is logged, and whether others were logged after it."""
    uninterrupted = Run(tmp_path / "uninterrupted", log_every=log_every)
    uninterrupted()
    run = Run(tmp_path / "crashed", log_every=log_every)
    run.step_hook = lambda number: killed(number) if number == step else None
    with pytest.raises(InterruptedError):
        run()
    saved = (step - 1) // 4 * 4
    assert (run.kept if saved else []) == [s for s in (4, 8) if s <= saved]
    again = Run(run.workdir, log_every=log_every)
    again()
    assert again.done == 12 - saved
    assert again.final() == uninterrupted.final()
    assert (run.workdir / "metrics.jsonl").read_bytes() == (uninterrupted.workdir / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("tail", ['{"step": 9, "loss": 0.1', '{"step": 9, "loss": 0.1}', "{"])
def test_a_torn_last_line_of_the_metrics_is_written_again(uninterrupted: Run, tmp_path: Path, tail: str):
    run = Run(tmp_path / "torn")
    run.step_hook = lambda number: killed(number) if number == 9 else None
    with pytest.raises(InterruptedError):
        run()
    with (run.workdir / "metrics.jsonl").open("a") as file:
        file.write(tail)
    Run(run.workdir)()
    assert (run.workdir / "metrics.jsonl").read_bytes() == (uninterrupted.workdir / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("step", [1, 6, 8, 12])
def test_a_signal_finishes_the_step_and_saves(uninterrupted: Run, tmp_path: Path, number: int, step: int):
    before = signal.getsignal(number)
    run = Run(tmp_path / "stopped")
    run.step_hook = lambda done: os.kill(os.getpid(), number) if done == step else None
    if number == signal.SIGINT and step < 12:  # after which nothing shall follow
        with pytest.raises(KeyboardInterrupt, match=rf"^saved after step {step} of 12 in .*, the same command goes on"):
            run()
    else:
        assert run() == step
    assert run.kept[-1] == step and bool(run.finished) == (step == 12)
    assert signal.getsignal(number) is before
    Run(run.workdir)()
    assert run.final() == uninterrupted.final()
    assert (run.workdir / "metrics.jsonl").read_bytes() == (uninterrupted.workdir / "metrics.jsonl").read_bytes()


def scored(workdir: Path, **train: Any) -> Run:
    """A run that is scored at every fourth step and saves at no interval."""
    run = Run(workdir, checkpoint_every=0, **train)
    run.scores, run.scores_every = (lambda step: {"eval/fid": float(step)}), 4
    return run


@pytest.fixture
def saves(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps after which a checkpoint is begun."""
    found: list[int] = []
    save = Checkpoints.save
    monkeypatch.setattr(Checkpoints, "save", lambda self, step, *rest: (found.append(step), save(self, step, *rest))[1])
    return found


@pytest.mark.parametrize("step", [4, 5, 8])
def test_a_stop_request_saves_and_leaves_what_takes_long_to_the_next_start(tmp_path: Path, step: int, saves: list[int]):
    """At steps that are scored (4, 8), drawn (5) or both, in the end it is all there and the same to the last byte."""
    whole = scored(tmp_path / "whole")
    whole()
    saves.clear()
    run = scored(tmp_path / "stopped")
    run.step_hook = lambda number: os.kill(os.getpid(), signal.SIGTERM) if number == step else None
    assert run() == step and saves == [step]
    assert all(at < step for _, at in run.events) and all(at < step for at in run.logged)
    run.step_hook = lambda number: None
    assert run() == 12
    assert run.events == whole.events  # each once, in order
    assert (run.workdir / "metrics.jsonl").read_bytes() == (whole.workdir / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("step", [1, 4, 12])
def test_a_stop_request_is_seen_while_scoring(tmp_path: Path, step: int, saves: list[int]):
    """The state is saved, the process ends before its scores are there, and the next start makes up for them."""
    whole = scored(tmp_path / "whole")
    whole()
    saves.clear()
    run, finished = scored(tmp_path / "stopped"), []

    def scores(at: int) -> dict[str, float]:
        if at == step and not finished:
            finished.append("begun")
            os.kill(os.getpid(), signal.SIGTERM)
            finished.append("went on")
        return {"eval/fid": float(at)}

    run.scores = scores
    assert run() == step and finished == ["begun"] and saves == [step]
    assert run() == 12
    assert (run.workdir / "metrics.jsonl").read_bytes() == (whole.workdir / "metrics.jsonl").read_bytes()
    done = run.done
    assert run() == 12 and run.done == done  # nothing is owed any more


def test_a_crash_while_scoring_loses_no_scores(tmp_path: Path):
    """Killed in the middle of the last scores, when the state is saved: the next start writes them."""
    whole, run = scored(tmp_path / "whole"), scored(tmp_path / "killed")
    whole()
    run.scores = lambda step: killed(step) if step == 12 else {"eval/fid": float(step)}  # type: ignore[return-value]
    with pytest.raises(InterruptedError):
        run()
    run.scores = whole.scores
    assert run() == 12
    assert (run.workdir / "metrics.jsonl").read_bytes() == (whole.workdir / "metrics.jsonl").read_bytes()


def test_a_second_interrupt_stops_at_once(tmp_path: Path):
    run = Run(tmp_path)

    def twice(step: int) -> None:
        if step == 6:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    run.step_hook = twice
    with pytest.raises(KeyboardInterrupt):
        run()
    assert run.kept == [4]


@pytest.mark.parametrize("name", loop.FINITE_METRICS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_stop_the_run_before_they_are_saved(tmp_path: Path, name: str, value: float):
    run = Run(tmp_path)
    run.bad = {name: (7, value)}
    with pytest.raises(TrainingError) as error:
        run()
    message = str(error.value)
    assert message.startswith(f"{name} is {value} at step 8; the checkpoint after step 4 is intact;")
    assert "\n" not in message and "optimizer.learning_rate" in message
    assert run.kept == [4] and np.isfinite(run.final()["x"]) and run.logged == [1, 3, 6]
    assert 10 not in run.drawn


def test_numbers_that_are_not_finite_at_the_start(tmp_path: Path):
    run = Run(tmp_path)
    run.bad = {"loss": (1, np.nan)}
    with pytest.raises(TrainingError, match="loss is nan at step 1; no checkpoint was written yet"):
        run()
    assert run.logged == []


def test_a_signal_does_not_save_numbers_that_are_not_finite(tmp_path: Path):
    run = Run(tmp_path, log_every=100, checkpoint_every=4)
    run.bad = {"grad_norm": (6, np.nan)}
    run.step_hook = lambda done: os.kill(os.getpid(), signal.SIGTERM) if done == 6 else None
    with pytest.raises(TrainingError, match="grad_norm is nan at step 6; the checkpoint after step 4 is intact"):
        run()
    assert run.kept == [4]


class Damaged(ArraySource):
    """Digits of which one image cannot be read."""

    def read(self, indices: Any, mirrored: Any, crop_seeds: Any) -> Any:
        if 77 in indices:
            raise InputError("cannot read the image 77.png; repair or remove it")
        return super().read(indices, mirrored, crop_seeds)


def test_an_image_that_cannot_be_read_stops_the_run(tmp_path: Path):
    images, labels = digits().__getitems__(np.arange(80))
    run = Run(tmp_path, source=Damaged(images, labels, digits().class_names))
    with pytest.raises(TrainingError, match=r"^data after step \d+: cannot read the image 77.png.*checkpoint"):
        run()
    assert run.done < 10  # an epoch has ten batches


def test_a_finished_run_says_so_and_does_nothing(uninterrupted: Run, caplog: pytest.LogCaptureFixture):
    metrics = (uninterrupted.workdir / "metrics.jsonl").read_bytes()
    again = Run(uninterrupted.workdir)
    with caplog.at_level(logging.INFO, "drifting"):
        assert (again(), again.done) == (12, 0)
    assert again.finished == uninterrupted.finished == [(12, float(uninterrupted.final()["x"]))]
    assert f"finished already, 12 steps in {uninterrupted.workdir}" in caplog.text
    assert (uninterrupted.workdir / "metrics.jsonl").read_bytes() == metrics


def test_more_steps_go_on_from_the_end(tmp_path: Path):
    first, longer, whole = (Run(tmp_path / name, steps=s) for name, s in (("a", 8), ("a", 12), ("b", 12)))
    for run in (first, longer, whole):
        run()
    assert longer.done == 4 and longer.final() == whole.final()


@pytest.mark.parametrize("change", [{"optimizer": OptimizerConfig(decay="cosine")}, {"mae": MAEConfig(lambda_cls=0.1)}])
def test_more_steps_are_refused_where_the_schedule_depends_on_them(tmp_path: Path, change: dict[str, Any]):
    run, longer = Run(tmp_path, steps=4), Run(tmp_path, steps=8)
    for each in (run, longer):
        each.config = dataclasses.replace(each.config, **change)
    run()
    with pytest.raises(ConfigError, match=r"train\.steps was 4, is 8"):
        longer()


def test_what_it_logs(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    run = Run(tmp_path / "run", steps=4)
    with caplog.at_level(logging.INFO, "drifting"):
        run()
        run.config = dataclasses.replace(run.config, train=dataclasses.replace(run.config.train, steps=8))
        run()
    messages = [record.getMessage() for record in caplog.records]
    first, second = messages[: len(messages) // 2], messages[len(messages) // 2 :]
    assert first[0] == second[0] == "a model of two numbers"
    assert first[1] == f"test: writing to {run.workdir}"
    assert second[1] == f"test: going on after step 4 of {run.workdir}"
    assert first[-1].startswith(f"test: done: step 4 of 4 in {run.workdir} after 0:0")
    assert second[-1].startswith(f"test: done: step 8 of 8 in {run.workdir} after 0:0")


@pytest.mark.parametrize(
    ("train", "words"),
    [(dict(seed=1), "train.seed was 0, is 1"), (dict(ema_decays=(0.5,)), r"ema_decays was \(0.999,\), is \(0.5,\)")],
)
def test_other_settings_are_refused_and_nothing_is_touched(uninterrupted: Run, train: dict[str, Any], words: str):
    before = {path: path.read_bytes() for path in uninterrupted.workdir.rglob("*") if path.is_file()}
    other = Run(uninterrupted.workdir, **train)
    with pytest.raises(ConfigError, match=f"holds a run with other settings .*{words}"):
        other()
    assert {path: path.read_bytes() for path in uninterrupted.workdir.rglob("*") if path.is_file()} == before


def test_other_facts_are_refused_before_the_settings_are_rewritten(uninterrupted: Run):
    before = (uninterrupted.workdir / "config.json").read_bytes()
    other = Run(uninterrupted.workdir, steps=20)
    other.identity = {"data": "other " * 100}
    with pytest.raises(ConfigError, match=r"was trained with data .digits., now it is .other .*") as error:
        other()
    assert len(str(error.value)) < 400  # however long the facts
    assert (uninterrupted.workdir / "config.json").read_bytes() == before and other.done == 0


def test_what_a_restore_raises_costs_no_checkpoint(uninterrupted: Run, monkeypatch: pytest.MonkeyPatch):
    """The run does not go back to the one before, nor begin anew, for a fault that is none of the files."""

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("Unable to cast Python instance")

    monkeypatch.setattr(ocp.Checkpointer, "restore", fail)
    before, longer = tree(uninterrupted.workdir), Run(uninterrupted.workdir, steps=20)
    with pytest.raises(CheckpointError, match=r"checkpoints/12: cannot be restored .*nothing was changed"):
        longer()
    assert tree(uninterrupted.workdir) == before


def test_other_facts_are_told_before_their_state_is_read(uninterrupted: Run, monkeypatch: pytest.MonkeyPatch):
    """That of data with other classes has other shapes, and would look like damage."""
    other = Run(uninterrupted.workdir, steps=20)
    other.identity = {"data": "other"}
    monkeypatch.setattr(Checkpoints, "restore", lambda *_: pytest.fail("the state was read"))
    with pytest.raises(ConfigError, match=r"was trained with data .digits., now it is .other."):
        other()


def test_descriptions():
    assert describe_data(digits()) == "data: digits, 1,400 samples of 8x8x1, 10 classes"
    shapes = {"a": jax.ShapeDtypeStruct((1000, 3), jnp.float32), "b": jnp.zeros(7)}
    assert describe_model("dit", shapes).startswith("model: dit, 3,007 parameters, on 1 x ")


def test_what_is_kept_besides_is_of_the_states_of_the_checkpoints(tmp_path: Path):
    run = Run(tmp_path / "run", keep_checkpoints=3)
    assert run() == 12
    restored = Checkpoints(run.workdir)
    target = abstract({"step": jnp.int32(0), "x": jnp.float32(1)})
    assert run.besides == [(step, float(restored.restore(step, target)["x"])) for step in (4, 8, 12)]
