"""The shards that a cache is made in, and files of it that a crash leaves whole or not at all."""

import json
import os
from collections.abc import Iterable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drifting.data.latents.read import read_json, shard_name
from drifting.runs.files import atomic_path

RECORDED = {"file", "records", "bytes", "sha256", "labels", "bad"}
"""What has to be known of a finished shard."""


@dataclass(frozen=True)
class Shard:
    """The images `indices` of the source, in the files `path` and `record`, of which the latter is written last."""

    path: Path
    record: Path
    indices: range

    def finished(self) -> dict[str, Any] | None:
        """What is recorded of the shard: `file records bytes sha256 labels bad seconds`; None while not finished."""
        try:
            found = read_json(self.record)
            whole = self.path.stat().st_size == found["bytes"] and len(found["labels"]) == found["records"]
            return found if whole and found.keys() >= RECORDED else None
        except (OSError, ValueError, KeyError, TypeError):  # not there, or damaged: made again
            return None


def shards_of(folder: Path, samples: int, size: int) -> list[Shard]:
    """The shards of so many samples, `size` each but for the last."""
    count = -(-samples // size)
    names = [folder / shard_name(number, count) for number in range(count)]
    return [
        Shard(
            name.with_suffix(".array_record"), name.with_suffix(".json"), range(k * size, min((k + 1) * size, samples))
        )
        for k, name in enumerate(names)
    ]


def remove_temporary(paths: Iterable[Path]) -> None:
    """Removes what killed processes left of files that no other process is writing now."""
    for path in paths:
        for stale in path.parent.glob(f".{path.name}.*.tmp"):
            stale.unlink(missing_ok=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON object so that it survives a crash: whole, or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")
        flush(temporary)
    flush(path.parent)


def flush(path: Path) -> None:
    """Waits until a file or a folder's entries are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError) if path.is_dir() else nullcontext():  # some network file systems cannot flush folders
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
