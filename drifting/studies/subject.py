"""What `diagnose` looks at: a trained generator with the data, the feature space and the loss it was trained with."""

import dataclasses
from pathlib import Path
from typing import Any

from drifting.assembly.spaces import feature_encoder, source_space
from drifting.config.schema import DataConfig, to_dict
from drifting.data import fingerprint, sources
from drifting.data.source import LabelledSource
from drifting.errors import ArgumentError, ConfigError, require, require_argument
from drifting.sampling.generator import TrainedGenerator
from drifting.scoring.diagnosis import Subject, subject_of
from drifting.studies.settings import DiagnoseStudy

MOVABLE_SETTINGS = ("data.path", "data.vae", "features.mae", "features.convnext")
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
    own = DiagnoseStudy(
        study=settings.study,
        data=dataclasses.replace(trained.config.data, **moved["data"]),
        features=dataclasses.replace(trained.config.features, **moved["features"]),
        loss=trained.config.loss,
    )
    try:
        return _assemble(trained, own)
    except ConfigError as error:
        key = str(error).split("=")[0]
        raise ConfigError(
            f"{error}; if it has moved, give the new {key}" if key in MOVABLE_SETTINGS else str(error)
        ) from error


def _moved(settings: DiagnoseStudy) -> dict[str, dict[str, Any]]:
    """Those of `MOVABLE_SETTINGS` that were changed, by section; `ConfigError` if any other setting of a run was."""
    moved: dict[str, dict[str, Any]] = {"data": {}, "features": {}}
    for section, defaults in to_dict(DiagnoseStudy()).items():
        for key, value in to_dict(settings)[section].items():
            if section == "study" or value == defaults[key]:
                continue
            if f"{section}.{key}" not in MOVABLE_SETTINGS:
                remedy = f"change the section study, or where something lies ({', '.join(MOVABLE_SETTINGS)})"
                raise ArgumentError("run", None, f"a run has its own {section}.{key}: {remedy}")
            moved[section][key] = value
    return moved


def _assemble(trained: TrainedGenerator, settings: DiagnoseStudy) -> tuple[TrainedGenerator, Subject]:
    data, features = settings.data, settings.features
    source = _source(data, trained)
    space = source_space(data.vae or trained.usage.vae, source)
    require(space.shape == trained.space.shape, "data.name", data.name, "its samples are not of the generator's shape")
    encoder = feature_encoder(features, space)
    for name, checksum in encoder.checksums.items() if trained.config else ():
        same = trained.facts["weights"].get(name) == checksum
        require(same, f"features.{name}", getattr(features, name), "its weights are not those the run was trained with")
    return trained, subject_of(settings.loss, trained.generator, source, space, encoder)


def _source(data: DataConfig, trained: TrainedGenerator) -> LabelledSource:
    source = sources.source(data)
    facts = fingerprint.data_facts(source)
    if trained.config is not None and any(trained.facts.get(name) != value for name, value in facts.items()):
        raise ConfigError(f"data.name={data.name!r}: the data are not those the run was trained with")
    classes, known = len(source.class_names), len(trained.usage.class_names)
    require(classes == known, "data.name", data.name, f"has {classes} classes, the generator {known}")
    return source
