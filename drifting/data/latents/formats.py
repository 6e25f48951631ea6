"""Latents that other code has written: what its files hold, told by what lies in a folder. docs/data.md has the facts.

A new format is a class with the members of `LatentFiles`, and an entry in `LATENT_FORMATS`.
"""

import io
import json
import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from drifting.data.class_labels import UNLABELLED, classes_of, label_numbers
from drifting.data.image_files import is_shown
from drifting.data.zip_members import ZipMembers
from drifting.errors import InputError, MachineError, counted, one_line, while_reading

SD_SCALE, SD_VAE = 0.18215, "hf://stabilityai/sd-vae-ft-mse"
"""Stable Diffusion's scaling factor, and its VAE; its other fine-tuning (ema) has the same encoder."""


LOOKED_AT = 100
"""Entries of a folder by which its format is told."""


class LatentFiles(Protocol):
    """The latents of a folder, in the order of their names.

    Attributes:
        writer: whose code writes such files, for messages.
        scale: what it multiplies latents by.
        vae: the VAE that it takes by default; '' where there is none that can be named.
        deviations: whether moments are means and standard deviations, rather than log-variances.
        statistics: `mean` and `std` of each channel, `[C]` float64, of what lies beside the files; None: nothing does.
        mirrored: whether the latents of mirror images are there.
        labels, class_names: `[N]` integers, and their names.
    """

    writer: str
    scale: float
    vae: str
    deviations: bool
    statistics: dict[str, NDArray[np.float64]] | None
    mirrored: bool
    labels: NDArray[np.int32]
    class_names: tuple[str, ...]

    def channels_last(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of such a shape has its channels at the end."""

    def read(self, index: int, mirror: bool) -> NDArray[Any]:
        """The array of one image.

        Raises:
            InputError: it cannot be read.
        """


class ReleasedCode:
    """`CLASS/IMAGE.pt`: `torch.save` of the arrays `moments` and `moments_flip`, channels last."""

    writer, scale, vae, deviations, mirrored = "the released code (.pt)", SD_SCALE, SD_VAE, False, True
    statistics = None

    def __init__(self, path: Path) -> None:
        root = path / "train" if (path / "train").is_dir() else path
        folders = sorted(folder for folder in root.iterdir() if folder.is_dir() and is_shown(folder.name))
        found = [sorted(file.path for file in os.scandir(folder) if file.name.endswith(".pt")) for folder in folders]
        self.class_names = tuple(folder.name for folder in folders)
        self.labels = np.repeat(np.arange(len(folders), dtype=np.int32), [len(files) for files in found])
        self._files = [file for files in found for file in files]

    def channels_last(self, shape: tuple[int, ...]) -> bool:
        """As the code writes them; MAR, whose files have the same names, has them first."""
        return shape[0] == shape[1] or shape[1] != shape[2]

    @classmethod
    def is_there(cls, path: Path) -> bool:
        """Whether a folder holds such files."""
        root = path / "train" if (path / "train").is_dir() else path
        folders = [folder for folder in root.iterdir() if folder.is_dir()] if root.is_dir() else []
        return any(file.name.endswith(".pt") for folder in folders for file in _some(folder))

    def read(self, index: int, mirror: bool) -> NDArray[Any]:
        """Reads as `LatentFiles` says."""
        from drifting.runs.torch_file import read_state_dict

        arrays, key = read_state_dict(self._files[index]), "moments_flip" if mirror else "moments"
        if key not in arrays:
            raise InputError(f"{self._files[index]}: has no {key}, but {', '.join(arrays)}: make it again")
        return arrays[key]


class MeansAndDeviations:
    """`00000/img-mean-std-00000000.npy` and `dataset.json`, as REPA's and EDM2's dataset_tools.py write them.

    They lie in a folder or in a zip archive.
    """

    writer, scale, vae, deviations, mirrored = "REPA (.npy)", 1.0, SD_VAE, True, False
    statistics = None

    def __init__(self, path: Path) -> None:
        self._root, self._members = _below(path, "vae-sd"), None
        if path.is_file():
            listed, self._members = _labels_and_members(path)
            files = [name.decode() for name in self._members.names]
        else:
            listed, files = _labels_of_json(self._root / "dataset.json"), sorted(_arrays_below(self._root))
        self._files = files
        if listed is None:
            self.labels = np.zeros(len(files), np.int32)
            self.class_names: tuple[str, ...] = UNLABELLED
            return
        if missing := [file for file in files if file not in listed] or sorted(listed.keys() - set(files)):
            where = "has no label in dataset.json" if missing[0] not in listed else "is in dataset.json, and not there"
            more = f" (and {len(missing) - 1:,} more)" if missing[1:] else ""
            raise InputError(f"{self._root / missing[0]}: {where}{more}: copy or make it again")
        values = np.asarray([listed[file] for file in files])
        self.class_names = classes_of(values, None, path)
        self.labels = label_numbers(values, self.class_names, False, path)

    def channels_last(self, shape: tuple[int, ...]) -> bool:
        """They come first."""
        return False

    @classmethod
    def is_there(cls, path: Path) -> bool:
        """Whether a folder or an archive holds such files."""
        root = _below(path, "vae-sd")
        return (path.is_file() and path.suffix.lower() == ".zip") or (
            (root / "dataset.json").is_file()
            and any(
                file.name.endswith(".npy") for folder in root.iterdir() if folder.is_dir() for file in _some(folder)
            )
        )

    def read(self, index: int, mirror: bool) -> NDArray[Any]:
        """Reads as `LatentFiles` says."""
        if self._members is not None:
            return _load(self._members.called(index), io.BytesIO(self._members.content(index)))
        return _load(self._root / self._files[index])


class NumberedArrays:
    """`imagenet256_features/N.npy` `[1, C, h, w]` and `imagenet256_labels/N.npy` `[1]`, as fast-DiT writes them."""

    writer, scale, vae, deviations, mirrored = "fast-DiT (.npy)", SD_SCALE, SD_VAE, False, False
    statistics = None

    def __init__(self, path: Path) -> None:
        features, labels = _pair(path) or (path, path)
        numbers = sorted(int(name[:-4]) for name in os.listdir(features) if re.fullmatch(r"\d+\.npy", name))
        known = {name for name in os.listdir(labels) if re.fullmatch(r"\d+\.npy", name)}
        if missing := [number for number in numbers if f"{number}.npy" not in known]:
            raise InputError(
                f"{labels / f'{missing[0]}.npy'}: is missing, of {counted(len(numbers), 'label')}: make it again"
            )
        self._files = [features / f"{number}.npy" for number in numbers]
        values = [_load(labels / f"{number}.npy").reshape(-1) for number in numbers]
        if wrong := [place for place, value in enumerate(values) if len(value) != 1 or value.dtype.kind not in "iu"]:
            remedy = "holds no single label: write a file for each image"
            raise InputError(f"{labels / f'{numbers[wrong[0]]}.npy'}: {remedy}")
        found = np.asarray([value[0] for value in values], np.int64)
        self.class_names = classes_of(found, None, labels)
        self.labels = label_numbers(found, self.class_names, False, labels)

    def channels_last(self, shape: tuple[int, ...]) -> bool:
        """They come first."""
        return False

    @classmethod
    def is_there(cls, path: Path) -> bool:
        """Whether a folder holds such files."""
        return _pair(path) is not None

    def read(self, index: int, mirror: bool) -> NDArray[Any]:
        """Reads as `LatentFiles` says."""
        found = _load(self._files[index])
        if found.ndim != 4 or len(found) != 1:
            raise InputError(f"{self._files[index]}: has shape {found.shape}, not [1, C, h, w]: write one image a file")
        return found[0]


class SafetensorsShards:
    """`*.safetensors` with `latents` and `latents_flip` `[N, C, h, w]` and `labels`, as LightningDiT writes them."""

    writer, scale, vae, deviations = "LightningDiT (.safetensors)", 1.0, "", False

    def __init__(self, path: Path) -> None:
        self._shards = sorted(path.glob("*.safetensors"))
        labels, keys = [], []
        for shard in self._shards:
            with _opened(shard) as file:
                names = set(file.keys())
                if missing := {"latents", "labels"} - names:
                    wanted = " and no ".join(sorted(missing))
                    raise InputError(f"{shard}: has no {wanted}, but {', '.join(sorted(names))}")
                labels.append(file.get_tensor("labels"))
                keys.append(names)
                count = file.get_slice("latents").get_shape()[0]
                if count != len(labels[-1]):
                    found = f"{counted(count, 'latent')} and {counted(len(labels[-1]), 'label')}"
                    raise InputError(f"{shard}: has {found}: make it again")
        self.statistics = _statistics(path / "latents_stats.pt")
        self.mirrored = all("latents_flip" in names for names in keys)
        self._starts = np.cumsum([0, *map(len, labels)])
        values = np.concatenate(labels).astype(np.int64)
        self.class_names = classes_of(values, None, path)
        self.labels = label_numbers(values, self.class_names, False, path)

    def channels_last(self, shape: tuple[int, ...]) -> bool:
        """They come first."""
        return False

    @classmethod
    def is_there(cls, path: Path) -> bool:
        """Whether a folder holds such files."""
        return any(path.glob("*.safetensors"))

    def read(self, index: int, mirror: bool) -> NDArray[Any]:
        """Reads as `LatentFiles` says."""
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        row = index - int(self._starts[shard])
        with _opened(self._shards[shard]) as file:
            found: NDArray[Any] = file.get_slice("latents_flip" if mirror else "latents")[row : row + 1][0]
        return found


LATENT_FORMATS: tuple[Any, ...] = (SafetensorsShards, NumberedArrays, MeansAndDeviations, ReleasedCode)
"""Formats in the order in which they are looked for."""


def _some(folder: Any) -> list[os.DirEntry[str]]:
    """A folder's first entries: enough to tell what it holds."""
    with os.scandir(folder) as entries:
        return [entry for entry, _ in zip(entries, range(LOOKED_AT), strict=False)]


def _below(path: Path, name: str) -> Path:
    """The folder of that name in another, or that folder itself."""
    return path / name if (path / name).is_dir() else path


def _pair(path: Path) -> tuple[Path, Path] | None:
    """The folders of a data set's features and labels in another."""
    for features in sorted(path.glob("*_features")):
        labels = features.with_name(features.name.removesuffix("_features") + "_labels")
        if features.is_dir() and labels.is_dir():
            return features, labels
    return None


def _statistics(path: Path) -> dict[str, NDArray[np.float64]] | None:
    """What LightningDiT's file of statistics holds, each `[1, C, 1, 1]`; None: there is none."""
    if not path.is_file():
        return None
    from drifting.runs.torch_file import read_state_dict

    found = read_state_dict(path)
    if missing := {"mean", "std"} - found.keys():
        raise InputError(f"{path}: has no {' and no '.join(sorted(missing))}, but {', '.join(found)}: remove it")
    return {name: found[name].astype(np.float64).reshape(-1) for name in ("mean", "std")}


def _labels_of_json(path: Any) -> dict[str, int] | None:
    """EDM's list of labels, by file; None: there are none."""
    try:
        with while_reading(path):
            labels = json.loads(path.read_bytes())["labels"]
        return None if labels is None else {str(file): int(label) for file, label in labels}
    except MachineError:
        raise
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: holds no labels as EDM writes them ({one_line(error)}): make it again") from error


def _arrays_below(root: Path) -> Iterator[str]:
    """The paths of all `.npy` files below a folder."""
    for folder, _, names in os.walk(root):
        for name in names:
            if name.endswith(".npy"):
                yield os.path.relpath(os.path.join(folder, name), root).replace(os.sep, "/")


def _labels_and_members(path: Path) -> tuple[dict[str, int] | None, ZipMembers]:
    """The labels and the `.npy` members of an archive."""
    try:
        with while_reading(path), zipfile.ZipFile(path) as archive:
            members = sorted((i for i in archive.infolist() if i.filename.endswith(".npy")), key=lambda i: i.filename)
            if "dataset.json" not in archive.namelist() or not members:
                raise InputError(
                    f"{path}: is no archive of latents as EDM2 writes them, dataset.json and .npy: give one"
                )
            return _labels_of_json(zipfile.Path(archive) / "dataset.json"), ZipMembers.of(path, members)
    except (InputError, MachineError):
        raise
    except Exception as error:  # zipfile raises errors of any kind on damaged files
        raise InputError(f"{path}: is no zip archive ({one_line(error)}): copy it again") from error


def _load(path: Path | str, content: io.BytesIO | None = None) -> NDArray[Any]:
    """The array in an `.npy` file, or in the content of one that is called `path`."""
    try:
        with while_reading(path):
            found: NDArray[Any] = np.load(content or path, allow_pickle=False)
        if not isinstance(found, np.ndarray) or found.dtype.kind not in "fiu":
            raise ValueError(f"holds no numbers but {getattr(found, 'dtype', type(found).__name__)}")
    except MachineError:
        raise
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: cannot be read as an array ({one_line(error)}): copy or make it again") from error
    return found


@contextmanager
def _opened(shard: Path) -> Iterator[Any]:
    """An opened safetensors file; what is raised while it is used becomes an `InputError` that names it."""
    import safetensors

    try:
        with while_reading(shard), safetensors.safe_open(shard, framework="numpy") as file:
            yield file
    except (InputError, MachineError):
        raise
    except Exception as error:  # the library raises errors of its own, and Python's
        raise InputError(f"{shard}: cannot be read ({one_line(error)[:200]}): copy it again") from error
