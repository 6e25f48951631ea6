"""Another code's step beside ours: what a folder that is given by hand may have wrong is one line."""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from scripts import bench


@pytest.fixture(autouse=True)
def imports(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a rival adds to the modules and their places goes with the test."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setitem(sys.modules, "rival", None)


def written(folder: Path, text: str) -> str:
    (folder / "rival.py").write_text(text)
    return f"--against={folder}"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "has no rival.py"),
        ("import a_library_that_is_not_here", "rival.py does not run: ModuleNotFoundError: No module named "),
        ("work = 1", "rival.py does not run: AttributeError: module 'rival' has no attribute 'workloads'"),
        ("def workloads():\n    raise OSError('no\\nweights')", "does not run: OSError: no weights (rival.py, line 2)"),
        ("def workloads():\n    pass", "workloads() returns None; return a dict of functions by one or more of these"),
        ("def workloads():\n    return {}", "workloads() returns {}; return a dict"),
        ("def workloads():\n    return ['step']", "workloads() returns ['step']; return a dict"),
        ("def workloads():\n    return {'stepp': print}", "workloads() has 'stepp'; return a dict"),
        ("def workloads():\n    return {'step': 3}", "workloads() has 'step'; return a dict"),
    ],
)
def test_what_is_wrong_with_a_rival_is_one_line_before_anything_is_compiled(
    text: str | None, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(bench, "workloads", lambda: pytest.fail("compiles"))
    argument = f"--against={tmp_path}" if text is None else written(tmp_path, text)
    with pytest.raises(SystemExit) as ended:
        bench.main([argument])
    line = capsys.readouterr().err.splitlines()[-1]
    assert ended.value.code == 2 and told in line and f"--against={tmp_path}" in line


class Ours(NamedTuple):
    call: Any


RIVAL = """
from __future__ import annotations
from dataclasses import dataclass

@dataclass
class Answer:
    value: int

def fail():
    raise MemoryError("too large")

def workloads():
    return {"step": lambda: Answer(1).value, "generator, forward": fail, "encoder, real samples": lambda: 2}
"""


def test_a_workload_that_fails_leaves_the_others_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(bench, "workloads", lambda: ((name, lambda: Ours(lambda: 0)) for name in bench.WORKLOADS))
    assert bench.main([written(tmp_path, RIVAL)]) == 1
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert len(rows) == 3 and "MemoryError: too large (rival.py, line 10)" in rows[1]
    assert [row.split("│")[1].strip() for row in rows[::2]] == ["step", "encoder, real samples"]


USED_UP = """
state = [1]

def workloads():
    return {"step": state.pop, "generator, forward": lambda: None, "encoder, real samples": lambda: 2}
"""


def test_what_works_once_or_returns_nothing_is_not_timed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(bench, "workloads", lambda: ((name, lambda: Ours(lambda: 0)) for name in bench.WORKLOADS))
    assert bench.main([written(tmp_path, USED_UP)]) == 1
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert "failed: IndexError: pop from empty list" in rows[0] and "failed: it returns no array" in rows[1]
    assert len(rows) == 3 and "failed" not in rows[2]


def test_help_names_what_may_be_compared(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        bench.main(["--help"])
    shown = capsys.readouterr().out
    assert "workloads()" in shown and all(name in shown for name in bench.WORKLOADS)
