"""Which files of a data set are of a split, by the words in their names."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from drifting.data.image_files import is_shown
from drifting.data.source import SPLITS, check_split
from drifting.errors import InputError

SPLIT_WORDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "train": (("train", "training"),),
    "heldout": (("heldout",), ("validation", "valid", "val", "dev"), ("test", "testing")),
}
"""Words for each split; of several kinds that are there the first counts."""

UNPACKED_BY = {".gz": "gunzip", ".bz2": "bunzip2", ".xz": "unxz", ".zst": "unzstd"}
"""What unpacks a compressed file, by the ending that it has besides its own."""


def split_files(path: Path, suffixes: Sequence[str], split: str, what: str) -> list[Path]:
    """The files of a split, sorted: `path` itself, or those below it whose names end with one of `suffixes`.

    A file is of the split whose word is in its name, or in that of the nearest folder that has one: `train-00000.tar`,
    `val/0000.parquet`. Files without such a word are training data.

    Args:
        path: a file, which is training data, or a folder.
        suffixes: endings in small letters, with their dots.
        split: `train` or `heldout`.
        what: what messages call such files.

    Raises:
        InputError: there are none.
    """
    check_split(split)
    if not path.is_dir():
        if not path.is_file():
            raise InputError(f"path={str(path)!r}: there is no such file or folder: give one with {what}")
        if split == "heldout":
            raise InputError(f"path={str(path)!r} is one file, of training data: give a folder with one for each split")
        return [path]
    files = _files(path, tuple(suffixes))
    if not files:
        holds = f"path={str(path)!r} holds no {what} ({', '.join(suffixes)})"
        if packed := _files(path, tuple(f"{suffix}{ending}" for suffix in suffixes for ending in UNPACKED_BY)):
            remedy = f"unpack them by `{UNPACKED_BY[packed[0].suffix.lower()]}`"
            raise InputError(f"{holds} but compressed ones, such as {packed[0].name}: {remedy}")
        raise InputError(f"{holds}: give a folder that does")
    words = [_split_of(file.relative_to(path)) for file in files]
    for kind in range(len(SPLIT_WORDS[split])):
        if found := [file for file, word in zip(files, words, strict=True) if word == (split, kind)]:
            return found
    wanted = " or ".join(word for kind in SPLIT_WORDS[split] for word in kind[:1])
    raise InputError(
        f"path={str(path)!r} has no {what} with {wanted} in their names, which split={split!r} needs: add some"
    )


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(filter(is_shown, folders))
        found += [Path(parent, name) for name in names if is_shown(name) and name.lower().endswith(suffixes)]
    return sorted(file for file in found if file.is_file())


def _split_of(file: Path) -> tuple[str, int]:
    for part in reversed(file.parts):
        words = re.split("[^a-z]+", part.lower())
        for split in SPLITS:
            for kind, known in enumerate(SPLIT_WORDS[split]):
                if any(word in known for word in words):
                    return split, kind
    return "train", 0


def not_what_it_seems(file: Path) -> str:
    """What to do about a file that cannot be read as what it should be."""
    with file.open("rb") as opened:
        first = opened.read(20)
    if first.startswith(b"version https://git"):
        return "it is a pointer of Git LFS: fetch its content by `git lfs pull`"
    if first.startswith(b"\x1f\x8b"):
        return "it is compressed by gzip: unpack it"
    return "it is cut short, damaged or something else: copy it again"
