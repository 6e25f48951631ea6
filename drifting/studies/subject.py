"""What `diagnose` looks at: a trained generator with the data, the feature space and the loss it was trained with."""

import dataclasses
import re
from pathlib import Path
from typing import Any

from drifting.assembly.spaces import encoder_options, feature_encoder, source_space
from drifting.config.parse import parse
from drifting.config.schema import DataConfig, to_dict
from drifting.data import fingerprint, sources
from drifting.data.source import LabelledSource
from drifting.errors import ArgumentError, ConfigError, counted, require, require_argument
from drifting.runs.directory import differences
from drifting.sampling.generator import TrainedGenerator
from drifting.scoring.diagnosis import Subject, subject_of
from drifting.studies.settings import DiagnoseStudy

MOVABLE_SETTINGS = re.compile(r"data\.path|data\.vae|features\.options\.\w+\.weights")
"""Settings that say where something lies. A run may have named it from another working directory."""


def subject(
    settings: DiagnoseStudy, run: Path | None, weights: str | None, vae: str | None
) -> tuple[TrainedGenerator, Subject]:
    """The generator of a run with the run's own data, features and loss, or published weights with those of `settings`.

    Raises:
        ConfigError: not exactly one is given, it cannot be had, or the data or encoders are not those of the run.
    """
    if (run is None) == (weights is None):
        raise ArgumentError("run", None, "give the run's folder, or weights in its place")
    if run is None:
        return _assemble(TrainedGenerator.from_weights(str(weights), vae), settings)
    require_argument(vae is None, "vae", vae, "is for weights; of a run give the setting data.vae")
    moved = _moved(settings)
    trained = TrainedGenerator.from_run(run, vae=settings.data.vae)
    assert trained.config is not None
    sections = to_dict(trained.config)
    for key, value in moved.items():
        *parents, last = key.split(".")
        section: Any = sections
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = value
    kept = {name: sections[name] for name in ("data", "features", "loss")}
    own = dataclasses.replace(parse(kept, DiagnoseStudy), study=settings.study)
    try:
        return _assemble(trained, own)
    except ConfigError as error:
        key = str(error).split("=")[0]
        remedy = f"; if it has moved, give the new {key}" if MOVABLE_SETTINGS.fullmatch(key) else ""
        raise ConfigError(f"{error}{remedy}") from error


def _moved(settings: DiagnoseStudy) -> dict[str, Any]:
    """Those of `MOVABLE_SETTINGS` that were changed, by key; `ArgumentError` if any other setting of a run was."""
    changed = differences(to_dict(DiagnoseStudy()), to_dict(settings))
    moved = {key: value for key, (_, value) in changed.items() if not key.startswith("study.")}
    if wrong := [key for key in moved if not MOVABLE_SETTINGS.fullmatch(key)]:
        places = "data.path, data.vae, features.options.NAME.weights"
        remedy = f"change the section study, or where something lies ({places})"
        raise ArgumentError("run", None, f"a run has its own {wrong[0]}: {remedy}")
    return moved


def _assemble(trained: TrainedGenerator, settings: DiagnoseStudy) -> tuple[TrainedGenerator, Subject]:
    data, features = settings.data, settings.features
    source = _source(data, trained)
    space = source_space(data.vae or trained.usage.vae, source, trained.usage.latents is not None)
    require(space.shape == trained.space.shape, "data.name", data.name, "its samples are not of the generator's shape")
    encoder = feature_encoder(features, space)
    for name, checksum in encoder.checksums.items() if trained.config else ():
        same = trained.facts["weights"].get(name) == checksum
        key, given = f"features.options.{name}.weights", encoder_options(features, name).weights
        require(same, key, given, "its weights are not those the run was trained with")
    return trained, subject_of(settings.loss, trained.generator, source, space, encoder)


def _source(data: DataConfig, trained: TrainedGenerator) -> LabelledSource:
    source = sources.source(data)
    facts = fingerprint.data_facts(source)
    if trained.config is not None and any(trained.facts.get(name) != value for name, value in facts.items()):
        raise ConfigError(f"data.name={data.name!r}: the data are not those the run was trained with")
    classes, known = len(source.class_names), len(trained.usage.class_names)
    require(classes == known, "data.name", data.name, f"has {counted(classes, 'class')}, the generator {known}")
    return source
