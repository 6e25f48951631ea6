"""`drifting configs`, `config` and `help`: which experiments there are, and what settings are and mean."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

from absl import flags

from drifting.cli.catalogue import experiments, experiments_table
from drifting.cli.command import Command
from drifting.cli.data import COMMANDS as DATA
from drifting.cli.experiments import COMMANDS as EXPERIMENTS
from drifting.cli.explanations import explanation_of, settings_page
from drifting.cli.images import COMMANDS as IMAGES
from drifting.cli.settings import ConfigRequest
from drifting.cli.shared import check_without_jax, jax_is_imported
from drifting.cli.training import COMMANDS as TRAINING
from drifting.cli.weights import COMMANDS as WEIGHTS
from drifting.config.meanings import COMMAND_SETTINGS, Section, option_sections, sections, study_sections
from drifting.config.registered import ENCODER_OPTIONS, REGISTERED_NAMES, encoder_option_keys
from drifting.config.schema import CacheBuild, Config, PretrainConfig, Settings, StudyRun, to_dict
from drifting.config.shipped import CONFIGS, experiment_file
from drifting.data.sources import SOURCES, option_kinds
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
    from drifting.method.encoders import ENCODERS

    encoders = option_sections("features.options", {name: one.options for name, one in ENCODERS.items()}, ("train",))
    commands, others = _plain_sections()
    return [*commands, *encoders, *others]


def _plain_sections() -> tuple[list[Section], list[Section]]:
    """All sections for which JAX is not needed: those of the commands, and those of sources and studies."""
    names = REGISTERED_NAMES | {"data.name": tuple(SOURCES)}
    sources = option_sections("data.options", option_kinds(), tuple(COMMAND_SETTINGS))
    studies = study_sections({name: study.settings for name, study in STUDIES.items()})
    return list(sections(names).values()), [*sources, *studies]


def _help(values: flags.FlagValues) -> int:
    topic = values.topic
    if values.markdown and topic:
        raise ConfigError(f"--markdown: prints all settings; leave it out, or leave {topic} out")
    named = {"features", *(f"features.options.{name}" for name in ENCODER_OPTIONS)}
    options = encoder_option_keys()
    if values.markdown or topic in named or topic in {*options, *(key.rpartition(".")[2] for key in options)}:
        found = all_sections()
    else:
        commands, others = _plain_sections()
        found = [*commands, *others]
    print(
        settings_page(found)
        if values.markdown
        else explanation_of(
            topic, found, [*named, *options, *TRAINING, *DATA, *IMAGES, *EXPERIMENTS, *WEIGHTS, *COMMANDS]
        )
    )
    return 0


def _define_config(values: flags.FlagValues) -> None:
    flags.DEFINE_boolean("json", False, "print what config.json of a run would hold", flag_values=values)


def _config(values: flags.FlagValues) -> int:
    settings = values.config.settings
    _check_as_its_command(values.config)
    print(json.dumps(to_dict(settings), indent=2) if values.json else settings_file(settings))
    return 0


NETWORK_SECTIONS = ("model", "features", "study")
"""Sections of which what is right is known to the networks, encoders and studies alone, all of which import JAX."""


def _check_as_its_command(request: ConfigRequest) -> None:
    """Checks settings as the command whose they are does, but for files that they name.

    What comes with the package is right, and needs no JAX as long as nothing is changed that JAX is needed to check.

    Raises:
        ConfigError: the command would refuse them.
    """
    settings = request.settings
    file = experiment_file(request.file.split(":", 1)[0])
    own = file is not None and not file.resolve().is_relative_to(CONFIGS)
    changed = {key.partition(".")[0] for key in request.changes}
    of_networks = own or jax_is_imported() or not changed.isdisjoint(NETWORK_SECTIONS)
    if isinstance(settings, StudyRun):
        check_study_numbers(to_dict(settings)["study"])
        if of_networks:
            from drifting.studies.study import check_study

            check_study(to_dict(settings)["study"])
        return
    check_without_jax(settings, request.changes)
    if of_networks:
        from drifting.assembly.names import check_settings
        from drifting.training.scores import check_score_encoder

        check_settings(settings)
        if isinstance(settings, Config):
            check_score_encoder(settings)


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
        "list the experiments, their variants and published numbers",
        _define_configs,
        _configs,
        usage="[--json]",
        needs_devices=False,
    ),
    "config": Command(
        "print the settings of an experiment, with what changes them",
        _define_config,
        _config,
        Config,
        usage="FILE[:VARIANT] [--json]",
        any_settings=True,
        needs_devices=False,
    ),
    "help": Command(
        "say what a command, a section of settings or a setting means",
        _define_help,
        _help,
        usage="[COMMAND | SECTION | SECTION.KEY] [--markdown]",
        takes=("topic",),
        needs_devices=False,
    ),
}
