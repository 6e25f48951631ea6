"""One process at a time writes into a folder: whoever has it is named, and nothing of it outlives the process."""

import errno
import fcntl
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from drifting.cli.commands import main
from drifting.errors import BusyError, ConfigError
from drifting.runs.lock import LOCK_FILE, WITHOUT_LOCKS, check_free, in_use
from drifting.runs.shared_work import Parts, Share, share_in_use
from tests.support.runs import TINY, tree

HOLDER = """
import sys, time
from pathlib import Path
from drifting.runs.lock import in_use
with in_use(Path(sys.argv[1]), "workdir"):
    print("locked", flush=True)
    time.sleep(600)
"""


@contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "locked\n"
        yield process
    finally:
        process.kill()
        process.wait()


def test_second_process_is_told_of_the_first_and_touches_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with holder(tmp_path) as process:
        before = tree(tmp_path)
        assert main(["train", f"--config={TINY}", f"--workdir={tmp_path}"]) == 2
        told = capfd.readouterr().err.strip()
        assert told.startswith(f"drifting: error: --workdir={tmp_path}: process {process.pid} on {os.uname().nodename}")
        assert "\n" not in told and tree(tmp_path) == before
        process.send_signal(signal.SIGKILL)
        process.wait()
        with in_use(tmp_path, "workdir"):  # at once, although the file is still there
            pass
    assert not (tmp_path / LOCK_FILE).exists()


def test_lock_is_kept_from_the_same_process_too_and_ends_with_the_block(tmp_path: Path) -> None:
    with in_use(tmp_path / "new", "workdir"), pytest.raises(BusyError, match=f"process {os.getpid()} on "):
        check_free(tmp_path / "new", "workdir")
    check_free(tmp_path / "new", "workdir")
    check_free(tmp_path / "other", "workdir")
    assert not list((tmp_path / "new").iterdir()) and not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("first", "second", "fits"),
    [
        (Share(0, 2), Share(1, 2), True),
        (Share(0, 2), Share(0, 2), False),
        (Share(0, 1), Share(0, 1), False),
        (Share(0, 1), Share(1, 2), False),
        (Share(1, 2), Share(0, 1), False),
    ],
)
def test_shares_of_one_work_go_side_by_side_and_no_share_is_done_twice(
    tmp_path: Path, first: Share, second: Share, fits: bool
) -> None:
    with share_in_use(tmp_path, "out", first):
        if fits:
            with share_in_use(tmp_path, "out", second):
                pass
        else:
            with pytest.raises(BusyError, match="is at work there"), share_in_use(tmp_path, "out", second):
                pass
    with share_in_use(tmp_path, "out", second):
        pass
    assert not list(tmp_path.iterdir())


def test_parts_that_are_made_are_called_by_what_they_become(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "x.npz.parts", 3, 2, ".npy", tmp_path / "x.npz")
    parts.claim({"num": 3})
    with (
        parts.in_use(Share()),
        pytest.raises(BusyError, match=rf"^out={tmp_path}/x.npz: process"),
        parts.in_use(Share()),
    ):
        pass
    with (
        parts.in_use(Share(0, 2)),
        pytest.raises(BusyError, match=rf"^out={tmp_path}/x.npz: "),
        parts.in_use(Share(0, 2)),
    ):
        pass
    with parts.in_use(Share()), pytest.raises(BusyError, match=rf"^out={tmp_path}/x.npz: process"):
        parts.claim({"num": 4})
    parts.claim({"num": 4})  # none of the other work was done
    parts.write(0, Path.touch)
    with pytest.raises(
        ConfigError, match=rf"^out={tmp_path}/x.npz: \S+parts, begun before, is of something else \(num"
    ):
        parts.claim({"num": 3})


@pytest.mark.parametrize("number", sorted(WITHOUT_LOCKS))
def test_disk_without_locks_is_warned_of_and_used(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(logging.getLogger("drifting"), "propagate", True)
    with in_use(tmp_path, "workdir"), in_use(tmp_path, "workdir"):
        pass
    assert caplog.text.count("keeps no locks") == 2 and errno.EWOULDBLOCK not in WITHOUT_LOCKS
