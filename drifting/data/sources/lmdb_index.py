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

from drifting.data.class_labels import label_values
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


LMDB_KEYS = ("key", "database", "datum", "label", "pickles")


def lmdb_index(files: list[Path], table: Path | None, options: ListOptions) -> dict[str, NDArray[Any]]:
    """For each image its `key`, its `database`, whether it is a `datum`, and `label`; empty where there are none.

    And `pickles`, the number of entries `[1]` that are some.

    Raises:
        InputError: a database is damaged or holds no images, or some have labels and others none.
    """
    rows: list[tuple[bytes, int, bool, int | str | None]] = []
    pickles: list[bytes] = []
    for number, file in enumerate(files):
        with reading_database(file), environment(file, getpid()).begin(buffers=True) as transaction:
            rows += [(key, number, *about) for key, about in _images(transaction, pickles)]
    found = None if table is None else labelled_rows(table, [text_of(row[0]) for row in rows], options, "lmdb")
    if found is not None:
        rows, labels = [rows[place] for place in found[0]], found[1]
    elif len(files) > 1 and all(row[3] is None for row in rows):
        folders = [_class_of(file) for file in files]
        labels = np.asarray([folders[row[1]] for row in rows], str)
    else:
        labels = label_values(
            [row[3] for row in rows],
            lambda place: f"{files[rows[place][1]]}: {text_of(rows[place][0])!r}",
            "give it one, or leave it out",
        )
    return {
        "key": np.asarray([row[0] + END for row in rows], bytes),
        "database": np.asarray([row[1] for row in rows], np.int64),
        "datum": np.asarray([row[2] for row in rows], bool),
        "label": labels,
        "pickles": np.asarray([len(pickles)]),
    }


def _images(transaction: Any, pickles: list[bytes]) -> Iterator[tuple[bytes, tuple[bool, int | str | None]]]:
    """The keys of a database under which images lie; whether each is a `Datum`, and its label if it has one.

    The keys of entries that are pickles are added to `pickles`.
    """
    images, others = 0, b""
    for key, value in transaction.cursor():
        key, begin = bytes(key), bytes(value[:4])
        if begin.startswith(PICTURES):
            label = transaction.get(key.replace(b"image", b"label")) if b"image" in key else None
            yield key, (False, None if label is None else text_of(bytes(label)).strip())
        elif begin[:1] == CHANNELS_FIRST and len(value) > len(begin):
            yield key, (True, parse_datum(bytes(value)).label)
        else:
            others = others or key + (b" is a pickle" if begin[:1] == PICKLE_FIRST else b" begins with %r" % begin)
            pickles += [key] if begin[:1] == PICKLE_FIRST else []
            continue
        images += 1
    if others and not images:
        raise InputError(f"it holds no images and no Datum of Caffe ({text_of(others)}; pickles are never read here)")


def _class_of(file: Path) -> str:
    """The class that a database of a folder of several is of: `bedroom` of `bedroom_train_lmdb/data.mdb`."""
    name = file.parent.name if file.name == SUFFIXES[0] else file.stem
    words = {word for kinds in SPLIT_WORDS.values() for kind in kinds for word in kind} | {"lmdb"}
    return "_".join(word for word in re.split("_", name) if word.lower() not in words) or name


def environment(file: Path, process: int) -> Any:
    """A database, which a process may open only once; threads share it, and a forked process opens its own."""
    return _environment(file.resolve(), process)


@cache
def _environment(file: Path, process: int) -> Any:
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
