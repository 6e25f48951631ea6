"""Weights out of a run and in from elsewhere: what `drifting export` and `drifting import` do."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path, PurePath
from typing import Any

import jax

from drifting.config.schema import command_of
from drifting.errors import ArgumentError, InputError, as_argument, require_argument, use_one_of
from drifting.method.power_average import WIDEST_STD
from drifting.runs.directory import CONFIG_FILE
from drifting.runs.files import atomic_path, read_json
from drifting.sampling.generator import TrainedGenerator
from drifting.scoring.results import latest_scores
from drifting.training.encoder import ENCODER_FOLDER
from drifting.weights.artifact import (
    GENERATOR_KIND,
    METADATA_FILE,
    TENSORS_FILE,
    Artifact,
    save_artifact,
    vae_facts,
)
from drifting.weights.card import CARD_FILE, CARD_TAGS, model_card
from drifting.weights.load import find_kind, load_weights
from drifting.weights.released import RELEASED_TENSORS, save_released

logger = logging.getLogger("drifting")

CARD_CHECKSUM = "card_sha256"
"""The entry of the metadata by which an edited model card is told from the one that was written."""

LAYOUTS = {"safetensors": save_artifact, "released": save_released}


def export_run(workdir: Path, out: Path, *, average: float | None = None, layout: str = "safetensors") -> None:
    """Writes the weights of a run as a folder to publish: tensors, `metadata.json` with all settings, a model card.

    Args:
        workdir: what `drifting train` or `drifting pretrain` wrote.
        out: the folder; an artifact that is there is replaced, but for what a person has edited or put there.
        average: the decay of the average to take, of a generator; None: see `schema.ema_decay`.
        layout: `safetensors`, or `released`, which the released code reads as well.

    Raises:
        ArgumentError: what a person has put into `out` would be lost.
        ConfigError: there is no run or no such average, it has not come far enough, or its model has no released form.
    """
    _check_layout(layout)
    try:
        settings = read_json(workdir / CONFIG_FILE)
    except InputError as error:
        remedy = "give a folder that `drifting train` or `pretrain` wrote"
        raise ArgumentError("workdir", workdir, f"holds no run; {remedy}") from error
    if command_of(settings) == "pretrain":
        if average is not None:
            remedy = "an encoder is written with the first of its averages, leave it out"
            raise ArgumentError("average", average, remedy)
        if not (workdir / ENCODER_FOLDER).is_dir():
            raise ArgumentError("workdir", workdir, "has no encoder yet, let `drifting pretrain` finish")
        artifact = load_weights(str(workdir / ENCODER_FOLDER), "mae")
    else:
        artifact = _generator(TrainedGenerator.from_run(workdir, average))
        if (vae := artifact.metadata["usage"]["vae"]) and "://" not in vae:
            logger.warning("data.vae=%s is a folder here: whoever uses the weights must say where it lies", vae)
    scores, settings = latest_scores(workdir), _without_folders(settings)
    _write(artifact, out, layout, {"settings": settings} | ({"scores": scores} if scores else {}))


def export_averages(workdir: Path, stds: Sequence[float], out: Path) -> list[Path]:
    """Writes averages that are made of those which a run stored, each as a folder to publish: `OUT/std-0.05`, ..

    Args:
        workdir: what `drifting train` wrote with `train.ema_stds`.
        stds: their widths, relative to the run.
        out: the folder of those folders; artifacts that are there are replaced.

    Returns:
        The folders.

    Raises:
        ConfigError: there is no run, or it has stored no averages; or a width is out of range.
        InputError: what it stored is damaged.
    """
    for std in stds:
        require_argument(0 < std <= WIDEST_STD, "stds", std, f"use widths above 0 and at most {WIDEST_STD}")
    written = []
    for std in stds:
        trained = TrainedGenerator.from_run(workdir, std=std)
        settings = _without_folders(read_json(workdir / CONFIG_FILE))
        _write(_generator(trained), folder := out / f"std-{std:g}", "safetensors", {"settings": settings})
        written.append(folder)
    return written


def import_weights(weights: str, out: Path, *, layout: str = "safetensors") -> None:
    """Writes published weights of any kind as a folder of ours, or in the released layout.

    Args:
        weights: a folder, `hf://OWNER/REPO[@REVISION][/FOLDER]`, or a file of the Inception network.
        out: the folder; an artifact that is there is replaced, but for what a person has edited or put there.
        layout: see `export_run`.

    Raises:
        ConfigError: the weights cannot be had, or have no released form.
    """
    _check_layout(layout)
    with as_argument("weights", weights):
        artifact = load_weights(weights, find_kind(weights))
    _write(artifact, out, layout, {})


def _check_layout(layout: str) -> None:
    require_argument(layout in LAYOUTS, "layout", layout, use_one_of(layout, LAYOUTS))


def _generator(trained: TrainedGenerator) -> Artifact:
    assert trained.config is not None
    metadata: dict[str, Any] = {"step": trained.step, "ema_decay": trained.ema_decay, "usage": asdict(trained.usage)}
    metadata |= {"network": trained.config.model.name}
    metadata |= {} if trained.ema_std is None else {"ema_std": trained.ema_std}
    metadata |= {"data": trained.facts["data"], "class_names": list(trained.usage.class_names)}
    metadata |= {name: trained.facts[name] for name in ("start",) if name in trained.facts}
    metadata |= vae_facts(trained.space.checksums)
    return Artifact(GENERATOR_KIND, trained.arguments, jax.device_get(trained.params), metadata)


# These metadata are written anew for the new folder; everything else that an artifact's metadata say goes along.
WRITTEN_ANEW = {
    "format",
    "kind",
    "backend",
    "path",
    "model_config",
    "sha256",
    "step",
    "ema_decay",
    "network",
    CARD_CHECKSUM,
}


def _write(artifact: Artifact, out: Path, layout: str, extra: Mapping[str, Any]) -> None:
    metadata = artifact.metadata
    kept = {name: value for name, value in metadata.items() if name not in WRITTEN_ANEW} | dict(extra)
    if kept.get("commit") is None:  # from a folder of this machine
        kept = {name: value for name, value in kept.items() if name not in ("source", "commit")}
    kept |= {name: _without_folders(kept[name]) for name in ("usage", "vae", "start") if name in kept}
    card = None
    if artifact.kind in CARD_TAGS:
        count = sum(leaf.size for leaf in jax.tree.leaves(artifact.params))
        described = metadata | kept | {"kind": artifact.kind, "network": artifact.network}
        described |= {"model_config": artifact.model_config}
        card = model_card(described, parameters=count, settings=kept.get("settings"), scores=kept.get("scores"))
        card = card.encode("utf-8", errors="backslashreplace").decode("utf-8")
        kept[CARD_CHECKSUM] = _checksum(card)
    _refuse_what_others_wrote(out, card)
    with as_argument("out", out):
        LAYOUTS[layout](
            out,
            kind=artifact.kind,
            model_config=artifact.model_config,
            params=artifact.params,
            step=metadata.get("step"),
            ema_decay=metadata.get("ema_decay"),
            network=artifact.network,
            extra=kept,
        )
    if card is not None:
        with atomic_path(out / CARD_FILE) as temporary:
            temporary.write_text(card, encoding="utf-8")


def _refuse_what_others_wrote(out: Path, card: str | None) -> None:
    """Raises `ArgumentError` where replacing the artifact at `out` would cost what a person has put or edited there.

    `card`: the model card to be written, which may be there already.
    """
    if not (out / METADATA_FILE).is_file():  # whatever it is, it is no artifact, and is not replaced
        return
    remedy = "would be lost: move it away, or give another folder"
    ours = {METADATA_FILE, TENSORS_FILE, RELEASED_TENSORS, CARD_FILE}
    if others := sorted(path.name for path in out.iterdir() if path.name not in ours):
        raise ArgumentError("out", out, f"holds {others[0]}, which no export has written and which {remedy}")
    if not (out / CARD_FILE).is_file():
        return
    text = (out / CARD_FILE).read_text(encoding="utf-8", errors="replace")
    if text != card and _checksum(text) != read_json(out / METADATA_FILE).get(CARD_CHECKSUM):
        raise ArgumentError("out", out, f"its {CARD_FILE} was edited, and {remedy}")


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _without_folders(settings: Any) -> Any:
    """Settings to publish: folders of the owner's machine are nobody's business, their last part is enough."""
    if isinstance(settings, Mapping):
        return {key: _without_folders(value) for key, value in settings.items()}
    if isinstance(settings, str) and "://" not in settings:
        return PurePath(settings).name
    return settings
