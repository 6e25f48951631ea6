"""Writing a cache of latents shard by shard: images are read, encoded and recorded. `read.py` says what is written.

The work is cut into shards, which depend on the settings alone: shard `k` holds the images `[k S, (k + 1) S)` of the
source, in order and without those that cannot be read. Each process makes whole shards, so the records are the same
whatever the number of processes and however often they were killed (on accelerators whose compiler chooses algorithms
by timing them, but for rounding). A shard is finished when its `.json` is there, which is written last.
"""

import logging
import os
import tempfile
import time
import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from numpy.typing import NDArray

from drifting.config.schema import CacheConfig
from drifting.data.latents.read import (
    CACHE_FACTS_FILE,
    CACHE_FORMAT,
    CACHE_VERSION,
    LABELS_FILE,
    MAKE_CACHE_AGAIN,
    MANIFEST_FILE,
    record_type,
)
from drifting.data.latents.shards import Shard
from drifting.data.latents.statistics import ChannelSums, mean_and_deviation, sums_of_shard
from drifting.data.source import LabelledSource, Source
from drifting.errors import CacheError, InputError, MachineError, UnusableMomentsError, counted, one_line, refusal
from drifting.runs.directory import CONFIG_FILE
from drifting.runs.files import atomic_path, flush, labels_sha256, read_json, remove_torn, sha256, write_json
from drifting.runs.places import is_stored
from drifting.runs.progress import Progress, duration

logger = logging.getLogger("drifting")

Image = NDArray[np.float32]

Encode = Callable[[Image], Any]
"""Images `[B, H, W, C]` to moments `[B, views, h, w, 2 C]` float16, an array that may still be being computed."""

LISTED_AT_MOST = 10
"""How many images that could not be read, and classes without any, the last messages name."""


def _cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_or_error(source: Source, index: int) -> Image | InputError:
    """An image `[H, W, C]` of a source, or what is wrong with it.

    Raises:
        MachineError: it cannot be opened now, which is no reason to leave it out.
    """
    try:
        return source[index][0]
    except InputError as error:
        if refusal(error) is not None:
            raise MachineError(f"{error}: nothing was left out, run the same command again") from error
        return error


def is_mended(source: Source, shard: Shard) -> bool:
    """Whether an image that was left out of a finished shard can be read by now."""
    left_out = (shard.finished() or {"bad": []})["bad"]
    mended = [image["index"] for image in left_out if not isinstance(read_or_error(source, image["index"]), InputError)]
    if mended:
        logger.info("cache: image %d can be read now, %s is made again", mended[0], shard.path.name)
    return bool(mended)


def _check_bad(bad: int, images: int, max_bad: float, reason: str) -> None:
    """Raises `CacheError` where more of the images cannot be read than may be; `reason` is that of the last."""
    if bad > max_bad * images:
        raise CacheError(
            f"cache: {bad} of {counted(images, 'image')} cannot be read, more than "
            f"cache.max_bad={max_bad:g} allows, the last "
            f"because: {reason}; finished shards stay: raise cache.max_bad or mend the images, and run the command "
            "again (without them it is another cache: choose another folder)"
        )


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """What keeps a shard from being written, such as a full disk, ends the work with one line."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        reason = refusal(error) or one_line(error)[:300]
        remedy = "make room or mend that, and run the same command again"
        raise CacheError(f"{path}: a shard cannot be written ({reason}); finished shards stay; {remedy}") from error


@dataclass
class _Made:
    """What has been found of the shard under way: its latents' sums and labels, the images left out, and the start."""

    sums: ChannelSums
    labels: list[int] = field(default_factory=list)
    bad: list[dict[str, Any]] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)


class ShardMaker:
    """Makes shards: threads decode ahead of the devices, which compute a batch while the one before is written.

    Args:
        source: the images and their labels.
        encode: computes the moments of a batch of images.
        latent_shape: height, width and channels of the latents of one image.
        settings: how images are read, batched and recorded.
        shards: all shards of the cache, those of other processes included.
    """

    def __init__(
        self,
        source: LabelledSource,
        encode: Encode,
        latent_shape: Sequence[int],
        settings: CacheConfig,
        shards: Sequence[Shard],
    ) -> None:
        self._source, self._encode, self._shards, self._settings = source, encode, shards, settings
        self._record = record_type(latent_shape, settings.flip)
        self._channels = latent_shape[2]
        self._made, self._bad_before = _Made(ChannelSums(self._channels)), 0

    def make(self, missing: Sequence[Shard], interrupted: Callable[[], bool]) -> bool:
        """Makes shards one after the other; returns whether all are made, or False after an interrupt."""
        workers = self._settings.workers or _cores()
        total = sum(len(shard.indices) for shard in missing)
        pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        progress = Progress(total, label="cache", unit="images")
        try:
            with progress:
                images = self._decoded(pool, missing, ahead=2 * self._settings.batch_size + workers)
                done = 0
                for shard in missing:
                    with closing(self._make_shard(shard, images)) as steps:
                        for step in steps:
                            done += step
                            progress.update(done, {"bad": self._bad_before + len(self._made.bad)})
                            if interrupted():
                                return False
            return True
        finally:
            pool.shutdown(cancel_futures=True)

    def _decoded(
        self, pool: ThreadPoolExecutor, shards: Sequence[Shard], ahead: int
    ) -> Iterator[tuple[int, Image | InputError]]:
        """Indices and images in order, of which `ahead` are decoded before they are asked for, over shards' ends."""
        indices = chain.from_iterable(shard.indices for shard in shards)
        waiting: deque[tuple[int, Future[Image | InputError]]] = deque()

        def start(index: int) -> None:
            waiting.append((index, pool.submit(read_or_error, self._source, index)))

        for index in islice(indices, ahead):
            start(index)
        while waiting:
            index, future = waiting.popleft()
            for following in islice(indices, 1):
                start(following)
            yield index, future.result()

    def _make_shard(self, shard: Shard, images: Iterator[tuple[int, Image | InputError]]) -> Generator[int]:
        """Makes one shard; yields the number of images of each batch once it is under way."""
        self._made = _Made(ChannelSums(self._channels))
        self._bad_before = sum(len(found["bad"]) for other in self._shards if (found := other.finished()))
        temporary = shard.path.with_name(f".{shard.path.name}.{uuid.uuid4().hex}.tmp")
        if is_stored(shard.path):  # the library writes files of this machine
            temporary = Path(tempfile.gettempdir(), temporary.name)
        writer = ArrayRecordWriter(str(temporary), "group_size:1,uncompressed")
        try:
            before: tuple[list[int], Any] | None = None
            left = len(shard.indices)
            while left:
                indices, batch, taken = self._take_batch(islice(images, left))
                left -= taken
                now = (indices, self._encode(batch))
                if before is not None:
                    self._write(shard, writer, *before)
                before = now
                yield taken
            if before is not None:
                self._write(shard, writer, *before)
            with _writing(shard.path):
                writer.close()
                self._publish(shard, temporary)
        finally:
            if writer.is_open():
                writer.close()
            temporary.unlink(missing_ok=True)

    def _take_batch(self, images: Iterator[tuple[int, Image | InputError]]) -> tuple[list[int], Image, int]:
        """Indices and images of the next batch, padded with zeros, and how many images were looked at for it."""
        batch = np.zeros((self._settings.batch_size, *self._source.shape), np.float32)
        indices: list[int] = []
        taken = 0
        for index, image in images:
            taken += 1
            if isinstance(image, InputError):
                self._skip(index, image)
                continue
            batch[len(indices)] = image
            indices.append(index)
            if len(indices) == len(batch):
                break
        return indices, batch, taken

    def _skip(self, index: int, error: InputError) -> None:
        reason = one_line(error)
        logger.warning("cache: skipped image %d: %s", index, reason)
        self._made.bad.append({"index": index, "reason": reason})
        _check_bad(self._bad_before + len(self._made.bad), len(self._source), self._settings.max_bad, reason)

    def _write(self, shard: Shard, writer: Any, indices: list[int], moments: Any) -> None:
        """Writes a record for each of the images `indices`, the first rows of `moments`."""
        table = np.zeros(len(indices), self._record)
        table["index"], table["label"] = indices, self._source.labels[indices]
        table["moments"] = np.asarray(moments)[: len(indices)]
        finite = np.isfinite(table["moments"]).all(axis=(1, 2, 3, 4))
        if not finite.all():
            index = indices[int(finite.argmin())]
            raise UnusableMomentsError(
                f"cache: moments of image {index} are not finite in float16; is data.vae the right one?"
            )
        with _writing(shard.path):
            for row in table:
                writer.write(row.tobytes())
        self._made.sums.add(table["moments"])
        self._made.labels += table["label"].tolist()

    def _publish(self, shard: Shard, temporary: Path) -> None:
        """Gives a written shard its name, and records it: from then on it is finished."""
        flush(temporary)
        found = {
            "file": shard.path.name,
            "records": len(self._made.labels),
            "bytes": temporary.stat().st_size,
            "sha256": sha256(temporary),
            "labels": self._made.labels,
            "bad": self._made.bad,
            "latents": self._made.sums.recorded(),
            "seconds": round(time.monotonic() - self._made.began, 3),
        }
        # What is recorded of a shard that was there before must not vouch for the new one.
        shard.record.unlink(missing_ok=True)
        if is_stored(shard.path):
            shard.path.upload(temporary)
        else:
            os.replace(temporary, shard.path)
            flush(shard.path.parent)
        write_json(shard.record, found)


def finish_cache(workdir: Path, shards: Sequence[Shard], max_bad: float, images: int, seconds: float) -> bool:
    """Writes the manifest if the shards of all processes are finished; says what there is.

    Args:
        workdir: the cache's folder.
        shards: all shards of the cache.
        max_bad: the share of the images that may be left out.
        images: how many images this process has encoded, for the message.
        seconds: how long that took, for the message.

    Returns:
        Whether the cache is whole.

    Raises:
        CacheError: too many images cannot be read. While shards are made, each process knows only the finished ones.
    """
    found = [record for shard in shards if (record := shard.finished())]
    bad = [image for record in found for image in record["bad"]]
    if bad:
        _check_bad(len(bad), shards[-1].indices.stop, max_bad, bad[-1]["reason"])
    if len(found) < len(shards):
        logger.info(
            "cache: this process is done, %s in %s; %s of other processes still missing",
            counted(images, "image"), duration(seconds), counted(len(shards) - len(found), "shard"),
        )  # fmt: skip
        return False
    labels = np.concatenate([np.asarray(record["labels"], np.int32) for record in found])
    with atomic_path(workdir / LABELS_FILE) as temporary:
        with temporary.open("wb") as file:
            np.save(file, labels.astype("<i4"), allow_pickle=False)
        flush(temporary)
    keys, facts = ("file", "records", "bytes", "sha256"), read_json(workdir / CACHE_FACTS_FILE, MAKE_CACHE_AGAIN)
    manifest: dict[str, Any] = {
        "format": CACHE_FORMAT,
        "version": CACHE_VERSION,
        "facts": facts,
        "images": len(labels),
        "bad": bad,
        "labels_sha256": labels_sha256(labels),
        "latents": _measured(workdir, found, facts),
        "shards": [{key: record[key] for key in keys} for record in found],
    }
    write_json(workdir / MANIFEST_FILE, manifest)
    remove_torn(workdir / CONFIG_FILE, workdir / CACHE_FACTS_FILE)  # by now all processes have got past those
    took = duration(sum(record.get("seconds", 0.0) for record in found))
    logger.info(
        "cache: done, %s encoded in %s, of all processes and calls together, %d left out; %s holds %s",
        counted(len(labels), "image"), took, len(bad), workdir, _size(sum(record["bytes"] for record in found)),
    )  # fmt: skip
    _warn_of_gaps(bad, manifest["facts"]["classes"], set(labels.tolist()), workdir)
    return True


def _measured(workdir: Path, records: Sequence[dict[str, Any]], facts: dict[str, Any]) -> dict[str, Sequence[float]]:
    """Mean and deviation of each channel of the latents of all shards; those without sums are read."""
    kind = record_type(facts["latent_shape"], facts["flip"])
    parts = (
        shard.get("latents") or sums_of_shard(workdir / shard["file"], kind, shard["records"]) for shard in records
    )
    return mean_and_deviation(parts, facts["latent_shape"][2])


def _warn_of_gaps(bad: Sequence[dict[str, Any]], names: Sequence[str], present: set[int], workdir: Path) -> None:
    """Warns of images that are left out, and of classes none of whose images can be read."""
    if bad:
        logger.warning(
            "cache: %s left out that could not be read, all listed in %s; once mended, the same command takes them in "
            "(the data set without them is another cache: choose another folder)",
            counted(len(bad), "image"), workdir / MANIFEST_FILE,
        )  # fmt: skip
        for image in bad[:LISTED_AT_MOST]:
            logger.warning("cache: image %d: %s", image["index"], image["reason"])
    if empty := [name for label, name in enumerate(names) if label not in present]:
        listed = ", ".join(empty[:LISTED_AT_MOST]) + (", .." if empty[LISTED_AT_MOST:] else "")
        logger.warning(
            "cache: %d of %s without an image that can be read, which training asks for: %s",
            len(empty), counted(len(names), "class"), listed,
        )  # fmt: skip


def _size(count: float) -> str:
    """`32.8 MB` of a count of bytes."""
    return f"{count / 1e9:.3g} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"
