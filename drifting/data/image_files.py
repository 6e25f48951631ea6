"""Which files of a folder are images."""

import logging
import os
from pathlib import Path

from drifting.errors import InputError, MachineError, refusal

logger = logging.getLogger("drifting")

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"}
)

FolderIdentity = tuple[int, int]
"""Device and inode: what two paths of one folder have in common."""


def image_files(folder: Path) -> list[str]:
    """The image files at any depth, in the order of their paths; names that begin with a dot are ignored.

    Links to folders are followed. One that leads back to a folder above itself is left out, with a warning.

    Raises:
        InputError: a folder cannot be read.
    """
    found: list[str] = []
    _gather(str(folder), (), found)
    return sorted(found, key=lambda file: file.split(os.sep))


def _gather(folder: str, above: tuple[FolderIdentity, ...], found: list[str]) -> None:
    """Adds the images of a folder. A million of them: no call of the system for each that is no link."""
    try:
        about = os.stat(folder)
        identity = (about.st_dev, about.st_ino)
        if identity in above:
            logger.warning("data: %s leads back to a folder above it and is left out", folder)
            return
        with os.scandir(folder) as entries:
            shown = [entry for entry in entries if not entry.name.startswith(".")]
        folders = [entry.path for entry in shown if entry.is_dir()]
    except OSError as error:
        if refusal(error) is not None:
            raise MachineError(f"{folder}: cannot be read ({error.strerror}); make it readable") from error
        raise InputError(f"{folder}: cannot be read ({error}); make it readable") from error
    below = set(folders)
    found += [entry.path for entry in shown if entry.path not in below and is_image(entry.name)]
    for path in folders:
        _gather(path, (*above, identity), found)


def is_image(name: str) -> bool:
    """Whether a file is an image by its name."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith(".")
