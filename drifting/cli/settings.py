"""Flags and settings out of the arguments of a command: every way to get them wrong becomes a `ConfigError`."""

import difflib
import importlib
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from drifting.cli.command import Command
from drifting.cli.messages import close_to
from drifting.cli.overrides import changed, define_overrides, overrides_of, real_number, take_config
from drifting.config.meanings import COMMAND_SETTINGS
from drifting.config.older import FORMER_MODULES
from drifting.config.parse import annotation, parse
from drifting.config.paths import impossible, is_address
from drifting.config.schema import Config, PretrainConfig, Settings, command_of, to_dict
from drifting.config.shipped import experiment_file, experiment_names
from drifting.errors import ConfigError, DriftingError, one_line
from drifting.runs.directory import CONFIG_FILE
from drifting.studies import STUDIES
from drifting.studies.settings import DiagnoseStudy


@dataclass(frozen=True)
class SweepRequest:
    """What `drifting sweep` was given: the file that `--config` names, and settings of all cells by dotted key."""

    file: str
    changes: dict[str, Any]


@dataclass(frozen=True)
class ConfigRequest:
    """What `drifting config` was given: the file, the settings that it and the changes make, and the changes' keys."""

    file: str
    settings: Settings
    changes: tuple[str, ...]


def parse_flags(name: str, command: Command, arguments: list[str]) -> flags.FlagValues:
    """The flags of one command; every way to get them wrong becomes a `ConfigError`.

    The value of the flag `config` is the settings as the command's dataclass, a `SweepRequest`, or a `ConfigRequest`.
    """
    values, kind = flags.FlagValues(), command.settings
    if any(argument.split("=")[0] == f"--{command.without_config}" for argument in arguments):
        kind = None
    command.define(values)
    sweep = "config" in values
    given = ""
    settings: dict[str, Any] = {}
    if kind is not None:
        given, settings, kind, arguments = take_settings(name, command, kind, arguments)
    elif sweep:
        given, arguments = take_config(arguments)
        del values.config
    if sweep or kind is not None:
        define_overrides(values, arguments, kind or Config)
    rest = _read(values, name, command, arguments, kind)
    _check_values(values, arguments)
    for flag, value in zip(command.takes, rest, strict=False):
        values[flag].value = value
    if len(rest) > len(command.takes):
        extra = rest[len(command.takes)]
        if command.takes:
            raise ConfigError(f"{extra!r}: is one argument too many; usage: drifting {name} {command.usage}")
        raise ConfigError(_not_a_flag(extra, list(values)))
    if kind is not None:
        found = overrides_of(values)
        parsed = parse(changed(settings, found), kind)
        values["config"].value = ConfigRequest(given, parsed, tuple(found)) if command.any_settings else parsed
    elif sweep:
        values["config"].value = SweepRequest(given, overrides_of(values))
    return values


def given_settings(values: flags.FlagValues) -> Any:
    """The settings that `parse_flags` read, of `drifting config` as well."""
    found = values["config"].value
    return found.settings if isinstance(found, ConfigRequest) else found


def _read(
    values: flags.FlagValues, name: str, command: Command, arguments: list[str], kind: type[Settings] | None
) -> list[str]:
    """Sets the flags that the arguments give. Returns the arguments that are none."""
    try:
        return values([name, *arguments])[1:]
    except flags.UnrecognizedFlagError as error:
        flag = error.flagname.removeprefix("--")
        if kind is None and command.settings is not None and flag.split(".")[0] == "config":
            raise ConfigError(f"--{flag}: --{command.without_config} takes no settings; leave it out") from error
        raise ConfigError(
            f"--{flag}: there is no such flag; {_nearest_flag(flag, list(values), name, kind)}"
        ) from error
    except flags.IllegalFlagValueError as error:
        raise ConfigError(_illegal_value(error, values)) from error
    except flags.Error as error:  # such as a flag without its value
        flag = str(error).rpartition("--")[2]
        if flag not in values:
            raise ConfigError(one_line(error)) from error
        meaning = f", --{flag}=VALUE" if flag.startswith("config.") else f" ({values[flag].help})"
        raise ConfigError(f"--{flag}: give a value{meaning}") from error


def _check_values(values: flags.FlagValues, arguments: Sequence[str]) -> None:
    """Refuses flags that are given without a value, and numbers that would become others.

    Raises:
        ConfigError: there is one.
    """
    for flag in values:
        empty = values[flag].present and values[flag].value in ("", [], [""])
        if empty and flag.partition(".")[0] != "config":
            raise ConfigError(f"--{flag}: give a value ({values[flag].help})")
    for argument, following in pairwise([*arguments, ""]):
        flag, equals, text = argument.lstrip("-").partition("=")
        if argument.startswith("-") and flag in values and isinstance(values[flag].parser, flags.FloatParser):
            try:
                real_number(text if equals else following)
            except OverflowError as error:
                raise ConfigError(f"--{flag}={text if equals else following}: {error}") from error


def _nearest_flag(flag: str, known: Sequence[str], name: str, kind: type[Settings] | None) -> str:
    if kind is not None and "." in flag:
        with suppress(ConfigError):
            annotation(kind, flag, None)
            return f"did you mean --config.{flag}?"
    close = difflib.get_close_matches(flag, known, n=1)
    return f"did you mean --{close[0]}?" if close else f"`drifting {name} --help` lists them"


def _not_a_flag(given: str, known: Sequence[str]) -> str:
    """One line for an argument that is no flag, with the flag that it is probably meant for."""
    name = given.split(":", 1)[0]
    if "config" in known and (name.endswith(".py") or experiment_file(name) is not None):
        meant = "config"
    elif "weights" in known and (
        "://" in given or (not (Path(given) / CONFIG_FILE).is_file() and Path(given).is_dir())
    ):
        meant = "weights"
    else:
        meant = next((flag for flag in ("run", "workdir", "weights", "out") if flag in known), "")
    if not meant and experiment_file(name) is not None:
        return f"{given!r}: is not a flag; did you mean drifting config {given}?"
    if not meant:
        return f"{given!r}: is not a flag; flags are given as --flag=value"
    return f"{given!r}: is not a flag; did you mean --{meant}={given}?"


def take_settings(
    name: str, command: Command, kind: type[Settings], arguments: list[str]
) -> tuple[str, dict[str, Any], type[Settings], list[str]]:
    """The file that `--config` names; its settings, nested keys and values; their kind; and the other arguments.

    Raises:
        ConfigError: there is no such file, it holds settings of another command, or one that cannot be.
    """
    if command.any_settings and arguments and not arguments[0].startswith("-"):
        named, arguments = arguments[0], [f"--config={arguments[0]}", *arguments[1:]]
        if (other := take_config(arguments)[0]) != named:
            raise ConfigError(f"--config={other}: {named} is given, too; leave one of the two out")
    given, arguments = take_config(arguments)
    alone = any(argument.split("=")[0] == f"--{command.defaults_with}" for argument in arguments)
    if not given and not alone and not command.has_defaults:
        if positional := next((argument for argument in arguments if not argument.startswith("-")), None):
            raise ConfigError(_not_a_flag(positional, ["config", "workdir"]))
        other = f", or --{command.without_config}" if command.without_config else ""
        raise ConfigError(f"--config: give the experiment{other}; `drifting configs` lists those that there are")
    if not given:
        return "", {}, kind, arguments
    settings = load_settings(given)
    owner = command_of(settings)
    if command.any_settings:
        kind = _kind_of(settings, owner)
    elif command.any_training and owner in ("train", "pretrain"):
        kind = PretrainConfig if owner == "pretrain" else Config
    elif owner != (command.settings_of or name.split()[0]):
        raise ConfigError(f"--config={given}: holds settings of `drifting {owner}`; give them to that command")
    try:
        return given, to_dict(parse(settings, kind)), kind, arguments
    except ConfigError as error:
        raise ConfigError(f"--config={given}: {error}") from error


def _kind_of(settings: ConfigDict, owner: str) -> type[Settings]:
    """The dataclass that these settings, of the command `owner`, are of; a study's is known by its keys."""
    if owner != "study":
        return COMMAND_SETTINGS[owner]
    keys = set(settings.study)
    fitting = (study.settings for study in STUDIES.values() if set(to_dict(study.settings())["study"]) == keys)
    return next(fitting, DiagnoseStudy)


def load_settings(given: str) -> ConfigDict:
    """What `get_config()` of a Python file returns; of `FILE:ARGUMENT`, what `get_config(ARGUMENT)` returns.

    Raises:
        ConfigError: there is no such file, it fails (the message names the line), or it returns no `ConfigDict`.
    """
    settings = load_function(given, "get_config")
    if not isinstance(settings, ConfigDict):
        raise ConfigError(f"--config={given}: get_config() returned {settings!r}; return the ConfigDict")
    return settings


OTHER_FILES = {
    "get_config": ("get_sweep", "is a sweep; give it to `drifting sweep`"),
    "get_sweep": ("get_config", "is one experiment and no sweep; give it to `drifting train`, or sweep over it"),
}
"""The function of a file that is of another kind than the one that is wanted, and what to do with it."""


def load_function(given: str, function: str) -> Any:
    """What a function of a Python file returns, see `load_settings`."""
    _, *argument = given.split(":", 1)
    with loaded_file(given) as module:
        if not hasattr(module, function):
            other, remedy = OTHER_FILES[function]
            raise ConfigError(remedy if hasattr(module, other) else f"defines no function {function}()")
        found = getattr(module, function)
        _check_function(found, function, argument)
        return found(*argument)


def _check_function(found: Any, name: str, argument: Sequence[str]) -> None:
    """Raises `ConfigError` unless a file's `get_config` can be called with what follows the colon, if anything does."""
    if not callable(found):
        raise ConfigError(f"{name} is a {type(found).__name__} and no function; write def {name}(), which returns it")
    signature = inspect.signature(found)
    if argument and not signature.parameters:
        raise ConfigError(f"variant {argument[0]!r}: the file has none, leave out what follows the colon")
    try:
        signature.bind(*argument)
    except TypeError as error:
        takes = "may have one argument without a default, which is what follows the colon"
        try:
            signature.bind("")
        except TypeError:
            raise ConfigError(f"{name}{signature}: {takes}") from error
        remedy = f"give a variant behind a colon, or {name} a default for it"
        raise ConfigError(f"{name}{signature}: {remedy}") from error


def _refused_assignment(error: Exception) -> str | None:
    """One line for a value that a `ConfigDict` did not take, as the settings have it; None for another error."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    here = frames[-1].f_locals
    if not isinstance(error, TypeError) or not {"self", "key", "value"} <= set(here):
        return None
    section, key, value = here["self"], here["key"], here["value"]
    roots = [root for frame in frames for root in frame.f_locals.values() if isinstance(root, ConfigDict)]
    places = [(path, root) for root in roots for path in _places_of(section, root)]
    if not places:
        return None
    path, root = max(places, key=lambda place: len(place[0]))
    setting = ".".join([*path, str(key)])
    with suppress(DriftingError):
        kind = _kind_of(root, command_of(root))
        try:
            parse(changed({}, {setting: value}), kind)
        except ConfigError as wrong:
            return str(wrong)
    return f"{setting}={value!r}: expected {type(section[key]).__name__}, such as {section[key]!r}"


def _places_of(section: Any, root: ConfigDict, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The keys that lead from `root` to a section of it, which may be itself."""
    if section is root:
        yield path
    for key in root:
        if isinstance(below := root[key], ConfigDict):
            yield from _places_of(section, below, (*path, key))


@contextmanager
def loaded_file(given: str, flag: str = "config") -> Iterator[Any]:
    """The module that a file of settings, `FILE` or `FILE:ARGUMENT`, is; the block's errors name the file.

    Raises:
        ConfigError: there is no such file, or it or the block fails.
    """
    name = given.split(":", 1)[0]
    if reason := impossible(name):
        raise ConfigError(f"--{flag}={given}: {reason}")
    path = experiment_file(name)
    if path is None:
        raise ConfigError(f"--{flag}={given}: {_no_file(given, name)}")
    spec = importlib.util.spec_from_file_location("drifting_config_file", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"--{flag}={given}: must be a Python file, ending in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        with _neighbours(path.parent):
            spec.loader.exec_module(module)
            yield module
    except ConfigError as error:
        raise ConfigError(f"--{flag}={given}: {error}") from error
    except SystemExit as error:
        remedy = "return the settings instead of ending the program"
        raise ConfigError(f"--{flag}={given}{_where(error, path)}: calls for exit({error.code!r}); {remedy}") from error
    except Exception as error:
        if isinstance(error, OSError) and os.path.realpath(str(error.filename)) == os.path.realpath(path):
            raise ConfigError(f"--{flag}={given}: cannot be read ({error.strerror}); make it readable") from error
        told = one_line(_refused_assignment(error) or f"{type(error).__name__}: {error}")
        raise ConfigError(f"--{flag}={given}{_where(error, path)}: {told}") from error


def _no_file(given: str, name: str) -> str:
    """One line for what is no file of settings."""
    if is_address(given):
        return "is an address, and only files of this machine are read: copy it here, and give its path"
    if os.path.exists(name):
        return f"is {'a folder' if os.path.isdir(name) else 'no regular file'}; give a Python file"
    beside = sorted(str(other) for other in Path(name).parent.glob("*.py") if other.is_file())
    known = [] if "/" in name and name.endswith(".py") else experiment_names()
    lists = "; `drifting configs` lists the experiments" if known else ""
    return f"there is no such file{close_to(name, [*beside, *known])}{lists}"


@contextmanager
def _neighbours(folder: Path) -> Iterator[None]:
    """While it is in force, files of that folder can be imported by their names, as if one of them were a script.

    So can those of the working directory, after them, and modules by their former names. All are forgotten afterwards:
    another folder may have files of the same names.
    """
    before = set(sys.modules)
    places = [str(place) for place in dict.fromkeys((folder.resolve(), Path().absolute()))]
    sys.path[:0] = places
    sys.modules.update({old: importlib.import_module(new) for old, new in FORMER_MODULES.items()})
    try:
        yield
    finally:
        for place in places:
            sys.path.remove(place)
        for name in FORMER_MODULES:
            del sys.modules[name]
        new = set(sys.modules) - before
        found = {name for name in new if "." not in name and name != "drifting" and _lies_in(sys.modules[name], places)}
        for name in new:
            if name.split(".")[0] in found:
                del sys.modules[name]


def _lies_in(module: Any, folders: Sequence[str]) -> bool:
    """Whether a module is a file of one of the folders, or a package there."""
    where = [*getattr(module, "__path__", ()), getattr(module, "__file__", None)]
    return any(place is not None and str(Path(place).resolve().parent) in folders for place in where)


def _where(error: BaseException, path: Path) -> str:
    """`, line N` of the file at `path`, if the error comes from there."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).resolve() == path.resolve()]
    return f", line {frames[-1].lineno}" if frames else ""


def _illegal_value(error: Exception, values: flags.FlagValues) -> str:
    """One line for a flag whose value is of the wrong type."""
    match = re.match(r"flag --([^=]+)=(.*?): ", str(error), re.DOTALL)
    if match is None:
        return one_line(error)
    flag, value = match[1], match[2]
    if isinstance(error.__context__, ConfigError):  # the parser of a setting knows best what is wrong
        return str(error.__context__)
    return f"--{flag}={value}: expected {values[flag].parser.syntactic_help} ({values[flag].help})"
