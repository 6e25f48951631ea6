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
from pathlib import Path
from typing import Any

from absl import flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

from drifting.config import (
    AnyConfig,
    CacheBuild,
    Config,
    ConfigError,
    PretrainConfig,
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
        any_training: takes the settings of `drifting pretrain` as well.
    """

    summary: str
    define: Callable[[flags.FlagValues], None]
    run: Callable[[flags.FlagValues], int]
    settings: type[AnyConfig] | None = None
    usage: str = ""
    without_config: str | None = None
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
    """The arguments with a name of two words, such as `hub push`, as one."""
    joined = " ".join(arguments[:2])
    return [joined, *arguments[2:]] if joined in COMMANDS else list(arguments)


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
    lines = [f"  {name:<10} {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: drifting COMMAND --flags", "", *lines, "", "drifting COMMAND --help lists its flags."])


def command_help(name: str) -> str:
    """A command's flags, and for a training all settings with their defaults."""
    command, values = COMMANDS[name], flags.FlagValues()
    command.define(values)
    rows = [(f"--{flag}={flag.upper()}", str(values[flag].help)) for flag in values]
    usage, settings = f"usage: drifting {name} --workdir=DIR [--flags]", []
    if command.settings is not None:
        usage = command.usage or "--config=FILE --workdir=DIR [--config.SECTION.KEY=VALUE ...]"
        usage = f"usage: drifting {name} {usage}"
        rows = [
            ("--config=FILE", "the experiment, a Python file such as those in configs/"),
            ("--config.SECTION.KEY=VALUE", "changes one of its settings, e.g. --config.train.steps=500"),
            *rows,
        ]
        settings = ["", "settings and their defaults:", *_settings_help(command.settings)]
    elif command.usage:
        usage = f"usage: drifting {name} {command.usage}"
    width = max(len(flag) for flag, _ in rows)
    lines = [f"  {flag:<{width}}  {text}" for flag, text in rows]
    return "\n".join([usage, "", f"{command.summary[0].upper()}{command.summary[1:]}.", "", *lines, *settings])


def _settings_help(kind: type[AnyConfig]) -> list[str]:
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
    if f"--{COMMANDS[name].without_config}" in arguments:
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
    if rest:
        raise ConfigError(f"{rest[0]!r}: not a flag; flags are given as --flag=value")
    return values


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"--{name}" for name in names)


def _define_settings(
    name: str, kind: type[AnyConfig], arguments: list[str], values: flags.FlagValues
) -> tuple[type[AnyConfig], list[str]]:
    """Declares the flag `config` with the settings of its file and what overrides them.

    Returns:
        What kind of settings they are, and the other arguments.
    """
    path, arguments = _take_config(arguments)
    settings = load_settings(path)
    owner = command_of(settings)
    if COMMANDS[name].any_training and owner in ("train", "pretrain"):
        kind = PretrainConfig if owner == "pretrain" else Config
    elif owner != name:
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
    """The value of `--config`, the last if there are several, and the other arguments."""
    path, rest, remaining = "", [], iter(arguments)
    for argument in remaining:
        flag, equals, value = argument.partition("=")
        if flag in ("--config", "-config"):
            path = value if equals else next(remaining, "")
        else:
            rest.append(argument)
    if not path:
        raise ConfigError("--config: give the experiment's file, such as one out of configs/")
    return path, rest


def load_settings(given: str) -> ConfigDict:
    """What `get_config()` of a Python file returns; of `FILE:ARGUMENT`, what `get_config(ARGUMENT)` returns.

    Raises:
        ConfigError: there is no such file, it fails (the message names the line), or it returns no `ConfigDict`.
    """
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
        if not hasattr(module, "get_config"):
            raise ConfigError("defines no function get_config()")
        if argument and not inspect.signature(module.get_config).parameters:
            raise ConfigError(f"variant {argument[0]!r}: the file has none, leave out what follows the colon")
        settings = module.get_config(*argument)
    except ConfigError as error:
        raise ConfigError(f"--config={given}: {error}") from error
    except Exception as error:
        raise ConfigError(
            f"--config={given}{_where(error, path)}: {type(error).__name__}: {_one_line(error)}"
        ) from error
    if not isinstance(settings, ConfigDict):
        raise ConfigError(f"--config={given}: get_config() returned {settings!r}; return the ConfigDict")
    return settings


def _where(error: Exception, path: Path) -> str:
    """`, line N` of the file at `path`, if the error comes from there."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).resolve() == path.resolve()]
    return f", line {frames[-1].lineno}" if frames else ""


def _illegal_value(error: Exception, values: flags.FlagValues, kind: type[AnyConfig] | None) -> str:
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


def _out(values: flags.FlagValues) -> Path:
    if not values.out:
        raise ConfigError("--out: give the folder to write")
    return Path(values.out)


def _weights(values: flags.FlagValues) -> str:
    if not values.weights:
        raise ConfigError("--weights: give a folder of weights, or hf://OWNER/REPO[/FOLDER] where they are downloaded")
    return str(values.weights)


def _define_training(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "where the run is written; a run that is there goes on", flag_values=values)


WEIGHTS = "published weights: a folder or hf://OWNER/REPO[@REVISION][/FOLDER]"


def _define_cache(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "the cache's folder; one that is not finished goes on", flag_values=values)
    process = "which of several processes that make one cache this is; default SLURM's, or 0"
    flags.DEFINE_integer("process_index", None, process, lower_bound=0, flag_values=values)
    count = "how many there are; default SLURM's, or 1"
    flags.DEFINE_integer("process_count", None, count, lower_bound=1, flag_values=values)
    verify = "without --config: compare a finished cache with its checksums"
    flags.DEFINE_boolean("verify", False, verify, flag_values=values)


def _define_sample(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "run directory of `drifting train`, or give --weights", flag_values=values)
    flags.DEFINE_string("weights", None, f"{WEIGHTS}, in place of --workdir", flag_values=values)
    flags.DEFINE_string("vae", None, "VAE to decode the weights' latents with; default theirs", flag_values=values)
    flags.DEFINE_string("out", None, "PNG to write; default samples.png in WORKDIR or here", flag_values=values)
    flags.DEFINE_list("classes", None, "names or numbers, a row each; default all, at most 10", flag_values=values)
    flags.DEFINE_integer("columns", 10, "images of each class; default 10", lower_bound=1, flag_values=values)
    flags.DEFINE_float("alpha", None, "guidance scale; default eval.alpha", flag_values=values)
    seed = "seed of the first image, each has its own; default 0"
    flags.DEFINE_integer("seed", 0, seed, lower_bound=0, upper_bound=2**31 - 1, flag_values=values)
    flags.DEFINE_float("ema", None, "which average of a run's parameters; default its own", flag_values=values)
    flags.DEFINE_integer("batch", 64, "images drawn at a time; default 64", lower_bound=1, flag_values=values)


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
    flags.DEFINE_string("workdir", None, "run directory of `drifting train`", flag_values=values)
    flags.DEFINE_float("alpha", None, "guidance scale; default eval.alpha", flag_values=values)
    flags.DEFINE_integer("num", None, "images; default eval.num_samples", lower_bound=2, flag_values=values)
    flags.DEFINE_float("ema", None, "which average of the parameters; default eval.ema_decay", flag_values=values)


def _define_plan(values: flags.FlagValues) -> None:
    flags.DEFINE_string("mesh", "data=1,fsdp=1", "its axes; default data=1,fsdp=1, one device", flag_values=values)
    flags.DEFINE_string("device", None, "kind of device, such as h100, rtx4090 or tpu-v6e", flag_values=values)
    sizes = "samples at a time, 0 all; default train.micro_batch if it is set, else the largest that fits"
    flags.DEFINE_integer("micro_batch", None, sizes, lower_bound=0, flag_values=values)
    share = "share of the device's bf16 peak that training reaches; default 0.125, as published for the ablation"
    flags.DEFINE_float("efficiency", 0.125, share, flag_values=values)


# --- the commands -----------------------------------------------------------------------------------------------------
# They import what they need when they run: `drifting --help` and a misspelt flag should not wait for JAX.


def _train(values: flags.FlagValues) -> int:
    workdir, config = _workdir(values), parse(values["config"].value, Config)
    from drifting.train import train

    assert isinstance(config, Config)
    train(config, workdir)
    return 0


def _pretrain(values: flags.FlagValues) -> int:
    workdir, config = _workdir(values), parse(values["config"].value, PretrainConfig)
    from drifting.pretrain import pretrain

    assert isinstance(config, PretrainConfig)
    pretrain(config, workdir)
    return 0


def _cache(values: flags.FlagValues) -> int:
    workdir = _workdir(values)
    if values.verify:
        return _verify(workdir)
    config = parse(values["config"].value, CacheBuild)
    from drifting.data.cache import build_cache

    assert isinstance(config, CacheBuild)
    # In a step of SLURM's; a batch script's own environment names tasks that do not run.
    index, count = (os.environ.get(name) for name in ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"))
    if values.process_index is None and values.process_count is None and index and count:
        build_cache(config, workdir, int(index), int(count))
    else:
        build_cache(config, workdir, values.process_index or 0, values.process_count or 1)
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


def _sample(values: flags.FlagValues) -> int:
    if bool(values.workdir) == bool(values.weights):
        raise ConfigError("--workdir or --weights: give one, a run's folder or published weights")
    if values.weights and values.ema is not None:
        raise ConfigError(f"--ema={values.ema}: published weights are one average, leave it out")
    if values.workdir and values.vae:
        raise ConfigError(f"--vae={values.vae}: a run has its own, leave it out")
    from drifting.sample import write_samples
    from drifting.trained import TrainedGenerator

    if values.weights:
        trained = TrainedGenerator.from_weights(values.weights, values.vae)
    else:
        trained = TrainedGenerator.from_run(Path(values.workdir), values.ema)
    path = Path(values.out) if values.out else Path(values.workdir or ".") / "samples.png"
    write_samples(
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


def _evaluate(values: flags.FlagValues) -> int:
    workdir = _workdir(values)
    from drifting.scores import evaluate, score_table

    scores = evaluate(workdir, alpha=values.alpha, num_samples=values.num, ema_decay=values.ema)
    print(score_table(scores))
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
    "plan": Command(
        "say whether a training fits on given devices, and what it will take",
        _define_plan,
        _plan,
        Config,
        usage="--config=FILE --device=KIND --mesh=data=N,fsdp=M [--config.SECTION.KEY=VALUE ...]",
        any_training=True,
    ),
    "sample": Command(
        "draw images of a run or of published weights as a PNG grid",
        _define_sample,
        _sample,
        usage="--workdir=DIR|--weights=WEIGHTS [--flags]",
    ),
    "evaluate": Command("score a run against its real samples", _define_evaluate, _evaluate),
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
}


if __name__ == "__main__":
    sys.exit(main())
