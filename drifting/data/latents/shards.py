"""The shards that a cache is made in."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drifting.data.latents.read import shard_name
from drifting.errors import InputError
from drifting.runs.files import exists, read_json
from drifting.runs.shared_work import ranges

RECORDED_KEYS = {"file", "records", "bytes", "sha256", "labels", "bad"}
"""What has to be known of a finished shard."""


@dataclass(frozen=True)
class Shard:
    """The images `indices` of the source, in the files `path` and `record`, of which the latter is written last."""

    path: Path
    record: Path
    indices: range

    def finished(self) -> dict[str, Any] | None:
        """What is recorded of the shard: `file records bytes sha256 labels bad seconds`; None while not finished.

        Raises:
            MachineError: that cannot be told now.
        """
        try:
            if not exists(self.record) or not exists(self.path):
                return None
            found = read_json(self.record)
            whole = self.path.stat().st_size == found["bytes"] and len(found["labels"]) == found["records"]
            return found if whole and found.keys() >= RECORDED_KEYS else None
        except (InputError, KeyError, TypeError):  # damaged: made again
            return None


def shards_of(folder: Path, samples: int, size: int) -> list[Shard]:
    """The shards of so many samples, `size` each but for the last."""
    parts = ranges(samples, size)
    names = [folder / shard_name(number, len(parts)) for number in range(len(parts))]
    return [
        Shard(name.with_suffix(".array_record"), name.with_suffix(".json"), indices)
        for name, indices in zip(names, parts, strict=True)
    ]
