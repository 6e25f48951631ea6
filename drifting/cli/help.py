"""The texts of `drifting --help` and `drifting COMMAND --help`."""

import textwrap
from collections.abc import Mapping

from absl import flags

from drifting.cli.command import Command
from drifting.config.schema import Settings, to_dict


def overview(commands: Mapping[str, Command], name: str = "COMMAND") -> str:
    """The commands, a line each. `name`: what stands for one of them."""
    lines = [f"  {name:<17} {command.summary}" for name, command in commands.items()]
    more = [f"drifting {name} --help lists its flags, drifting configs the experiments;"]
    more.append("drifting help SECTION.KEY says what a setting means.")
    return "\n".join([f"usage: drifting {name} --flags", "", *lines, "", *more])


def command_help(name: str, command: Command, given: Settings | None = None) -> str:
    """A command's flags, and for a training all settings with their defaults, or with the values that are `given`."""
    rows, settings = flag_rows(command), []
    if command.settings is not None:
        title = "settings and their defaults:" if given is None else "settings of --config, with what changes them:"
        settings = ["", f"{title} (drifting help SECTION.KEY says what one means)"]
        settings += _settings_help(command.settings() if given is None else given)
    width = max(len(flag) for flag, _ in rows)
    lines = [f"  {flag:<{width}}  {text}" for flag, text in rows]
    return "\n".join([usage(name, command), "", f"{sentence(command)}.", "", *lines, *settings])


def usage(name: str, command: Command) -> str:
    """The line that says how a command is called."""
    values = flags.FlagValues()
    command.define(values)
    if command.settings is not None:
        shown = command.usage or f"--config=FILE {'--workdir=DIR' if 'workdir' in values else '--out=NPZ'}"
        return f"usage: drifting {name} {shown} [--config.SECTION.KEY=VALUE ...]"
    return f"usage: drifting {name} {command.usage or '--workdir=DIR [--flags]'}"


def sentence(command: Command) -> str:
    """What a command does, with a capital letter and without a full stop."""
    return f"{command.summary[0].upper()}{command.summary[1:]}"


def flag_rows(command: Command) -> list[tuple[str, str]]:
    """A command's flags as they are typed, and what they mean."""
    values = flags.FlagValues()
    command.define(values)
    rows = [
        (f"--{flag}" if values[flag].boolean else f"--{flag}={flag.upper()}", str(values[flag].help)) for flag in values
    ]
    if command.settings is None:
        return rows
    return [
        ("--config=NAME", "the experiment: a Python file, or one of those that `drifting configs` lists"),
        ("--config.SECTION.KEY=VALUE", f"changes one of its settings, e.g. {_example(command.settings)}"),
        *rows,
    ]


def _example(kind: type[Settings]) -> str:
    section, keys = next((s, k) for s, k in to_dict(kind()).items() if s in ("train", "cache", "study"))
    key = "steps" if section == "train" else next(k for k, v in keys.items() if isinstance(v, int))
    return f"--config.{section}.{key}=500"


def _settings_help(settings: Settings) -> list[str]:
    lines = []
    for section, keys in to_dict(settings).items():
        # A value that has blanks in it stays on one line, as long as it fits into one.
        items = " ".join(_unbroken(f"{key}={value!r}") for key, value in keys.items())
        wrapped = textwrap.wrap(items, 104, break_long_words=False, break_on_hyphens=False)
        lines += [f"  {section if i == 0 else '':<10}  {line}".replace("\0", " ") for i, line in enumerate(wrapped)]
    return lines


def _unbroken(item: str) -> str:
    return item.replace(" ", "\0") if len(item) <= 100 else item
