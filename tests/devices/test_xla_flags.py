"""The flags that commands give XLA."""

import os
import subprocess
import sys

import pytest

from drifting.cli import commands
from drifting.devices import xla_flags
from drifting.devices.xla_flags import LOOPS_AS_WRITTEN, VARIABLE, give_xla_flags, require_xla_flags


@pytest.fixture(autouse=True)
def _nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    require_xla_flags.cache_clear()


def test_what_commands_say_is_read_by_xla(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VARIABLE, f" {LOOPS_AS_WRITTEN}")  # as somebody may have set it, so that it is tried
    require_xla_flags()


def test_what_commands_say_is_not_tried_each_time(monkeypatch: pytest.MonkeyPatch):
    def tried(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(subprocess, "run", tried)
    give_xla_flags()
    require_xla_flags()


@pytest.mark.parametrize("own", ["", "--xla_cpu_prefer_vector_width=512"])
def test_flags_of_ones_own_stay(own: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VARIABLE, own)
    give_xla_flags()
    assert os.environ[VARIABLE] == own


@pytest.mark.parametrize(("command", "given"), [("train", True), ("config", False)])
def test_the_program_says_it_and_the_function_does_not(command: str, given: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    monkeypatch.setattr(sys, "argv", ["drifting", command, "--config=nothing"])
    monkeypatch.setattr(commands, "begin_with_huge_pages", lambda: None)
    monkeypatch.setattr(commands, "silence_what_the_command_tells", lambda: None)  # of this process, to its end
    monkeypatch.setattr(xla_flags.os, "environ", os.environ.copy())
    assert commands.main() == 2 and VARIABLE not in os.environ
    assert commands.program() == 2 and (VARIABLE in os.environ) is given
