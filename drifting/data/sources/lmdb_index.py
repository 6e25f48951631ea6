"""The images in LMDB databases: under which keys they lie, and their labels."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from os import getpid
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drifting.data.sources.caffe_datum import parse_datum
from drifting.data.sources.labelling import ListOptions, labelled_rows
from drifting.data.sources.splits import SPLIT_WORDS
from drifting.errors import InputError, MachineError, one_line, while_reading

SUFFIXES = ("data.mdb", ".lmdb")

PICTURES = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"P5", b"P6")
"""What images begin with: JPEG, PNG, WebP, GIF, BMP, TIFF, PGM, PPM."""


CHANNELS_FIRST, PICKLE_FIRST = b"\x08", b"\x80"
"""How a `Datum` begins, with the number of channels, and a pickle."""

END = b"."
"""What is put behind keys, of which NumPy would strip zeros at their end."""


def lmdb_index(files: list[Path], table: Path | None, options: ListOptions) -> dict[str, NDArray[Any]]:
    """For each image its `key`, its `database`, whether it is a `datum`, and `label`; empty where there are none."""
    rows: list[tuple[bytes, int, bool, int | str | None]] = []
    for number, file in enumerate(files):
        with reading_database(file), environment(file, getpid()).begin(buffers=True) as transaction:
            rows += [(key, number, *about) for key, about in _images(file, transaction)]
    labels: list[Any] = [row[3] for row in rows]
    if table is not None:
        found = labelled_rows(table, [text_of(row[0]) for row in rows], options, "lmdb")
        if found is not None:
            rows, labels = [rows[place] for place in found[0]], found[1].tolist()
    elif len(files) > 1 and labels[0] is None:
        folders = [_class_of(file) for file in files]
        labels = [folders[row[1]] for row in rows]
    known = all(label is not None for label in labels)
    kind = None if all(isinstance(label, int) for label in labels) else str
    return {
        "key": np.asarray([row[0] + END for row in rows]),
        "database": np.asarray([row[1] for row in rows]),
        "datum": np.asarray([row[2] for row in rows]),
        "label": np.asarray(labels if known else [], kind if known else None),
    }


def _images(file: Path, transaction: Any) -> Iterator[tuple[bytes, tuple[bool, int | str | None]]]:
    """The keys of a database under which images lie; whether each is a `Datum`, and its label if it has one."""
    images, others = 0, b""
    for key, value in transaction.cursor():
        key, begin = bytes(key), bytes(value[:4])
        if begin.startswith(PICTURES):
            label = transaction.get(key.replace(b"image", b"label")) if b"image" in key else None
            yield key, (False, None if label is None else _number_or_name(bytes(label)))
        elif begin[:1] == CHANNELS_FIRST and len(value) > len(begin):
            yield key, (True, parse_datum(bytes(value)).label)
        else:
            others = others or key + (b" is a pickle" if begin[:1] == PICKLE_FIRST else b" begins with %r" % begin)
            continue
        images += 1
    if others and not images:
        raise InputError(f"it holds no images and no Datum of Caffe ({text_of(others)}; pickles are never read here)")


def _number_or_name(content: bytes) -> int | str:
    return int(text) if (text := text_of(content)).isdecimal() else text


def _class_of(file: Path) -> str:
    """The class that a database of a folder of several is of: `bedroom` of `bedroom_train_lmdb/data.mdb`."""
    name = file.parent.name if file.name == SUFFIXES[0] else file.stem
    words = {word for kinds in SPLIT_WORDS.values() for kind in kinds for word in kind} | {"lmdb"}
    return "_".join(word for word in re.split("_", name) if word.lower() not in words) or name


@cache
def environment(file: Path, process: int) -> Any:
    """A database, which a process may open only once; threads share it, and a forked process opens its own."""
    import lmdb as library

    whole = file.name == SUFFIXES[0]
    place = str(file.parent if whole else file)
    found = library.open(place, subdir=whole, readonly=True, lock=False, readahead=False)
    pages, size = found.info()["last_pgno"] + 1, file.stat().st_size
    if size < (needed := pages * found.stat()["psize"]):  # what is not there would be read, and end the process
        found.close()
        raise InputError(f"it is cut short, {size:,} of {needed:,} bytes")
    return found


@contextmanager
def reading_database(file: Path) -> Iterator[None]:
    """What is wrong with a database becomes an `InputError` that names it."""
    try:
        with while_reading(file):
            yield
    except MachineError:
        raise
    except Exception as error:  # the library's errors derive from Exception alone
        raise InputError(f"{file}: cannot be read ({one_line(error)[:200]}): copy it again, or make it anew") from error


def text_of(content: bytes) -> str:
    """A key as messages have it."""
    return content.decode(errors="replace")
