"""Images that are there already, read part by part: of a data set, of an `.npz`, of a folder."""

import errno
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drifting.data.decode import decode, is_grey
from drifting.data.image_files import IMAGE_SUFFIXES, image_files
from drifting.data.npz import check_axes, check_range, member_names, open_member
from drifting.data.source import LabelledSource, delivery
from drifting.errors import ConfigError, InputError
from drifting.method.space import Shape
from drifting.runs.files import sha256
from drifting.sampling.images import Pixels, Tick, nothing, to_uint8

RANGE_IMAGES = 256
"""Images of a file whose range is looked at before the others are read."""


class SourceImages:
    """The images of a data set, as uint8: what they were before they were delivered as floats.

    Raises:
        ConfigError: it holds latents.
    """

    def __init__(self, source: LabelledSource, facts: dict[str, Any]) -> None:
        if delivery(source).are_moments:
            raise ConfigError(f"data.name={source.name!r}: holds latents, a reference is of images: name those")
        self._source, self.shape, self.labels, self.facts = source, source.shape, source.labels, facts

    def __len__(self) -> int:
        return len(self._source)

    def part(self, items: range, tick: Tick = nothing) -> Pixels:
        """See `Images`."""
        images = to_uint8(self._source.__getitems__(items)[0], "round", items.start)
        tick(len(images))
        return images


class NpzImages:
    """The images of an `.npz` of ADM's form.

    Raises:
        InputError: there is none, or it has no `arr_0` of uint8 `[N, H, W, C]`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        array, labels = open_member(path, "arr_0"), open_member(path, "arr_1")
        if array is None:
            raise InputError(f"{path}: has no arr_0, uint8 of [N, H, W, C], but {', '.join(member_names(path))}")
        if 0 in array.shape:
            raise InputError(f"{path}: arr_0 has the shape {list(array.shape)}, no image: give some, [N, H, W, C]")
        if array.dtype != np.uint8 or array.ndim != 4:
            found = f"{array.dtype} of {list(array.shape)}"
            raise InputError(f"{path}: arr_0 must be uint8 of [N, H, W, C], it has {found}{_to_levels(array)}")
        check_axes(array.shape, f"{path}: arr_0")
        check_range(0, int(array[:RANGE_IMAGES].max()), array.dtype, f"{path}: arr_0")
        self._array = array
        self.labels = labels if labels is not None and labels.shape == array.shape[:1] else None
        self.shape: Shape = (array.shape[1], array.shape[2], array.shape[3])

    @cached_property
    def facts(self) -> dict[str, Any]:
        """See `Images`; reads all of the file, for its checksum."""
        return {"images": str(self.path), "bytes": self.path.stat().st_size, "sha256": sha256(self.path)}

    def __len__(self) -> int:
        return len(self._array)

    def part(self, items: range, tick: Tick = nothing) -> Pixels:
        """See `Images`."""
        tick(len(items))
        return np.array(self._array[items.start : items.stop])


class FolderImages:
    """The image files of a folder and of those in it, in the order of their paths, decoded as those trained on are.

    They are grey if all of them are, otherwise RGB.

    Raises:
        InputError: there are none, or one cannot be read.
    """

    labels = None

    def __init__(self, path: Path) -> None:
        self.path, self._files = path, image_files(path)
        if not self._files:
            raise InputError(f"{path}: holds no images ({' '.join(sorted(IMAGE_SUFFIXES))})")
        self._channels = 1 if all(is_grey(file, Path(file)) for file in self._files) else 3
        self.shape: Shape = self._read(self._files[0]).shape

    @cached_property
    def facts(self) -> dict[str, Any]:
        """See `Images`; reads all of the files, for a checksum of their names and contents."""
        digest = hashlib.sha256()
        for file in map(Path, self._files):
            try:
                checksum = sha256(file)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ELOOP):
                    raise
                remedy = "it is a link to nothing, or was removed meanwhile: put it back, or remove the link"
                raise InputError(f"cannot read the image {file}: {remedy}") from error
            digest.update(os.fsencode(f"{file.relative_to(self.path).as_posix()} {checksum}\n"))
        return {"images": str(self.path), "files": len(self._files), "sha256": digest.hexdigest()}

    def __len__(self) -> int:
        return len(self._files)

    def part(self, items: range, tick: Tick = nothing) -> Pixels:
        """See `Images`. Raises `InputError` for a file that cannot be read or has another size than the first."""
        with ThreadPoolExecutor() as pool:
            found = list(pool.map(self._read, self._files[items.start : items.stop]))
        for file, image in zip(self._files[items.start :], found, strict=False):
            if image.shape != self.shape:
                raise InputError(f"{file}: is {image.shape}, the images before it {self.shape}: give one size")
        tick(len(found))
        return np.stack(found)

    def _read(self, file: str) -> Pixels:
        return np.atleast_3d(decode(file, Path(file), self._channels))


def _to_levels(array: NDArray[Any]) -> str:
    """How floats of the range that these seem to have become levels."""
    if array.dtype.kind != "f":
        return ""
    if array.min() < 0:
        return "; of floats in [-1, 1]: (127.5 * (x + 1)).astype('uint8')"
    return "; of floats in [0, 1]: (255 * x).astype('uint8')" if array.max() <= 1 else "; of levels: x.astype('uint8')"


def open_images(path: Path) -> NpzImages | FolderImages:
    """The images of an `.npz` or of a folder.

    Raises:
        InputError: there are none.
    """
    if path.is_dir():
        return FolderImages(path)
    if not path.is_file():
        raise InputError(f"{path}: {'is no regular file' if path.exists() else 'there is no such file or folder'}")
    if path.suffix != ".npz":
        raise InputError(f"{path}: give a folder of images or an .npz")
    return NpzImages(path)
