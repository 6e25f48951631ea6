"""The command line: `drifting COMMAND --flags`.

Exit codes: 0 done (or stopped and saved on request), 1 something failed on the way, 2 the command or its settings are
wrong. Whatever is wrong with the input is one line on standard error.
"""

import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import flags
from absl import logging as absl_logging
from ml_collections import config_flags
from rich.console import Console
from rich.logging import RichHandler

from drifting.config import Config, ConfigError, PretrainConfig, parse, unknown_key

logger = logging.getLogger("drifting")


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        summary: a line for the overview.
        define: declares its flags.
        run: does it, and returns the exit code.
    """

    summary: str
    define: Callable[[flags.FlagValues], None]
    run: Callable[[flags.FlagValues], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; `arguments` are those after the program's name. Returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in COMMANDS:
        return _fail(f"{name}: there is no such command; use one of {', '.join(COMMANDS)}")
    if {"-h", "--help"} & set(rest):
        print(_help(name))
        return 0
    _configure_logging()
    try:
        return COMMANDS[name].run(_parse_flags(name, rest))
    except (ConfigError, flags.Error) as error:
        return _fail(_one_line(error))
    except (ValueError, OSError, RuntimeError) as error:
        expected = type(error).__module__.startswith("drifting") or type(error) in (ValueError, FileNotFoundError)
        if not expected:
            raise
        return _fail(_one_line(error), code=2 if isinstance(error, ValueError) else 1)


def _fail(message: str, code: int = 2) -> int:
    print(f"drifting: error: {message}", file=sys.stderr)
    return code


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def overview() -> str:
    """The commands, a line each."""
    lines = [f"  {name:<10} {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: drifting COMMAND --flags", "", *lines, "", "drifting COMMAND --help lists its flags."])


def _help(name: str) -> str:
    values = flags.FlagValues()
    COMMANDS[name].define(values)
    lines = [f"usage: drifting {name} --flags", "", COMMANDS[name].summary, ""]
    for flag in values.get_flags_for_module(sys.argv[0]) or [values[key] for key in sorted(values)]:
        default = "" if flag.default is None else f" (default {flag.default})"
        lines.append(f"  --{flag.name:<12} {flag.help}{default}")
    return "\n".join(lines)


def _parse_flags(name: str, arguments: list[str]) -> flags.FlagValues:
    """The flags of one command; every way to get them wrong becomes a `ConfigError`."""
    values = flags.FlagValues()
    COMMANDS[name].define(values)
    try:
        rest = values([name, *arguments])[1:]
    except flags.UnrecognizedFlagError as error:
        key = str(getattr(error, "flagname", ""))
        raise ConfigError(unknown_key(f"--{key.lstrip('-')}", [f"--{n}" for n in values], "")) from error
    except (AttributeError, KeyError) as error:
        raise ConfigError(_unknown_setting(error, arguments)) from error
    except (TypeError, ValueError, SyntaxError) as error:
        raise ConfigError(f"--config: {_one_line(error)}") from error
    if rest:
        raise ConfigError(f"{rest[0]!r}: not a flag; settings are given as --config.section.key=value")
    return values


def _unknown_setting(error: BaseException, arguments: list[str]) -> str:
    """One line for a `--config.a.b=...` whose key does not exist."""
    given = [a.removeprefix("--config.").partition("=")[0] for a in arguments if a.startswith("--config.")]
    for kind in (Config, PretrainConfig):
        for path in given:
            try:
                nested: Any = 0
                for part in reversed(path.split(".")):
                    nested = {part: nested}
                parse(nested, kind)
            except ConfigError as unknown:
                if "there is no such key" in str(unknown):
                    return str(unknown)
    return _one_line(error)


def _configure_logging() -> None:
    """Our messages to standard error, a line each; the libraries' only when they warn."""
    handler = RichHandler(console=Console(stderr=True), show_time=False, show_path=False, markup=False)
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    absl_logging.set_verbosity(absl_logging.WARNING)


def _workdir(values: flags.FlagValues) -> Path:
    if not values.workdir:
        raise ConfigError("--workdir=None: give the run's folder")
    return Path(values.workdir)


def _settings(values: flags.FlagValues, kind: Any) -> Any:
    if values["config"].value is None:
        raise ConfigError("--config=None: give a file out of configs/")
    return parse(values["config"].value, kind)


def _define_training(values: flags.FlagValues) -> None:
    config_flags.DEFINE_config_file(
        "config", None, "configuration file; --config.section.key=value changes a setting", flag_values=values
    )
    flags.DEFINE_string("workdir", None, "run directory; a run that is there goes on", flag_values=values)


def _define_sample(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "run directory of `drifting train`", flag_values=values)
    flags.DEFINE_string("out", None, "PNG to write; default WORKDIR/samples.png", flag_values=values)
    flags.DEFINE_list("classes", None, "class labels, a row each; default all, at most 10", flag_values=values)
    flags.DEFINE_integer("columns", 10, "images of each class", lower_bound=1, flag_values=values)
    flags.DEFINE_float("alpha", None, "guidance scale; default eval.alpha", flag_values=values)
    flags.DEFINE_integer("seed", 0, "seed of the first image; each has its own", lower_bound=0, flag_values=values)
    flags.DEFINE_float("ema", None, "which average of the parameters; default eval.ema_decay", flag_values=values)


def _define_evaluate(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "run directory of `drifting train`", flag_values=values)
    flags.DEFINE_float("alpha", None, "guidance scale; default eval.alpha", flag_values=values)
    flags.DEFINE_integer("num", None, "images; default eval.num_samples", lower_bound=2, flag_values=values)
    flags.DEFINE_float("ema", None, "which average of the parameters; default eval.ema_decay", flag_values=values)


# Commands import what they need when they run: `drifting --help` and a misspelt flag should not wait for JAX.


def _train(values: flags.FlagValues) -> int:
    from drifting.train import train

    train(_settings(values, Config), _workdir(values))
    return 0


def _pretrain(values: flags.FlagValues) -> int:
    from drifting.pretrain import pretrain

    pretrain(_settings(values, PretrainConfig), _workdir(values))
    return 0


def _sample(values: flags.FlagValues) -> int:
    from drifting.sample import write_samples

    path = write_samples(
        _workdir(values),
        out=Path(values.out) if values.out else None,
        classes=values.classes,
        columns=values.columns,
        alpha=values.alpha,
        seed=values.seed,
        ema_decay=values.ema,
    )
    print(path)
    return 0


def _evaluate(values: flags.FlagValues) -> int:
    from drifting.scores import evaluate, score_table

    scores = evaluate(_workdir(values), alpha=values.alpha, num_samples=values.num, ema_decay=values.ema)
    print(score_table(scores))
    return 0


COMMANDS = {
    "pretrain": Command("train a feature encoder (masked autoencoder)", _define_training, _pretrain),
    "train": Command("train a one-step generator", _define_training, _train),
    "sample": Command("draw images of a run as a PNG grid", _define_sample, _sample),
    "evaluate": Command("score a run against its real samples", _define_evaluate, _evaluate),
}


if __name__ == "__main__":
    sys.exit(main())
