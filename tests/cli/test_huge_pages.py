"""Huge pages that a command asks for: the process is begun anew, once, with the same arguments."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from drifting.cli import commands, huge_pages
from drifting.cli.huge_pages import ACCELERATORS, HUGE_PAGES_VARIABLE, TUNABLE, begin_with_huge_pages

PROGRAM = """
import os, sys
from drifting.cli import huge_pages
huge_pages.OFFERED = sys.argv[1]
print(os.getpid(), flush=True)
huge_pages.begin_with_huge_pages()
print(os.getpid(), os.environ.get("GLIBC_TUNABLES"), sys.argv[2:], sys.flags.no_user_site)
"""


def plain_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_", "JAX_"))}


def test_the_process_begins_anew_once(tmp_path: Path):
    """With its arguments and Python's, and its number, by which a launcher knows it."""
    if not huge_pages._reads_the_tunable() or any(os.path.exists(file) for file in ACCELERATORS):
        pytest.skip("not glibc 2.35 or later, or there is an accelerator")
    offered = tmp_path / "enabled"
    offered.write_text("always [madvise] never\n")
    command = [sys.executable, "-s", "-c", PROGRAM, str(offered), "two words", "--flag=ä"]
    done = subprocess.run(command, env=plain_environment(), capture_output=True, text=True, timeout=60, check=True)
    first, second, told = done.stdout.splitlines()
    assert first == second and told == f"{first} {TUNABLE} ['two words', '--flag=ä'] 1"


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """What would be executed, on a machine where there is something to gain."""
    executed: list[Any] = []
    for name in [*os.environ]:
        if name.startswith(("MALLOC_", "GLIBC_", "JAX_")):
            monkeypatch.delenv(name)
    offered = tmp_path / "enabled"
    offered.write_text("always [madvise] never\n")
    monkeypatch.setattr(huge_pages, "OFFERED", str(offered))
    monkeypatch.setattr(huge_pages, "ACCELERATORS", ())
    monkeypatch.setattr("platform.libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(os, "execve", lambda *given: executed.append(given))
    return executed


def test_the_environment_is_kept(begun: list[Any], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MINE", "1")
    begin_with_huge_pages()
    (_, _, environment) = begun[0]
    assert environment["MINE"] == "1" and environment["GLIBC_TUNABLES"] == TUNABLE


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (HUGE_PAGES_VARIABLE, "0"),
        ("MALLOC_ARENA_MAX", "2"),
        ("GLIBC_TUNABLES", TUNABLE),
        ("JAX_PLATFORMS", "cuda"),
    ],
)
def test_who_sets_it_otherwise_is_left_alone(name: str, value: str, begun: list[Any], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(name, value)
    begin_with_huge_pages()
    assert not begun


@pytest.mark.parametrize(
    ("platforms", "accelerator", "begins"),
    [("cpu", True, True), ("", False, True), ("", True, False), (None, True, False), ("cuda", False, False)],
)
def test_a_computation_on_the_cpu_has_them_on_any_machine(
    platforms: str | None, accelerator: bool, begins: bool, begun: list[Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(huge_pages, "ACCELERATORS", (__file__,) if accelerator else ())
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    if platforms is not None:
        monkeypatch.setenv("JAX_PLATFORMS", platforms)
    begin_with_huge_pages()
    assert bool(begun) == begins


@pytest.mark.parametrize("offered", ["[always] madvise never", "always madvise [never]", None])
def test_where_nothing_is_gained_nothing_happens(offered: str | None, begun: list[Any]):
    Path(huge_pages.OFFERED).unlink() if offered is None else Path(huge_pages.OFFERED).write_text(offered)
    begin_with_huge_pages()
    assert not begun


@pytest.mark.parametrize("library", [("glibc", "2.31"), ("", ""), ("glibc", "unknown")])
def test_other_libraries_do_not_read_the_variable(
    library: tuple[str, str], begun: list[Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("platform.libc_ver", lambda: library)
    begin_with_huge_pages()
    assert not begun


def test_a_system_that_refuses_is_put_up_with(begun: list[Any], monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "execve", refuse)
    begin_with_huge_pages()


@pytest.mark.parametrize(
    ("arguments", "computes"),
    [
        (["train", "--config=digits"], True),
        (["study", "gap"], True),
        (["plan", "--config=digits"], False),
        (["train", "--help"], False),
        (["help", "loss"], False),
        (["trian"], False),
        ([], False),
    ],
)
def test_only_commands_that_compute_begin_anew(arguments: list[str], computes: bool):
    assert commands._computes(arguments) is computes


@pytest.mark.parametrize(("command", "times"), [("train", 1), ("config", 0)])
def test_the_program_begins_anew_and_the_function_does_not(
    command: str, times: int, begun: list[Any], monkeypatch: pytest.MonkeyPatch
):
    """Whoever calls `main` has a process of his own, which is not to begin anew."""
    monkeypatch.setattr(sys, "argv", ["drifting", command, "--config=nothing"])
    monkeypatch.setattr(commands, "silence_what_the_command_tells", lambda: None)  # of this process, to its end
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    assert commands.main() == 2 and not begun
    assert commands.program() == 2 and len(begun) == times


def test_a_debugger_keeps_its_process(begun: list[Any], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "gettrace", lambda: print)
    begin_with_huge_pages()
    assert not begun
