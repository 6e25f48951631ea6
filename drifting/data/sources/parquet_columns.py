"""Which columns of a table hold pictures and labels, and what classes the table declares."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from drifting.errors import InputError

LABEL_NAMES = ("label", "labels", "class")
"""Names under which a column of labels is looked for where none is of the hub's type ClassLabel."""


@dataclass(frozen=True)
class ParquetOptions:
    """Which columns of parquet or arrow files are read."""

    image: Annotated[str | None, "column of encoded pictures; None: the only one"] = None
    label: Annotated[
        str | None,
        "column of classes, numbers or names; None: the only ClassLabel or the one called label, or there is none",
    ] = None


def columns_of(path: Path, schema: Any, options: ParquetOptions) -> tuple[str, str | None, tuple[str, ...] | None]:
    """The columns of pictures and of labels, if there are some, and the names of the classes if they are declared.

    Raises:
        InputError: there is no such column, none, or several; or it holds something else.
    """
    features = _features(schema)
    image = _column(path, schema, "image", options.image, _holds_pictures, [])
    if options.label is None:
        declared = [name for name in schema.names if features.get(name, {}).get("_type") == "ClassLabel"]
        found = declared or [name for name in schema.names if name.lower() in LABEL_NAMES]
        if not found:
            return image, None, None
        label = _column(path, schema, "label", None, _holds_labels, found)
    else:
        label = _column(path, schema, "label", options.label, _holds_labels, [])
    names = features.get(label, {}).get("names")
    return image, label, tuple(map(str, names)) if names else None


def _column(
    path: Path, schema: Any, key: str, given: str | None, fits: Callable[[Any], bool], candidates: Sequence[str]
) -> str:
    setting, columns = f"options.parquet.{key}", ", ".join(f"{field.name} ({_kind(field.type)})" for field in schema)
    if given is not None:
        if given not in schema.names:
            raise InputError(f"{setting}={given!r}: {path} has no such column, but {columns}")
        candidates = [given]
    found = candidates or [field.name for field in schema if fits(field.type)]
    if len(found) != 1:
        what = "no column" if not found else f"{len(found)} columns"
        raise InputError(f"{path}: has {what} of {key}s that can be read: set data.{setting} to one of {columns}")
    kind = schema.field(found[0]).type
    if not fits(kind):
        wanted = "encoded pictures" if key == "image" else "whole numbers or names"
        raise InputError(f"{setting}={found[0]!r}: of {path} holds {_kind(kind)}, not {wanted}; there are {columns}")
    return found[0]


def _features(schema: Any) -> dict[str, Any]:
    """The hub's description of the columns, which its files carry."""
    try:
        found = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return {name: kind for name, kind in found.items() if isinstance(kind, dict)} if isinstance(found, dict) else {}


def _holds_pictures(kind: Any) -> bool:
    """Whether a type is that of encoded pictures: bytes, or the hub's bytes and path."""
    from pyarrow import types

    if types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_pictures(kind.field("bytes").type)
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def _holds_labels(kind: Any) -> bool:
    """Whether a type is that of numbers or names; whether floats are whole numbers their values say."""
    from pyarrow import types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    return bool(
        types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)
        or types.is_string(kind) or types.is_large_string(kind)
    )  # fmt: skip


def _kind(kind: Any) -> str:
    return " ".join(str(kind).split())[:60]
