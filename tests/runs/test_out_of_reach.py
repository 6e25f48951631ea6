"""What cannot be read now is not damaged: every reader, and every way in which the system refuses."""

import builtins
import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from absl import flags

from drifting.cli.command import Command
from drifting.cli.commands import COMMANDS
from drifting.config.schema import Config
from drifting.data.latents.read import check_cache
from drifting.data.npz import open_member
from drifting.data.sources.array import array
from drifting.data.sources.classic import _idx
from drifting.errors import ConfigError, HubError, InputError, MachineError, refusal
from drifting.experiments.report.data import read_folder
from drifting.runs.checkpoints import Checkpoints
from drifting.runs.directory import check_config, read_config, write_config
from drifting.runs.files import atomic_path, read_json, sha256
from drifting.runs.metrics import METRICS_FILE, check_metrics
from drifting.runs.torch_file import read_state_dict
from drifting.sampling.labels import wanted_labels
from drifting.weights.artifact import save_artifact
from drifting.weights.load import load_folder
from tests.support.runs import TINY, command, finish, finished_run, train_command, tree

REFUSALS = ("EACCES", "EPERM", "EIO", "ESTALE", "EMFILE", "ENFILE", "ENOMEM", "ETIMEDOUT", "EDQUOT", "ENOSPC")

Reader = Callable[[Path], object]


def weights(folder: Path) -> Reader:
    save_artifact(folder / "w", kind="mae", model_config={}, params={"a": np.zeros(3)}, step=1, ema_decay=None)
    return lambda place: load_folder(place / "w")


def run(folder: Path) -> Reader:
    write_config(folder / "run", Config())
    (folder / "run" / "checkpoints" / "4" / "run").mkdir(parents=True)
    (folder / "run" / "checkpoints" / "4" / "run" / "metadata").write_text("{}")
    return lambda place: read_config(place / "run")


def a_checked_run(folder: Path) -> Reader:
    run(folder)
    return lambda place: check_config(place / "run", Config())


def a_checkpoint(folder: Path) -> Reader:
    run(folder)
    return lambda place: Checkpoints(place / "run").latest_intact()


def a_sealed_checkpoint(folder: Path) -> Reader:
    run(folder)
    (folder / "run" / "seals").mkdir()
    (folder / "run" / "seals" / "4.json").write_text(json.dumps({"run/metadata": "0"}))
    return lambda place: Checkpoints(place / "run").latest_intact()


def cache(folder: Path) -> Reader:
    (folder / "facts.json").write_text("{}")
    (folder / "manifest.json").write_text("{}")
    return check_cache


def npz(folder: Path) -> Reader:
    np.savez(folder / "x.npz", image=np.zeros((2, 4, 4), np.uint8), label=np.arange(2))
    return lambda place: open_member(place / "x.npz", "image")


def an_array_source(folder: Path) -> Reader:
    npz(folder)
    return lambda place: array(place / "x.npz")


def a_file(name: str, reader: Reader) -> Callable[[Path], Reader]:
    def prepare(folder: Path) -> Reader:
        (folder / name).write_bytes(b"0 1 2")
        return lambda place: reader(place / name)

    return prepare


def metrics(folder: Path) -> Reader:
    (folder / METRICS_FILE).write_text('{"step": 1}\n')
    return check_metrics


def a_reported_run(folder: Path) -> Reader:
    run(folder)
    return lambda place: read_folder(place / "run")


READERS: dict[str, Callable[[Path], Reader]] = {
    "weights": weights,
    "run": run,
    "metrics": metrics,
    "reported run": a_reported_run,
    "a checked run": a_checked_run,
    "checkpoint": a_checkpoint,
    "sealed checkpoint": a_sealed_checkpoint,
    "cache": cache,
    "npz": npz,
    "array source": an_array_source,
    "torch file": a_file("x.pth", read_state_dict),
    "json": a_file("x.json", read_json),
    "checksum": a_file("x", sha256),
    "idx": a_file("x-idx3", lambda path: _idx(path, 3)),
    "labels": a_file("labels.txt", lambda path: wanted_labels(["a", "b", "c"], 2, None, str(path))),
}


def refuse(monkeypatch: pytest.MonkeyPatch, folder: Path, number: int) -> None:
    """Whatever is opened in the folder from Python is refused."""
    opened = io.open

    def refusing(file: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(file, str | Path) and Path(file).is_relative_to(folder):
            raise OSError(number, os.strerror(number), str(file))
        return opened(file, *arguments, **options)

    monkeypatch.setattr(io, "open", refusing)
    monkeypatch.setattr(builtins, "open", refusing)


@pytest.mark.parametrize("name", REFUSALS)
@pytest.mark.parametrize("reader", READERS)
def test_no_reader_takes_a_refusal_for_damage(reader: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    read, number, before = READERS[reader](tmp_path), getattr(errno, name), tree(tmp_path)
    with monkeypatch.context() as patch:
        refuse(patch, tmp_path, number)
        with pytest.raises(OSError) as found:
            read(tmp_path)
    assert not isinstance(found.value, HubError | ConfigError | InputError)
    assert os.strerror(number) in str(found.value) and str(tmp_path) in str(found.value)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["ENOENT", "EISDIR", "ENOTDIR"])
def test_a_wrong_name_is_no_refusal(name: str):
    assert refusal(OSError(getattr(errno, name), "x")) is None


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(f"open() failed: {os.strerror(errno.EACCES)}; opening x"),
        ValueError("RESOURCE_EXHAUSTED: Error writing x"),
        ExceptionGroup("several", [KeyError("x"), OSError(errno.ESTALE, os.strerror(errno.ESTALE))]),
        MemoryError(),
    ],
)
def test_libraries_say_it_in_their_own_errors(error: Exception):
    assert refusal(error) is not None
    try:
        raise KeyError("of the library") from error
    except KeyError as outer:
        assert refusal(outer) == refusal(error)
    assert refusal(InputError("it says Permission denied")) is None  # which is for a person


@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EIO", "EFBIG", "EROFS", None])
def test_what_cannot_be_written_names_the_file_and_leaves_nothing(name: str | None, tmp_path: Path):
    """Of NumPy, too, which raises an error without a number where a file is written in part."""
    number = getattr(errno, name) if name else None
    error = OSError(number, os.strerror(number)) if number else OSError("8 requested and 3 written")
    (tmp_path / "x").write_text("before")
    with (
        pytest.raises(MachineError, match=r"/x: cannot be written \(.+\): make room"),
        atomic_path(tmp_path / "x") as t,
    ):
        t.write_text("half")
        raise error
    assert tree(tmp_path) == {"x": b"before"}


def test_moving_aside_keeps_what_was_moved_before(tmp_path: Path):
    for content in ("first", "second", "third"):
        (tmp_path / "checkpoints" / "8").mkdir(parents=True)
        (tmp_path / "checkpoints" / "8" / "x").write_text(content)
        Checkpoints(tmp_path).set_aside(4)
    found = {path: content.decode() for path, content in tree(tmp_path / "damaged").items()}
    assert found == {"8/x": "first", "8.1/x": "second", "8.2/x": "third"}


UNPRIVILEGED = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]


def unprivileged(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A program without the right to read what no file mode allows, which root has."""
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed")
    privileges = UNPRIVILEGED if os.geteuid() == 0 else []
    return finish([*privileges, *arguments])


def test_a_run_that_cannot_be_read_is_left_alone(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path):
    """Not moved aside, not begun anew, and fit to go on once it can be read."""
    workdir = tmp_path / "run"
    shutil.copytree(finished_run(tmp_path_factory), workdir)
    before, files = tree(workdir), [path for path in (workdir / "checkpoints").rglob("*") if path.is_file()]
    for path in files:
        path.chmod(0)
    done = unprivileged(*train_command(workdir, "--config.train.keep_checkpoints=9"))
    assert done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1, done.stderr
    assert "cannot be read (Permission denied)" in done.stderr and str(workdir) in done.stderr
    for path in files:
        path.chmod(0o644)
    assert tree(workdir) == before


OF_A_RUN = [
    "report --workdir={run} --out={out}.html",
    "compare {run} {run} --out={out}.html",
    "sample --workdir={run} --out={out}.png",
    "evaluate --workdir={run} --out={out}.json",
    "replay --workdir={run} --step=3",
    "ema --workdir={run} --std=0.1 --out={out}",
    "export --workdir={run} --out={out}",
    "study diagnose --run={run} --out={out}",
    "train --config={tiny} --workdir={run}",
]


def test_every_command_says_of_a_closed_folder_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The system's words alone name neither what is safe nor a remedy."""
    monkeypatch.chdir(tmp_path)
    run(tmp_path)
    (tmp_path / "run").chmod(0)
    lines = [line.format(run="run", out="new", tiny=TINY).split() for line in OF_A_RUN]
    done = unprivileged(
        sys.executable, "-c", f"from drifting.cli.commands import main\nprint([main(line) for line in {lines!r}])"
    )
    (tmp_path / "run").chmod(0o755)
    assert done.stdout == f"{[1] * len(lines)}\n", done
    told = done.stderr.splitlines()
    assert len(told) == len(lines)
    words = (
        r"drifting: error: run/[\w.]+: cannot be read \(Permission denied\); nothing was changed: mend that, and run"
    )
    assert [line for line in told if not re.match(words, line)] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


WRITING = [
    "sample --workdir={run} --out={out}.png",
    "sample --workdir={run} --out={out}.npz",
    "sample --workdir={run} --out={out}/",
    "evaluate --workdir={run} --out={out}.json",
    "evaluate --images={run}/samples --reference={run}/r.npz --out={out}.json",
    "compare {run} {run} --out={out}.html",
    "report --workdir={run} --out={out}.html",
    "ema --workdir={run} --std=0.1 --out={out}",
    "export --workdir={run} --out={out}",
    "import --weights={run} --out={out}",
    "reference --images={run}/samples --out={out}.npz",
    "study curl --out={out}",
]


def test_where_nothing_can_be_written_is_told_before_the_work(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path):
    """By every command that has `--out`, in a folder that is there and in one that is still to be made."""
    assert {line.split(" --")[0].split(" {")[0] for line in WRITING} == {
        name for name, one in COMMANDS.items() if "out" in flags_of(one) and not name.startswith("study ")
    } | {"study curl"}
    run, closed = finished_run(tmp_path_factory), tmp_path / "closed"
    closed.mkdir(mode=0o555)
    outs = [closed / "new", closed / "deep" / "new"]
    lines = [line.format(run=run, out=out).split() for line in WRITING for out in outs]
    code = (
        "import sys\nfrom drifting.cli.commands import main\n"
        f"print([main(line) for line in {lines!r}], [name for name in ('jax', 'flax') if name in sys.modules])"
    )
    done = unprivileged(sys.executable, "-c", code)
    assert done.stdout == f"{[2] * len(lines)} []\n"
    told = done.stderr.splitlines()
    assert len(told) == len(lines)
    for line, (*_, given) in zip(told, lines, strict=True):
        assert line.startswith(
            f"drifting: error: {given}: the folder {closed} cannot be written (Permission denied); make it"
        )


def flags_of(command: Command) -> flags.FlagValues:
    values = flags.FlagValues()
    command.define(values)
    return values


COMPUTING = {
    "train": ("train", f"--config={TINY}", "--workdir={}/new"),
    "sample": ("sample", "--workdir={}/run", "--out={}/new.png"),
}


@pytest.mark.parametrize(("name", "platforms"), [("sample", "cuda"), ("train", "nonsense,cpu")])
def test_a_missing_device_names_the_variable(
    name: str, platforms: str, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "run").symlink_to(finished_run(tmp_path_factory))
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    done = finish(command(*(argument.format(tmp_path) for argument in COMPUTING[name])))
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"drifting: error: JAX_PLATFORMS={platforms}: ") and "unset" in done.stderr
    assert "checkpoint" not in done.stderr and [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("name", COMPUTING)
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--xla_no_such_flag=1", "Unknown flag in XLA_FLAGS: --xla_no_such_flag=1"),
        ("--xla_force_host_platform_device_count=two", "Couldn't interpret value two for flag xla_force_host_platform"),
        ("no_such_file", 'Could not open file "no_such_file"'),
    ],
)
def test_flags_that_xla_cannot_read_are_named(
    name: str,
    given: str,
    said: str,
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """XLA itself ends the process, with up to a hundred lines."""
    (tmp_path / "run").symlink_to(finished_run(tmp_path_factory))
    monkeypatch.setenv("XLA_FLAGS", given)
    done = finish(command(*(argument.format(tmp_path) for argument in COMPUTING[name])))
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"drifting: error: XLA_FLAGS={given}: {said}")
    assert done.stderr.endswith("correct it, or unset XLA_FLAGS\n")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_computes_nothing_needs_no_device(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JAX_PLATFORMS", "nonsense")
    done = finish(command("plan", f"--config={TINY}", "--device=h100"))
    assert (done.returncode, done.stderr) == (0, "") and "fits on 1 x h100" in done.stdout


def test_a_folder_whose_name_is_no_text_is_refused_at_once(tmp_path: Path):
    """TensorStore cannot write there, which would be noticed at the first checkpoint."""
    with pytest.raises(ConfigError, match="its path is no UTF-8, as checkpoints need; rename it"):
        check_config(tmp_path / os.fsdecode(b"r\xff") / "run", Config())
