"""`drifting configs`, `config` and `help`: which experiments there are, and what settings are and mean."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

from absl import flags

from drifting.cli.catalogue import experiments, experiments_table
from drifting.cli.command import Command
from drifting.cli.explanations import explanation_of, settings_page
from drifting.config.checks import check
from drifting.config.meanings import (
    COMMAND_SETTINGS,
    REGISTRY_SETTINGS,
    Section,
    option_sections,
    sections,
    study_sections,
)
from drifting.config.schema import CacheBuild, Config, PretrainConfig, Settings, StudyRun, to_dict
from drifting.errors import ConfigError
from drifting.studies import STUDIES
from drifting.studies.settings import check_study_numbers

STARTS: dict[type, tuple[str, str]] = {
    Config: ("drifting.config", "train_config"),
    PretrainConfig: ("drifting.config", "pretrain_config"),
    CacheBuild: ("drifting.config", "cache_config"),
}
"""What a file of settings of each kind starts from: the module and its function."""


def _define_configs(values: flags.FlagValues) -> None:
    flags.DEFINE_boolean("json", False, "print them as JSON", flag_values=values)


def _configs(values: flags.FlagValues) -> int:
    found = experiments()
    print(json.dumps([dataclasses.asdict(one) for one in found], indent=2) if values.json else experiments_table(found))
    return 0


def _define_help(values: flags.FlagValues) -> None:
    flags.DEFINE_string("topic", "", "the command, section or setting", flag_values=values)
    flags.DEFINE_boolean("markdown", False, "print all settings as docs/settings.md has them", flag_values=values)


def all_sections() -> list[Section]:
    """Every section of settings of every command: what `drifting help` knows."""
    from drifting.assembly.names import known_names
    from drifting.data.sources import option_kinds
    from drifting.method.encoders import ENCODERS

    encoders = option_sections("features.options", {name: one.options for name, one in ENCODERS.items()}, ("train",))
    sources = option_sections("data.options", option_kinds(), tuple(COMMAND_SETTINGS))
    studies = study_sections({name: study.settings for name, study in STUDIES.items()})
    return [*sections(known_names()).values(), *encoders, *sources, *studies]


def _plain_sections(topic: str) -> list[Section]:
    """Sections that say all of a topic, and for which no registry is needed: networks and kernels import JAX.

    [] where there are none: parts of keys may be those of options, and a misspelt topic may be near to anything.
    """
    plain = [section for section in sections({}).values() if "options" not in (one.key for one in section.settings)]
    studies = study_sections({name: study.settings for name, study in STUDIES.items()})
    named = [section for section in (*plain, *studies) if topic == section.name]
    keys = [one.key for section in named or plain for one in section.settings]
    keys = keys if named else [key for key in keys if key == topic]
    return [*plain, *studies] if keys and not set(keys) & set(REGISTRY_SETTINGS) else []


def _help(values: flags.FlagValues) -> int:
    if values.markdown and values.topic:
        raise ConfigError(f"--markdown: prints all settings; leave it out, or leave {values.topic} out")
    found = _plain_sections(values.topic) or all_sections()
    print(settings_page(found) if values.markdown else explanation_of(values.topic, found))
    return 0


def _define_config(values: flags.FlagValues) -> None:
    flags.DEFINE_boolean("json", False, "print what config.json of a run would hold", flag_values=values)


def _config(values: flags.FlagValues) -> int:
    settings = values.config
    if isinstance(settings, StudyRun):
        check_study_numbers(to_dict(settings)["study"])
    else:
        check(settings)
    print(json.dumps(to_dict(settings), indent=2) if values.json else settings_file(settings))
    return 0


def settings_file(settings: Settings) -> str:
    """A Python file for `--config` that holds every setting; a comment says the default of those that differ."""
    kind = type(settings)
    if isinstance(settings, StudyRun):
        imports = f"from drifting.studies.settings import {kind.__name__}, study_config"
        start = f"study_config({kind.__name__}())"
    else:
        module, function = STARTS[kind]
        imports, start = f"from {module} import {function}", f"{function}()"
    lines = _assignments("config", to_dict(settings), to_dict(kind()))
    body = "\n".join(f"    {line}" for line in [f"config = {start}", *lines, "return config"])
    return f"{imports}\n\n\ndef get_config():\n{body}"


def _assignments(prefix: str, values: Mapping[str, Any], defaults: Mapping[str, Any]) -> Iterator[str]:
    for key, value in values.items():
        default = defaults.get(key)
        if isinstance(value, dict) and isinstance(default, dict) and default:
            yield from _assignments(f"{prefix}.{key}", value, default)
        elif isinstance(value, dict):  # options, whose keys are open
            yield from (f"{prefix}.{key}.{name} = {option!r}" for name, option in value.items())
        else:
            yield f"{prefix}.{key} = {value!r}" + ("" if value == default else f"  # default {default!r}")


COMMANDS = {
    "configs": Command(
        "list the experiments, their variants and published numbers", _define_configs, _configs, usage="[--json]"
    ),
    "config": Command(
        "print the settings of an experiment, with what changes them",
        _define_config,
        _config,
        Config,
        usage="FILE[:VARIANT] [--json]",
        any_settings=True,
    ),
    "help": Command(
        "say what a command, a section of settings or a setting means",
        _define_help,
        _help,
        usage="[COMMAND | SECTION | SECTION.KEY] [--markdown]",
        takes=("topic",),
    ),
}
