"""The small image sets of the literature, from their original files or from TFDS: MNIST, Fashion-MNIST, CIFAR-10.

All are read into memory once. TFDS is read without TensorFlow, so its data must lie there prepared as array_record.
"""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from drifting.data.source import ArraySource, check_split
from drifting.data.sources.tfds import tfds_images
from drifting.errors import InputError, MachineError, counted, while_reading

DIGITS = tuple(str(c) for c in range(10))

CLOTHES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

CIFAR_FILES = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "heldout": ["test_batch.bin"]}


def mnist(path: str | Path, split: str = "train") -> ArraySource:
    """Handwritten digits (LeCun et al. 1998), 28x28x1: 60,000 for training and 10,000 held out.

    Args:
        path: a folder with the four original files (`train-images-idx3-ubyte`, .., also `.gz`), or a TFDS data
            directory with `mnist/VERSION`.
        split: `train` or `heldout`.

    Raises:
        InputError: `path` holds neither, or a file is damaged.
    """
    return _grey("mnist", Path(path), split, DIGITS)


def fashion_mnist(path: str | Path, split: str = "train") -> ArraySource:
    """Articles of clothing (Xiao et al. 2017), 28x28x1; files, numbers and arguments are those of `mnist`."""
    return _grey("fashion_mnist", Path(path), split, CLOTHES)


def cifar10(path: str | Path, split: str = "train") -> ArraySource:
    """Small photographs (Krizhevsky 2009), 32x32x3: 50,000 for training and 10,000 held out.

    Args:
        path: a folder with the files of the *binary* version (`data_batch_1.bin`, ..), perhaps in its sub-folder
            `cifar-10-batches-bin`, or a TFDS data directory with `cifar10/VERSION`.
        split: `train` or `heldout`.

    Raises:
        InputError: `path` holds neither, or a file is damaged.
    """
    check_split(split)
    folder, files = Path(path), CIFAR_FILES[split]
    for base in (folder, folder / "cifar-10-batches-bin"):
        if (base / files[0]).is_file():
            return ArraySource(*_cifar([base / name for name in files]), CIFAR10, name="cifar10")
    if (folder / "data_batch_1").is_file() or (folder / "cifar-10-batches-py").is_dir():
        raise InputError(f"path={str(path)!r} holds the Python version of CIFAR-10, a pickle: get the binary version")
    return _tfds("cifar10", folder, split, CIFAR10, files[0] + (", .." if files[1:] else ""))


def _grey(name: str, folder: Path, split: str, class_names: tuple[str, ...]) -> ArraySource:
    check_split(split)
    prefix = "train" if split == "train" else "t10k"
    images, labels = (_either(folder / f"{prefix}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1"))
    if images is None or labels is None:
        return _tfds(name, folder, split, class_names, f"{prefix}-images-idx3-ubyte and {prefix}-labels-idx1-ubyte")
    pixels, numbers = _idx(images, 3), _idx(labels, 1)
    if len(pixels) != len(numbers) or len(numbers) == 0 or numbers.max() >= len(class_names):
        found = f"{counted(len(pixels), 'image')}, {counted(len(numbers), 'label')}"
        raise InputError(f"{images} and {labels} do not belong together: {found}")
    return ArraySource(pixels[..., None], numbers, class_names, name=name)


def _either(path: Path) -> Path | None:
    """The file, or its compressed form."""
    return next((p for p in (path, path.with_name(path.name + ".gz")) if p.is_file()), None)


def _idx(path: Path, axes: int) -> NDArray[np.uint8]:
    """An array of an IDX file: two zero bytes, type 8 (uint8), the number of axes, their lengths, the data."""
    try:
        with while_reading(path):
            data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        zeros, kind, found, *shape = struct.unpack_from(f">HBB{axes}I", data)
    except MachineError:
        raise
    except (OSError, EOFError, struct.error, zlib.error) as error:
        raise InputError(f"{path} is damaged ({error}): get it again") from error
    start = 4 + 4 * axes
    if (zeros, kind, found) != (0, 8, axes) or len(data) != start + np.prod(shape):
        raise InputError(f"{path} is no IDX file of {axes} axes, or is cut short: get it again")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _cifar(paths: list[Path]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images `[N, 32, 32, 3]` and labels of files whose records are a label and the red, green and blue planes."""
    records = []
    for path in paths:
        try:
            with while_reading(path):
                data = np.fromfile(path, np.uint8)
        except MachineError:
            raise
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error}): get it again") from error
        if len(data) == 0 or len(data) % 3073 or data[::3073].max() > 9:
            raise InputError(f"{path} is no file of CIFAR-10's binary version, or is cut short: get it again")
        records.append(data.reshape(-1, 3073))
    rows = np.concatenate(records)
    return rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), rows[:, 0]


def _tfds(name: str, folder: Path, split: str, class_names: tuple[str, ...], files: str) -> ArraySource:
    if not folder.is_dir():
        raise InputError(f"path={str(folder)!r}: there is no such folder")
    if not (folder / name).is_dir():
        raise InputError(f"path={str(folder)!r} has neither {files} nor a TFDS folder {name}/: give the right one")
    shape = (32, 32, 3) if name == "cifar10" else (28, 28, 1)
    return ArraySource(*tfds_images(folder / name, split, shape), class_names, name=name)
