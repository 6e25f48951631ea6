"""The command line: `drifting COMMAND --flags`.

Exit codes: 0 done (or stopped and saved on request), 1 something failed on the way, 2 the command or its settings are
wrong. Whatever is wrong with the input is one line on standard error, written before anything is compiled or created.
"""

import difflib
import importlib.util
import inspect
import logging
import os
import re
import sys
import textwrap
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from absl import flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

from drifting.analysis import STUDIES
from drifting.config import (
    CacheBuild,
    Config,
    ConfigError,
    PretrainConfig,
    Settings,
    accepts_none,
    annotation,
    command_of,
    parse,
    to_config_dict,
    to_dict,
    wrong_type,
)

logger = logging.getLogger("drifting")

PACKAGE = Path(__file__).resolve().parent
INTERRUPTED = 130  # what a shell reports for a program ended by Ctrl-C


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        summary: a line for the overview.
        define: declares its flags.
        run: does it, and returns the exit code.
        settings: the configuration that `--config` gives, for a command that takes one.
        usage: the flags that have to be given, where they are not `--workdir`.
        without_config: a flag with which `--config` is left out.
        has_defaults: `--config` may be left out, all settings having a default.
        settings_of: the command whose configuration that is, where it is not its own.
        takes: flags that are given by their values alone, in this order.
        any_training: takes the settings of `drifting pretrain` as well.
    """

    summary: str
    define: Callable[[flags.FlagValues], None]
    run: Callable[[flags.FlagValues], int]
    settings: type[Settings] | None = None
    usage: str = ""
    without_config: str | None = None
    has_defaults: bool = False
    settings_of: str | None = None
    takes: tuple[str, ...] = ()
    any_training: bool = False


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; `arguments` are those after the program's name. Returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments:
        print(overview(), file=sys.stderr)
        return 2
    name, *rest = _join_name(arguments)
    if name in ("-h", "--help", "help"):
        print(overview())
        return 0
    if name not in COMMANDS:
        return _fail(f"{name}: there is no such command; use one of {', '.join(COMMANDS)}{_close(name, COMMANDS)}")
    if {"-h", "--help"} & set(rest):
        print(command_help(name))
        return 0
    _configure_logging()
    try:
        return COMMANDS[name].run(_parse_flags(name, rest))
    except (ConfigError, flags.Error) as error:
        return _fail(_one_line(error))
    except (ValueError, OSError, RuntimeError) as error:
        if not isinstance(error, OSError) and not _raised_here(error):
            raise  # out of a library: a bug of ours, which its traceback helps to find
        return _fail(_one_line(error), code=2 if isinstance(error, ValueError) else 1)
    except KeyboardInterrupt:
        return _fail(f"{name}: interrupted", code=INTERRUPTED)


def _join_name(arguments: Sequence[str]) -> list[str]:
    """The arguments with a name of two words, such as `hub push` or a misspelt `study crul`, as one."""
    joined = " ".join(arguments[:2])
    study = arguments[0] == "study" and len(arguments) > 1 and not arguments[1].startswith("-")
    return [joined, *arguments[2:]] if joined in COMMANDS or study else list(arguments)


def _fail(message: str, code: int = 2) -> int:
    print(f"drifting: error: {message}", file=sys.stderr)
    return code


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _raised_here(error: BaseException) -> bool:
    """Whether a line of this package raised the error, which then is a message to the person."""
    return PACKAGE in Path(traceback.extract_tb(error.__traceback__)[-1].filename).resolve().parents


def _close(name: str, known: Sequence[str] | dict[str, Any]) -> str:
    close = [word for word in known if word.startswith(f"{name} ")] or difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _configure_logging() -> None:
    """Our messages to standard error, a line each; the libraries' only when they warn."""
    logger.handlers = [_StandardError()]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    absl_logging.set_verbosity(absl_logging.WARNING)
    # Its retries without a network, twenty lines of them; what comes of them is our own message.
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")


class _StandardError(logging.Handler):
    """A line for each message, however long; above the progress bar, which takes the place of `sys.stderr`."""

    def emit(self, record: logging.LogRecord) -> None:
        warning = "warning: " if record.levelno >= logging.WARNING else ""
        print(f"{warning}{record.getMessage()}", file=sys.stderr)


# --- help -------------------------------------------------------------------------------------------------------------


def overview() -> str:
    """The commands, a line each."""
    lines = [f"  {name:<17} {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: drifting COMMAND --flags", "", *lines, "", "drifting COMMAND --help lists its flags."])


def command_help(name: str) -> str:
    """A command's flags, and for a training all settings with their defaults."""
    command, values = COMMANDS[name], flags.FlagValues()
    command.define(values)
    rows = [(f"--{flag}={flag.upper()}", str(values[flag].help)) for flag in values]
    usage, settings = f"usage: drifting {name} --workdir=DIR [--flags]", []
    if command.settings is not None:
        given = command.usage or f"--config=FILE {'--workdir=DIR' if 'workdir' in values else '--out=NPZ'}"
        usage = f"usage: drifting {name} {given} [--config.SECTION.KEY=VALUE ...]"
        rows = [
            ("--config=FILE", "the experiment, a Python file such as those in configs/"),
            ("--config.SECTION.KEY=VALUE", f"changes one of its settings, e.g. {_example(command.settings)}"),
            *rows,
        ]
        settings = ["", "settings and their defaults:", *_settings_help(command.settings)]
    elif command.usage:
        usage = f"usage: drifting {name} {command.usage}"
    width = max(len(flag) for flag, _ in rows)
    lines = [f"  {flag:<{width}}  {text}" for flag, text in rows]
    return "\n".join([usage, "", f"{command.summary[0].upper()}{command.summary[1:]}.", "", *lines, *settings])


def _example(kind: type[Settings]) -> str:
    section, keys = next((s, k) for s, k in to_dict(kind()).items() if s in ("train", "cache", "study"))
    key = "steps" if section == "train" else next(k for k, v in keys.items() if isinstance(v, int))
    return f"--config.{section}.{key}=500"


def _settings_help(kind: type[Settings]) -> list[str]:
    lines = []
    for section, keys in to_dict(kind()).items():
        # A default that has blanks in it stays on one line.
        items = " ".join(f"{key}={value!r}".replace(" ", "\0") for key, value in keys.items())
        wrapped = textwrap.wrap(items, 104, break_long_words=False, break_on_hyphens=False)
        lines += [f"  {section if i == 0 else '':<10}  {line}".replace("\0", " ") for i, line in enumerate(wrapped)]
    return lines


# --- flags and settings -----------------------------------------------------------------------------------------------


def _parse_flags(name: str, arguments: list[str]) -> flags.FlagValues:
    """The flags of one command; every way to get them wrong becomes a `ConfigError`."""
    values, kind = flags.FlagValues(), COMMANDS[name].settings
    if any(argument.split("=")[0] == f"--{COMMANDS[name].without_config}" for argument in arguments):
        kind = None
    COMMANDS[name].define(values)
    known = [*values, "config"] if kind else list(values)
    try:
        if kind is not None:
            kind, arguments = _define_settings(name, kind, arguments, values)
        rest = values([name, *arguments])[1:]
    except flags.UnrecognizedFlagError as error:
        flag = error.flagname.removeprefix("--")
        raise ConfigError(f"--{flag}: there is no such flag; use {_listed(known)}{_close(flag, known)}") from error
    except flags.IllegalFlagValueError as error:
        raise ConfigError(_illegal_value(error, values, kind)) from error
    takes = COMMANDS[name].takes
    for flag, value in zip(takes, rest, strict=False):
        values[flag].value = value
    if len(rest) > len(takes):
        raise ConfigError(f"{rest[len(takes)]!r}: not a flag; flags are given as --flag=value")
    return values


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"--{name}" for name in names)


def _define_settings(
    name: str, kind: type[Settings], arguments: list[str], values: flags.FlagValues
) -> tuple[type[Settings], list[str]]:
    """Declares the flag `config` with the settings of its file and what overrides them.

    Returns:
        What kind of settings they are, and the other arguments.
    """
    path, arguments = _take_config(arguments)
    if not path and not COMMANDS[name].has_defaults:
        raise ConfigError("--config: give the experiment's file, such as one out of configs/")
    settings = load_settings(path) if path else to_config_dict(kind())
    owner = command_of(settings)
    if COMMANDS[name].any_training and owner in ("train", "pretrain"):
        kind = PretrainConfig if owner == "pretrain" else Config
    elif owner != (COMMANDS[name].settings_of or name.split()[0]):
        raise ConfigError(f"--config={path}: holds settings of `drifting {owner}`; give them to that command")
    try:
        settings = to_config_dict(parse(settings, kind))
    except ConfigError as error:
        raise ConfigError(f"--config={path}: {error}") from error
    rest = []
    for argument in arguments:
        match = re.fullmatch(r"--?(?:no)?config\.([^=]+)(?:=(.*))?", argument, re.DOTALL)
        if match and match[2] == "None" and accepts_none(annotation(kind, match[1], None)):
            section, _, key = match[1].rpartition(".")
            settings[section][key] = None  # which flags cannot say
            continue
        if match:
            annotation(kind, match[1], match[2])
        rest.append(argument)
    config_flags.DEFINE_config_dict("config", settings, flag_values=values, sys_argv=rest)
    return kind, rest


def _take_config(arguments: list[str]) -> tuple[str, list[str]]:
    """The value of `--config`, the last if there are several or '' if there is none, and the other arguments."""
    path, rest, remaining = "", [], iter(arguments)
    for argument in remaining:
        flag, equals, value = argument.partition("=")
        if flag in ("--config", "-config"):
            path = value if equals else next(remaining, "")
        else:
            rest.append(argument)
    return path, rest


def load_settings(given: str) -> ConfigDict:
    """What `get_config()` of a Python file returns; of `FILE:ARGUMENT`, what `get_config(ARGUMENT)` returns.

    Raises:
        ConfigError: there is no such file, it fails (the message names the line), or it returns no `ConfigDict`.
    """
    settings = _load(given, "get_config")
    if not isinstance(settings, ConfigDict):
        raise ConfigError(f"--config={given}: get_config() returned {settings!r}; return the ConfigDict")
    return settings


def _load(given: str, function: str) -> Any:
    """What a function of a Python file returns, see `load_settings`."""
    name, *argument = given.split(":", 1)
    path = Path(name)
    if not path.is_file():
        beside = sorted(str(other) for other in path.parent.glob("*.py"))
        raise ConfigError(f"--config={given}: there is no such file{_close(name, beside)}")
    spec = importlib.util.spec_from_file_location("drifting_config_file", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"--config={given}: must be a Python file, ending in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, function):
            raise ConfigError(f"defines no function {function}()")
        if argument and not inspect.signature(getattr(module, function)).parameters:
            raise ConfigError(f"variant {argument[0]!r}: the file has none, leave out what follows the colon")
        return getattr(module, function)(*argument)
    except ConfigError as error:
        raise ConfigError(f"--config={given}: {error}") from error
    except Exception as error:
        raise ConfigError(
            f"--config={given}{_where(error, path)}: {type(error).__name__}: {_one_line(error)}"
        ) from error


def _where(error: Exception, path: Path) -> str:
    """`, line N` of the file at `path`, if the error comes from there."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).resolve() == path.resolve()]
    return f", line {frames[-1].lineno}" if frames else ""


def _illegal_value(error: Exception, values: flags.FlagValues, kind: type[Settings] | None) -> str:
    """One line for a flag whose value is of the wrong type."""
    match = re.match(r"flag --([^=]+)=(.*?): ", str(error), re.DOTALL)
    if match is None:
        return _one_line(error)
    flag, value = match[1], match[2]
    if kind is not None and flag.startswith("config."):
        path = flag.removeprefix("config.")
        return wrong_type(path, value, annotation(kind, path, value))
    return f"--{flag}={value}: expected {values[flag].parser.syntactic_help} ({values[flag].help})"


def _workdir(values: flags.FlagValues) -> Path:
    if not values.workdir:
        raise ConfigError("--workdir: give the run's folder")
    return Path(values.workdir)


def _out(values: flags.FlagValues, what: str = "folder") -> Path:
    if not values.out:
        raise ConfigError(f"--out: give the {what} to write")
    return Path(values.out)


def _weights(values: flags.FlagValues) -> str:
    if not values.weights:
        raise ConfigError("--weights: give a folder of weights, or hf://OWNER/REPO[/FOLDER] where they are downloaded")
    return str(values.weights)


def _define_training(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "where the run is written; a run that is there goes on", flag_values=values)
    several = "HOST:PORT of the first of several processes; default the environment's"
    flags.DEFINE_string("coordinator", None, several, flag_values=values)
    flags.DEFINE_integer("process_index", None, "which of them this is", lower_bound=0, flag_values=values)
    flags.DEFINE_integer("process_count", None, "how many there are", lower_bound=1, flag_values=values)
    gone = "seconds after which the end of one ends the others; default 100"
    flags.DEFINE_integer("peer_timeout", 100, gone, lower_bound=5, flag_values=values)


def _join_processes(values: flags.FlagValues) -> None:
    from drifting.processes import initialise, is_writer

    initialise(values.coordinator, values.process_count, values.process_index, values.peer_timeout)
    if not is_writer():
        logger.setLevel(logging.WARNING)


WEIGHTS = "published weights: a folder or hf://OWNER/REPO[@REVISION][/FOLDER]"


def _define_cache(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "the cache's folder; one that is not finished goes on", flag_values=values)
    _define_share(values, "make one cache")
    verify = "without --config: compare a finished cache with its checksums"
    flags.DEFINE_boolean("verify", False, verify, flag_values=values)


def _define_share(values: flags.FlagValues, what: str) -> None:
    process = f"which of several processes that {what}; default SLURM's, or 0"
    flags.DEFINE_integer("process_index", None, process, lower_bound=0, flag_values=values)
    count = "how many there are; default SLURM's, or 1"
    flags.DEFINE_integer("process_count", None, count, lower_bound=1, flag_values=values)


def _share(values: flags.FlagValues) -> tuple[int, int]:
    """Index and count of the processes that share a command's work."""
    # In a step of SLURM's; a batch script's own environment names tasks that do not run.
    index, count = (os.environ.get(name) for name in ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"))
    if values.process_index is None and values.process_count is None and index and count:
        return int(index), int(count)
    return values.process_index or 0, values.process_count or 1


def _define_images(values: flags.FlagValues) -> None:
    """Which images a generator draws."""
    flags.DEFINE_string("workdir", None, "run directory of `drifting train`, or give --weights", flag_values=values)
    flags.DEFINE_string("weights", None, f"or {WEIGHTS}", flag_values=values)
    flags.DEFINE_string("vae", None, "VAE to decode the weights' latents with; default theirs", flag_values=values)
    flags.DEFINE_float("ema", None, "which average of a run's parameters; default its own", flag_values=values)
    flags.DEFINE_string("labels", None, "file with the label of each image, in place of --classes", flag_values=values)
    seed = "seed of the first image, each has its own; default 0"
    flags.DEFINE_integer("seed", 0, seed, lower_bound=0, upper_bound=2**32 - 1, flag_values=values)
    conversion = "truncate to whole levels, as the released evaluation (default), or round"
    flags.DEFINE_string("uint8", "truncate", conversion, flag_values=values)
    flags.DEFINE_integer("batch", 64, "images in flight; default 64", lower_bound=1, flag_values=values)


def _define_sample(values: flags.FlagValues) -> None:
    _define_images(values)
    out = "PNG grid, .npz of ADM's form, or folder of PNGs; default samples.png in WORKDIR or here"
    flags.DEFINE_string("out", None, out, flag_values=values)
    flags.DEFINE_integer("num", None, "images, for an .npz or a folder", lower_bound=1, flag_values=values)
    classes = "names or numbers: a grid's rows, default at most 10, or in turn, default all"
    flags.DEFINE_list("classes", None, classes, flag_values=values)
    flags.DEFINE_integer("columns", 10, "images of each class in a grid; default 10", lower_bound=1, flag_values=values)
    flags.DEFINE_float("alpha", None, "guidance scale; default eval.alpha", flag_values=values)
    _define_share(values, "draw into one file or folder")


def _define_export(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "run directory of `drifting train` or `pretrain`", flag_values=values)
    _define_out(values)
    flags.DEFINE_float("ema", None, "which average of a generator's parameters; default its own", flag_values=values)


def _define_import(values: flags.FlagValues) -> None:
    flags.DEFINE_string("weights", None, WEIGHTS, flag_values=values)
    _define_out(values)


def _define_out(values: flags.FlagValues) -> None:
    flags.DEFINE_string("out", None, "folder to write", flag_values=values)
    formats = "safetensors (default), or released: the layout and tensor names of the released weights"
    flags.DEFINE_string("format", "safetensors", formats, flag_values=values)


def _define_push(values: flags.FlagValues) -> None:
    flags.DEFINE_string("weights", None, "folder that `drifting export` or `import` wrote", flag_values=values)
    flags.DEFINE_string("repo", None, "where to: OWNER/NAME; made if it is not there", flag_values=values)
    flags.DEFINE_string("revision", None, "branch; default main", flag_values=values)
    flags.DEFINE_boolean("private", False, "make a new repository private", flag_values=values)


def _define_evaluate(values: flags.FlagValues) -> None:
    _define_images(values)
    files = "score the images of a folder or .npz, in place of --workdir or --weights"
    flags.DEFINE_string("images", None, files, flag_values=values)
    reference = ".npz that `drifting reference` wrote, or ADM's; default: a run's own pixels"
    flags.DEFINE_string("reference", None, reference, flag_values=values)
    flags.DEFINE_string("encoder", None, f"features: {ENCODERS}; default the reference's", flag_values=values)
    flags.DEFINE_list("alpha", None, "guidance scales, e.g. 1.0,1.5,2.0; default eval.alpha", flag_values=values)
    count = "images; default eval.num_samples, 50000 of --weights, all of --images"
    flags.DEFINE_integer("num", None, count, lower_bound=2, flag_values=values)
    classes = "names or numbers, drawn in turn; default all"
    flags.DEFINE_list("classes", None, classes, flag_values=values)
    neighbour = "neighbour that sets the radii of precision and recall; default eval.neighbours, or 3"
    flags.DEFINE_integer("neighbours", None, neighbour, lower_bound=1, flag_values=values)
    flags.DEFINE_string("out", None, "JSON to write; default eval-STEP.json in WORKDIR or here", flag_values=values)
    _define_share(values, "score the same images")


ENCODERS = "inception[:WEIGHTS], pixels, mae:WEIGHTS"


def _define_reference(values: flags.FlagValues) -> None:
    flags.DEFINE_string("out", None, ".npz to write", flag_values=values)
    files = "images of a folder or .npz, in place of --config, whose data are read"
    flags.DEFINE_string("images", None, files, flag_values=values)
    flags.DEFINE_string("split", "train", "of the data: train (default) or heldout", flag_values=values)
    flags.DEFINE_string("encoder", "inception", f"features: {ENCODERS}; default inception", flag_values=values)
    keep = "images whose features are kept for precision and recall; default 10000"
    flags.DEFINE_integer("keep", 10_000, keep, lower_bound=0, flag_values=values)
    _define_share(values, "make one reference")


def _define_sweep(values: flags.FlagValues) -> None:
    flags.DEFINE_string("config", None, "the sweep, a Python file such as those in configs/sweeps/", flag_values=values)
    flags.DEFINE_string("workdir", None, "folder of all its runs; what is there goes on", flag_values=values)
    flags.DEFINE_boolean("list", False, "show the cells and how far they are, and run nothing", flag_values=values)
    flags.DEFINE_integer("index", None, "run this cell alone", lower_bound=0, flag_values=values)
    flags.DEFINE_boolean("retry", False, "run cells again that have failed", flag_values=values)
    flags.DEFINE_boolean("slurm", False, "submit an array of jobs, a cell each (needs submitit)", flag_values=values)
    options = "KEY=VALUE,..: of submitit's executor, e.g. slurm_partition=gpu,timeout_min=600"
    flags.DEFINE_list("slurm_options", [], options, flag_values=values)


def _define_report(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "folder of a run or of a sweep", flag_values=values)
    flags.DEFINE_string("out", None, "HTML file to write; default report.html in WORKDIR", flag_values=values)
    flags.DEFINE_boolean("watch", False, "serve it on this machine, and follow what goes on", flag_values=values)
    flags.DEFINE_integer(
        "port", 8000, "of --watch; default 8000, 0: any that is free", lower_bound=0, flag_values=values
    )


def _define_compare(values: flags.FlagValues) -> None:
    for flag in ("a", "b"):
        flags.DEFINE_string(flag, None, f"run directory, or {WEIGHTS}", flag_values=values)
    flags.DEFINE_string("out", "compare.html", "HTML file to write; default compare.html here", flag_values=values)
    reference = ".npz that `drifting reference` wrote, or ADM's; default: A's own pixels"
    flags.DEFINE_string("reference", None, reference, flag_values=values)
    flags.DEFINE_string("encoder", None, f"features: {ENCODERS}; default the reference's", flag_values=values)
    flags.DEFINE_integer("num", None, "images of each; default A's eval.num_samples", lower_bound=2, flag_values=values)
    flags.DEFINE_float("alpha", None, "guidance scale of both; default each one's own", flag_values=values)
    flags.DEFINE_integer("seed", None, "of the first image; default A's eval.seed", lower_bound=0, flag_values=values)
    resamples = "for the intervals; default 200, or 20 of more than 512 features"
    flags.DEFINE_integer("resamples", None, resamples, lower_bound=2, flag_values=values)


def _define_study(values: flags.FlagValues) -> None:
    flags.DEFINE_string("out", None, "folder to write: table.csv, result.json and the figures", flag_values=values)


def _define_diagnose(values: flags.FlagValues) -> None:
    flags.DEFINE_string("run", None, "run directory of `drifting train`, or give --weights", flag_values=values)
    flags.DEFINE_string("weights", None, f"{WEIGHTS}, in place of --run", flag_values=values)
    flags.DEFINE_string("vae", None, "VAE of the weights' latents; default theirs", flag_values=values)
    _define_study(values)


def _define_plan(values: flags.FlagValues) -> None:
    flags.DEFINE_string("mesh", "data=1,fsdp=1", "its axes; default data=1,fsdp=1, one device", flag_values=values)
    flags.DEFINE_string("device", None, "kind of device, such as h100, rtx4090 or tpu-v6e", flag_values=values)
    sizes = "samples at a time, 0 all; default train.micro_batch if set, else the largest that fits"
    flags.DEFINE_integer("micro_batch", None, sizes, lower_bound=0, flag_values=values)
    share = "share of the bf16 peak that training reaches; default 0.125, as published"
    flags.DEFINE_float("efficiency", 0.125, share, flag_values=values)


# --- the commands -----------------------------------------------------------------------------------------------------
# They import what they need when they run: `drifting --help` and a misspelt flag should not wait for JAX.


def _train(values: flags.FlagValues) -> int:
    workdir, config = _workdir(values), parse(values["config"].value, Config)
    from drifting.train import train

    assert isinstance(config, Config)
    _join_processes(values)
    train(config, workdir)
    return 0


def _pretrain(values: flags.FlagValues) -> int:
    workdir, config = _workdir(values), parse(values["config"].value, PretrainConfig)
    from drifting.pretrain import pretrain

    assert isinstance(config, PretrainConfig)
    _join_processes(values)
    pretrain(config, workdir)
    return 0


def _cache(values: flags.FlagValues) -> int:
    workdir = _workdir(values)
    if values.verify:
        return _verify(workdir)
    config = parse(values["config"].value, CacheBuild)
    from drifting.data.cache import build_cache

    assert isinstance(config, CacheBuild)
    build_cache(config, workdir, *_share(values))
    return 0


def _verify(workdir: Path) -> int:
    from drifting.data.latents import check_cache, read_manifest

    problems = check_cache(workdir, verify=True)
    for problem in problems:
        _fail(problem)
    if problems:
        return 1
    manifest = read_manifest(workdir)
    counts = f"{manifest['images']:,} images in {len(manifest['shards'])} shards, {len(manifest['bad'])} left out"
    print(f"{workdir}: {counts}, all as the checksums say; latents of {manifest['facts']['vae']}")
    return 0


def _trained(values: flags.FlagValues) -> Any:
    """The generator that the flags name, and how the person called it."""
    if bool(values.workdir) == bool(values.weights):
        raise ConfigError("--workdir or --weights: give one, a run's folder or published weights")
    if values.weights and values.ema is not None:
        raise ConfigError(f"--ema={values.ema}: published weights are one average, leave it out")
    if values.workdir and values.vae:
        raise ConfigError(f"--vae={values.vae}: a run has its own, leave it out")
    from drifting.trained import TrainedGenerator

    if values.weights:
        return TrainedGenerator.from_weights(values.weights, values.vae)
    return TrainedGenerator.from_run(Path(values.workdir), values.ema)


def _sample(values: flags.FlagValues) -> int:
    trained = _trained(values)
    path = Path(values.out) if values.out else Path(values.workdir or ".") / "samples.png"
    if path.suffix in ("", ".npz"):
        return _sample_images(values, trained, path)
    from drifting.sample import write_grid

    for flag in ("num", "labels"):
        if values[flag].value is not None:
            raise ConfigError(f"--{flag}={values[flag].value}: a grid has --classes and --columns, or write an .npz")
    write_grid(
        trained,
        path,
        classes=values.classes,
        columns=values.columns,
        alpha=values.alpha,
        seed=values.seed,
        batch_size=values.batch,
    )
    print(path)
    return 0


def _sample_images(values: flags.FlagValues, trained: Any, path: Path) -> int:
    from drifting.parts import Share
    from drifting.sample import GeneratedImages, wanted_labels, write_images

    images = GeneratedImages(
        trained,
        wanted_labels(trained, values.num, values.classes, values.labels),
        source=values.weights or values.workdir,
        seed=values.seed,
        alpha=trained.alpha(values.alpha),
        uint8=values.uint8,
        batch_size=values.batch,
    )
    if write_images(images, path, Share(*_share(values))):
        print(path)
    return 0


def _export(values: flags.FlagValues) -> int:
    workdir, out = _workdir(values), _out(values)
    from drifting.publish import export_run

    export_run(workdir, out, average=values.ema, layout=values.format)
    print(out)
    return 0


def _import(values: flags.FlagValues) -> int:
    weights, out = _weights(values), _out(values)
    from drifting.publish import import_weights

    import_weights(weights, out, layout=values.format)
    print(out)
    return 0


def _push(values: flags.FlagValues) -> int:
    weights = _weights(values)
    if not values.repo:
        raise ConfigError("--repo: give the repository, OWNER/NAME")
    from drifting.hub.push import push

    print(push(weights, values.repo, revision=values.revision, private=values.private))
    return 0


def _define_replay(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "run directory of `drifting train`", flag_values=values)
    flags.DEFINE_integer("step", None, "the step, counted from 1", lower_bound=1, flag_values=values)


def _replay(values: flags.FlagValues) -> int:
    workdir = _workdir(values)
    if values.step is None:
        raise ConfigError("--step: give the number of the step")
    from drifting.replay import replay

    print("\n".join(replay(workdir, values.step)))
    return 0


def _evaluate(values: flags.FlagValues) -> int:
    given = [flag for flag in ("workdir", "weights", "images") if values[flag].value]
    if not given:
        raise ConfigError("--workdir: give the run's folder, or --weights or --images")
    if len(given) > 1:
        raise ConfigError(f"--{given[1]}={values[given[1]].value}: --{given[0]} says what to score, leave one out")
    from drifting.parts import Share
    from drifting.scores import Settings, evaluate_generator, score_table

    if values.images:
        return _evaluate_files(values)
    settings = Settings(
        num=values.num,
        alphas=None if values.alpha is None else [_number("alpha", alpha) for alpha in values.alpha],
        seed=values.seed if values["seed"].present else None,
        classes=values.classes,
        labels=values.labels,
        uint8=values.uint8,
        batch_size=values.batch if values["batch"].present else None,
        neighbours=values.neighbours,
    )
    found = evaluate_generator(
        _trained(values),
        values.weights or values.workdir,
        Path(values.out) if values.out else None,
        reference=Path(values.reference) if values.reference else None,
        encoder=values.encoder,
        settings=settings,
        share=Share(*_share(values)),
    )
    if found is not None:
        print(score_table(found))
    return 0


def _evaluate_files(values: flags.FlagValues) -> int:
    for flag in ("alpha", "ema", "classes", "labels", "vae"):
        if values[flag].value is not None:
            raise ConfigError(f"--{flag}={values[flag].value}: --images have been drawn, leave it out")
    if not values.reference:
        raise ConfigError("--reference: give statistics of real images, see `drifting reference`")
    from drifting.archive import open_images
    from drifting.parts import Share
    from drifting.scores import evaluate_files, score_table

    path = Path(values.images)
    try:
        images = open_images(path)
    except ValueError as error:
        raise ConfigError(f"--images={error}") from error
    found = evaluate_files(
        images,
        Path(values.out) if values.out else path.with_name(f"{path.stem}-eval.json"),
        Path(values.reference),
        encoder=values.encoder,
        num=values.num,
        neighbours=values.neighbours or 3,
        share=Share(*_share(values)),
    )
    if found is not None:
        print(score_table(found))
    return 0


def _number(flag: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ConfigError(f"--{flag}={text}: expected numbers with commas between them, e.g. 1.0,1.5") from error


def _reference(values: flags.FlagValues) -> int:
    out = _out(values, "file")
    from drifting import build
    from drifting.archive import open_images
    from drifting.encoders import score_encoder
    from drifting.parts import Share
    from drifting.reference import SourceImages, make_reference

    images: Any
    if values.images:
        try:
            images = open_images(Path(values.images))
        except ValueError as error:
            raise ConfigError(f"--images={error}") from error
    else:
        config = parse(values["config"].value, Config)
        assert isinstance(config, Config)
        source = build.source(config.data, values.split)
        images = SourceImages(source, {"images": f"{config.data.name}, {values.split}", **build.data_facts(source)})
    encoder = score_encoder("--encoder", values.encoder, images.shape)
    if make_reference(images, encoder, out, keep=values.keep, share=Share(*_share(values))):
        print(out)
    return 0


def _sweep(values: flags.FlagValues) -> int:
    if not values.config:
        raise ConfigError("--config: give the sweep's file, such as one out of configs/sweeps/")
    workdir = _workdir(values)
    from drifting import sweep

    found = _load(values.config, "get_sweep")
    if not isinstance(found, sweep.Sweep):
        raise ConfigError(f"--config={values.config}: get_sweep() returned {found!r}; return a drifting.sweep.Sweep")
    base = str((Path(values.config.split(":", 1)[0]).parent / found.config).resolve())
    try:
        cells = sweep.cells_of(found, load_settings(base))
    except ConfigError as error:
        raise ConfigError(f"--config={values.config}: {str(error).removeprefix('--config=')}") from error
    if values.list:
        print(sweep.listing(list(cells), workdir))
        return 0
    if not values.slurm:
        return 1 if sweep.run_sweep(found, cells, workdir, index=values.index, retry=values.retry) else 0
    options = dict(_option(option) for option in values.slurm_options)
    sweep.prepare(found, list(cells), workdir)
    arguments = [f"--config={values.config}", f"--workdir={workdir}"]
    ids = sweep.submit(list(cells), workdir, arguments, options, values.retry)
    print(f"{len(ids)} jobs submitted: {' '.join(ids)}" if ids else "nothing is left to run")
    return 0


def _option(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--slurm_options={text}: expected KEY=VALUE")
    return key, int(value) if value.isdecimal() else value


def _report(values: flags.FlagValues) -> int:
    workdir = _workdir(values)
    from drifting.report.serve import watch, write_report

    if values.watch:
        watch(workdir, values.port)
        return 0
    out = Path(values.out) if values.out else workdir / "report.html"
    write_report(workdir, out)
    print(out)
    return 0


def _compare(values: flags.FlagValues) -> int:
    if not values.a or not values.b:
        raise ConfigError("compare: give two runs or weights, drifting compare A B")
    from drifting.compare import compare, comparison_table

    out = Path(values.out)
    found = compare(
        values.a,
        values.b,
        out,
        reference=Path(values.reference) if values.reference else None,
        encoder=values.encoder,
        num=values.num,
        alpha=values.alpha,
        seed=values.seed,
        resamples=values.resamples,
    )
    print(comparison_table(found, [values.a, values.b]))
    print(out)
    return 0


def _study(name: str, values: flags.FlagValues) -> int:
    out, settings = _out(values), parse(values["config"].value, STUDIES[name].settings)
    from drifting.analysis.study import run_study

    subject = {}
    if name == "diagnose":
        subject = {"run": Path(values.run) if values.run else None, "weights": values.weights, "vae": values.vae}
    run_study(name, settings, out, **subject)
    print(out)
    return 0


def _plan(values: flags.FlagValues) -> int:
    settings: Any = values["config"].value
    config = parse(settings, PretrainConfig if command_of(settings) == "pretrain" else Config)
    from drifting.plan import plan

    assert not isinstance(config, CacheBuild)
    fits = plan(
        config, mesh=values.mesh, device=values.device, micro_batch=values.micro_batch, efficiency=values.efficiency
    )
    return 0 if fits else 1


COMMANDS = {
    "cache": Command(
        "encode images once and for all into latents to train on",
        _define_cache,
        _cache,
        CacheBuild,
        without_config="verify",
    ),
    "pretrain": Command("train a feature encoder (masked autoencoder)", _define_training, _pretrain, PretrainConfig),
    "train": Command("train a one-step generator", _define_training, _train, Config),
    "sample": Command(
        "draw images: a PNG grid, an .npz for evaluators, a folder",
        _define_sample,
        _sample,
        usage="--workdir=DIR|--weights=WEIGHTS [--flags]",
    ),
    "reference": Command(
        "gather statistics of real images to score against",
        _define_reference,
        _reference,
        Config,
        without_config="images",
        settings_of="train",
    ),
    "evaluate": Command(
        "score a run, weights or images: FID, precision, recall",
        _define_evaluate,
        _evaluate,
        usage="--workdir=DIR|--weights=WEIGHTS|--images=PATH [--reference=NPZ] [--flags]",
    ),
    "sweep": Command(
        "run a grid of experiments, here or on SLURM",
        _define_sweep,
        _sweep,
        usage="--config=FILE --workdir=DIR [--flags]",
    ),
    "report": Command("show a run or a sweep on one HTML page", _define_report, _report),
    "compare": Command(
        "set two generators side by side at the same seeds",
        _define_compare,
        _compare,
        usage="A B [--reference=NPZ] [--flags]",
        takes=("a", "b"),
    ),
    "plan": Command(
        "say whether a training fits on devices, and what it takes",
        _define_plan,
        _plan,
        Config,
        usage="--config=FILE --device=KIND --mesh=data=N,fsdp=M",
        any_training=True,
    ),
    "replay": Command(
        "do a step of a run again and say what it consists of",
        _define_replay,
        _replay,
        usage="--workdir=DIR --step=N",
    ),
    "export": Command(
        "write a run's weights as a folder to publish",
        _define_export,
        _export,
        usage="--workdir=DIR --out=DIR [--flags]",
    ),
    "import": Command(
        "turn published weights of any kind into a folder of ours",
        _define_import,
        _import,
        usage="--weights=WEIGHTS --out=DIR [--flags]",
    ),
    "hub push": Command(
        "upload a folder of weights to the Hugging Face hub",
        _define_push,
        _push,
        usage="--weights=DIR --repo=OWNER/NAME",
    ),
} | {
    f"study {name}": Command(
        study.summary,
        _define_diagnose if name == "diagnose" else _define_study,
        partial(_study, name),
        study.settings,
        usage="--run=DIR|--weights=WEIGHTS --out=DIR" if name == "diagnose" else "--out=DIR",
        has_defaults=True,
    )
    for name, study in STUDIES.items()
}


if __name__ == "__main__":
    sys.exit(main())
