"""Images that can be read in parts: out of a file, out of a folder, or out of a generator."""

import copy
import dataclasses
import hashlib
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from drifting.config.schema import SEED_LIMIT
from drifting.errors import InputError, require_argument, use_one_of
from drifting.method.space import Shape
from drifting.networks.network import Params
from drifting.runs.files import sha256
from drifting.sampling.generator import TrainedGenerator
from drifting.sampling.sampler import SAMPLER_BLOCK

Pixels = NDArray[np.uint8]

Tick = Callable[[int], None]
"""It is told of so many more images; what it raises ends the work."""

ROUNDINGS: dict[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {"truncate": np.trunc, "round": np.rint}
"""How numbers in [-1, 1] become levels: `(x + 1) * 127.5`, clipped to [0, 255], and then truncated, as the released
evaluation and ADM's do, or rounded, which is half a level brighter."""


def to_uint8(images: NDArray[np.float32], how: str, first: int = 0) -> Pixels:
    """Images in [-1, 1] as uint8; `how` is a key of `ROUNDINGS`, `first` the number of the first image, for the error.

    Raises:
        InputError: a pixel is not finite.
    """
    finite = np.isfinite(images).reshape(len(images), -1).all(axis=1)
    if not finite.all():
        raise InputError(f"image {first + int(finite.argmin())} has a pixel that is not finite")
    levels = ((images.astype(np.float32) + np.float32(1)) * np.float32(127.5)).clip(0, 255)
    return ROUNDINGS[how](levels).astype(np.uint8)


def nothing(count: int) -> None:
    """A `Tick` that does not care."""


class Images(Protocol):
    """A fixed number of uint8 images that can be had part by part, from files or out of a generator."""

    @property
    def shape(self) -> Shape:
        """Height, width and channels."""

    @property
    def facts(self) -> dict[str, Any]:
        """What the images depend on and where they are from, JSON-able."""

    @property
    def labels(self) -> NDArray[np.integer] | None:
        """`[N]`, if they are known."""

    def __len__(self) -> int: ...

    def part(self, items: range, tick: Tick = ...) -> Pixels:
        """Images `[n, H, W, C]` of consecutive numbers; `tick` is told of as many as there are, as they come."""


class NpzImages:
    """The images of an `.npz` of ADM's form.

    Raises:
        InputError: there is none, or it has no `arr_0` of uint8 `[N, H, W, C]`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._array, labels = open_member(path, "arr_0"), open_member(path, "arr_1")
        if self._array is None or self._array.dtype != np.uint8 or self._array.ndim != 4 or 0 in self._array.shape:
            found = "none" if self._array is None else f"{self._array.dtype} of {list(self._array.shape)}"
            raise InputError(f"{path}: arr_0 must be uint8 of [N, H, W, C], it has {found}")
        self.labels = labels if labels is not None and labels.shape == self._array.shape[:1] else None
        self.shape: Shape = (self._array.shape[1], self._array.shape[2], self._array.shape[3])

    @cached_property
    def facts(self) -> dict[str, Any]:
        """See `Images`; reads all of the file, for its checksum."""
        return {"images": str(self._path), "bytes": self._path.stat().st_size, "sha256": sha256(self._path)}

    def __len__(self) -> int:
        return len(self._array) if self._array is not None else 0

    def part(self, items: range, tick: Tick = nothing) -> Pixels:
        """See `Images`."""
        assert self._array is not None
        tick(len(items))
        return np.array(self._array[items.start : items.stop])


class FolderImages:
    """The image files of a folder, in the order of their names; those in sub-folders are of no interest.

    Raises:
        InputError: there are none.
    """

    labels = None

    def __init__(self, path: Path, suffixes: Sequence[str] = (".png", ".jpg", ".jpeg", ".webp", ".bmp")) -> None:
        self._path = path
        self._files = sorted(file for file in path.iterdir() if file.suffix.lower() in suffixes)
        self._files = [file for file in self._files if not file.name.startswith(".")]
        if not self._files:
            raise InputError(f"{path}: holds no images ({' '.join(suffixes)})")
        self.shape: Shape = self._read(self._files[0]).shape

    @cached_property
    def facts(self) -> dict[str, Any]:
        """See `Images`; reads all of the files, for a checksum of their names and contents."""
        digest = hashlib.sha256()
        for file in self._files:
            digest.update(f"{file.name} {sha256(file)}\n".encode())
        return {"images": str(self._path), "files": len(self._files), "sha256": digest.hexdigest()}

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

    @staticmethod
    def _read(file: Path) -> Pixels:
        try:
            with Image.open(file) as image:
                return np.atleast_3d(np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB")))
        except OSError as error:
            raise InputError(f"{file}: cannot be read as an image ({error})") from error


def open_images(path: Path) -> NpzImages | FolderImages:
    """The images of an `.npz` or of a folder.

    Raises:
        InputError: there are none.
    """
    if path.is_dir():
        return FolderImages(path)
    if not path.is_file():
        raise InputError(f"{path}: there is no such file or folder")
    if path.suffix != ".npz":
        raise InputError(f"{path}: give a folder of images or an .npz")
    return NpzImages(path)


def open_member(path: Path, name: str) -> NDArray[Any] | None:
    """One array of an `.npz`, mapped from the file where it is not compressed; None where there is none of that name.

    Raises:
        InputError: it is no `.npz`, or the array holds pickled objects.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if f"{name}.npy" not in archive.namelist():
                return None
            info = archive.getinfo(f"{name}.npy")
            stored = info.compress_type == zipfile.ZIP_STORED
            with archive.open(info) as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, fortran, dtype = read(file)
                begin = file.tell()
        if stored and not fortran and not dtype.hasobject and 0 not in shape:
            return np.memmap(path, dtype, "r", _data_offset(path, info) + begin, shape)
        with np.load(path, allow_pickle=False) as arrays:
            return arrays[name]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: {name} cannot be read as an array of an .npz file ({error})") from error


def _data_offset(path: Path, info: zipfile.ZipInfo) -> int:
    """Where a member's data begin: after its local header, whose name and extra field have lengths of their own."""
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)
        lengths = np.frombuffer(file.read(4), "<u2")
    return info.header_offset + 30 + int(lengths.sum())


class GeneratedImages:
    """uint8 images that are drawn when they are asked for; see `Images`.

    Args:
        trained: the generator.
        labels: the class of each image, `[N]`.
        source: what the person called the generator.
        seed: the seed of the first image; the others count on.
        alpha: the guidance scale.
        uint8: a key of `ROUNDINGS`.
        batch_size: how many images are in flight.

    Raises:
        ArgumentError: no such conversion, or seeds beyond the last.
    """

    def __init__(
        self,
        trained: TrainedGenerator,
        labels: NDArray[np.integer],
        *,
        source: str,
        seed: int = 0,
        alpha: float,
        uint8: str = "truncate",
        batch_size: int = 64,
    ) -> None:
        require_argument(uint8 in ROUNDINGS, "uint8", uint8, use_one_of(uint8, ROUNDINGS))
        remedy = f"with {len(labels):,} images the last seed must lie below 2^32"
        require_argument(0 <= seed <= SEED_LIMIT - len(labels), "seed", seed, remedy)
        self._trained, self._seed, self._alpha, self._uint8 = trained, seed, alpha, uint8
        self._sampler = trained.sampler(batch_size, len(labels))
        self.labels: NDArray[np.integer] = labels
        height, width, channels = trained.usage.image_shape
        self.shape = (height, width, channels)
        self.facts: dict[str, Any] = {
            "source": source,
            "step": trained.step,
            "ema_decay": trained.ema_decay,
            "weights": trained.params_checksum(),
            "vae": trained.space.checksums.get("vae"),
            "alpha": alpha,
            "num": len(labels),
            "seed": seed,
            "seeds": "image i has seed + i",
            "uint8": uint8,
            "uint8_rule": f"{uint8} (x + 1) * 127.5, clipped to [0, 255]",
            "image_shape": list(self.shape),
        }

    def at(self, alpha: float) -> Self:
        """The same seeds and labels at another guidance scale; nothing is compiled again."""
        other = copy.copy(self)
        other._alpha, other.facts = alpha, self.facts | {"alpha": alpha}
        return other

    def of(self, labels: NDArray[np.integer]) -> Self:
        """The same seeds with other labels `[N]`; nothing is compiled again."""
        other = copy.copy(self)
        other.labels, other.facts = labels, self.facts | {"num": len(labels)}
        return other

    def with_params(self, params: Params, step: int) -> Self:
        """The same images of the same network with other parameters; nothing is compiled again.

        The facts do not say which parameters: in training that would fetch all of them at each scoring.
        """
        other = copy.copy(self)
        other._trained = dataclasses.replace(self._trained, params=params)
        other.facts = self.facts | {"step": step, "weights": None}
        return other

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, items: range, tick: Tick = nothing) -> Pixels:
        """Images `[n, H, W, C]`; `items` begin with a block.

        Raises:
            InputError: a pixel is not finite.
        """
        assert items.start % SAMPLER_BLOCK == 0
        seeds, labels = np.arange(items.start, items.stop) + self._seed, self.labels[items.start : items.stop]
        drawn, first = [], items.start
        for block in self._sampler.stream(self._trained.params, labels, seeds, self._alpha):
            try:
                drawn.append(to_uint8(block, self._uint8, first))
            except InputError as error:
                raise InputError(f"{self.facts['source']}: {error}: the generator has diverged") from error
            first += len(block)
            tick(len(block))
        return np.concatenate(drawn)
