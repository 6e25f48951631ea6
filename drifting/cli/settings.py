"""Flags and settings out of the arguments of a command: every way to get them wrong becomes a `ConfigError`."""

import ast
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from drifting.cli.command import Command
from drifting.cli.messages import close_to
from drifting.config.older import FORMER_MODULES, renamed
from drifting.config.parse import annotation, parse, to_config_dict
from drifting.config.schema import Config, PretrainConfig, Settings, command_of
from drifting.config.sections import accepts_none, wrong_type
from drifting.errors import ConfigError, one_line


def parse_flags(name: str, command: Command, arguments: list[str]) -> flags.FlagValues:
    """The flags of one command; every way to get them wrong becomes a `ConfigError`."""
    values, kind = flags.FlagValues(), command.settings
    if any(argument.split("=")[0] == f"--{command.without_config}" for argument in arguments):
        kind = None
    command.define(values)
    known = [*values, "config"] if kind else list(values)
    try:
        if kind is not None:
            kind, arguments = _define_settings(name, command, kind, arguments, values)
        rest = values([name, *arguments])[1:]
    except flags.UnrecognizedFlagError as error:
        flag = error.flagname.removeprefix("--")
        if kind is None and command.settings is not None and flag.split(".")[0] == "config":
            raise ConfigError(f"--{flag}: --{command.without_config} takes no settings; leave it out") from error
        raise ConfigError(f"--{flag}: there is no such flag; use {_listed(known)}{close_to(flag, known)}") from error
    except flags.IllegalFlagValueError as error:
        raise ConfigError(_illegal_value(error, values, kind)) from error
    for flag, value in zip(command.takes, rest, strict=False):
        values[flag].value = value
    if len(rest) > len(command.takes):
        raise ConfigError(f"{rest[len(command.takes)]!r}: not a flag; flags are given as --flag=value")
    return values


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"--{name}" for name in names)


def _define_settings(
    name: str, command: Command, kind: type[Settings], arguments: list[str], values: flags.FlagValues
) -> tuple[type[Settings], list[str]]:
    """Declares the flag `config` with the settings of its file and what overrides them.

    Returns:
        What kind of settings they are, and the other arguments.
    """
    path, arguments = _take_config(arguments)
    if not path and not command.has_defaults:
        raise ConfigError("--config: give the experiment's file, such as one out of configs/")
    settings = load_settings(path) if path else to_config_dict(kind())
    owner = command_of(settings)
    if command.any_training and owner in ("train", "pretrain"):
        kind = PretrainConfig if owner == "pretrain" else Config
    elif owner != (command.settings_of or name.split()[0]):
        raise ConfigError(f"--config={path}: holds settings of `drifting {owner}`; give them to that command")
    try:
        settings = to_config_dict(parse(settings, kind))
    except ConfigError as error:
        raise ConfigError(f"--config={path}: {error}") from error
    rest: list[str] = []
    none: set[str] = set()
    remaining = iter(arguments)
    for argument in remaining:
        match = re.fullmatch(r"--?(?:no)?config\.([^=]+)(?:=(.*))?", argument, re.DOTALL)
        if match and annotation(kind, match[1], match[2]) is Any:
            off = argument.lstrip("-").startswith("no")
            value = match[2] if match[2] is not None else "False" if off else next(remaining, "")
            _set_option(settings, renamed(match[1]).split("."), value)
            continue
        if match and match[2] == "None" and accepts_none(annotation(kind, match[1], None)):
            none.add(match[1])
            # The last value of a key that is given twice counts.
            rest = [other for other in rest if other.split("=")[0].lstrip("-") != f"config.{match[1]}"]
            continue
        if match:
            annotation(kind, match[1], match[2])
            none.discard(match[1])
        rest.append(argument)
    for section, _, key in (path.rpartition(".") for path in none):
        settings[section][key] = None  # which flags cannot say
    config_flags.DEFINE_config_dict("config", settings, flag_values=values, sys_argv=rest)
    return kind, rest


def _set_option(settings: ConfigDict, path: Sequence[str], text: str) -> None:
    """Sets a key below a section whose keys are not declared: an option of an encoder or of a network."""
    *sections, key = path
    for section in sections:
        if section not in settings:
            settings[section] = ConfigDict()
        settings = settings[section]
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = {"true": True, "false": False}.get(text.lower(), text)
    with settings.ignore_type():
        settings[key] = value


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
    settings = load_function(given, "get_config")
    if not isinstance(settings, ConfigDict):
        raise ConfigError(f"--config={given}: get_config() returned {settings!r}; return the ConfigDict")
    return settings


def load_function(given: str, function: str) -> Any:
    """What a function of a Python file returns, see `load_settings`."""
    name, *argument = given.split(":", 1)
    path = Path(name)
    if not path.is_file():
        beside = sorted(str(other) for other in path.parent.glob("*.py"))
        raise ConfigError(f"--config={given}: there is no such file{close_to(name, beside)}")
    spec = importlib.util.spec_from_file_location("drifting_config_file", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"--config={given}: must be a Python file, ending in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        with _neighbours(path.parent):
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
            f"--config={given}{_where(error, path)}: {type(error).__name__}: {one_line(error)}"
        ) from error


@contextmanager
def _neighbours(folder: Path) -> Iterator[None]:
    """While it is in force, files of that folder can be imported by their names, as if one of them were a script.

    So can modules by their former names. All are forgotten afterwards: another folder may have files of the same names.
    """
    folder, before = folder.resolve(), set(sys.modules)
    sys.path.insert(0, str(folder))
    sys.modules.update({old: importlib.import_module(new) for old, new in FORMER_MODULES.items()})
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in FORMER_MODULES:
            del sys.modules[name]
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            if file and Path(file).resolve().parent == folder:
                del sys.modules[name]


def _where(error: Exception, path: Path) -> str:
    """`, line N` of the file at `path`, if the error comes from there."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).resolve() == path.resolve()]
    return f", line {frames[-1].lineno}" if frames else ""


def _illegal_value(error: Exception, values: flags.FlagValues, kind: type[Settings] | None) -> str:
    """One line for a flag whose value is of the wrong type."""
    match = re.match(r"flag --([^=]+)=(.*?): ", str(error), re.DOTALL)
    if match is None:
        return one_line(error)
    flag, value = match[1], match[2]
    if kind is not None and flag.startswith("config."):
        path = flag.removeprefix("config.")
        return wrong_type(path, value, annotation(kind, path, value))
    return f"--{flag}={value}: expected {values[flag].parser.syntactic_help} ({values[flag].help})"
