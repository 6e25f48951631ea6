"""Real runs for the tests: the tiny configuration, the command in a process of its own, and what a run left behind."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from drifting.cli.settings import load_settings
from drifting.config.parse import parse
from drifting.config.schema import Config
from drifting.runs.checkpoints import Checkpoints

ROOT = Path(__file__).resolve().parents[2]

TINY = ROOT / "tests" / "support" / "tiny_digits.py"

FULL = "DRIFTING_FULL_TESTS" in os.environ
"""A few tests at the size of their claims, for minutes each: a cache of 20,000 images, twenty random kills in a row."""


def tiny_config(**sections: dict[str, Any]) -> Config:
    """The tiny configuration with changed keys: `tiny_config(loss=dict(labels=2))`."""
    settings = load_settings(str(TINY)).to_dict()
    for section, keys in sections.items():
        settings[section] |= keys
    config = parse(settings)
    assert isinstance(config, Config)
    return config


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "drifting.cli", *map(str, arguments)]


def train_arguments(workdir: Path, *arguments: str) -> list[str]:
    """For `main`, which starts no process and so loads nothing again."""
    return ["train", f"--config={TINY}", f"--workdir={workdir}", *arguments]


def train_command(workdir: Path, *arguments: str) -> list[str]:
    return command(*train_arguments(workdir, *arguments))


def finish(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end."""
    return subprocess.run(arguments, capture_output=True, text=True, timeout=300, check=False)


def finished_run(factory: pytest.TempPathFactory) -> Path:
    """The directory of one uninterrupted run of the tiny configuration, trained once for all test files. Read-only.

    Workers of pytest-xdist have a copy each of what the first of them has trained.
    """
    own = factory.getbasetemp()
    workdir, shared = own / "finished_run", own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    if not workdir.exists():
        with (shared / "finished_run.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (shared / "finished_run").exists():
                done = finish(train_command(shared / "finished_run"))
                assert done.returncode == 0, done.stderr
        if shared != own:
            shutil.copytree(shared / "finished_run", workdir)
    return workdir


def saved(workdir: Path) -> tuple[int, dict[str, np.ndarray], dict[str, Any]]:
    """Step, every array by name, and JSON of a run's latest checkpoint."""
    checkpoints = Checkpoints(workdir)
    step = checkpoints.latest()
    assert step is not None
    path = workdir.absolute() / "checkpoints" / str(step) / "state"
    with ocp.PyTreeCheckpointer() as reader:
        shapes = reader.metadata(path).item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
        state = reader.restore(path, restore_args=as_numpy)
    arrays = {jax.tree_util.keystr(name): leaf for name, leaf in jax.tree.leaves_with_path(state)}
    return step, arrays, checkpoints.read_run(step)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def metrics(workdir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def assert_same_run(actual: Path, expected: Path) -> None:
    """The same state to the last bit, the same position in the data, the same metrics file."""
    step, arrays, run = saved(actual)
    other_step, other_arrays, other_run = saved(expected)
    assert (step, run) == (other_step, other_run)
    assert arrays.keys() == other_arrays.keys() and len(arrays) > 20
    for name, array in arrays.items():
        assert array.dtype == other_arrays[name].dtype and array.tobytes() == other_arrays[name].tobytes(), name
    assert (actual / "metrics.jsonl").read_bytes() == (expected / "metrics.jsonl").read_bytes()
