"""What every setting means, out of the annotations in `schema`: for `drifting help` and docs/settings.md."""

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from drifting.config.schema import CacheBuild, Config, PretrainConfig, StudyRun
from drifting.config.sections import accepts_none, inner_type, literal_words

COMMAND_SETTINGS: dict[str, type] = {"train": Config, "pretrain": PretrainConfig, "cache": CacheBuild}
"""The commands that have settings, and the dataclass of them."""


@dataclass(frozen=True)
class Setting:
    """One setting, or one option of an encoder or a source.

    Attributes:
        key: its dotted key.
        kind: its type in words.
        text: what it means.
        defaults: its default by command; the same for all, or not.
        words: what it lets choose from; (): anything of its type.
    """

    key: str
    kind: str
    text: str
    defaults: Mapping[str, Any]
    words: tuple[str, ...]

    @property
    def default(self) -> str:
        """Its default as it is typed; where commands have others, those of each."""
        shown = {command: typed(value) for command, value in self.defaults.items()}
        first, *others = shown.values()
        if all(other == first for other in others):
            return first
        return ", ".join(f"{value} ({command})" for command, value in shown.items())


@dataclass(frozen=True)
class Section:
    """A section of settings: its name, what it is about, the commands that have it, and its settings."""

    name: str
    text: str
    commands: tuple[str, ...]
    settings: tuple[Setting, ...]


def typed(value: Any) -> str:
    """A value as it is typed behind `--config.KEY=`."""
    if isinstance(value, tuple):
        return ",".join(map(typed, value)) if value else "()"
    return f"{value:g}" if isinstance(value, float) else str(value)


def sections(names: Mapping[str, tuple[str, ...]]) -> dict[str, Section]:
    """All sections, in the order of the commands.

    Args:
        names: what settings that name entries of a registry let choose from, by dotted key.
    """
    found: dict[str, Section] = {}
    for kind in COMMAND_SETTINGS.values():
        for field in dataclasses.fields(kind):
            having = {command: getattr(other(), field.name) for command, other in COMMAND_SETTINGS.items()
                      if hasattr(other(), field.name)}  # fmt: skip
            found.setdefault(field.name, _section(field.name, having, names))
    return found


def study_sections(studies: Mapping[str, type[StudyRun]]) -> list[Section]:
    """The section `study` of each study, named `study NAME`. `studies`: the settings of each, by its name."""
    found = []
    for name, kind in studies.items():
        defaults = getattr(kind(), "study")  # every study has it  # noqa: B009
        text, section = (" ".join((part.__doc__ or "").split()) for part in (kind, type(defaults)))
        settings = settings_of("study.", {f"study {name}": defaults})
        found.append(Section(f"study {name}", f"{text} {section}", (f"study {name}",), tuple(settings)))
    return found


def option_sections(prefix: str, options: Mapping[str, type], commands: tuple[str, ...]) -> list[Section]:
    """The options of encoders or of sources, sections of their own.

    Args:
        prefix: the setting that holds them, `features.options` or `data.options`.
        options: the dataclass of each, by its name.
        commands: the commands that have that setting.
    """
    return [
        Section(
            f"{prefix}.{name}",
            " ".join((kind.__doc__ or "").split()),
            commands,
            tuple(settings_of(f"{prefix}.{name}.", {command: kind() for command in commands})),
        )
        for name, kind in options.items()
    ]


def _section(name: str, having: Mapping[str, Any], names: Mapping[str, tuple[str, ...]]) -> Section:
    example = next(iter(having.values()))
    settings = settings_of(f"{name}.", having, names)
    return Section(name, " ".join((type(example).__doc__ or "").split()), tuple(having), tuple(settings))


def settings_of(
    prefix: str, having: Mapping[str, Any], names: Mapping[str, tuple[str, ...]] | None = None
) -> list[Setting]:
    """The settings of a dataclass.

    Args:
        prefix: what goes before the names of its fields.
        having: its instances with the defaults of each command.
        names: see `sections`.
    """
    found = []
    for key, hint in typing.get_type_hints(type(next(iter(having.values()))), include_extras=True).items():
        text = ""
        if typing.get_origin(hint) is Annotated:
            hint, text = typing.get_args(hint)
        defaults = {command: getattr(instance, key) for command, instance in having.items()}
        words = literal_words(hint) or (names or {}).get(prefix + key, ())
        found.append(Setting(prefix + key, kind_of(hint), text, defaults, words))
    return found


def kind_of(hint: Any) -> str:
    """A type in words: `whole number`, `numbers with commas between them`, .."""
    kind, none = inner_type(hint), " or None" if accepts_none(hint) else ""
    plain = {int: "whole number", float: "number", str: "word", bool: "True or False"}
    if typing.get_origin(kind) is tuple:
        return f"{plain[typing.get_args(kind)[0]]}s with commas between them{none}"
    return plain.get(kind, "keys of its own") + none
