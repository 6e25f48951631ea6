"""Power-function averages of a run's parameters on disk, and any other such average made of them.

`RUN/averages/N.safetensors` holds those after step N, in float32, and `N.json`, which is written last, says of how many
updates they are, and the SHA-256. What has no description yet does not count.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from drifting.errors import ArgumentError, InputError, while_reading
from drifting.method.power_average import WIDEST_STD, combination
from drifting.networks.network import Params
from drifting.runs.files import atomic_path, exists, flush, read_json, sha256, write_json
from drifting.runs.places import local_copy
from drifting.weights.artifact import check_names, flatten, unflatten

logger = logging.getLogger("drifting")

AVERAGES = "averages"

TOLERATED = 0.05
"""The share of an average's weights that may lie elsewhere, before it is told."""

REMEDY = "remove both files of that step, and the others are taken"


@dataclass(frozen=True)
class StoredAverages:
    """The averages after one step.

    Attributes:
        path: the file with the tensors, named by their width and their name.
        step: the training step.
        updates: how many of the steps until then updated the parameters.
        stds: the widths.
        checksum: SHA-256 of the file.
    """

    path: Path
    step: int
    updates: int
    stds: tuple[float, ...]
    checksum: str


def store_averages(workdir: Path, step: int, updates: int, averages: Mapping[float, Params]) -> None:
    """Writes the averages after a step, by width, whole or not at all.

    Raises:
        MachineError: they cannot be written.
    """
    folder = workdir / AVERAGES
    folder.mkdir(exist_ok=True)
    path, description = folder / f"{step}.safetensors", folder / f"{step}.json"
    description.unlink(missing_ok=True)  # what is said of other tensors must not vouch for these
    tensors = {
        f"{std}/{name}": np.ascontiguousarray(leaf)
        for std, params in averages.items()
        for name, leaf in flatten(jax.device_get(params)).items()
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary)
        flush(temporary)
        checksum = sha256(temporary)
    write_json(description, {"updates": updates, "stds": list(averages), "sha256": checksum})


def stored_averages(workdir: Path) -> list[StoredAverages]:
    """All stored averages of a run, the earliest first.

    Raises:
        InputError: a description is damaged.
    """
    folder = workdir / AVERAGES
    if not exists(folder):
        return []
    found = []
    for description in folder.glob("*.json"):
        if not description.stem.isdecimal():
            continue
        content, path = read_json(description, REMEDY), description.with_suffix(".safetensors")
        try:
            stds = tuple(float(std) for std in content["stds"])
            found.append(
                StoredAverages(path, int(description.stem), int(content["updates"]), stds, str(content["sha256"]))
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{description}: does not describe averages; {REMEDY}") from error
    return sorted(found, key=lambda stored: stored.step)


def check_reconstructible(workdir: Path, std: float) -> list[StoredAverages]:
    """The stored averages of a run, of which that of width `std` can be made.

    Raises:
        ArgumentError: the run has stored none, or `std` is out of range.
        InputError: a description is damaged.
    """
    if not 0 < std <= WIDEST_STD:
        raise ArgumentError("std", std, f"use a width above 0 and at most {WIDEST_STD}")
    if not (stored := stored_averages(workdir)):
        remedy = "has stored no averages of which others are made: train with train.ema_stds=(0.05, 0.1)"
        raise ArgumentError("workdir", workdir, remedy)
    return stored


def reconstruct(workdir: Path, std: float, shapes: Params) -> tuple[int, Params]:
    """The average of width `std` after the last step of which averages are stored: that step, and float32 parameters.

    One file is read at a time. `shapes`: the network's parameters, of which only names and shapes count.

    Raises:
        ArgumentError: the run has stored none, or `std` is out of range.
        InputError: a file is missing, damaged, or of another network.
    """
    stored = check_reconstructible(workdir, std)
    last = stored[-1]
    pairs = [(width, one.updates) for one in stored for width in one.stds]
    combined, off = combination(pairs, std, last.updates)
    if off > TOLERATED:
        logger.warning(
            "%s: an average of width %g is met but for %.0f %% of its weights: it is too far from what was stored, or "
            "that was stored too seldom (train.checkpoint_every)", workdir / AVERAGES, std, 100 * off,
        )  # fmt: skip
    factors = iter(combined)
    total = {name: np.zeros(leaf.shape) for name, leaf in flatten(shapes).items()}
    for one in stored:
        _add(total, one, {width: float(next(factors)) for width in one.stds})
    return last.step, unflatten({name: value.astype(np.float32) for name, value in total.items()})


def _add(total: dict[str, np.ndarray], stored: StoredAverages, factors: Mapping[float, float]) -> None:
    """Adds the averages of one file times their factors, in float64."""
    if not exists(stored.path):
        raise InputError(f"{stored.path}: is missing; {REMEDY}")
    with while_reading(stored.path):
        here = local_copy(stored.path)
        if (found := sha256(here)) != stored.checksum:
            raise InputError(f"{stored.path}: is damaged, its SHA-256 is {found}, not {stored.checksum}; {REMEDY}")
    try:
        with safe_open(here, framework="numpy") as file:
            wanted = {f"{width}/{name}" for width in factors for name in total}
            check_names(dict.fromkeys(file.keys()), wanted, "tensor")
            for width, factor in factors.items():
                for name, sum_ in total.items():
                    sum_ += file.get_tensor(f"{width}/{name}").astype(np.float64) * factor
    except (SafetensorError, ValueError) as error:
        raise InputError(f"{stored.path}: holds no averages ({error}); {REMEDY}") from error
