"""The features of a set of images: in memory, or in files that processes share and that outlive a kill."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from drifting.errors import counted
from drifting.runs.progress import Progress
from drifting.runs.shared_work import Parts, Share
from drifting.sampling.images import Images, Tick
from drifting.scoring.image_features import FeaturesByKind, ScoreEncoder

logger = logging.getLogger("drifting")

EVALUATION_PART_IMAGES = 512
"""Images a part of an evaluation; a multiple of the blocks of generator and encoders."""

PLACE_FACTS = ("source", "images")
"""Facts of images that say where they lie. These may change while an evaluation is under way: what the images are has a
checksum among the facts."""


@contextmanager
def image_progress(total: int, label: str) -> Iterator[Tick]:
    """Shows a progress bar of `total` images, and yields what is told of each few more of them."""
    done = 0
    with Progress(total, label=label, unit="images") as progress:

        def tick(count: int) -> None:
            nonlocal done
            done += count
            progress.update(done)

        yield tick


def features_of(images: Images, encoder: ScoreEncoder, label: str) -> FeaturesByKind:
    """The features of all images, arrays `[N, D]` by kind. `label`: what the progress bar calls them."""
    starts = range(0, len(images), EVALUATION_PART_IMAGES)
    with image_progress(len(images), label) as tick:
        parts = [encoder(images.part(range(i, min(i + EVALUATION_PART_IMAGES, len(images)))), tick) for i in starts]
    return {kind: np.concatenate([part[kind] for part in parts]) for kind in parts[0]}


def saved_features(images: Images, encoder: ScoreEncoder, work: Path, share: Share, out: Path) -> FeaturesByKind | None:
    """The same features, going on where an earlier call stopped.

    Args:
        images: what to take them of.
        encoder: what takes them.
        work: a folder for what is under way, which the caller removes.
        share: which of several processes this is.
        out: what the features are for, which a person has named.

    Returns:
        The features, or None while parts of other processes are missing.

    Raises:
        ConfigError: other images are under way in that folder.
    """
    parts = Parts(work, len(images), EVALUATION_PART_IMAGES, ".npz", out)
    parts.claim(images.facts | {"num": len(images)} | encoder.facts, PLACE_FACTS)
    if not finish_parts(parts, share, "evaluate", lambda items, tick: encoder(images.part(items), tick)):
        return None
    files = [parts.path(number) for number in range(len(parts.ranges))]
    with files[0].open("rb") as file, np.load(file, allow_pickle=False) as first:
        kinds = first.files
    return {kind: np.concatenate([_load(file, kind) for file in files]) for kind in kinds}


def finish_parts(
    parts: Parts, share: Share, label: str, make: Callable[[range, Tick], Mapping[str, np.ndarray]]
) -> bool:
    """Makes the parts of this process that are missing; returns whether those of all processes are there.

    Args:
        parts: files `.npz`.
        share: which of several processes this is.
        label: what the progress bar and messages call the work.
        make: makes the arrays of a part, given its items and what to tell of finished ones.
    """
    with parts.in_use(share):
        missing = parts.missing(share)
        with image_progress(sum(len(parts.ranges[number]) for number in missing), label) as tick:
            for number in missing:
                parts.write(number, partial(save_arrays, make(parts.ranges[number], tick)))
    if left := parts.left():
        logger.info("%s: this process is done; %s of other processes still missing", label, counted(left, "part"))
    return not left


def save_arrays(arrays: Mapping[str, np.ndarray], path: Path) -> None:
    """Writes an `.npz`, whatever the path ends in."""
    with path.open("wb") as file:  # np.savez would add to the name
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _load(path: Path, kind: str) -> np.ndarray:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return np.asarray(arrays[kind])
