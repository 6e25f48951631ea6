"""Statistics of real images that scores are taken against: written by `drifting reference`, or published ones.

An `.npz` with mean `mu` `[D]` and covariance `sigma` `[D, D]`, as those of ADM, EDM, pytorch-fid and clean-fid, or
`ref_mu` and `ref_sigma`, which the released code reads first; of spatial features also `mu_s` and `sigma_s`. Ours hold
besides the `features` `[M, D]` of some images, for precision and recall, and `metadata`, JSON that says what they are
of. ADM's hold images instead (`arr_0`); those of the released code lie in another file.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drifting.data.npz import member_names, open_member
from drifting.errors import InputError, as_argument, require_argument
from drifting.runs.files import atomic_path, exists, remove_torn
from drifting.runs.places import local_copy
from drifting.runs.shared_work import Parts, Share
from drifting.sampling.files import software
from drifting.sampling.images import Images, Tick
from drifting.scoring.extraction import finish_parts, save_arrays
from drifting.scoring.image_features import ScoreEncoder
from drifting.scoring.image_sets import FolderImages, NpzImages, open_images
from drifting.scoring.metrics.gaussian import Gaussian, GaussianStatistics
from drifting.scoring.real_images import check_count, check_variance

REFERENCE_FORMAT, REFERENCE_VERSION = "drifting-reference", 1

KEPT_FEATURES = 10_000
"""Images whose features are kept for metrics that need real features, as many as ADM's reference batches hold."""

REFERENCE_PART_IMAGES = 8192
"""Images a part: the statistics of each take 67 MB with the Inception."""

ENCODED_AT_ONCE = 512
"""Images that are read and encoded at a time."""

STATISTICS_KEYS = {"features": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}
"""What an `.npz` calls mean and covariance of each kind of features."""

OTHER_STATISTICS_KEYS = {"features": [("ref_mu", "ref_sigma")]}
"""What some others call them; where both are there, these come first, as in the released code."""

MAKE_REFERENCE = "see `drifting reference`"

KIND_TITLES = {"features": "features", "spatial": "spatial features"}


@dataclass(frozen=True)
class Reference:
    """Statistics of real images.

    Attributes:
        path: the file.
        gaussians: mean and covariance of each kind of features.
        features: `[M, D]` of some of the images, or None.
        images: such images themselves, or None.
        metadata: what a reference of ours says that it is of; None: it is a published one.
    """

    path: Path
    gaussians: dict[str, Gaussian] = field(repr=False)
    features: NDArray[np.float32] | None = field(repr=False)
    images: NpzImages | FolderImages | None = field(repr=False)
    metadata: dict[str, Any] | None = field(repr=False)

    @property
    def encoder(self) -> str | None:
        """What its features were taken with, as `score_encoder` takes it; None: it does not say."""
        if self.metadata is None:
            return None
        return ":".join(word for word in (self.metadata["encoder"], self.metadata["encoder_reference"]) if word)

    @property
    def facts(self) -> dict[str, Any]:
        """What scores depend on, JSON-able."""
        digest = hashlib.sha256(b"".join(array.tobytes() for pair in self.gaussians.values() for array in pair))
        about = {key: (self.metadata or {}).get(key) for key in ("images", "num", "encoder", "encoder_weights")}
        return {"path": str(self.path), "statistics_sha256": digest.hexdigest()} | about

    def check_widths(self, encoder: str, widths: Mapping[str, int]) -> None:
        """Checks that it has as many features of each kind as an encoder gives, as far as `widths` says.

        Raises:
            ArgumentError: it has not.
        """
        for kind, (mean, _) in self.gaussians.items():
            given = widths.get(kind, len(mean))
            remedy = f"has {len(mean)} {KIND_TITLES[kind]}, {encoder} gives {given}: name the encoder it was made with"
            require_argument(len(mean) == given, "reference", str(self.path), remedy)

    def check(self, encoder: ScoreEncoder) -> None:
        """Checks that it was made with this encoder, of images of the same size.

        Raises:
            ArgumentError: it was not.
            InputError: its features have no spread, see `check_variance`.
        """
        if self.metadata is not None:
            for key, value in encoder.facts.items():
                remedy = f"its {key} is {self.metadata[key]!r}, here it is {value!r}"
                require_argument(self.metadata[key] == value, "reference", str(self.path), remedy)
        if self.images is not None:
            path, remedy = self.images.path, f"of {list(self.images.shape)}, here they are of {list(encoder.shape)}"
            name = "reference" if path == self.path else "real_images"
            require_argument(self.images.shape == encoder.shape, name, str(path), f"is of images {remedy}")
        self.check_widths(encoder.name, encoder.widths)
        check_variance(self.gaussians, str(self.path), encoder.name)


def read_reference(path: Path, images: Path | None = None) -> Reference:
    """Statistics from an `.npz`.

    Args:
        path: the file.
        images: a folder or an `.npz` of real images for the metrics that need them; None: those in the file.

    Raises:
        ArgumentError: there is none, it has no mean and covariance that fit, or there are no such images.
    """
    missing = "is no regular file: give an .npz" if path.exists() else "there is no such file"
    require_argument(path.is_file(), "reference", str(path), missing)
    named, path = path, local_copy(path)
    images = None if images is None else local_copy(images)
    with as_argument("reference", path):
        gaussians = _gaussians(path)
        remedy = "has no mu and sigma (or ref_mu and ref_sigma)"
        if "features" not in gaussians:
            raise InputError(f"{path}: {remedy}, but {_listed(path)}: give statistics, or make them, {MAKE_REFERENCE}")
        kept, width = open_member(path, "features"), len(gaussians["features"][0])
        if kept is not None and (kept.ndim != 2 or kept.shape[1] != width):
            raise InputError(f"{path}: features {list(kept.shape)} do not fit mu [{width}]")
        own = None if images or open_member(path, "arr_0") is None else NpzImages(path)
        metadata = _metadata(path)
    if images is None:
        return Reference(named, gaussians, kept, own, metadata)
    with as_argument("real_images", images):
        return Reference(named, gaussians, None, open_images(images), metadata)


def _gaussians(path: Path) -> dict[str, Gaussian]:
    """Mean and covariance of each kind of features that a file has.

    Raises:
        InputError: it is no `.npz`, or they do not fit.
    """
    found: dict[str, Gaussian] = {}
    for kind, names in STATISTICS_KEYS.items():
        for mu, sigma in [*OTHER_STATISTICS_KEYS.get(kind, []), names]:
            mean, covariance = open_member(path, mu), open_member(path, sigma)
            if kind not in found and mean is not None and covariance is not None:
                found[kind] = _checked_moments(path, (mu, sigma), mean, covariance)
    return found


def _listed(path: Path) -> str:
    names = member_names(path)
    return ", ".join(names[:8]) + (", .." if names[8:] else "") if names else "nothing"


def _metadata(path: Path) -> dict[str, Any] | None:
    """What a reference of ours says that it is of; None: it is of somebody else."""
    found = open_member(path, "metadata")
    try:
        metadata = None if found is None else json.loads(str(found))
    except ValueError:
        return None
    return metadata if isinstance(metadata, dict) and metadata.get("format") == REFERENCE_FORMAT else None


def _checked_moments(path: Path, names: tuple[str, str], mu: NDArray[Any], sigma: NDArray[Any]) -> Gaussian:
    """Mean and covariance in float64. Raises `InputError` where they are none."""
    if mu.dtype.kind not in "fiu" or sigma.dtype.kind not in "fiu":
        raise InputError(f"{path}: {names[0]} and {names[1]} are {mu.dtype} and {sigma.dtype}: give real numbers")
    mean, covariance = np.asarray(mu, np.float64), np.asarray(sigma, np.float64)
    shapes = f"{names[0]} {list(mean.shape)} and {names[1]} {list(covariance.shape)}"
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise InputError(f"{path}: {shapes} do not fit: give [D] and [D, D]")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise InputError(f"{path}: {names[0]} or {names[1]} is not finite")
    if not _is_covariance(covariance):
        raise InputError(f"{path}: {names[1]} is no covariance: it must be symmetric, without negative eigenvalues")
    return mean, covariance


def _is_covariance(matrix: NDArray[np.float64]) -> bool:
    """Whether it is symmetric and has no negative eigenvalue, but for rounding to float32."""
    tolerance = 1e-6 * abs(np.trace(matrix))
    if np.abs(matrix - matrix.T).max(initial=0) > tolerance:
        return False
    try:  # a Cholesky factor is had ten times faster than the eigenvalues
        np.linalg.cholesky(matrix + (tolerance + np.finfo(np.float64).tiny) * np.eye(len(matrix)))
    except np.linalg.LinAlgError:
        return False
    return True


def make_reference(
    images: Images, encoder: ScoreEncoder, out: Path, *, keep: int = KEPT_FEATURES, share: Share | None = None
) -> bool:
    """Writes the statistics of real images, going on where an earlier call stopped.

    Args:
        images: the real images.
        encoder: what takes their features.
        out: the `.npz`.
        keep: how many images' features to keep for metrics that need them, spread over all images.
        share: which of several processes this is.

    Returns:
        Whether it is written.

    Raises:
        ConfigError: there is something else at `out`.
        InputError: there are fewer than two images, or all of them look alike to the encoder.
    """
    require_argument(out.suffix == ".npz", "out", str(out), "must end in .npz")
    check_count(len(images), "reference")
    kept = np.linspace(0, len(images) - 1, min(keep, len(images))).astype(np.int64)
    facts = images.facts | {"num": len(images), "kept": len(kept)} | encoder.facts
    _check_replaceable(out, facts)
    parts = Parts(out.with_name(f"{out.name}.parts"), len(images), REFERENCE_PART_IMAGES, ".npz", out)
    parts.claim(facts)

    def make(items: range, tick: Tick) -> dict[str, np.ndarray]:
        found: dict[str, Any] = {}
        for start in range(items.start, items.stop, ENCODED_AT_ONCE):
            chunk = range(start, min(start + ENCODED_AT_ONCE, items.stop))
            _add(found, encoder(images.part(chunk)), np.isin(chunk, kept))
            tick(len(chunk))
        return _arrays(found)

    if not finish_parts(parts, share or Share(), "reference", make):
        return False
    metadata = facts | {
        "encoder_reference": encoder.reference,
        "format": REFERENCE_FORMAT,
        "version": REFERENCE_VERSION,
    }
    try:
        arrays = _merged(parts)
        gaussians = {kind: (arrays[mu], arrays[sigma]) for kind, (mu, sigma) in STATISTICS_KEYS.items() if mu in arrays}
        try:
            check_variance(gaussians, "reference", encoder.name)
        except InputError:
            parts.remove()  # another encoder or other images would find this one's parts in their way
            raise
        arrays |= {"metadata": np.asarray(json.dumps(metadata | {"software": software()}))}
        with atomic_path(out) as temporary:
            save_arrays(arrays, temporary)
    except FileNotFoundError:
        if not out.exists():  # otherwise another process has just put them together
            raise
    parts.remove()
    remove_torn(out)
    return True


def _check_replaceable(out: Path, facts: Mapping[str, Any]) -> None:
    """Raises `ArgumentError` unless nothing is at `out`, or what was made of the same images by the same encoder."""
    if not exists(out):
        return
    try:
        before = _metadata(local_copy(out))
    except InputError:
        before = None
    same = before is not None and all(before.get(key) == value for key, value in facts.items())
    remedy = "is there and not known to be the statistics of these images; choose another, or remove it"
    require_argument(same, "out", str(out), remedy)


def _add(found: dict[str, Any], features: Mapping[str, np.ndarray], kept: NDArray[np.bool_]) -> None:
    """Adds a chunk's features to a part's statistics, and those to keep to the others."""
    for kind in STATISTICS_KEYS:
        if kind in features:
            found.setdefault(kind, GaussianStatistics.empty(features[kind].shape[1])).update(features[kind])
    found.setdefault("kept", []).append(features["features"][kept])


def _arrays(found: dict[str, Any]) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {"kept": np.concatenate(found["kept"])}
    for kind in STATISTICS_KEYS:
        if kind in found:
            s = found[kind]
            arrays |= {f"{kind}/count": np.asarray(s.count), f"{kind}/mean": s.mean, f"{kind}/scatter": s.scatter}
    return arrays


def _merged(parts: Parts) -> dict[str, np.ndarray]:
    whole: dict[str, GaussianStatistics] = {}
    kept = []
    for number in range(len(parts.ranges)):
        with parts.path(number).open("rb") as file, np.load(file, allow_pickle=False) as part:
            kept.append(part["kept"])
            for kind in STATISTICS_KEYS:
                if f"{kind}/count" in part.files:
                    mean = part[f"{kind}/mean"]
                    statistics = GaussianStatistics(int(part[f"{kind}/count"]), mean, part[f"{kind}/scatter"])
                    whole.setdefault(kind, GaussianStatistics.empty(len(mean))).merge(statistics)
    arrays: dict[str, np.ndarray] = {"features": np.concatenate(kept)}
    for kind, statistics in whole.items():
        mean_name, covariance_name = STATISTICS_KEYS[kind]
        arrays |= {mean_name: statistics.mean, covariance_name: statistics.covariance}
    return arrays
