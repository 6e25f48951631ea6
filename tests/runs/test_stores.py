"""What lies in an object store does what a folder does, or says in one line why not."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from drifting.cli.commands import main
from drifting.config.schema import Config
from drifting.errors import ArgumentError, CheckpointError, InputError, MachineError
from drifting.runs import store_path
from drifting.runs.checkpoints import Checkpoints, abstract
from drifting.runs.directory import check_config, read_config, write_config
from drifting.runs.files import atomic_path, exists, read_json, sha256, write_json
from drifting.runs.metrics import MetricsWriter, last_metrics_step
from drifting.runs.places import is_stored, local_copy, place, remove_tree
from drifting.runs.shared_work import Parts, Share
from drifting.runs.staging import COMMITTED
from drifting.weights.averages import reconstruct, store_averages, stored_averages
from tests.support.stores import BUCKET, Memory, served_store

STATE = {"ema": {"0.9": jnp.arange(6.0)}, "step": jnp.asarray(3)}


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    """A store in this process."""
    client = Memory()
    monkeypatch.setattr(store_path, "_filesystem", lambda scheme, process: client)
    monkeypatch.setattr(store_path.StorePath, "opened", lambda self: self)
    return client


@pytest.fixture
def run(memory: Memory) -> Path:
    return place(f"s3://{BUCKET}/runs/one")


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield
    assert not [*(tmp_path / "tmp").glob("*/*")], "a temporary file was left"


def test_a_place_is_a_path_or_an_address_that_is_served(memory: Memory, tmp_path: Path):
    assert place("runs/x") == Path("runs/x") and place(tmp_path) is tmp_path and not is_stored(tmp_path)
    there = place("gs://bucket/a/b.json")
    assert is_stored(there) and place(there) is there
    parts = (there.name, there.stem, str(there.parent), str(there.with_name("c")), str(there.absolute()))
    assert parts == ("b.json", "b", "gs://bucket/a", "gs://bucket/a/c", str(there))
    for address in ("http://b/x", "hf://a/b", "gs://", "file:" + "///x"):
        with pytest.raises(InputError, match=r"is no address that is served: give a path, gs://BUCKET/FOLDER"):
            place(address)


def _tree(folder: Path) -> list[Any]:
    """What a folder and a store say of the same files."""
    (folder / "a" / "deep").mkdir(parents=True, exist_ok=True)
    write_json(folder / "a" / "x.json", {"é": 1})
    with atomic_path(folder / "a" / "deep" / "y.bin") as temporary:
        temporary.write_bytes(b"12345")
    with pytest.raises(ZeroDivisionError), atomic_path(folder / "a" / "z") as temporary:
        temporary.write_bytes(b"half")
        raise ZeroDivisionError

    def relative(paths: Any) -> list[str]:
        return sorted(str(path.relative_to(folder)) for path in paths if not path.is_dir() or path.parent == folder)

    a = folder / "a"
    return [
        read_json(a / "x.json"), sha256(a / "deep" / "y.bin"), (a / "x.json").read_text(encoding="utf-8"),
        list((a / "x.json").open("r", encoding="utf-8")), (a / "deep" / "y.bin").stat().st_size,
        relative(folder.iterdir()), relative(a.iterdir()), relative(a.rglob("*")), relative(folder.glob("*/*.json")),
        [(p.exists(), p.is_file(), p.is_dir(), exists(p)) for p in (a, a / "x.json", a / "none", a / "x.json" / "no")],
        (a / "x.json").unlink(), (a / "x.json").unlink(missing_ok=True), exists(a / "x.json"),
        remove_tree(a), exists(a), remove_tree(a),
    ]  # fmt: skip


def test_a_store_does_what_a_folder_does(run: Path, tmp_path: Path):
    assert _tree(run) == _tree(tmp_path / "local")
    with pytest.raises(FileNotFoundError):
        run.stat()
    with pytest.raises(InputError, match=r"x\.json: cannot be read"):
        read_json(run / "x.json")
    with pytest.raises(ValueError, match=r"an object is written whole"):
        (run / "x").open("w")


def test_a_copy_is_made_once_for_each_content(run: Path, memory: Memory):
    write_json(run / "cache" / "a.json", {"a": 1})
    first = local_copy(run / "cache")
    assert read_json(first / "a.json") == {"a": 1} and local_copy(run / "cache") == first
    write_json(run / "cache" / "a.json", {"a": 2})
    assert read_json(local_copy(run / "cache") / "a.json") == {"a": 2}
    assert read_json(local_copy(run / "cache" / "a.json")) == {"a": 2}
    with pytest.raises(FileNotFoundError):
        local_copy(run / "none")


def test_metrics_go_on_where_they_were(run: Path):
    for last, steps in ((None, (1, 2, 3)), (2, (3, 4))):
        with MetricsWriter(run, tensorboard=True, last_step=last) as writer:
            for step in steps:
                writer.write(step, {"loss": step / 10}, {"speed": 1.0})
                assert last_metrics_step(run) == step  # each line is there when the call returns
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": step, "loss": step / 10} for step in (1, 2, 3, 4)]
    assert len((run / "timings.jsonl").read_text().splitlines()) == 2 + 5
    assert len(list((run / "tensorboard").iterdir())) >= 1


def test_parts_of_several_processes(run: Path):
    parts = Parts(run / "x.parts", 5, 2, ".npy", run / "x")
    parts.claim({"a": 1})
    assert parts.missing(Share(1, 2)) == [1] and parts.left() == 3
    for number in range(3):
        parts.write(number, lambda path: path.write_bytes(b"x"))
    assert parts.left() == 0 and parts.missing(Share()) == []
    with pytest.raises(ArgumentError, match=r"a was 1, is 2"):
        parts.claim({"a": 2})
    parts.remove()
    assert not exists(run / "x.parts")


def test_settings_lie_there(run: Path):
    check_config(run, Config())
    write_config(run, Config())
    assert read_config(run) == Config()
    with pytest.raises(ArgumentError, match=r"holds no run"):
        read_config(run / "other")


def _save(run: Path, *steps: int, keep: int = 1) -> None:
    with closing(Checkpoints(run, keep=keep)) as checkpoints:
        for step in steps:
            checkpoints.save(step, STATE, {"step": step})
            checkpoints.wait()


def test_checkpoints_through_this_machine(run: Path):
    """As they go to `s3://`: written here, uploaded whole and sealed, and the older ones removed."""
    _save(run, 1, 2, 3, keep=2)
    checkpoints = Checkpoints(run)
    assert checkpoints.steps() == [3, 2] and checkpoints.sealed(3) and checkpoints.latest_intact() == 3
    assert sorted(path.name for path in (run / "seals").iterdir()) == ["2.json", "3.json"]
    assert checkpoints.read_run(3) == {"step": 3}
    found = checkpoints.restore(3, abstract(STATE))
    np.testing.assert_array_equal(found["ema"]["0.9"], STATE["ema"]["0.9"])
    part = checkpoints.restore_part(3, "ema", abstract(STATE["ema"]))
    np.testing.assert_array_equal(part["0.9"], STATE["ema"]["0.9"])
    checkpoints.set_aside(2)
    assert checkpoints.steps() == [2] and (run / "damaged" / "3" / COMMITTED).exists()
    _save(run, 3)  # another run goes on from there
    assert Checkpoints(run).steps() == [3]


def test_averages_lie_there_too(run: Path):
    shapes = {"net": {"w": np.zeros(3, np.float32)}}
    for step in (4, 8):
        store_averages(run, step, step, {0.05: {"net": {"w": np.full(3, step, np.float32)}}})
    assert [stored.step for stored in stored_averages(run)] == [4, 8]
    step, found = reconstruct(run, 0.05, shapes)
    assert step == 8
    np.testing.assert_allclose(found["net"]["w"], 8, rtol=1e-6)
    (run / "averages" / "4.safetensors").write_bytes(b"x")
    with pytest.raises(InputError, match=r"4\.safetensors: is damaged"):
        reconstruct(run, 0.05, shapes)


def test_an_upload_that_is_cut_short_leaves_no_checkpoint(run: Path, memory: Memory):
    """Whatever the number of objects that get there, the step is whole or not there."""
    _save(run, 1)
    objects, counts = list((run / "checkpoints" / "1").rglob("*")), []
    for let in range(0, len(objects), 3):
        memory.accepted = let
        with pytest.raises(CheckpointError, match=r"that after step 1 is safe"):
            _save(run, 2, keep=2)
        memory.accepted = None
        assert Checkpoints(run).steps() == [1]
        counts.append(len(list((run / "checkpoints" / "2").rglob("*"))))
    assert counts[0] == 0 and max(counts) > 5
    _save(run, 3, keep=2)
    assert Checkpoints(run).latest_intact() == 3
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["1", "3"]


def test_what_is_not_whole_does_not_count_and_what_is_damaged_is_noticed(run: Path, caplog: pytest.LogCaptureFixture):
    _save(run, 1, 2, 3, keep=3)
    (run / "checkpoints" / "3" / COMMITTED).unlink()
    checkpoints = Checkpoints(run)
    assert checkpoints.steps() == [2, 1]
    torn = next(path for path in (run / "checkpoints" / "2").rglob("*") if "/d/" in str(path))
    torn.write_bytes(b"x" * torn.stat().st_size)
    assert checkpoints.latest_intact() == 1 and "is damaged or missing" in caplog.text
    next(path for path in (run / "checkpoints" / "1").rglob("*") if "/d/" in str(path)).unlink()
    with pytest.raises(InputError, match=r"no other checkpoint is intact"):
        checkpoints.latest_intact()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionRefusedError(111, "Connection refused"), "cannot be used now (ConnectionRefusedError"),
        (TimeoutError(), "cannot be used now (TimeoutError"),
        (PermissionError("Access Denied"), "does not let this user in (PermissionError: Access Denied)"),
        (RuntimeError("NoCredentialsError: Unable to locate credentials"), "AWS_ACCESS_KEY_ID and"),
    ],
)
def test_a_store_that_is_away_never_passes_for_an_empty_one(run: Path, memory: Memory, error: Exception, words: str):
    _save(run, 1)
    write_json(run / "eval-1.json", {})
    memory.away = error
    checkpoints = Checkpoints(run)
    asked = [
        run.exists, run.is_dir, run.is_file, run.stat, lambda: list(run.iterdir()), lambda: list(run.glob("*")),
        lambda: list(run.rglob("*")), run.read_bytes, run.open, lambda: exists(run), lambda: read_json(run / "x.json"),
        lambda: sha256(run / "eval-1.json"), lambda: local_copy(run), checkpoints.steps, checkpoints.latest_intact,
        lambda: checkpoints.read_run(1), lambda: check_config(run, Config()), lambda: read_config(run),
        lambda: last_metrics_step(run), lambda: MetricsWriter(run, last_step=1),
        lambda: write_json(run / "x.json", {}), lambda: remove_tree(run), lambda: run.unlink(missing_ok=True),
    ]  # fmt: skip
    for ask in asked:
        with pytest.raises(MachineError) as found:
            ask()
        said = str(found.value)
        assert words in said and "\n" not in said and "the same command again" in said and f"{run}" in said
    with pytest.raises(CheckpointError, match=r"cannot be written .*the checkpoints are as they were; mend that"):
        _save(run, 2)
    memory.away = None
    assert Checkpoints(run).steps() == [1]


@pytest.mark.parametrize(
    "line",
    [
        "study curl --out=s3://bucket/x",
        "sweep --config=sweeps/kernel_width --workdir=s3://bucket/x --slurm",
        "sample --weights=x --out=s3://bucket/x.jpg",
        "train --config=digits --workdir=s3://",
        "report --workdir=s3://bucket/none",
    ],
)
def test_what_a_store_cannot_serve_is_one_line(memory: Memory, line: str, capsys: pytest.CaptureFixture[str]):
    assert main(line.split()) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "=s3://" in said and not memory.store


def test_a_library_that_is_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch):
    for scheme, (library, extra) in store_path.EXTRAS.items():
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(InputError, match=rf"needs {library}: pip install 'drifting\[{extra}\]'"):
            place(f"{scheme}://bucket/x")


def test_what_lies_here_asks_for_no_library_of_stores(tmp_path: Path):
    code = (
        "import sys; from pathlib import Path; from drifting.runs.checkpoints import Checkpoints\n"
        "from drifting.runs.metrics import MetricsWriter; from drifting.runs.places import local_copy, place\n"
        f"here = place({str(tmp_path)!r}); Checkpoints(here).latest_intact()\n"
        "MetricsWriter(here, tensorboard=False).close()\n"
        "assert local_copy(here) == here; print({'fsspec', 'gcsfs', 's3fs', 'aiohttp', 'botocore'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    assert done.stdout == "set()\n"


# --- against servers, where those are installed


@pytest.fixture(params=["gs", "s3"], scope="module")
def served(request: pytest.FixtureRequest) -> Iterator[str]:
    """The scheme of a store that answers on this machine."""
    with served_store(request.param) as scheme:
        yield scheme


def test_a_served_store_does_what_a_folder_does(served: str, tmp_path: Path):
    run = place(f"{served}://{BUCKET}/files")
    assert _tree(run) == _tree(tmp_path / "local")


def test_checkpoints_in_a_served_store(served: str):
    run = place(f"{served}://{BUCKET}/saved")
    test_checkpoints_through_this_machine(run)


def test_what_is_not_whole_in_a_served_store(served: str, caplog: pytest.LogCaptureFixture):
    test_what_is_not_whole_does_not_count_and_what_is_damaged_is_noticed(place(f"{served}://{BUCKET}/torn"), caplog)


def test_a_bucket_that_is_not_there(served: str):
    run = place(f"{served}://no-such-bucket/run")
    for ask in (lambda: check_config(run, Config()), lambda: read_config(run), lambda: write_json(run / "x", {})):
        with pytest.raises(
            (ArgumentError, InputError), match=r"there is no bucket no-such-bucket; make it, or give another"
        ):
            ask()
