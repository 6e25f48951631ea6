"""A cache of latents on disk, and the source that reads it. `drifting cache` writes one, see `write.py`.

A cache is a folder of ArrayRecord files ("shards") of records of one size: the image's index in the data set it was
made from, its label, and the moments of its latents, in float16. `manifest.json` says what they are, and is there only
once the cache is whole. It keeps moments rather than latents so that training can draw an image's latents afresh.
"""

import abc
import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader
from numpy.typing import NDArray

from drifting.data.crop import Seed
from drifting.data.source import Delivery, Indices, LabelledImages, Records, reading_configured
from drifting.errors import InputError, MachineError, counted, one_line, while_reading
from drifting.runs.files import HASH_THREADS, check_readable, labels_sha256, read_json, sha256

logger = logging.getLogger("drifting")

CACHE_FORMAT, CACHE_VERSION = "drifting latents", 1

CACHE_FACTS_FILE, LABELS_FILE, MANIFEST_FILE = "facts.json", "labels.npy", "manifest.json"

MAKE_CACHE_AGAIN = "restore it, or make the cache again"
"""What to do with a damaged file of a cache."""

RANDOM_ACCESS = "readahead_buffer_size:0,max_parallelism:0"


def record_type(latent_shape: Sequence[int], flip: bool) -> np.dtype[np.void]:
    """One record, little-endian: `index` uint32, `label` int32, `moments` float16 `[views, h, w, 2 C]`.

    Moments are the posterior's mean and log-variance, one after the other along the last axis; views are the image and,
    with `flip`, its mirror image. `latent_shape`: `(h, w, C)` of the latents.
    """
    height, width, channels = latent_shape
    return np.dtype([("index", "<u4"), ("label", "<i4"), ("moments", "<f2", (1 + flip, height, width, 2 * channels))])


def shard_name(number: int, count: int) -> str:
    """Name of a shard, without its suffix."""
    return f"shard-{number:05}-of-{count:05}"


# --- what lies in a folder --------------------------------------------------------------------------------------------


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished cache: `format version facts images bad labels_sha256 latents shards`.

    Of a cache that was made before latents were measured, `latents` is missing.

    Raises:
        InputError: the folder holds no cache, one that is not finished, or the manifest of another one.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        if (folder / CACHE_FACTS_FILE).is_file():
            raise InputError(f"{folder}: the cache is not finished; run its `drifting cache` command again")
        raise InputError(f"{folder}: holds no cache of latents; give a folder that `drifting cache` wrote")
    manifest, facts = read_json(path, MAKE_CACHE_AGAIN), read_json(folder / CACHE_FACTS_FILE, MAKE_CACHE_AGAIN)
    if (manifest.get("format"), manifest.get("version")) != (CACHE_FORMAT, CACHE_VERSION):
        found = f"{manifest.get('format')!r} version {manifest.get('version')!r}"
        raise InputError(f"{path}: is {found}, not {CACHE_FORMAT!r} version {CACHE_VERSION}; make the cache again")
    if other := [key for key, value in facts.items() if manifest["facts"].get(key) != value]:
        was, now = facts[other[0]], manifest["facts"].get(other[0])
        raise InputError(f"{path}: of another cache ({other[0]} is {now!r}, here {was!r}); put the right one back")
    return manifest


def check_cache(folder: Path, verify: bool = False) -> list[str]:
    """What is wrong with a finished cache, a line each; none if all is well.

    Args:
        folder: the cache.
        verify: read everything and compare it with the checksums, rather than look at the files' sizes alone.
    """
    try:
        manifest = read_manifest(folder)
    except InputError as error:
        return [str(error)]

    def look(shard: dict[str, Any]) -> str | None:
        path, remedy = folder / shard["file"], "remove it and run the `drifting cache` command again"
        if not path.is_file():
            return f"{path}: is missing; run the `drifting cache` command again"
        if (size := path.stat().st_size) != shard["bytes"]:
            return f"{path}: has {size} bytes, not {shard['bytes']}; {remedy}"
        if verify and (found := sha256(path)) != shard["sha256"]:
            return f"{path}: is damaged, its SHA-256 is {found}, not {shard['sha256']}; {remedy}"
        return None

    with ThreadPoolExecutor(HASH_THREADS) as pool:
        problems = [line for line in pool.map(look, manifest["shards"]) if line]
    try:
        _read_labels(folder, manifest)
    except InputError as error:
        problems.append(str(error))
    return problems


def _require_none(problems: list[str]) -> None:
    if problems:
        raise InputError(problems[0] + (f" (and {counted(len(problems) - 1, 'more problem')})" if problems[1:] else ""))


def _read_labels(folder: Path, manifest: dict[str, Any]) -> NDArray[np.int32]:
    path = folder / LABELS_FILE
    try:
        with while_reading(path), path.open("rb") as file:
            labels: NDArray[np.int32] = np.load(file, allow_pickle=False).astype(np.int32)
    except MachineError:
        raise
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: cannot be read ({error}); run the `drifting cache` command again") from error
    if labels_sha256(labels) != manifest["labels_sha256"]:
        raise InputError(f"{path}: is damaged; remove it and run the `drifting cache` command again")
    return labels


# --- the source -------------------------------------------------------------------------------------------------------


class MomentSource(abc.ABC):
    """What sources of latents have in common: one image is read as several are.

    What is wrong with a file is said of `configured_path`, the setting `data.path` that the source is of, if it is.
    """

    labels: NDArray[np.int32]
    configured_path: str | None = None

    def read(self, indices: Indices, mirrored: NDArray[np.bool_], crop_seeds: Sequence[Seed] | None) -> Records:
        """Moments `[B, h, w, 2 C]` float16 of images, or where `mirrored` of their mirror images; labels `[B]`.

        Raises:
            InputError: mirror images or random crops are asked for and are not there, or a file cannot be read.
        """
        with reading_configured(self.configured_path):
            return self._read(indices, mirrored, crop_seeds)

    @abc.abstractmethod
    def _read(self, indices: Indices, mirrored: NDArray[np.bool_], crop_seeds: Sequence[Seed] | None) -> Records:
        """What `read` gives; each source has its own."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int, /) -> tuple[NDArray[Any], int]:
        moments, labels = self.__getitems__([range(len(self))[index]])
        return moments[0], int(labels[0])

    def __getitems__(self, indices: Indices, /) -> LabelledImages:
        """Moments `[B, h, w, 2 C]` float16, and labels `[B]` int32."""
        return self.read(indices, np.zeros(len(indices), bool), None)


class LatentSource(MomentSource):
    """The moments of a cache's latents, read when they are asked for: see `latents`.

    Attributes:
        shape: height, width, channels of the images that were encoded.
        sample_shape: height, width, channels of their latents.
        vae, vae_checksum: reference of the VAE, and checksum of its weights.
        flip: whether the mirror images' moments are there.
        labels: the class of each image, `[N]` int32.
        class_names, num_classes: the names of the classes, and how many there are.
        path: the folder.
    """

    name = "latents"

    def __init__(self, folder: Path) -> None:
        _require_none(check_cache(folder))
        manifest = read_manifest(folder)
        facts = manifest["facts"]
        self.path = folder
        self.labels = _read_labels(folder, manifest)
        self.class_names: tuple[str, ...] = tuple(facts["classes"])
        self.num_classes = len(self.class_names)
        height, width, channels = facts["shape"]
        self.shape: tuple[int, int, int] = (height, width, channels)
        height, width, channels = facts["latent_shape"]
        self.sample_shape: tuple[int, int, int] = (height, width, channels)
        self.vae: str = facts["vae"]
        self.vae_checksum: str = facts["vae_checksum"]
        self.flip: bool = facts["flip"]
        self.delivers = Delivery(
            shape=(height, width, 2 * channels),
            dtype="float16",
            vae=self.vae,
            vae_checksum=self.vae_checksum,
            mirrored=self.flip,
            path=str(folder),
            vae_scale=facts.get("vae_scale"),
            measured=manifest.get("latents"),
        )
        self._record = record_type(self.sample_shape, self.flip)
        self._files = [folder / shard["file"] for shard in manifest["shards"]]
        self._starts = np.cumsum([0] + [shard["records"] for shard in manifest["shards"]])
        self._readers: dict[int, Any] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """What a worker process is given: not the open files."""
        return {**self.__dict__, "_readers": {}, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = {**state, "_lock": threading.Lock()}

    def _read(self, indices: Indices, mirrored: NDArray[np.bool_], crop_seeds: Sequence[Seed] | None) -> Records:
        """Moments `[B, h, w, 2 C]` float16 of images, or where `mirrored` `[B]` of their mirror images; labels `[B]`.

        Raises:
            InputError: mirror images or random crops are asked for and were not encoded, or a shard cannot be read.
        """
        if crop_seeds is not None:
            raise InputError(f"{self.path}: latents cannot be cropped; leave data.random_crop=False")
        if mirrored.any() and not self.flip:
            raise InputError(f"{self.path}: was made without mirror images (cache.flip=False); set data.flip=False")
        rows = np.asarray(indices, dtype=np.int64)
        order = np.argsort(rows, kind="stable")
        ordered = rows[order]
        cuts = np.searchsorted(ordered, self._starts)
        if cuts[0] > 0 or cuts[-1] < len(rows):
            raise IndexError(f"an index lies outside of the {counted(len(self), 'sample')} of {self.path}")
        records: list[bytes] = []
        for shard in np.flatnonzero(np.diff(cuts)):
            records += self._read_shard(int(shard), ordered[cuts[shard] : cuts[shard + 1]] - self._starts[shard])
        table = np.frombuffer(b"".join(records), self._record)
        moments: NDArray[Any] = np.empty((len(rows), *self._record["moments"].shape[1:]), np.float16)
        moments[order] = table["moments"][np.arange(len(rows)), mirrored[order].astype(np.intp)]
        return moments, self.labels[rows]

    def _read_shard(self, shard: int, positions: NDArray[np.int64]) -> list[bytes]:
        try:
            with self._lock, while_reading(self._files[shard]):
                if shard not in self._readers:
                    self._readers[shard] = ArrayRecordReader(str(self._files[shard]), RANDOM_ACCESS)
            found: list[bytes] = self._readers[shard].read(positions.tolist())
        except MachineError:
            raise
        except Exception as error:  # the reader raises many kinds
            check_readable(self._files[shard])  # it opens what it may not read
            reason = one_line(error)[:200]
            remedy = "a verification by `drifting cache` finds what is damaged"
            raise InputError(f"{self._files[shard]}: cannot be read ({reason}); {remedy}") from error
        return found

    def verify(self) -> None:
        """Compares the whole cache with its checksums. Raises `InputError`, one line, where they differ."""
        size = sum(path.stat().st_size for path in self._files) / 1e9
        if size > 1:  # otherwise it takes no time
            logger.info("data: comparing %.0f GB of %s with its checksums (or set data.verify=False)", size, self.path)
        _require_none(check_cache(self.path, verify=True))
