"""Where the pictures and labels of tar shards lie, gathered once by going through the headers of all shards."""

import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from drifting.data.image_files import IMAGE_SUFFIXES
from drifting.data.sources.splits import not_what_it_seems
from drifting.errors import InputError, counted, one_line, while_reading

BLOCK = 512
"""Bytes of a block of a tar file; two blocks of zeros are the mark of its end."""

Sample = dict[str, tarfile.TarInfo]
"""The members of a sample by their endings, in small letters and without the dot."""


def tar_index(shards: Sequence[Path], image: str | None, label: str | None, field: str) -> dict[str, NDArray[Any]]:
    """For each sample `shard offset size` of its picture, its `key`, and `label`, integers or texts.

    Args:
        shards: the tar files.
        image: ending of the pictures; None: the first ending of an image that a sample has.
        label: ending of the labels; None: `cls`, or `json`, if the first sample has one. Without labels the array is
            empty.
        field: the key of the label in a member that is JSON.

    Raises:
        InputError: a shard is damaged or cut short, a sample lacks a member, or a label cannot be read.
    """
    rows: list[tuple[int, int, int]] = []
    keys: list[bytes] = []
    labels: list[int | str] = []
    for number, shard in enumerate(shards):
        with while_reading(shard), shard.open("rb") as file:
            for key, sample in _samples(shard):
                if label is None:
                    label = _ending_of_labels(file, sample, field)
                picture = _picture(shard, key, sample, image)
                rows.append((number, picture.offset_data, picture.size))
                keys.append(key.encode())
                if label:
                    member = _member(shard, key, sample, label, "label")
                    file.seek(member.offset_data)
                    labels.append(_label(f"{shard}: {member.name}", file.read(member.size), label, field))
    if not rows:
        raise InputError(f"{shards[0].parent}: the {counted(len(shards), 'shard')} hold no samples: give others")
    table = np.asarray(rows, np.int64)
    values = np.asarray(labels, None if all(isinstance(value, int) for value in labels) else str)
    return {"shard": table[:, 0], "offset": table[:, 1], "size": table[:, 2], "key": np.asarray(keys), "label": values}


def _samples(shard: Path) -> Iterator[tuple[str, Sample]]:
    """The samples of a shard: what lies one behind the other and has the same name up to its first dot."""
    key, sample = "", Sample()
    for member in _members(shard):
        folder, slash, name = member.name.rpartition("/")
        stem, dot, ending = name.partition(".")
        if not dot or not stem or name.startswith("."):
            continue
        if (now := folder + slash + stem) != key and sample:
            yield key, sample
            sample = {}
        key = now
        sample[ending.lower()] = member
    if sample:
        yield key, sample


def _members(shard: Path) -> Iterator[tarfile.TarInfo]:
    """The plain files in a shard, whose data all are there. `tarfile` takes some that are cut short for whole."""
    size = shard.stat().st_size
    try:
        with tarfile.open(shard, "r:") as archive:
            end = 0
            for member in archive:
                end = member.offset_data + -(-member.size // BLOCK) * BLOCK if member.isreg() else archive.offset
                if end > size:
                    raise InputError(f"{shard}: is cut short within {member.name}, at {size:,} bytes: copy it again")
                archive.members = []  # type: ignore[attr-defined]  # it keeps all that it has seen
                if member.isreg():
                    yield member
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise InputError(f"{shard}: is no tar file ({one_line(error)}): {not_what_it_seems(shard)}") from error
    if size < end + BLOCK:
        raise InputError(f"{shard}: is cut short, at {size:,} bytes without the mark of its end: copy it again")


def _picture(shard: Path, key: str, sample: Sample, image: str | None) -> tarfile.TarInfo:
    if image is not None:
        return _member(shard, key, sample, image, "image")
    found = [ending for ending in sample if f".{ending.rpartition('.')[2]}" in IMAGE_SUFFIXES]
    if not found:
        raise InputError(f"{shard}: sample {key!r} has no picture, but {', '.join(sample)}: leave it out")
    if len(found) > 1:
        raise InputError(
            f"{shard}: sample {key!r} has the pictures {', '.join(found)}: "
            f"set data.options.webdataset.image to one of them"
        )
    return sample[found[0]]


def _member(shard: Path, key: str, sample: Sample, ending: str, what: str) -> tarfile.TarInfo:
    if (found := sample.get(ending.lower().removeprefix("."))) is None:
        raise InputError(
            f"options.webdataset.{what}={ending!r}: sample {key!r} of {shard} has no such member, "
            f"but {', '.join(sample)}"
        )
    return found


def _ending_of_labels(file: BinaryIO, sample: Sample, field: str) -> str:
    """`cls`, or `json` where the field is in it, or nothing."""
    if "cls" in sample or "json" not in sample:
        return "cls" if "cls" in sample else ""
    file.seek(sample["json"].offset_data)
    try:
        found = json.loads(file.read(sample["json"].size))
    except ValueError:
        return ""
    return "json" if isinstance(found, dict) and field in found else ""


def _label(member: str, content: bytes, ending: str, field: str) -> int | str:
    """The label in a member: a number or a name, by itself or in JSON."""
    try:
        text = content.decode().strip()
        found: Any = text
        if ending.lower().endswith("json"):
            found = json.loads(text)
            found = found.get(field) if isinstance(found, dict) else found
    except ValueError as error:
        raise InputError(f"{member}: holds no label ({one_line(error)}): mend it") from error
    if isinstance(found, str) and found.removeprefix("-").isdecimal():
        return int(found)
    if not isinstance(found, int | str) or not str(found):
        remedy = f"has no number or name at {field!r}: set data.options.webdataset.field to the key of the label"
        raise InputError(f"{member}: {remedy}")
    return found if isinstance(found, str) else int(found)
