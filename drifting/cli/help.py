"""The texts of `drifting --help` and `drifting COMMAND --help`."""

import textwrap
from collections.abc import Mapping

from absl import flags

from drifting.cli.command import Command
from drifting.config.schema import Settings, to_dict


def overview(commands: Mapping[str, Command]) -> str:
    """The commands, a line each."""
    lines = [f"  {name:<17} {command.summary}" for name, command in commands.items()]
    return "\n".join(["usage: drifting COMMAND --flags", "", *lines, "", "drifting COMMAND --help lists its flags."])


def command_help(name: str, command: Command) -> str:
    """A command's flags, and for a training all settings with their defaults."""
    values = flags.FlagValues()
    command.define(values)
    rows = [
        (f"--{flag}" if values[flag].boolean else f"--{flag}={flag.upper()}", str(values[flag].help)) for flag in values
    ]
    usage, settings = f"usage: drifting {name} --workdir=DIR [--flags]", []
    if command.settings is not None:
        given = command.usage or f"--config=FILE {'--workdir=DIR' if 'workdir' in values else '--out=NPZ'}"
        usage = f"usage: drifting {name} {given} [--config.SECTION.KEY=VALUE ...]"
        rows = [
            ("--config=FILE", "the experiment, a Python file such as those in configs/"),
            ("--config.SECTION.KEY=VALUE", f"changes one of its settings, e.g. {_example(command.settings)}"),
            *rows,
        ]
        settings = ["", "settings and their defaults:", *_settings_help(command.settings)]
    elif command.usage:
        usage = f"usage: drifting {name} {command.usage}"
    width = max(len(flag) for flag, _ in rows)
    lines = [f"  {flag:<{width}}  {text}" for flag, text in rows]
    return "\n".join([usage, "", f"{command.summary[0].upper()}{command.summary[1:]}.", "", *lines, *settings])


def _example(kind: type[Settings]) -> str:
    section, keys = next((s, k) for s, k in to_dict(kind()).items() if s in ("train", "cache", "study"))
    key = "steps" if section == "train" else next(k for k, v in keys.items() if isinstance(v, int))
    return f"--config.{section}.{key}=500"


def _settings_help(kind: type[Settings]) -> list[str]:
    lines = []
    for section, keys in to_dict(kind()).items():
        # A default that has blanks in it stays on one line.
        items = " ".join(f"{key}={value!r}".replace(" ", "\0") for key, value in keys.items())
        wrapped = textwrap.wrap(items, 104, break_long_words=False, break_on_hyphens=False)
        lines += [f"  {section if i == 0 else '':<10}  {line}".replace("\0", " ") for i, line in enumerate(wrapped)]
    return lines
