"""What settings mean, as text for `drifting help` and as the page docs/settings.md."""

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence

from drifting.config.meanings import Section, Setting
from drifting.config.sections import nearest_key
from drifting.errors import ConfigError


def explanation_of(topic: str, sections: Sequence[Section], others: Iterable[str] = ()) -> str:
    """What a section, a setting by its dotted key, or all settings of one name are.

    `others`: sections and settings that are not among `sections`, and which a misspelt topic may be meant for, too.

    Raises:
        ConfigError: there is none of that name.
    """
    named = {section.name: section for section in sections}
    settings = [setting for section in sections for setting in section.settings]
    if topic in named:
        section = named[topic]
        of = f"settings of {' and '.join(f'drifting {command}' for command in section.commands)}"
        below = [name for name in named if name.startswith(f"{topic}.")]
        more = [f"  see also {name}" for name in below]
        rows = [line for setting in section.settings for line in _lines(setting, short=True)]
        return "\n".join([f"{topic}: {section.text}", f"({of})", "", *rows, *more])
    found = [setting for setting in settings if topic in (setting.key, setting.key.rpartition(".")[2])]
    if not found:
        close = nearest_key(topic, [*named, *(setting.key for setting in settings), *others])
        hint = f"did you mean {close}? " if close else ""
        lists = "`drifting help` lists the commands, `drifting help --markdown` all settings"
        raise ConfigError(f"{topic}: there is no such command, section or setting; {hint}{lists}")
    return "\n".join(line for setting in found for line in _lines(setting, short=False))


def _lines(setting: Setting, short: bool) -> Iterator[str]:
    """The lines on one setting, below a section of which the names are short, or by itself."""
    name = setting.key.rpartition(".")[2] if short else setting.key
    indent = " " * (22 if short else 2)
    study = next((f" of drifting {command}" for command in setting.defaults if command.startswith("study ")), "")
    first = f"  {name:<18}  " if short else f"{setting.key}{study}\n{indent}"
    texts = [setting.text, f"default {setting.default}; {_choice(setting)}"]
    wrapped = [line for text in texts for line in textwrap.wrap(text, 118 - len(indent), break_on_hyphens=False)]
    yield first + wrapped[0]
    yield from (indent + line for line in wrapped[1:])
    if not short:
        yield f"{indent}typed as --config.{setting.key}{_example(setting)}"


def _choice(setting: Setting) -> str:
    return f"one of {', '.join(setting.words)}" if setting.words else setting.kind


_SEVERAL = {"whole numbers": "100,110", "numbers": "0.05,0.1", "words": "one,two"}
"""Items to show of a tuple that has none by default, by what they are."""


def _example(setting: Setting) -> str:
    """What to type behind the key: the first of the words that is not the default, or the default.

    Of a tuple its items, as brackets mean something else to a shell.
    """
    default = next(iter(setting.defaults.values()))
    if isinstance(default, Mapping):
        return ".NAME.KEY=VALUE"
    others = [word for word in setting.words if word != default and (word,) != default]
    if others:
        return f"={others[0]}"
    if isinstance(default, tuple):
        return f"={','.join(map(str, default)) or _SEVERAL[setting.kind.split(' with ')[0]]}"
    return f"={setting.default.split(' (')[0]}"


PAGE = """# Settings

Every setting, its default and what it means, as `drifting help SECTION` and `drifting help SECTION.KEY` say it.
They are changed in a configuration file, `config.loss.labels = 32`, or on the command line, `--config.loss.labels=32`;
`drifting config NAME` prints those of an experiment. `drifting help --markdown > docs/settings.md` makes this page.
"""


def settings_page(sections: Sequence[Section]) -> str:
    """All settings as a page in Markdown, a table for each section."""
    parts = [PAGE]
    for section in sections:
        of = ", ".join(f"`drifting {command}`" for command in section.commands)
        rows = [f"| `{one.key}` | `{one.default}` | {_sentence(one)} |" for one in section.settings]
        table = ["| setting | default | meaning |", "|---|---|---|", *rows]
        parts.append("\n".join([f"## {section.name}", "", f"{section.text} Of {of}.", "", *table, ""]))
    return "\n".join(parts).rstrip()


def _sentence(setting: Setting) -> str:
    choice = " or ".join(f"`{word}`" for word in setting.words) if setting.words else setting.kind
    return f"{setting.text} ({choice})".replace("|", "\\|")
