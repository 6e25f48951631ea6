"""Which files of a folder are images."""

import errno
import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from drifting.errors import InputError, MachineError, counted, refusal

logger = logging.getLogger("drifting")

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"}
)

COMPANION_SUFFIXES = frozenset({".txt", ".json", ".jsonl", ".csv", ".tsv", ".xml", ".md"})
"""Endings of lists, labels and notes: they lie beside images and nobody takes them for some."""

COMPANIONS = frozenset({"thumbs.db", "desktop.ini"})
"""Files that a desktop puts beside images, in lower case; those that begin with a dot are ignored anyway."""

ARCHIVERS_FOLDER = "__MACOSX"
"""What macOS's archiver puts beside the folders of an archive: it holds no images, whatever their names."""

NAMED_ENDINGS = 5
"""Endings that a warning names, the most frequent."""

FolderIdentity = tuple[int, int]
"""Device and inode: what two paths of one folder have in common."""


@dataclass
class _Listing:
    """What is found below folders, and what is left out."""

    images: list[str] = field(default_factory=list)
    irregular: list[str] = field(default_factory=list)
    unread: Counter[str] = field(default_factory=Counter)


def image_files(folder: Path) -> list[str]:
    """The images of one folder: see `image_files_of`."""
    return image_files_of([folder])[0]


def image_files_of(folders: Sequence[Path]) -> list[list[str]]:
    """For each folder its image files at any depth, in the order of their paths.

    Names that begin with a dot and `__MACOSX` are ignored. Links to folders are followed. One that leads back to a
    folder above itself is left out, with a warning. What has an image's name and is no regular file (a pipe, a
    socket, a device) is left out with one warning for all folders, and so are files of other endings than images and
    their companions have.

    Raises:
        InputError: a folder cannot be read.
    """
    left_out, found = _Listing(), []
    for folder in folders:
        listing = _Listing(irregular=left_out.irregular, unread=left_out.unread)
        above = tuple(_identity(str(parent)) for parent in folder.absolute().parents)
        _gather(str(folder), above, listing)
        found.append(sorted(listing.images, key=lambda file: file.split(os.sep)))
    _warn(left_out)
    return found


def _gather(folder: str, above: tuple[FolderIdentity, ...], listing: _Listing) -> None:
    """Adds the images of a folder. A million of them: no call of the system for each that is no link."""
    try:
        identity = _identity(folder)
        if identity in above:
            logger.warning("data: %s leads back to a folder above it and is left out", folder)
            return
        with os.scandir(folder) as entries:
            shown = [entry for entry in entries if is_shown(entry.name)]
        folders = [entry.path for entry in shown if _is(entry.is_dir)]
        below = set(folders)
        for entry in shown:
            if entry.path not in below:
                _add(entry, listing)
    except OSError as error:
        if refusal(error) is not None:
            raise MachineError(f"{folder}: cannot be read ({error.strerror}); make it readable") from error
        raise InputError(f"{folder}: cannot be read ({error}); make it readable") from error
    for path in folders:
        _gather(path, (*above, identity), listing)


def _identity(folder: str) -> FolderIdentity:
    about = os.stat(folder)
    return about.st_dev, about.st_ino


def _add(entry: os.DirEntry[str], listing: _Listing) -> None:
    """Sorts what is no folder. It is never opened: to open a pipe waits for its writer."""
    ending = os.path.splitext(entry.name)[1].lower()
    if is_image(entry.name):
        # A link to nothing is no regular file either, but a fault of the folder: whoever reads it names it.
        odd = not _is(entry.is_file) and os.path.exists(entry.path)
        (listing.irregular if odd else listing.images).append(entry.path)
    elif ending not in COMPANION_SUFFIXES and entry.name.lower() not in COMPANIONS and _is(entry.is_file):
        listing.unread[ending] += 1


def _is(kind: Callable[[], bool]) -> bool:
    """What an entry's `is_dir` or `is_file` says; a link to itself, of which they raise, is neither."""
    try:
        return kind()
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return False


def _warn(left_out: _Listing) -> None:
    if left_out.irregular:
        first, *others = sorted(left_out.irregular)
        more = f" (and {len(others)} more)" if others else ""
        logger.warning("data: %s%s is no regular file and is left out", first, more)
    if left_out.unread:
        endings = [f"{ending or 'no ending'} {n}" for ending, n in left_out.unread.most_common(NAMED_ENDINGS)]
        more = ", .." if len(left_out.unread) > NAMED_ENDINGS else ""
        number = counted(left_out.unread.total(), "file")
        logger.warning("data: %s left out, of kinds that are not read (%s%s)", number, ", ".join(endings), more)


def is_image(name: str) -> bool:
    """Whether a file is an image by its name."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith(".")


def is_shown(name: str) -> bool:
    """Whether a file or a folder is looked at: names that begin with a dot and `__MACOSX` are not."""
    return not name.startswith(".") and name != ARCHIVERS_FOLDER
