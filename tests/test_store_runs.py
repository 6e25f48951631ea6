"""Runs whose folder is an address: killed and gone on with, they end as one in a folder does, to the last bit."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from drifting.config.schema import DataConfig
from drifting.data.fingerprint import data_facts
from drifting.data.latents.read import check_cache
from drifting.data.sources import source
from drifting.errors import ConfigError
from drifting.runs.checkpoints import Checkpoints
from drifting.runs.places import place
from drifting.runs.shared_work import Share
from drifting.training.latents import build_cache
from tests.support.caches import cache_settings, finished_cache, image_folder
from tests.support.runs import FULL, TINY, assert_same_run
from tests.support.stores import BUCKET, free_port, served_store

FLAGS = (
    "--config.train.steps=60", "--config.train.checkpoint_every=5", "--config.train.log_every=5",
    "--config.train.sample_every=30", "--config.loss.labels=4", "--config.bank.push=16", "--config.mesh.fsdp=2",
    "--config.model.name=mlp", "--config.model.num_heads=None", "--config.model.depth=2",
)  # fmt: skip


@pytest.fixture(params=["gs", "s3"], scope="module")
def served(request: pytest.FixtureRequest) -> Iterator[str]:
    """The scheme of a store that answers on this machine."""
    with served_store(request.param) as scheme:
        yield scheme


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "drifting.cli", *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)


def start_two(workdir: str, log: Path) -> list[subprocess.Popen[bytes]]:
    """The training command in two processes of two devices each."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    line = [sys.executable, "-m", "drifting.cli", "train", f"--config={TINY}", f"--workdir={workdir}", *FLAGS]
    line += [f"--coordinator=localhost:{free_port()}", "--process_count=2", "--peer_timeout=10"]
    return [
        subprocess.Popen(
            [*line, f"--process_index={index}"],
            env=os.environ | {"NPROC": "16", "XLA_FLAGS": flags},
            stdout=subprocess.DEVNULL,
            stderr=(log / f"{index}.log").open("ab"),
        )
        for index in range(2)
    ]


def finish(two: list[subprocess.Popen[bytes]]) -> list[int]:
    try:
        return [process.wait(timeout=300) for process in two]
    finally:
        for process in two:
            process.kill()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run in a folder, never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    assert finish(start_two(str(folder / "run"), folder)) == [0, 0], (folder / "0.log").read_text()
    return folder / "run"


@pytest.mark.skipif(not FULL, reason="some minutes: set DRIFTING_FULL_TESTS=1")
def test_two_processes_that_are_killed_go_on_to_the_same_end(served: str, whole: Path, tmp_path: Path):
    address = f"{served}://{BUCKET}/run"
    run, kills = place(address), 0
    for past in (4, 19, 39):
        two, limit = start_two(address, tmp_path), time.monotonic() + 300
        while (Checkpoints(run).latest() or 0) <= past and any(process.poll() is None for process in two):
            assert time.monotonic() < limit
            time.sleep(0.1)
        kills += two[1].poll() is None
        for process in two:
            process.kill()
        finish(two)
    log = (tmp_path / "0.log").read_text()
    assert kills == 3 and "going on after step" in log, log
    assert finish(start_two(address, tmp_path)) == [0, 0], (tmp_path / "0.log").read_text()
    run.download(tmp_path / "copy")
    assert_same_run(tmp_path / "copy", whole)
    kept = [sorted(path.name for path in (folder / "checkpoints").iterdir()) for folder in (run, whole)]
    assert kept[0] == kept[1] and not list((tmp_path / "copy").rglob("*.tmp"))


@pytest.mark.skipif(not FULL, reason="some minutes: set DRIFTING_FULL_TESTS=1")
def test_every_command_serves_an_address(served: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root, here = f"{served}://{BUCKET}/every", tmp_path / "run"
    train = [
        "train",
        f"--config={TINY}",
        "--config.train.steps=6",
        "--config.train.checkpoint_every=3",
        "--config.eval.every=3",
    ]
    for arguments in (
        [*train, f"--workdir={root}"],
        [*train, f"--workdir={here}"],
        *(
            [name, f"--workdir={folder}", *rest]
            for folder in (root, here)
            for name, *rest in (
                ["sample"],
                ["sample", f"--out={folder}/images.npz", "--num=20"],
                ["sample", f"--out={folder}/pngs", "--num=5"],
                ["evaluate"],
                ["report"],
                ["export", f"--out={folder}/weights"],
            )
        ),
        ["sample", f"--weights={root}/weights", f"--out={root}/of_weights.png"],
        ["sample", f"--weights={here}/weights", f"--out={here}/of_weights.png"],
    ):
        done = command(*arguments)
        assert done.returncode == 0, (arguments, done.stderr)
    run = place(root)
    for name in ("samples.png", "images.npz", "pngs/000004.png", "of_weights.png", "metrics.jsonl"):
        assert (run / name).read_bytes() == (here / name).read_bytes(), name
    assert (run / "report.html").is_file() and (run / "eval-6.json").is_file()
    best = Checkpoints(here / "best").latest()
    assert best is not None and Checkpoints(run / "best").latest() == best
    tensors = "weights/params.safetensors"
    assert (run / tensors).read_bytes() == (here / tensors).read_bytes()


@pytest.mark.skipif(not FULL, reason="some minutes: set DRIFTING_FULL_TESTS=1")
def test_a_cache_is_made_there_and_trained_on_from_there(
    served: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
):
    """Two processes that share a cache, one after the other; and a training that reads it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    there, here = place(f"{served}://{BUCKET}/latents"), finished_cache(tmp_path_factory)
    settings = cache_settings(image_folder(tmp_path_factory))
    assert [build_cache(settings, there, Share(index, 2)) for index in (1, 0)] == [False, True]
    assert check_cache(there, verify=True) == []
    for name in ("manifest.json", "labels.npy"):
        assert (there / name).read_bytes() == (here / name).read_bytes(), name
    local, stored = (source(DataConfig(name="latents", path=str(path))) for path in (here, there))
    everything = range(len(local)), np.zeros(len(local), bool), None
    np.testing.assert_array_equal(stored.read(*everything)[0], local.read(*everything)[0])
    assert data_facts(stored) == data_facts(local)
    (there / "manifest.json").unlink()
    with pytest.raises(ConfigError, match=rf"^data\.path='{there}': the cache is not finished"):
        source(DataConfig(name="latents", path=str(there)))
