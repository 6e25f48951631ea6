"""Arrays out of `.npz` files, and whether they are what images are kept in."""

import logging
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drifting.errors import InputError, MachineError, counted, one_line, while_reading

logger = logging.getLogger("drifting")

PICKLE = (
    "a pickle (as the statistics of EDM and torch-fidelity are), which can run anything when it is read and is never "
    "read here: where it is trusted, save its arrays by numpy.savez"
)

BEGINNINGS = {
    b"\x80": PICKLE,
    b"\x93NUMPY": "one array (.npy) without a name: save it by numpy.savez",
    b"<": "a web page or XML, as a download that failed leaves it: get it again",
    b"\x89HDF": "HDF5: save its arrays by numpy.savez",
    b"\x1f\x8b": "compressed by gzip: unpack it",
}
"""What a file is that begins like this."""


def open_member(path: Path, name: str) -> NDArray[Any] | None:
    """One array of an `.npz`, mapped from the file where it is not compressed; None where there is none of that name.

    Raises:
        InputError: it is no `.npz`, or the array holds pickled objects.
    """
    if path.exists() and not path.is_file():  # to open a pipe waits for its writer
        raise InputError(f"{path}: is {'a folder' if path.is_dir() else 'no regular file'}: give an .npz file")
    try:
        with while_reading(path), zipfile.ZipFile(path) as archive:
            if any(member.endswith(".pkl") for member in archive.namelist()):
                raise InputError(f"it is a file of PyTorch, {PICKLE}")
            if f"{name}.npy" not in archive.namelist():
                return None
            info = archive.getinfo(f"{name}.npy")
            with archive.open(info) as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, fortran, dtype = read(file)
                begin = file.tell()
        if dtype.hasobject:
            raise InputError("it holds pickled objects, which are never read here: save plain arrays")
        if info.compress_type == zipfile.ZIP_STORED and not fortran and 0 not in shape:
            return np.memmap(path, dtype, "r", _data_offset(path, info) + begin, shape)
        with np.load(path, allow_pickle=False) as arrays:
            found: NDArray[Any] = arrays[name]
            return found
    except MachineError:
        raise
    except Exception as error:  # zipfile and NumPy raise errors of any kind on damaged files
        reason = one_line(error)
        if not isinstance(error, OSError | InputError):
            reason = _what_is(path) or f"{reason}: get it again, or save its arrays by numpy.savez"
        raise InputError(f"{path}: {name} cannot be read as an array of an .npz file: {reason}") from error


def member_names(path: Path) -> list[str]:
    """The names of all arrays of an `.npz` that `open_member` reads."""
    with zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def _what_is(path: Path) -> str | None:
    """What a file is that is no `.npz`, by its first bytes; None: nobody knows."""
    with path.open("rb") as file:
        first = file.read(8)
    if not first:
        return "it is empty: get it again"
    if path.suffix in (".pkl", ".pickle"):
        return f"it is {PICKLE}"
    return next((f"it is {what}" for begin, what in BEGINNINGS.items() if first.startswith(begin)), None)


def _data_offset(path: Path, info: zipfile.ZipInfo) -> int:
    """Where a member's data begin: after its local header, whose name and extra field have lengths of their own."""
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)
        lengths = np.frombuffer(file.read(4), "<u2")
    return info.header_offset + 30 + int(lengths.sum())


def check_axes(shape: Sequence[int], what: str) -> None:
    """Asks about axes `[N, H, W, C]` that are almost surely others, wherever images are given as an array.

    Raises:
        InputError: channels come before rows. `what` begins the message.
    """
    _, height, width, channels = shape
    if channels > 4 and height <= 4 < width:
        raise InputError(
            f"{what} has shape {tuple(shape)}, which looks like [N, C, H, W]: give [N, H, W, C], "
            "numpy.transpose(images, (0, 2, 3, 1))"
        )
    if channels > 4 and width <= 4 < height:
        raise InputError(
            f"{what} has shape {tuple(shape)}, which looks like [H, W, C, N]: give [N, H, W, C], "
            "numpy.transpose(images, (3, 0, 1, 2))"
        )
    if channels not in (1, 3):
        logger.warning(
            "%s has %s (shape %s): is that so? Pictures have 1 or 3; of more than 4, samples are written as "
            ".npz alone", what, counted(channels, "channel"), tuple(shape),
        )  # fmt: skip


def check_range(low: float, high: float, dtype: np.dtype[Any], what: str) -> None:
    """Asks about values, uint8 or floats in [-1, 1] from `low` to `high`, whose range is almost surely another."""
    if dtype == np.uint8 and 0 < high <= 1:
        logger.warning("%s is uint8 and has no value above 1: is that so? Levels go to 255", what)
    elif dtype != np.uint8 and low >= 0 and high > low:
        logger.warning(
            "%s is float from %.3g to %.3g: does it go from 0 to 1? Floats go from -1 (black) to 1 (white): give "
            "2 * images - 1, or uint8", what, low, high,
        )  # fmt: skip
