"""Makes the dataclasses of settings of a `ConfigDict` or of nested keys and values, and the other way round."""

import dataclasses
import typing
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from drifting.config.older import renamed, renewed
from drifting.config.paths import expanded
from drifting.config.registered import encoder_option_keys
from drifting.config.schema import Config, Kind, Settings
from drifting.config.sections import inner_type, nearest_key, parse_section, unknown_key
from drifting.errors import ConfigError


def to_config_dict(config: Settings) -> ConfigDict:
    """A `ConfigDict` of all keys and values; keys that may be None accept their type as well."""

    def section(value: Any) -> ConfigDict:
        hints = typing.get_type_hints(type(value))
        out = ConfigDict()
        for f in dataclasses.fields(value):
            v = getattr(value, f.name)
            if dataclasses.is_dataclass(v):
                out[f.name] = section(v)
            elif isinstance(v, dict):
                out[f.name] = ConfigDict(v)
            elif v is None:
                out[f.name] = placeholder(inner_type(hints[f.name]))
            else:
                out[f.name] = v
        return out

    return section(config)


@typing.overload
def parse(settings: ConfigDict | dict[str, Any]) -> Config: ...


@typing.overload
def parse(settings: ConfigDict | dict[str, Any], kind: type[Kind]) -> Kind: ...


def parse(settings: ConfigDict | dict[str, Any], kind: Any = Config) -> Any:
    """The checked configuration of `settings`.

    Args:
        settings: nested keys and values; keys left out take their defaults, so that older files stay readable.
        kind: `Config`, `PretrainConfig`, `CacheBuild` or a study's.

    Raises:
        ConfigError: an unknown key or a value of a wrong type.
    """
    if isinstance(settings, ConfigDict):
        settings = settings.to_dict()
    return parse_section(kind(), _with_homes(renewed(settings), ""), "")


def _with_homes(settings: Any, path: str) -> Any:
    """The settings at the dotted key `path` with `~` expanded in every text that begins as a path in a home folder."""
    if isinstance(settings, dict):
        return {key: _with_homes(value, f"{path}.{key}" if path else str(key)) for key, value in settings.items()}
    if not isinstance(settings, str):
        return settings
    try:
        return expanded(settings)
    except ConfigError as error:
        raise ConfigError(f"{path}={error}") from error


def annotation(kind: type[Settings], path: str, value: Any) -> Any:
    """The annotated type of a dotted key such as `loss.widths`.

    Raises:
        ConfigError: there is no such key, or it is a section. The message names `value`, which it was to be set to.
    """
    hint: Any = kind
    parts = renamed(path).split(".")
    for depth, part in enumerate(parts, start=1):
        if typing.get_origin(hint) is dict:
            hint = typing.get_args(hint)[1]
            continue
        hints = typing.get_type_hints(hint) if dataclasses.is_dataclass(hint) else {}
        if not hints:
            raise ConfigError(
                f"{path}={value!r}: {'.'.join(parts[: depth - 1])} is a setting and has no keys of its own"
            )
        if part not in hints:
            if 1 < depth < len(parts) and (meant := nearest_key(path, _keys(kind))):
                raise ConfigError(f"{path}={value!r}: there is no such key; did you mean {meant}?")
            raise ConfigError(unknown_key(".".join(parts[:depth]), value if depth == len(parts) else {}, hints))
        hint = hints[part]
    if dataclasses.is_dataclass(hint):
        first = dataclasses.fields(hint)[0].name
        raise ConfigError(f"{path}={value!r}: a section; set its keys, for example {path}.{first}=...")
    if typing.get_origin(hint) is dict:
        raise ConfigError(f"{path}={value!r}: a section; set its keys, for example {path}.NAME=...")
    return hint


def _keys(kind: type[Settings]) -> list[str]:
    """The dotted keys of settings, those of options of feature encoders among them."""
    sections = typing.get_type_hints(kind)
    found = [f"{section}.{key}" for section, hint in sections.items() for key in typing.get_type_hints(hint)]
    return found + (encoder_option_keys() if "features" in sections else [])
