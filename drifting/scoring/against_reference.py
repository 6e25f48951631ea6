"""Scores of images against statistics of real ones."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drifting.errors import ConfigError
from drifting.runs.progress import Progress
from drifting.runs.shared_work import Parts, Share
from drifting.sampling.images import Images
from drifting.scoring.image_features import Features, ScoreEncoder, known_widths, score_encoder
from drifting.scoring.metrics.frechet import GaussianStatistics, frechet_distance
from drifting.scoring.metrics.inception_score import SPLITS, inception_score
from drifting.scoring.metrics.precision_recall import f1, precision_recall
from drifting.scoring.reference import Reference, read_reference
from drifting.scoring.results import Scores

logger = logging.getLogger("drifting")

PART = 512
"""Images a part; a multiple of the blocks of generator and encoders."""

PUBLISHED = 50_000
"""Images that published scores are of."""

PLACES = ("source", "images")
"""Where something lies, as the person calls it: what it holds has a checksum."""


class Judge:
    """A reference and the encoder that it was made with: gives images their scores.

    Args:
        path: of the reference, see `drifting.reference`.
        encoder: as `encoders.score_encoder` takes it; None: what the reference says, or `inception`.
        shape: of the images to come.
        neighbours: of precision and recall.

    Raises:
        ConfigError: the reference cannot be read, or is of other images or another encoder.
    """

    def __init__(self, path: Path, encoder: str | None, shape: tuple[int, int, int], neighbours: int) -> None:
        self.reference: Reference = read_reference(path)
        metadata = self.reference.metadata
        if metadata is not None and metadata["image_shape"] != list(shape):
            was = metadata["image_shape"]
            raise ConfigError(f"--reference={path}: is of images of {was}, these are of {list(shape)}")
        key, given = ("--encoder", encoder) if encoder else ("--reference", self.reference.encoder or "inception")
        self.reference.check_widths(given, known_widths(given, shape))  # before weights are downloaded
        self.encoder: ScoreEncoder = score_encoder(key, given, shape)
        self.reference.check(self.encoder)
        self.neighbours = neighbours
        self._real: NDArray[np.float32] | None = self.reference.features

    @property
    def facts(self) -> dict[str, Any]:
        """What scores depend on besides the images, JSON-able."""
        return {"reference": self.reference.facts, **self.encoder.facts, "neighbours": self.neighbours}

    def scores(self, images: Images, work: Path, share: Share | None = None) -> Scores | None:
        """Scores of images, going on where an earlier call stopped; None while parts of other processes are missing.

        Args:
            images: at least two. work: a folder for what is under way, which the caller removes.
            share: of several processes, which this is.

        Raises:
            ConfigError: other images are under way in that folder.
        """
        share = share or Share()
        parts = Parts(work, len(images), PART, ".npz")
        parts.claim(images.facts | {"num": len(images)} | self.encoder.facts, PLACES)
        missing = parts.missing(share)
        done = 0
        with Progress(sum(len(parts.ranges[n]) for n in missing), label="evaluate", unit="images") as progress:

            def tick(count: int) -> None:
                nonlocal done
                done += count
                progress.update(done)

            for number in missing:
                features = self.encoder(images.part(parts.ranges[number]), tick)
                parts.write(number, lambda path, features=features: _save(path, features))  # type: ignore[misc]
        if left := parts.left():
            logger.info("evaluate: this process is done; %d parts of other processes are not there yet", left)
            return None
        return self.of_features([_load(parts.path(number)) for number in range(len(parts.ranges))])

    def of_features(self, parts: Sequence[Features]) -> Scores:
        """Scores of features, part after part: `num`, `fid` (of the Inception) or `frechet_distance`, `sfid`,
        `inception_score` and its deviation over ten splits, `precision`, `recall`, `f1`, as far as they can be had.
        """
        num = sum(len(part["features"]) for part in parts)
        if "logits" in parts[0] and num < PUBLISHED:
            logger.warning("FID of %s images: it falls with their number, compare equal ones only", f"{num:,}")
        scores: Scores = {"num": num}
        for kind, name in distance_names(self.encoder).items():
            if kind in self.reference.gaussians and kind in parts[0]:
                own = _gaussian([part[kind] for part in parts])
                scores[name] = frechet_distance(*self.reference.gaussians[kind], *own)
        if "logits" in parts[0] and num >= SPLITS:
            mean, deviation = inception_score(np.concatenate([part["logits"] for part in parts]))
            scores |= {"inception_score": mean, "inception_score_std": deviation}
        real = self.real_features()
        if real is not None and self.neighbours < min(num, len(real)):
            fake = np.concatenate([part["features"] for part in parts])
            precision, recall = precision_recall(real, fake, self.neighbours)
            scores |= {"precision": precision, "recall": recall, "f1": f1(precision, recall)}
        return scores

    def real_features(self) -> NDArray[np.float32] | None:
        """Features `[M, D]` of some real images, taken here where the reference holds images; None, with a warning."""
        if self._real is None and self.reference.images is not None:
            images = self.reference.images
            starts = range(0, len(images), PART)
            parts = [images.part(range(start, min(start + PART, len(images)))) for start in starts]
            self._real = np.concatenate([self.encoder(part)["features"] for part in parts])
        if self._real is None:
            logger.warning("%s: holds no features: no precision and recall", self.reference.path)
        return self._real


def distance_names(encoder: ScoreEncoder) -> dict[str, str]:
    """What the Fréchet distance in each kind of features is called."""
    return {"features": "fid" if encoder.name == "inception" else "frechet_distance", "spatial": "sfid"}


def _gaussian(parts: Sequence[np.ndarray]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    statistics = GaussianStatistics.empty(parts[0].shape[1])
    for part in parts:
        statistics.update(part)
    return statistics.mean, statistics.covariance


def _save(path: Path, features: Features) -> None:
    with path.open("wb") as file:  # np.savez would add to the name
        np.savez(file, **features)  # type: ignore[arg-type]


def _load(path: Path) -> Features:
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)
