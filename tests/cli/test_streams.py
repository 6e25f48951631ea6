"""Who reads what a command prints, and where paths lead: closed pipes, full devices, terminals, `~`, addresses."""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from absl import flags

from drifting.cli import commands
from drifting.cli.commands import COMMANDS, main
from drifting.cli.flag_paths import PATH_FLAGS, PLACE_FLAGS, expanded_arguments, refuse_addresses
from drifting.cli.settings import load_settings
from drifting.cli.streams import CLOSED_PIPE, OutputError, silence_the_compiler, standard_streams
from drifting.config.parse import parse
from drifting.devices.interrupts import interrupts
from drifting.errors import ConfigError
from tests.support.runs import TINY, command

LONG = ("train", "--help")


class Refusing(io.StringIO):
    """A stream whose reader has gone, or whose disk is full."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error


BROKEN = (BrokenPipeError(32, "Broken pipe"), OSError(28, "No space left on device"), OSError(5, "Input/output error"))


@pytest.mark.parametrize("error", BROKEN, ids=str)
def test_messages_that_nobody_reads_do_not_stop_the_work(error: OSError, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stderr", Refusing(error))
    with standard_streams():
        print("a message", file=sys.stderr)
        commands.logger.warning("another")
        sys.stderr.flush()


@pytest.mark.parametrize("error", BROKEN, ids=str)
@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["configs"], ["train", "--help"]], ids=" ".join)
def test_results_that_nobody_gets_end_the_command(
    arguments: list[str], error: OSError, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "stdout", Refusing(error))
    code = main(arguments)
    said = capsys.readouterr().err
    if isinstance(error, BrokenPipeError):
        assert (code, said) == (CLOSED_PIPE, "")
    else:
        assert code == 1
        assert said == f"drifting: error: standard output: cannot be written ({error.strerror})\n"


@pytest.mark.parametrize("closed", ["pipe", "full", "none"])
def test_a_process_of_its_own_says_nothing_of_its_streams_end(closed: str):
    """Python itself flushes them once more at the end, and complains."""
    if closed == "full" and not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    reader, writer = os.pipe()
    os.close(reader)
    target = os.open("/dev/full", os.O_WRONLY) if closed == "full" else writer
    launch = command(*LONG)
    if closed == "none":
        launch = ["sh", "-c", 'exec "$@" >&-', "sh", *launch]
    done = subprocess.run(launch, stdout=target, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(writer)
    line = "drifting: error: standard output: cannot be written (No space left on device)\n"
    wanted = {"pipe": (CLOSED_PIPE, ""), "full": (1, line), "none": (0, "")}
    assert (done.returncode, done.stderr) == wanted[closed]


def test_a_name_that_is_no_text_is_printed():
    with io.TextIOWrapper(io.BytesIO(), encoding="utf-8") as stream, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        with standard_streams():
            print(Path(os.fsdecode(b"r\xff")))
        assert stream.buffer.getvalue() == b"r\\udcff\n"


def test_lost_results_are_an_error_of_ours():
    assert OutputError(BrokenPipeError(32, "Broken pipe")).reader_is_gone


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals_only_ask_to_stop(number: int):
    with handled(number, signal.SIG_DFL), interrupts() as interrupted:
        os.kill(os.getpid(), number)
        assert interrupted()


def test_a_hangup_that_is_ignored_stays_so():
    with handled(signal.SIGHUP, signal.SIG_IGN):  # as nohup does
        with interrupts() as interrupted:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not interrupted()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


@contextmanager
def handled(number: int, handler: signal.Handlers) -> Iterator[None]:
    """However the tests themselves were started: under `nohup` they ignore hang-ups, too."""
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


# --- paths ------------------------------------------------------------------------------------------------------------

NO_PATHS = {
    "weights", "vae", "a", "b", "encoder",  # references, of which their readers know what is served
    "mesh", "device", "coordinator", "uint8", "split", "format", "repo", "revision", "ema", "topic",
}  # fmt: skip


def test_every_flag_of_text_is_a_path_or_is_known_to_be_none():
    """A new flag has to be put into one of the lists."""
    for one in COMMANDS.values():
        values = flags.FlagValues()
        one.define(values)
        texts = {name for name in values if type(values[name]) is flags.Flag and values[name].flag_type() == "string"}
        assert texts <= NO_PATHS | {*PATH_FLAGS, *PLACE_FLAGS}


@pytest.mark.parametrize("flag", PATH_FLAGS)
@pytest.mark.parametrize("address", ["gs://b/x", "s3://b/x.npz", "http://b/x", "file:" + "///x"])
def test_addresses_are_refused(flag: str, address: str):
    values = flags.FlagValues()
    flags.DEFINE_string(flag, None, "a path", flag_values=values)
    values([""])
    values[flag].value = address
    with pytest.raises(ConfigError, match=rf"^--{flag}={address}: is an address"):
        refuse_addresses(values)


@pytest.mark.parametrize("flag", PLACE_FLAGS)
def test_addresses_of_no_store_are_refused(flag: str):
    values = flags.FlagValues()
    flags.DEFINE_string(flag, None, "a place", flag_values=values)
    values([""])
    for address in ("http://b/x", "hf://b/x", "file:" + "///x"):
        values[flag].value = address
        with pytest.raises(ConfigError, match=rf"^--{flag}={address}: is an address, and only gs://"):
            refuse_addresses(values)
    for served in ("gs://b/x", "s3://b/x", "runs/x"):
        values[flag].value = served
        refuse_addresses(values)


def test_a_home_folder_is_expanded_wherever_a_path_begins(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/h")
    given = {"--out=~/x.npz": "--out=/h/x.npz", "~/r": "/h/r", "--config=~/c.py:tiny": "--config=/h/c.py:tiny"}
    given |= {"--encoder=mae:~/m": "--encoder=mae:/h/m", "--config.data.path=~": "--config.data.path=/h"}
    given |= {name: name for name in ("a~b", "--out=x~", "--out=x/~/y", "--config.loss.widths=0.1,0.2")}
    assert expanded_arguments(list(given)) == list(given.values())
    found = parse({"data": {"path": "~/d"}, "features": {"options": {"mae": {"weights": "~/m"}}}})
    assert found.data.path == "/h/d" and found.features.options["mae"]["weights"] == "/h/m"


def test_a_file_of_settings_imports_from_its_folder_and_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "steps.py").write_text("STEPS = 7")
    (tmp_path / "experiments" / "base.py").write_text(TINY.read_text())
    text = "import base\nfrom mine import steps\n\n\ndef get_config():\n    config = base.get_config()\n"
    text += "    config.train.steps = steps.STEPS\n    return config\n"
    (tmp_path / "experiments" / "own.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    before, names = list(sys.path), set(sys.modules)
    assert load_settings("experiments/own.py").train.steps == 7
    assert sys.path == before and not {"base", "mine", "mine.steps"} & (set(sys.modules) - names)


@pytest.mark.parametrize(("given", "level"), [(None, "3"), ("0", "0")])
def test_what_xla_logs_is_asked_for(monkeypatch: pytest.MonkeyPatch, given: str | None, level: str):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", given or "")
    if given is None:
        monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL")
    silence_the_compiler()
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == level
