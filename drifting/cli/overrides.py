"""`--config.SECTION.KEY=VALUE` on the command line: what was typed, and the value that it means."""

import ast
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args, get_origin

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_dict import placeholder

from drifting.config.older import renamed
from drifting.config.parse import annotation
from drifting.config.schema import Settings
from drifting.config.sections import accepts_none, inner_type, wrong_type
from drifting.errors import ConfigError

TRUTHS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
"""Words for a setting that is either on or off."""


def take_config(arguments: list[str]) -> tuple[str, list[str]]:
    """The value of `--config`, the last if there are several or '' if there is none, and the other arguments.

    Raises:
        ConfigError: it has no value.
    """
    path, rest, remaining = "", [], iter(arguments)
    for argument in remaining:
        flag, equals, value = argument.partition("=")
        if flag in ("--config", "-config"):
            path = value if equals else next(remaining, "")
            if not path:
                raise ConfigError(
                    "--config: give a value, the experiment; `drifting configs` lists those that there are"
                )
        else:
            rest.append(argument)
    return path, rest


def define_overrides(values: flags.FlagValues, arguments: Sequence[str], kind: type[Settings]) -> None:
    """Declares the flag `config`, whose overrides are those that the arguments hold; `overrides_of` has their values.

    Which arguments are overrides, how they are given (`--config.KEY=VALUE`, `--config.KEY VALUE`, `--noconfig.KEY`) and
    that the last of several counts is `ml_collections`' matter; what a text means, `value_of`'s.

    Raises:
        ConfigError: there is no such setting.
    """
    given = (re.match(r"--?(?:no)?config\.([^=]*)=?(.*)", argument, re.DOTALL) for argument in arguments)
    found = [match for match in given if match]
    if empty := next((match for match in found if "" in match[1].split(".")), None):
        raise ConfigError(f"{empty[0]}: names no setting; type --config.SECTION.KEY=VALUE")
    hints = {match[1]: annotation(kind, match[1], match[2] or None) for match in found}
    for path in hints:
        if not all(part.isidentifier() and not hasattr(ConfigDict, part) for part in path.split(".")):
            raise ConfigError(f"--config.{path}: there is no such setting")
    places = changed({}, dict.fromkeys(hints, placeholder(object)))
    config_flags.DEFINE_config_dict("config", ConfigDict(places), flag_values=values, sys_argv=list(arguments))
    for path, hint in hints.items():
        flag = values[f"config.{path}"]
        flag.parser, flag.boolean = _Text(path, hint), inner_type(hint) in (bool, Any)


def overrides_of(values: flags.FlagValues) -> dict[str, Any]:
    """What the command line changes, `{dotted key: value}`, keys under their names of today."""
    return {renamed(path): value for path, value in config_flags.get_override_values(values["config"]).items()}


class _Text(flags.ArgumentParser):
    """Reads the text of one setting, see `value_of`."""

    def __init__(self, path: str, hint: Any):
        self.path, self.hint = path, hint

    def parse(self, argument: str) -> Any:
        if argument.startswith("--"):  # the next flag, behind a setting that was given none
            raise ConfigError(f"--config.{self.path}: give a value, --config.{self.path}=VALUE")
        return value_of(self.path, argument, self.hint)


def changed(settings: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings with the values at these dotted keys; sections that are not there are made."""
    found = {key: dict(value) if isinstance(value, Mapping) else value for key, value in settings.items()}
    for path, value in values.items():
        head, _, rest = path.partition(".")
        found[head] = changed(found.get(head, {}), {rest: value}) if rest else value
    return found


def value_of(path: str, text: str, hint: Any) -> Any:
    """The value of type `hint` that a typed text means; a text for the key `path`, which errors name.

    Tuples are typed as words or numbers with commas between them, in brackets or not; whole numbers also as `1e3`.

    Raises:
        ConfigError: it means none.
    """
    if text == "None" and (accepts_none(hint) or hint is Any):
        return None
    kind = inner_type(hint)
    try:
        if get_origin(kind) is tuple:
            return tuple(_plain(item, get_args(kind)[0]) for item in _items(text))
        return _plain(text, kind)
    except OverflowError as error:
        raise ConfigError(f"{path}={text!r}: {error}") from error
    except ValueError as error:
        raise ConfigError(wrong_type(path, text, hint)) from error


def _items(text: str) -> Iterator[str]:
    """The parts of `(a, b)`, `[a, b]`, `a,b` or `'a','b'`; `()` has none, and an empty text is no tuple."""
    inner = text.strip()
    if (inner[:1], inner[-1:]) in (("(", ")"), ("[", "]")):
        inner = inner[1:-1].strip()
        if not inner:
            return
    for part in inner.removesuffix(",").split(","):
        part = part.strip()
        quoted = len(part) > 1 and part[0] == part[-1] and part[0] in "'\""
        if not part:
            raise ValueError("nothing between two commas")
        yield part[1:-1] if quoted else part


def _plain(text: str, kind: Any) -> Any:
    """A number, word or truth value. Raises `ValueError` if the text means none."""
    if kind is bool:
        if text.lower() not in TRUTHS:
            raise ValueError(text)
        return TRUTHS[text.lower()]
    if kind is int:
        return _whole(text)
    if kind is float:
        return real_number(text)
    return _literal(text) if kind is Any else text


def real_number(text: str) -> float:
    """The number that a text means.

    Raises:
        ValueError: it means none.
        OverflowError: it is a number that would become infinite or 0.
    """
    number = float(text)
    digits = text.strip().lower().partition("e")[0]
    infinite = math.isinf(number) and "inf" not in text.lower()
    if infinite or (number == 0 and re.search("[1-9]", digits)):
        raise OverflowError(f"is too {'large' if infinite else 'small'} a number: the limits are 1e-307 and 1e308")
    return number


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        number = real_number(text)  # 1e3 is a whole number, too
        if not number.is_integer():
            raise
        return int(number)


def _literal(text: str) -> Any:
    """What a text means for an option whose type is not declared here: a Python literal, on or off, or a word."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False}.get(text.lower(), text)
