"""Members of a zip archive by index: read where they lie, by any number of threads."""

import os
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from drifting.errors import InputError, while_reading

LOCAL_HEADER = 30
"""Bytes of a member's own header before its name and its extra field, whose lengths are the last four of them."""


@dataclass(frozen=True)
class ZipMembers:
    """Some members of an archive.

    Attributes:
        path: the archive.
        names: their names, `[N]` bytes.
        places: `[N, 3]`: where each begins, how many bytes it takes, and how it is packed.
    """

    path: Path
    names: NDArray[Any]
    places: NDArray[np.int64]

    @classmethod
    def of(cls, path: Path, members: Sequence[zipfile.ZipInfo]) -> Self:
        """The members that the archive's list describes.

        Raises:
            InputError: one is encrypted, or packed in an unusual way.
        """
        for info in members:
            if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise InputError(
                    f"{path}: {info.filename} is encrypted, or packed otherwise than zip's deflate: pack it anew"
                )
        places = [(info.header_offset, info.compress_size, info.compress_type) for info in members]
        return cls(path, np.asarray([info.filename.encode() for info in members]), np.asarray(places, np.int64))

    def called(self, index: int) -> str:
        """What a message calls a member."""
        return f"{self.names[index].decode()} in {self.path}"

    def content(self, index: int) -> bytes:
        """What a member holds.

        Raises:
            InputError: it is damaged.
            MachineError: it cannot be read now.
        """
        offset, packed, method = self.places[index].tolist()
        with while_reading(self.path), self.path.open("rb", buffering=0) as file:
            header = os.pread(file.fileno(), LOCAL_HEADER, offset)
            lengths = int(np.frombuffer(header[26:30], "<u2").sum())
            content = os.pread(file.fileno(), packed, offset + LOCAL_HEADER + lengths)
        try:
            return content if method == zipfile.ZIP_STORED else zlib.decompress(content, -zlib.MAX_WBITS)
        except zlib.error as error:
            raise InputError(f"{self.called(index)}: cannot be unpacked ({error}): copy the archive again") from error
