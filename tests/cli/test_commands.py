"""The commands: whatever is wrong with the input is one line, exit code 2, and nothing is left behind."""

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from absl import flags
from rich.console import Console

from drifting.assembly.spaces import encoder_options
from drifting.cli import commands
from drifting.cli.command import Command
from drifting.cli.commands import main
from drifting.cli.settings import load_settings, parse_flags
from drifting.config.parse import parse
from drifting.config.schema import CacheBuild, Config, PretrainConfig, to_dict
from drifting.errors import (
    ArgumentError,
    BusyError,
    CacheError,
    CheckpointError,
    ConfigError,
    DriftingError,
    HubError,
    InputError,
    MachineError,
    TrainingError,
    UnusableMomentsError,
)
from drifting.method.kernels import KERNELS
from drifting.runs.metrics import MetricsWriter
from drifting.runs.progress import Progress
from tests.support.runs import ROOT, TINY, command, finish, finished_run, tree


@pytest.fixture(autouse=True)
def logger() -> Iterator[logging.Logger]:
    """The command sets up its logger for the whole process: put back what was there."""
    logger = logging.getLogger("drifting")
    before = logger.handlers, logger.level, logger.propagate
    yield logger
    logger.handlers, logger.level, logger.propagate = before


@pytest.fixture
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory)


def line_of(capsys: pytest.CaptureFixture[str], arguments: list[str], code: int = 2) -> str:
    """The one line on standard error that a command ends in."""
    assert main(arguments) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("drifting: error: "), captured.err
    return lines[0].removeprefix("drifting: error: ")


# --- settings ---------------------------------------------------------------------------------------------------------

WRONG_SETTINGS = [
    ("loss.widhts=(0.3,)", "loss.widhts='(0.3,)': there is no such key; did you mean loss.widths?"),
    ("los.widths=(0.3,)", "los: there is no such key; did you mean loss?"),
    ("loss=3", "loss='3': a section; set its keys, for example loss.objective=..."),
    ("loss.widths.x=3", "loss.widths.x='3': loss.widths is a setting and has no keys of its own"),
    ("model.patch_size=x", "model.patch_size='x': expected int, for example 2"),
    ("model.patch_size=1.5", "model.patch_size='1.5': expected int, for example 2"),
    ("model.patch_size=None", "model.patch_size='None': expected int, for example 2"),
    ("model.cond_dim=x", "model.cond_dim='x': expected int or None, for example 2"),
    ("guidance.alpha_max=x", "guidance.alpha_max='x': expected float, for example 0.2"),
    ("train.tensorboard=maybe", "train.tensorboard='maybe': expected bool, for example True"),
    ("loss.widths=a", "loss.widths='a': expected a tuple of float, for example (0.2,)"),
    (
        "features.mean_patches=(2,0.5) --config.features.encoders=mae",
        "features.options.mae.mean_patches[1]=0.5: expected int, for example 2",
    ),
    (
        "model.patch_size=3",
        "model.patch_size=3: must divide the 8x8 samples: use one of 1, 2, 4, 8",
    ),
    ("loss.positives=9", "loss.positives=9: exceeds bank.per_class=8: draw fewer or keep more"),
    (
        "loss.kernel=gausian",
        "loss.kernel='gausian': use one of gaussian, laplace, rational_quadratic (did you mean 'gau",
    ),
    ("loss.objective=drfit", "loss.objective='drfit': use one of log_kde, "),
    ("model.preset=M", "model.preset='M': use one of S, B, L, XL"),
    ("optimizer.decay=cosin", "optimizer.decay='cosin': use one of constant, cosine, linear, wsd"),
    ("data.name=digts", "data.name='digts': use one of digits, array, imagefolder, mnist, "),
    ("data.path=x", "data.path='x': source 'digits' takes no path: set data.path=None"),
    (
        "features.encoders=('mae',)",
        "features.options.mae.weights=None: give a folder (that `drifting pretrain` wrote, for a mae)",
    ),
    ("eval.ema_decay=0.5", "eval.ema_decay=0.5: is not kept: use one of train.ema_decays=(0.9, 0.99)"),
]


@pytest.mark.parametrize(("setting", "message"), WRONG_SETTINGS, ids=[setting for setting, _ in WRONG_SETTINGS])
def test_wrong_settings(capsys: pytest.CaptureFixture[str], tmp_path: Path, setting: str, message: str):
    arguments = ["train", f"--config={TINY}", f"--workdir={tmp_path / 'new'}", *f"--config.{setting}".split()]
    assert line_of(capsys, arguments).startswith(message)
    assert not list(tmp_path.iterdir())


def test_a_missing_encoder(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    nowhere = tmp_path / "encoder"
    arguments = ["train", f"--config={ROOT / 'configs' / 'digits.py'}", f"--workdir={tmp_path / 'new'}"]
    line = line_of(capsys, [*arguments, f"--config.features.mae={nowhere}"])
    assert line == f"features.options.mae.weights='{nowhere}': there is no such folder; `drifting pretrain` makes one"
    assert not list(tmp_path.iterdir())


def settings_of(arguments: list[str]) -> Config:
    config = parse_flags("train", commands.COMMANDS["train"], [f"--config={TINY}", *arguments]).config
    assert isinstance(config, Config)
    return config


def test_right_settings():
    before = settings_of([])
    assert to_dict(before) == to_dict(parse(load_settings(str(TINY))))
    config = settings_of(
        [
            "--config.loss.widths=(0.3,)",
            "--config.features.mean_patches=(2, 4)",
            "--config.guidance.alpha_max=2",
            "--config.train.tensorboard=true",
            "--noconfig.model.rope",
            "--config.model.cond_dim=7",
            "--config.data.path",
            "a b=c",
            "-config.train.steps=5",
            "--config.features.std_patches=()",
        ]
    )
    assert config.loss.widths == (0.3,) and config.features.options["mae"] == {
        "mean_patches": (2, 4),
        "std_patches": (),
    }
    assert config.guidance.alpha_max == 2.0 and config.train.tensorboard and not config.model.rope
    assert (config.model.cond_dim, config.data.path, config.train.steps) == (7, "a b=c", 5)
    for text in ("0.3", "[0.3]", "0.3,"):
        assert settings_of([f"--config.loss.widths={text}"]).loss.widths == (0.3,)
    assert settings_of(["--config.loss.widths=1,2"]).loss.widths == (1.0, 2.0)


def test_none_is_said_by_name():
    config = settings_of(
        ["--config.model.num_heads=None", "--config.data.path=None", "--config.model.attention_dtype=None"]
    )
    assert (config.model.num_heads, config.data.path, config.model.attention_dtype) == (None, None, None)
    one = settings_of(["--config.features.options.mae.mean_patches=7"])
    assert encoder_options(one.features, "mae").mean_patches == (7,)
    twice = ["--config.data.image_size=16", "--config.data.image_size=None"]
    assert settings_of(twice).data.image_size is None and settings_of(twice[::-1]).data.image_size == 16


# --- configuration files ----------------------------------------------------------------------------------------------

IMPORT = "from drifting.config import train_config\n"

WRONG_FILES = {
    "raises": ("def get_config():\n    x = 1\n    return undefined\n", ", line 3: NameError: name 'undefined' is not"),
    "syntax": ("def get_config(:\n", ": SyntaxError: invalid syntax (file.py, line 1)"),
    "import": ("import no_such_module\n", ", line 1: ModuleNotFoundError: No module named 'no_such_module'"),
    "nothing": ("x = 1\n", ": defines no function get_config()"),
    "none": (f"{IMPORT}def get_config():\n    train_config()\n", ": get_config() returned None; return the ConfigDict"),
    "key": (
        f"{IMPORT}def get_config():\n    c = train_config()\n    c.loss.widhts = 1\n    return c\n",
        ": loss.widhts=1: there is no such key; did you mean loss.widths?",
    ),
    "type": (
        f"{IMPORT}def get_config():\n    c = train_config()\n    c.model.patch_size = 'x'\n    return c\n",
        ", line 4: model.patch_size='x': expected int, for example 2",
    ),
}


@pytest.mark.parametrize("case", WRONG_FILES)
def test_wrong_configuration_files(capsys: pytest.CaptureFixture[str], tmp_path: Path, case: str):
    text, message = WRONG_FILES[case]
    file = tmp_path / "file.py"
    file.write_text(text)
    line = line_of(capsys, ["train", f"--config={file}", f"--workdir={tmp_path / 'new'}"])
    assert line.startswith(f"--config={file}{message}")
    assert not (tmp_path / "new").exists()


def test_missing_configuration_files(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    workdir = f"--workdir={tmp_path / 'new'}"
    shutil.copy(TINY, tmp_path)
    for given, message in {
        f"{tmp_path}/tiny_digit.py": f"there is no such file (did you mean {tmp_path}/tiny_digits.py?)",
        f"{tmp_path / 'nowhere' / 'x.py'}": "there is no such file",
        f"{tmp_path}": "is a folder; give a Python file",
    }.items():
        assert line_of(capsys, ["train", f"--config={given}", workdir]) == f"--config={given}: {message}"
    (tmp_path / "file.txt").write_text("")
    line = line_of(capsys, ["train", f"--config={tmp_path / 'file.txt'}", workdir])
    assert line.endswith("must be a Python file, ending in .py")
    for arguments in (["train", workdir], ["train", workdir, "--config"], ["train", workdir, "--config="]):
        assert line_of(capsys, arguments).startswith("--config: give ")
    assert line_of(capsys, ["train", f"--config={TINY}"]) == "--workdir: give the run's folder"
    assert line_of(capsys, ["report"]) == "--workdir: give a run's or a sweep's folder"


def test_a_configuration_of_the_other_command(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    encoder, workdir = ROOT / "configs" / "mae_digits.py", f"--workdir={tmp_path / 'new'}"
    line = line_of(capsys, ["train", f"--config={encoder}", workdir])
    assert line == f"--config={encoder}: holds settings of `drifting pretrain`; give them to that command"
    line = line_of(capsys, ["pretrain", f"--config={TINY}", workdir])
    assert line == f"--config={TINY}: holds settings of `drifting train`; give them to that command"


def test_a_file_takes_an_argument(tmp_path: Path):
    file = tmp_path / "file.py"
    file.write_text(
        f"{IMPORT}def get_config(steps='3'):\n    c = train_config()\n    c.train.steps = int(steps)\n    return c\n"
    )
    assert load_settings(str(file)).train.steps == 3 and load_settings(f"{file}:7").train.steps == 7
    with pytest.raises(ConfigError, match=r"file\.py:x, line 4: ValueError: invalid literal for int"):
        load_settings(f"{file}:x")


# --- run directories --------------------------------------------------------------------------------------------------


def test_the_directory_of_another_run(capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path):
    before, workdir = tree(run), f"--workdir={run}"
    line = line_of(capsys, ["train", f"--config={TINY}", workdir, "--config.loss.widths=0.3", "--config.train.seed=1"])
    assert line == (
        f"--workdir={run}: holds a run with other settings "
        "(loss.widths was (0.4,), is (0.3,); train.seed was 0, is 1); put them back or choose another folder"
    )
    encoder = ROOT / "configs" / "mae_digits.py"
    line = line_of(capsys, ["pretrain", f"--config={encoder}", workdir])
    assert line == f"--workdir={run}: holds a run of `drifting train`; give one of `drifting pretrain`"
    assert tree(run) == before

    file = tmp_path / "file"
    file.write_text("")
    assert (
        line_of(capsys, ["train", f"--config={TINY}", f"--workdir={file}"])
        == f"--workdir={file}: is a file; give a folder"
    )
    line = line_of(capsys, ["train", f"--config={TINY}", f"--workdir={file / 'below'}"])
    assert line.startswith(f"--workdir={file / 'below'}: cannot be written")


@pytest.mark.parametrize("name", ["sample", "evaluate"])
def test_a_directory_without_a_run(capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path, name: str):
    wanted = "--workdir: give the run's folder" if name == "evaluate" else "--workdir or --weights: give one, "
    assert line_of(capsys, [name]).startswith(wanted)
    for path in (tmp_path, tmp_path / "nowhere"):
        line = line_of(capsys, [name, f"--workdir={path}"])
        assert line == f"--workdir={path}: holds no run (no config.json); give the folder of a `drifting train`"
    shutil.copy(run / "config.json", tmp_path)
    line = line_of(capsys, [name, f"--workdir={tmp_path}"])
    assert line == f"--workdir={tmp_path}: has no checkpoint yet; run `drifting train` first"
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    (tmp_path / "config.json").write_text(json.dumps(to_dict(PretrainConfig())))
    line = line_of(capsys, [name, f"--workdir={tmp_path}"])
    assert line == f"--workdir={tmp_path}: holds a run of `drifting pretrain`; give one of `drifting train`"


# --- flags ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["trian"],
            "trian: there is no such command; did you mean train?",
        ),
        (["--workdir=x"], "--workdir=x: there is no such command; `drifting --help` lists all"),
        (
            ["train", f"--config={TINY}", "--wrokdir=x"],
            "--wrokdir: there is no such flag; did you mean --workdir?",
        ),
        (
            ["train", f"--config={TINY}", "--workdir=x", "stray"],
            "'stray': is not a flag; did you mean --workdir=",
        ),
        (["train", f"--config={TINY}", "--workdir"], "--workdir: give a value (where the run is written"),
        (
            ["sample", "--clases=1"],
            "--clases: there is no such flag; did you mean --classes?",
        ),
        (["sample", "--columns=x"], "--columns=x: expected an integer in the range [1, 10000] (images of each class"),
        (["sample", "--columns=0"], "--columns=0: expected an integer in the range [1, 10000]"),
        (["sample", "--seed=-1"], "--seed=-1: expected an integer in the range [0, 4294967295]"),
        (["sample", "--alpha=x"], "--alpha=x: expected a number (guidance scale"),
        (["evaluate", "--num=1"], "--num=1: expected integer >= 2 (images"),
        (["cache", "--verify", "--config=x.py"], "--config: --verify takes no settings; leave it out"),
        (["cache", "--verify", "--config.data.path=x"], "--config.data.path: --verify takes no settings; leave it out"),
    ],
)
def test_wrong_flags(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str):
    assert line_of(capsys, arguments).startswith(message)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--classes=x", "--classes=x: use names or whole numbers from 0 to 9"),
        ("--ema=0.5", "--ema=0.5: the run does not keep it, use one of 0.9, 0.99"),
        ("--alpha=-1", "--alpha=-1: use a positive guidance scale"),
        ("--out=x.jpg", "--out=x.jpg: write a grid (.png), an .npz, or a new folder of that name as x.jpg/"),
        ("--num=5", "--num=5: a grid has --classes and --columns: write an .npz or a folder, or leave it out"),
        (
            "--uint8=round",
            "--uint8=round: a grid has --classes and --columns: write an .npz or a folder, or leave it out",
        ),
        (
            "--process_count=2",
            "--process_count=2: a grid has --classes and --columns: write an .npz or a folder, or le",
        ),
        ("--out=x.npz --columns=3", "--columns=3: is of a grid: write a .png, or leave it out"),
    ],
)
def test_wrong_flags_of_a_run(capsys: pytest.CaptureFixture[str], run: Path, flag: str, message: str):
    assert line_of(capsys, ["sample", f"--workdir={run}", *flag.split()]).startswith(message)


def test_a_folder_may_have_a_dot(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ["sample", f"--workdir={run}", "--num=2"]
    assert line_of(capsys, [*arguments, f"--out={tmp_path}/dir.v2"]).startswith(
        f"--out={tmp_path}/dir.v2: write a grid"
    )
    for out in (f"{tmp_path}/dir.v2/", f"{tmp_path}/dir.v2"):  # now it is there
        assert main([*arguments, f"--out={out}"]) == 0
    assert len(list((tmp_path / "dir.v2").glob("*.png"))) == 2


# --- help -------------------------------------------------------------------------------------------------------------


def test_help(capsys: pytest.CaptureFixture[str]):
    for arguments in (["--help"], ["-h"], ["help"]):
        assert main(arguments) == 0
        out = capsys.readouterr().out
        assert all(name in out for name in commands.COMMANDS) and max(map(len, out.splitlines())) <= 80
    assert main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("usage: drifting COMMAND")


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_help_of_a_command_names_every_flag_and_setting(capsys: pytest.CaptureFixture[str], name: str):
    assert main([*name.split(), "--help"]) == 0
    captured = capsys.readouterr()
    assert captured.err == "" and max(map(len, captured.out.splitlines())) <= 120
    assert captured.out.startswith(f"usage: drifting {name} ")
    values = flags.FlagValues()
    commands.COMMANDS[name].define(values)
    assert len(list(values)) >= 1
    for flag in values:
        assert f"\n  --{flag}{' ' if values[flag].boolean else '='}" in captured.out
    settings = {"train": Config, "pretrain": PretrainConfig, "cache": CacheBuild}.get(name)
    for section, keys in to_dict(settings()).items() if settings else ():
        assert f"\n  {section} " in captured.out
        assert all(f"{key}={value!r}" in captured.out for key, value in keys.items())


def test_a_message_is_one_line(capsys: pytest.CaptureFixture[str]):
    commands._configure_logging()
    logging.getLogger("drifting").info("a message " * 30)
    logging.getLogger("drifting").warning("x")
    assert capsys.readouterr().err == "a message " * 30 + "\nwarning: x\n"


def test_a_message_takes_the_place_of_the_progress_bar(capsys: pytest.CaptureFixture[str]):
    commands._configure_logging()
    with Progress(10, console=Console(stderr=True, force_terminal=True, width=80)):
        logging.getLogger("drifting").info("message")
    before, after = capsys.readouterr().err.split("message")
    assert before.endswith("\x1b[2K") and after.startswith("\n")  # the bar's line is cleared, and drawn again below


# --- what goes wrong on the way ---------------------------------------------------------------------------------------


def broken_by(monkeypatch: pytest.MonkeyPatch, error: BaseException, flag_of: dict[str, str] | None = None) -> None:
    def run(values: object) -> int:
        raise error

    broken = Command("breaks", commands.COMMANDS["evaluate"].define, run, flag_of=flag_of or {})
    monkeypatch.setitem(commands.COMMANDS, "evaluate", broken)


def test_failures_of_the_machine_are_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    broken_by(monkeypatch, OSError(28, "No space left on device", "runs/x"))
    assert (
        line_of(capsys, ["evaluate"], code=1)
        == "runs/x: No space left on device; mend that, and run the same command again"
    )
    broken_by(monkeypatch, KeyboardInterrupt())
    assert line_of(capsys, ["evaluate"], code=130) == "evaluate: interrupted"
    broken_by(monkeypatch, KeyboardInterrupt("the same command goes on"))
    assert line_of(capsys, ["evaluate"], code=130) == "evaluate: interrupted: the same command goes on"


@pytest.mark.parametrize("error", [ValueError("x"), RuntimeError("x"), TypeError("x"), KeyError("x")])
def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, error: Exception):
    """An error that is no message to a person, whoever raised it, is not hidden behind one line."""
    broken_by(monkeypatch, error)
    with pytest.raises(type(error)) as found:
        main(["evaluate"])
    assert found.value is error and "bug of drifting" in error.__notes__[0]


def test_a_programming_error_in_the_package_is_a_bug(monkeypatch: pytest.MonkeyPatch):
    """A `ValueError` that a line of this package raises, but not for a person, shows where it comes from."""

    def run(values: object) -> int:
        with TemporaryDirectory() as folder, MetricsWriter(folder, tensorboard=False) as writer:
            writer.write(1, {"step": 1})
        return 0

    monkeypatch.setitem(commands.COMMANDS, "evaluate", Command("breaks", commands.COMMANDS["evaluate"].define, run))
    with pytest.raises(ValueError, match="step") as found:
        main(["evaluate"])
    assert not isinstance(found.value, DriftingError)
    assert Path(found.traceback[-1].path).is_relative_to(ROOT / "drifting" / "runs")


def subclasses(kind: type) -> set[type]:
    return {kind}.union(*(subclasses(below) for below in kind.__subclasses__()))


CODES = {
    DriftingError: 1,
    ConfigError: 2,
    InputError: 2,
    MachineError: 1,
    CheckpointError: 1,
    CacheError: 1,
    UnusableMomentsError: 1,
    HubError: 1,
    TrainingError: 1,
}


def test_every_error_of_ours_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    assert {kind for kind in subclasses(DriftingError) if kind.__module__ == "drifting.errors"} == {
        *CODES,
        ArgumentError,
        BusyError,
    }
    for kind, code in CODES.items():
        broken_by(monkeypatch, kind("loss is nan\nat step 3"))
        assert line_of(capsys, ["evaluate"], code=code) == "loss is nan at step 3"


def test_an_argument_is_told_by_its_flag(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """The flag of the same name; or the one that the command says it is; or, where no flag gives it, the argument."""
    for argument, value, line in (
        ("num", 3, "--num=3: use more"),
        ("num", None, "--num: use more"),
        ("size", 3, "--batch=3: use more"),
        ("depth", 3, "depth=3: use more"),
    ):
        broken_by(monkeypatch, ArgumentError(argument, value, "use more"), {"size": "batch"})
        assert line_of(capsys, ["evaluate"]) == line


def test_every_other_name_is_a_flag():
    for known in commands.COMMANDS.values():
        values = flags.FlagValues()
        known.define(values)
        assert all(flag in values and argument != flag for argument, flag in known.flag_of.items())


# --- as a program -----------------------------------------------------------------------------------------------------


def test_sample_and_evaluate(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    shutil.copytree(run, tmp_path / "run")
    assert main(["sample", f"--workdir={tmp_path / 'run'}", "--columns=2", "--classes=3,4"]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{tmp_path / 'run' / 'samples.png'}\n" and "rows: 3, 4\n" in printed.err
    assert main(["sample", f"--workdir={tmp_path / 'run'}", "--num=2", f"--out={tmp_path / 'x.npz'}"]) == 0
    assert "classes in turn: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9\n" in capsys.readouterr().err
    assert main(["evaluate", f"--workdir={tmp_path / 'run'}", "--num=20"]) == 0
    out = capsys.readouterr().out
    assert "class_accuracy" in out and out.splitlines()[-2:] == [
        "20 images, alpha 1",
        f"{tmp_path / 'run' / 'eval-120.json'}",
    ]
    assert {"samples.png", "eval-120.json"} <= {path.name for path in (tmp_path / "run").iterdir()}


def test_what_a_run_s_own_file_entered_is_entered_by_import(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """A run that was trained with a kernel of its own file says so, in every command that needs the kernel."""
    shutil.copytree(run, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["loss"]["kernel"] = "student"
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    file, out = tmp_path / "mine.py", f"--out={tmp_path / 'out'}"
    entry = 'from drifting.method.kernels import KERNELS\n\nKERNELS["student"] = KERNELS["laplace"]\n'
    file.write_text(entry)
    workdir = f"--workdir={tmp_path / 'run'}"
    for arguments in (["replay", workdir, "--step=116"], ["study", "diagnose", f"--run={tmp_path / 'run'}", out]):
        line = line_of(capsys, arguments)
        assert line.startswith("loss.kernel='student': use one of gaussian, laplace, rational_quadratic")
        assert line.endswith("; --import=FILE runs the file that enters it")
    monkeypatch.setitem(KERNELS, "student", KERNELS["laplace"])  # and is gone after the test
    del KERNELS["student"]
    line = line_of(capsys, ["replay", workdir, "--step=200", f"--import={file}"])
    assert line.startswith("--step=200: the run ends with step 120") and "student" in KERNELS
    file.write_text("import no_such_module\n")
    line = line_of(capsys, ["sample", workdir, f"--import={file}"])
    assert line.startswith(f"--import={file}, line 1: ModuleNotFoundError")


def test_the_installed_program():
    done = finish(command("train", "--workdir=x"))
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith("drifting: error: --config: give")
