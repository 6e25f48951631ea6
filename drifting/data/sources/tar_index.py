"""Where the pictures and labels of tar shards lie, gathered once by going through the headers of all shards."""

import json
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from drifting.data.class_labels import label_values
from drifting.data.image_files import IMAGE_SUFFIXES
from drifting.data.sources.labelling import class_folders
from drifting.data.sources.splits import not_what_it_seems
from drifting.errors import InputError, counted, one_line, while_reading

LABEL_FIELD = "label"
"""The key of the label in members that are JSON, where nobody says another."""

BLOCK = 512
"""Bytes of a block of a tar file; two blocks of zeros are the mark of its end."""

Sample = dict[str, tarfile.TarInfo]
"""The members of a sample by their endings, in small letters and without the dot."""


TAR_KEYS = ("shard", "offset", "size", "key", "label")


@dataclass(frozen=True)
class WebDatasetOptions:
    """Which members of a sample in tar shards are read."""

    image: Annotated[str | None, "ending of the pictures, such as jpg; None: the only one of an image"] = None
    label: Annotated[str | None, "ending of the labels; None: cls or json, or there are no labels"] = None
    field: Annotated[str | None, "key of the label in a member that is JSON; None: label, if it is there"] = None
    classes: Annotated[
        str | None, "list of the classes' names, one a line, beside the shards; None: classnames.txt if it is there"
    ] = None


def tar_index(shards: Sequence[Path], options: WebDatasetOptions) -> dict[str, NDArray[Any]]:
    """For each sample `shard offset size` of its picture, its `key`, and `label`, integers or texts.

    Labels are those of the members that the options name; else those of `cls`, or of `json` where no sample has that;
    else the folders that the samples lie in. Without any the array is empty.

    Raises:
        InputError: a shard is damaged or cut short, a sample lacks a member, a label cannot be read, or some samples
            have one and others none.
    """
    rows: list[tuple[int, int, int]] = []
    keys: list[str] = []
    labels = _Labels(options)
    for number, shard in enumerate(shards):
        with while_reading(shard), shard.open("rb") as file:
            for key, sample in _samples(shard):
                picture = _picture(shard, key, sample, options.image)
                rows.append((number, picture.offset_data, picture.size))
                keys.append(key)
                labels.add(shard, key, sample, file)
    if not rows:
        raise InputError(f"{shards[0].parent}: the {counted(len(shards), 'shard')} hold no samples: give others")
    table = np.asarray(rows, np.int64)
    values = labels.found(lambda place: f"{shards[rows[place][0]]}: sample {keys[place]!r}")
    if not len(values) and (folders := class_folders(shards[0].parent, keys)) is not None:
        values = folders
    encoded = np.asarray([key.encode() for key in keys])
    return {"shard": table[:, 0], "offset": table[:, 1], "size": table[:, 2], "key": encoded, "label": values}


class _Labels:
    """The labels of samples, one after the other, of each ending that may be the one of labels."""

    def __init__(self, options: WebDatasetOptions) -> None:
        ending = options.label if options.label is not None or options.field is None else "json"
        if options.field is not None and not str(ending).lower().endswith("json"):
            raise InputError(
                f"options.webdataset.field={options.field!r}: members .{ending} have no keys, those of JSON do: "
                "leave one of options.webdataset.field and label None"
            )
        self._given, self._field = ending, options.field
        self._values: dict[str, list[Any]] = {
            name: [] for name in ((ending,) if ending is not None else ("cls", "json"))
        }

    def add(self, shard: Path, key: str, sample: Sample, file: BinaryIO) -> None:
        """Reads those of one sample. JSON of captions and the like is no fault where nobody asked for it."""
        if self._given is not None:
            of, value = ("field", self._field) if self._field is not None else ("label", self._given)
            named = _member(shard, key, sample, self._given, of, value)
            self._values[self._given].append(_label(shard, named, file, self._field))
            return
        member = sample.get("cls")
        self._values["cls"].append(None if member is None else _label(shard, member, file, None))
        lacks = member is None and "json" in sample
        self._values["json"].append(_field_of(_content(sample["json"], file), LABEL_FIELD) if lacks else None)

    def found(self, called: Callable[[int], str]) -> NDArray[Any]:
        """The labels of all samples; empty where there are none. `called`: what a message calls a sample."""
        for values in self._values.values():
            found = label_values(values, called, "give it one, or leave it out")
            if len(found):
                return found
        return np.asarray([], np.int64)


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
    size, end, name = shard.stat().st_size, 0, ""
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                name = member.name
                end = member.offset_data + -(-member.size // BLOCK) * BLOCK if member.isreg() else archive.offset
                if end > size:
                    raise InputError(f"{shard}: is cut short within {member.name}, at {size:,} bytes: copy it again")
                archive.members = []  # type: ignore[attr-defined]  # it keeps all that it has seen
                if member.isreg():
                    yield member
    except InputError:
        raise
    except (tarfile.TarError, EOFError, ValueError) as error:
        if name and re.search("empty|truncated|end of data", str(error)):  # within headers of the next member
            raise InputError(f"{shard}: is cut short behind {name}, at {size:,} bytes: copy it again") from error
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


def _member(
    shard: Path, key: str, sample: Sample, ending: str, option: str, value: str | None = None
) -> tarfile.TarInfo:
    """The member of an ending, for which an option of some value asks; None: of the ending itself."""
    if (found := sample.get(ending.lower().removeprefix("."))) is None:
        raise InputError(
            f"options.webdataset.{option}={value or ending!r}: sample {key!r} of {shard} has no "
            f"member .{ending.removeprefix('.')}, but {', '.join(sample)}"
        )
    return found


def _content(member: tarfile.TarInfo, file: BinaryIO) -> bytes:
    file.seek(member.offset_data)
    return file.read(member.size)


def _field_of(content: bytes, field: str) -> Any:
    """What a member that is JSON has at a key; None: nothing, or it is no such member."""
    try:
        found = json.loads(content)
    except ValueError:
        return None
    return found.get(field) if isinstance(found, dict) else None


def _label(shard: Path, member: tarfile.TarInfo, file: BinaryIO, field: str | None) -> Any:
    """The label in a member: a number or a name, by itself or in JSON."""
    where, content = f"{shard}: {member.name}", _content(member, file)
    try:
        found: Any = content.decode().strip()
        if is_json := member.name.lower().endswith("json"):
            found = json.loads(found)
    except ValueError as error:
        raise InputError(f"{where}: holds no label ({one_line(error)}): mend it") from error
    if is_json and isinstance(found, dict):
        key = LABEL_FIELD if field is None else field
        if found.get(key) is None:
            setting = "" if field is None else f"options.webdataset.field={field!r}: "
            remedy = "set data.options.webdataset.field to the key of the label"
            raise InputError(
                f"{setting}{where} has no number or name at {key!r}, but {', '.join(found)[:200]}: {remedy}"
            )
        found = found[key]
    elif field is not None:
        raise InputError(f"options.webdataset.field={field!r}: {where} is JSON without keys: leave it None")
    if found == "":
        raise InputError(f"{where}: holds no label, it is empty: mend it")
    return found
