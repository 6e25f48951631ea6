"""Real runs that are killed and started again end as one that never was: to the last bit."""

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from drifting.cli.commands import main
from drifting.sampling.generator import TrainedGenerator
from tests.support.runs import (
    FULL,
    assert_same_run,
    finish,
    finished_run,
    metrics,
    saved,
    train_arguments,
    train_command,
)

IN_PROGRESS = "orbax-checkpoint-tmp"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory)


def names(workdir: Path) -> list[str]:
    """What is in the checkpoint folder: finished ones by their step, and those that are being written."""
    with contextlib.suppress(FileNotFoundError):
        return os.listdir(workdir / "checkpoints")
    return []


def logged(workdir: Path) -> int:
    """The last step in the metrics file."""
    with contextlib.suppress(FileNotFoundError, IndexError, ValueError):
        return int(json.loads((workdir / "metrics.jsonl").read_bytes().splitlines()[-1])["step"])
    return 0


def stop(workdir: Path, number: int, when: Callable[[], bool], *flags: str, said: Path | None = None) -> int:
    """Starts the run, sends it a signal as soon as `when()`, and returns its exit code; what it says goes to `said`."""
    with open(said or os.devnull, "wb") as log:
        process = subprocess.Popen(train_command(workdir, *flags), stdout=subprocess.DEVNULL, stderr=log)
        deadline = time.monotonic() + 240
        try:
            while not when():
                assert process.poll() is None, "the run ended before it could be stopped"
                assert time.monotonic() < deadline
                time.sleep(0.0005)
        finally:
            process.send_signal(number)
            process.wait(timeout=240)
    return process.returncode


def test_killed_at_many_points(whole: Path, tmp_path: Path):
    """SIGKILL before the first checkpoint, while one is being written, and between two."""
    run = tmp_path / "run"
    assert stop(run, signal.SIGKILL, lambda: logged(run) >= 1) == -signal.SIGKILL
    assert any(killed_while_saving(run) for _ in range(4))
    reached = logged(run)
    assert stop(run, signal.SIGKILL, lambda: logged(run) > max(reached, 24)) == -signal.SIGKILL
    assert main(train_arguments(run)) == 0
    assert_same_run(run, whole)
    assert not any(IN_PROGRESS in name for name in names(run))


def saving(run: Path) -> Callable[[], bool]:
    """Whether the run is writing a checkpoint now; what a kill before left behind does not count."""
    already = set(names(run))
    return lambda: any(IN_PROGRESS in name for name in set(names(run)) - already)


def killed_while_saving(run: Path) -> bool:
    """Kills the run as soon as it starts writing a checkpoint; whether it came in time."""
    begun = saving(run)
    stop(run, signal.SIGKILL, begun)
    return begun()


@pytest.mark.skipif(not FULL, reason="takes five minutes; set DRIFTING_FULL_TESTS=1")
def test_twenty_kills_in_a_row_at_random(whole: Path, tmp_path: Path):
    """At any time from its start on; runs that come to their end first are compared, and another is begun."""
    rng, run, kills, runs = np.random.default_rng(0), tmp_path / "0", 0, 0
    while kills < 20:
        process = subprocess.Popen(train_command(run), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=rng.uniform(0, 15))
        except subprocess.TimeoutExpired:
            process.kill()
            kills += process.wait() == -signal.SIGKILL
        else:
            assert process.returncode == 0
            assert_same_run(run, whole)
            runs += 1
            run = tmp_path / str(runs)
    done = finish(train_command(run))
    assert done.returncode == 0, done.stderr
    assert_same_run(run, whole)


def test_stopped_politely(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """While the first step compiles, in a step, while a checkpoint is written, and by Ctrl-C: saved at once.

    The code is 0, so that a scheduler is content; after Ctrl-C 130, so that a shell goes on with nothing that follows.
    """
    run, said = tmp_path / "run", tmp_path / "said"
    compiling = lambda: said.exists() and "compiling the first step" in said.read_text()  # noqa: E731
    assert stop(run, signal.SIGTERM, compiling, "--stopped_code=75", said=said) == 75  # a launcher's choice
    assert saved(run)[0] < 4
    if FULL:  # which the next signals meet as well
        assert stop(run, signal.SIGTERM, lambda: logged(run) >= 4) == 0
        assert 4 <= saved(run)[0] < 120
    step, _, _ = saved(run)
    assert stop(run, signal.SIGTERM, saving(run)) == 0
    assert not any(IN_PROGRESS in name for name in names(run)) and step < saved(run)[0] < 120
    step, _, _ = saved(run)
    if FULL:
        assert stop(run, signal.SIGINT, lambda: logged(run) > step, "--stopped_code=75") == 75
        assert saved(run)[0] > step
        step, _, _ = saved(run)
    assert stop(run, signal.SIGINT, lambda: logged(run) > step) == 130 and step < saved(run)[0] < 120
    assert main(train_arguments(run)) == 0
    assert "going on after step" in capsys.readouterr().err
    assert_same_run(run, whole)


def test_the_state_is_not_trivial(whole: Path):
    """What is compared holds the banks' numbers and two averages, which differ, and every number is finite."""
    _, arrays, _ = saved(whole)
    fast, slow = ([array for name, array in arrays.items() if f"['ema']['{d}']" in name] for d in ("0.9", "0.99"))
    assert len(fast) == len(slow) > 10
    assert any(np.any(a != b) for a, b in zip(fast, slow, strict=True))
    assert np.all(arrays["['banks']['class']['ids']"] > 0) and np.all(arrays["['banks']['class']['pushed']"] >= 8)
    assert not any("samples" in name for name in arrays)  # which are read again
    assert all(np.isfinite(array).all() for array in arrays.values())


def test_divergence_leaves_the_last_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The first step is harmless (a warm-up starts at 1e-6) and saved; the second leaves no finite number."""
    run = tmp_path / "run"
    flags = ["--config.optimizer.learning_rate=1e30", "--config.train.checkpoint_every=1"]
    assert main(train_arguments(run, *flags)) == 1
    said = capsys.readouterr().err
    errors = [line for line in said.splitlines() if line.startswith("drifting: error:")]
    assert "Traceback" not in said and len(errors) == 1 and errors[0] == said.splitlines()[-1]
    intact = r"_norm is (nan|inf) at step 2; the checkpoint after step 1 is intact; `drifting replay` .*; try a lower"
    assert re.search(intact, errors[0])
    step, arrays, _ = saved(run)
    assert step == 1 and all(np.isfinite(array).all() for array in arrays.values())
    assert [line["step"] for line in metrics(run)] == [1]


@pytest.mark.skipif(not FULL, reason="trains twice: set DRIFTING_FULL_TESTS=1")
def test_averages_of_other_widths_are_those_of_the_whole_run(tmp_path: Path):
    """A run of all steps and one that stopped and went on store the same averages, and others are made of them."""
    flags = ["--config.train.ema_stds=(0.05,0.1)", "--config.train.checkpoint_every=4"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(train_arguments(whole, *flags)) == 0
    for steps in (4, 8):
        assert main(train_arguments(parts, *flags, f"--config.train.steps={steps}")) == 0
    files = sorted(path.name for path in (parts / "averages").iterdir())
    assert files == ["4.json", "4.safetensors", "8.json", "8.safetensors"]
    for name in files:
        assert (whole / "averages" / name).read_bytes() == (parts / "averages" / name).read_bytes()
    state = saved(parts)[1]
    for std in (0.05, 0.1):
        made = TrainedGenerator.from_run(parts, std=std)
        kept = [array for name, array in state.items() if f"std={std}" in name]
        assert len(kept) == len(jax.tree.leaves(made.params))
        for one, other in zip(jax.tree.leaves(made.params), kept, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert main(["evaluate", f"--workdir={parts}", "--ema=std=0.15,0.99,std=0.05", "--num=40", "--alpha=1,1.5"]) == 0
    assert len(list(parts.glob("eval-8-*.json"))) == 3
