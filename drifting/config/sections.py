"""Sections of settings: keys and values to a dataclass, strictly. No unknown key, no value of another type."""

import dataclasses
import difflib
import reprlib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Never, Self

import numpy as np

from drifting.config.older import renewed
from drifting.errors import ConfigError, one_of


def inner_type(hint: Any) -> Any:
    """`int` of `int | None`, `str` of words to choose from; any other type as it is."""
    if accepts_none(hint):
        return inner_type(next(t for t in typing.get_args(hint) if t is not type(None)))
    return str if typing.get_origin(hint) is Literal else hint


def literal_words(hint: Any) -> tuple[str, ...]:
    """The words that a `Literal[...]`, or one that may be None, lets choose from; () of any other type."""
    if accepts_none(hint):
        return literal_words(next(t for t in typing.get_args(hint) if t is not type(None)))
    return typing.get_args(hint) if typing.get_origin(hint) is Literal else ()


def parse_section(defaults: Any, settings: Any, prefix: str) -> Any:
    """The dataclass `defaults` with the values of `settings`, keys and values; `prefix` goes before keys in errors.

    Raises:
        ConfigError: an unknown key or a value of a wrong type.
    """
    if not isinstance(settings, dict):
        raise ConfigError(f"{prefix.rstrip('.') or 'settings'}={settings!r}: expected a section of keys, not a value")
    hints = typing.get_type_hints(type(defaults))
    values = {}
    for key, value in settings.items():
        if key not in hints:
            raise ConfigError(unknown_key(f"{prefix}{key}", value, hints))
        if dataclasses.is_dataclass(hints[key]):
            values[key] = parse_section(getattr(defaults, key), value, f"{prefix}{key}.")
        else:
            values[key] = _convert(hints[key], value, prefix + key)
    return dataclasses.replace(defaults, **values)


def unknown_key(path: str, value: Any, known: Iterable[str]) -> str:
    """One line for a dotted `path` whose last part is none of the `known` keys there, with the nearest that is."""
    prefix, dot, name = path.rpartition(".")
    given = path if isinstance(value, dict) else f"{path}={value!r}"
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5) or [key for key in known if key.startswith(name)]
    remedy = f"did you mean {prefix}{dot}{close[0]}?" if close else f"known keys: {', '.join(known)}"
    return f"{given}: there is no such key; {remedy}"


def nearest_key(given: str, keys: Iterable[str]) -> str | None:
    """The dotted key that `given` may be a misspelling of: of the whole key, of its last parts, or of its first and its
    last parts without those between them; None: of none."""
    meant = {key: key for key in keys}
    for key in list(meant):
        parts = key.split(".")
        for first in range(1, len(parts)):
            end = ".".join(parts[first:])
            meant.setdefault(end, key)
            meant.setdefault(f"{parts[0]}.{end}", key)
    close = difflib.get_close_matches(given, meant, n=1)
    return meant[close[0]] if close else None


def accepts_none(hint: Any) -> bool:
    """Whether an annotated type is `... | None`."""
    return typing.get_origin(hint) in (types.UnionType, typing.Union)


def wrong_type(path: str, value: Any, hint: Any) -> str:
    """One line for a value that is not of the annotated type."""
    if typing.get_origin(hint) is tuple:
        item = typing.get_args(hint)[0]
        example = repr(value) if type(value) is item else _example(item)
        return f"{path}={value!r}: expected a tuple of {item.__name__}, for example ({example},)"
    kind, none = inner_type(hint), " or None" if accepts_none(hint) else ""
    return f"{path}={value!r}: expected {kind.__name__}{none}, for example {_example(kind)}"


def _convert(hint: Any, value: Any, path: str) -> Any:
    """`value` as the annotated type: integers become floats where floats are due, lists tuples; nothing else.

    NumPy's numbers are numbers, and an array of it is a list.
    """
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if accepts_none(hint) and value is None:
        return None
    if words := literal_words(hint):
        if not isinstance(value, str):
            raise ConfigError(wrong_type(path, value, hint))
        one_of(path, value, words)
        return value
    if accepts_none(hint):
        return _convert(inner_type(hint), value, path)
    if typing.get_origin(hint) is tuple:
        item = typing.get_args(hint)[0]
        if ".options." in path and type(value) is item:  # typed by itself, when nothing knew yet that there may be more
            value = (value,)
        if not isinstance(value, list | tuple):
            raise ConfigError(wrong_type(path, value, hint))
        return tuple(_convert(item, v, f"{path}[{i}]") for i, v in enumerate(value))
    if typing.get_origin(hint) is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path}={value!r}: expected keys with values of their own, not a value")
        return {key: _convert(typing.get_args(hint)[1], v, f"{path}.{key}") for key, v in value.items()}
    if hint is Any:
        return tuple(value) if isinstance(value, list) else value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(wrong_type(path, value, hint))
    return value


def _example(kind: type) -> str:
    return {int: "2", float: "0.2", str: "'name'", bool: "True"}[kind]


class Sectioned:
    """Settings in sections, which show and take what differs from the defaults."""

    @classmethod
    def of(cls, *unnamed: Never, **sections: Mapping[str, Any]) -> Self:
        """Settings with some changed, by section: `Config.of(loss={"widths": (0.05, 0.2)})`.

        Raises:
            ConfigError: an unknown section or key, or a value of a wrong type, or of no section.
        """
        if unnamed:
            remedy = f"name the section, as in {cls.__name__}.of(train={{'steps': 100}})"
            raise ConfigError(f"{cls.__name__}.of({reprlib.repr(unnamed[0])}): {remedy}")
        found: Self = parse_section(cls(), renewed(sections), "")
        return found

    def __repr__(self) -> str:
        """The call of `of` that makes them."""
        now, defaults = dataclasses.asdict(self), dataclasses.asdict(type(self)())  # type: ignore[call-overload]
        changed = {
            section: {key: value for key, value in keys.items() if value != defaults[section][key]}
            for section, keys in now.items()
        }
        shown = ", ".join(f"{section}={keys!r}" for section, keys in changed.items() if keys)
        return f"{type(self).__name__}.of({shown})"
