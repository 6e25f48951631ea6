"""Several processes train one run: the same parameters whatever their number, and none is lost when one is."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from drifting.devices import processes
from drifting.errors import ConfigError
from drifting.runs import watchdog
from tests.support.runs import FULL, TINY, metrics, saved

STEPS = 90

FLAGS = (
    "--config.loss.labels=4", "--config.bank.push=16", "--config.train.checkpoint_every=10",
    f"--config.train.steps={STEPS}", "--config.train.sample_every=0", "--config.train.log_every=10",
    "--config.mesh.fsdp=2", "--config.model.name=mlp", "--config.model.num_heads=None", "--config.model.depth=2",
)  # fmt: skip


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return int(found.getsockname()[1])


def start(workdir: Path, count: int, log: Path) -> list[subprocess.Popen[bytes]]:
    """The training command in `count` processes that have four devices together."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={4 // count}"
    env = os.environ | {"NPROC": "16", "XLA_FLAGS": flags}
    command = [sys.executable, "-m", "drifting.cli", "train", f"--config={TINY}", f"--workdir={workdir}", *FLAGS]
    if count > 1:
        command += [f"--coordinator=localhost:{free_port()}", f"--process_count={count}", "--peer_timeout=10"]
    return [
        subprocess.Popen(
            command + ([f"--process_index={index}"] if count > 1 else []),
            env=env, stdout=subprocess.DEVNULL, stderr=(log.parent / f"{log.name}.{index}").open("wb"),
        )
        for index in range(count)
    ]  # fmt: skip


def finish(found: list[subprocess.Popen[bytes]], log: Path) -> list[int]:
    try:
        return [process.wait(timeout=600) for process in found]
    finally:
        for process in found:
            process.kill()


def told(log: Path, index: int = 0) -> str:
    return (log.parent / f"{log.name}.{index}").read_text(errors="replace")


def newest(workdir: Path) -> int:
    folder = workdir / "checkpoints"
    return max((int(path.name) for path in folder.glob("*") if path.name.isdigit()), default=0)


def wait_past(workdir: Path, step: int) -> None:
    """Until a checkpoint after `step` is there."""
    limit = time.monotonic() + 600
    while newest(workdir) <= step:
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_processes_come_and_go_and_the_parameters_are_those_of_one(tmp_path: Path):
    """One process to the end; and two that are asked to stop, then several of which one is killed, then one again."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    log = tmp_path / "whole.log"
    assert finish(start(whole, 1, log), log) == [0], told(log)

    log = tmp_path / "two.log"
    two = start(run, 2, log)
    wait_past(run, 0)
    two[1].send_signal(signal.SIGTERM)
    assert finish(two, log) == [0, 0], told(log)
    stopped = newest(run)
    assert 10 <= stopped < STEPS and "stopped and saved" in told(log)
    assert "train: " not in told(log, 1)  # one of them speaks

    log = tmp_path / "several.log"
    several = start(run, 4 if FULL else 2, log)
    wait_past(run, stopped)
    several[-1].kill()
    codes = finish(several, log)
    assert codes[-1] == -signal.SIGKILL and all(code != 0 for code in codes)
    assert "going on after step" in told(log) and newest(run) < STEPS

    log = tmp_path / "one.log"
    assert finish(start(run, 1, log), log) == [0], told(log)
    (step, arrays, facts), (_, expected, _) = saved(run), saved(whole)
    assert step == STEPS and facts["layout"]["bank_sets"] == 2
    for name, array in expected.items():
        if array.dtype == np.float32:
            np.testing.assert_allclose(arrays[name], array, rtol=1e-3, atol=2e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(arrays[name], array, err_msg=name)
    losses = [[line["gap"] for line in metrics(folder)] for folder in (run, whole)]
    np.testing.assert_allclose(*losses, rtol=1e-3, atol=1e-5)
    assert [line["step"] for line in metrics(run)] == [line["step"] for line in metrics(whole)]


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (dict(process_count=2), {}, "coordinator: is missing; several processes need all of"),
        (dict(coordinator="localhost:1", process_count=2), {}, "process_index: is missing"),
        (dict(coordinator="localhost:1", process_count=2, process_index=2), {}, r"process_index=2: must lie in \[0, "),
        ({}, {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2"}, "JAX_PROCESS_ID: is no number"),
    ],
)  # fmt: skip
def test_what_is_missing_is_one_line(arguments: dict, environment: dict, message: str, monkeypatch: pytest.MonkeyPatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message) as error:
        processes.initialise(**arguments)
    assert "\n" not in str(error.value)


def test_one_process_joins_nobody(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jax.distributed, "initialize", lambda **_: pytest.fail("initialised"))
    monkeypatch.delenv("JAX_COORDINATOR_ADDRESS", raising=False)
    processes.initialise()
    processes.initialise("localhost:1", 1, 0)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    processes.initialise()


@pytest.mark.parametrize("environment", [{"SLURM_STEP_NUM_TASKS": "4"}, {"TPU_WORKER_HOSTNAMES": "a,b"}])
def test_clusters_are_recognised(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    asked = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **options: asked.append(options))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    processes.initialise(timeout=30)
    assert asked == [{"heartbeat_timeout_seconds": 30}]
    for name, value in {"JAX_COORDINATOR_ADDRESS": "a:7", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}.items():
        monkeypatch.setenv(name, value)
    processes.initialise()
    assert asked[1] == dict(coordinator_address="a:7", num_processes=2, process_id=1, heartbeat_timeout_seconds=100)


def test_a_stuck_process_ends_the_job_and_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """This process waits after step 7 for process 1, whose last sign is of step 5."""
    codes: list[int] = []
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(os, "_exit", codes.append)
    folder = tmp_path / watchdog.WATCH_FOLDER
    folder.mkdir()
    for index, step in ((1, 5), (2, 7)):
        (folder / f"{index}.json").write_text(json.dumps({"host": f"node{index}", "step": step}))
    with watchdog.Watch(tmp_path, seconds=0.2) as watch:
        watch.finished(7)
        limit = time.monotonic() + 20
        while not codes and time.monotonic() < limit:
            time.sleep(0.02)
    assert codes[0] == watchdog.STUCK_EXIT_CODE
    assert "no step was finished for 0 s; furthest behind, after step 5: process 1 on node1; ending" in caplog.text
