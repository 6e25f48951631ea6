"""Latents that other code has written: what its files hold, told by what lies in a folder. docs/data.md has the facts.

A new format is a class with the members of `LatentFiles`, and an entry in `LATENT_FORMATS`.
"""

import io
import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from drifting.data.class_labels import UNLABELLED, classes_of, label_numbers, label_values
from drifting.data.image_files import is_shown
from drifting.data.kept import kept_arrays
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
        drawn: whether its latents are drawn, rather than moments; None: their channels tell.
        statistics: `mean` and `std` of each channel, `[C]` float64, of what lies beside the files; None: nothing does.
        mirrored: whether the latents of mirror images are there.
        labels, class_names: `[N]` integers, and their names.
    """

    writer: str
    scale: float
    vae: str
    deviations: bool
    drawn: bool | None
    statistics: dict[str, NDArray[np.float64]] | None
    mirrored: bool
    labels: NDArray[np.int32]
    class_names: tuple[str, ...]

    def channels_first(self, shape: tuple[int, ...]) -> bool | None:
        """Whether an array of such a shape has its channels at the beginning; None: it cannot be told."""

    def read(self, index: int, mirror: bool) -> NDArray[Any]:
        """The array of one image.

        Raises:
            InputError: it cannot be read.
        """


class ReleasedCode:
    """`CLASS/IMAGE.pt`: `torch.save` of the arrays `moments` and `moments_flip`, channels last."""

    writer, scale, vae, deviations, mirrored = "the released code (.pt)", SD_SCALE, SD_VAE, False, True
    drawn: bool | None = None
    statistics = None
    ending = ".pt"

    def __init__(self, path: Path) -> None:
        root = path / "train" if (path / "train").is_dir() else path
        folders = sorted(folder for folder in root.iterdir() if folder.is_dir() and is_shown(folder.name))
        found = [
            sorted(file.path for file in os.scandir(folder) if file.name.endswith(self.ending)) for folder in folders
        ]
        self.class_names = tuple(folder.name for folder in folders)
        self.labels = np.repeat(np.arange(len(folders), dtype=np.int32), [len(files) for files in found])
        self._files = [file for files in found for file in files]

    def channels_first(self, shape: tuple[int, ...]) -> bool | None:
        """The code writes them last; others, whose files have the same names, write them first.

        Squares tell: `[32, 32, 4]`, `[8, 32, 32]`. Of `[32, 32, 32]` nobody knows.
        """
        last, first = shape[0] == shape[1], shape[1] == shape[2]
        return None if last == first else first

    @classmethod
    def is_there(cls, path: Path) -> bool:
        """Whether a folder holds such files."""
        root = path / "train" if (path / "train").is_dir() else path
        folders = [folder for folder in root.iterdir() if folder.is_dir()] if root.is_dir() else []
        return any(file.name.endswith(cls.ending) for folder in folders for file in _some(folder))

    def read(self, index: int, mirror: bool) -> NDArray[Any]:
        """Reads as `LatentFiles` says."""
        arrays, key = self.arrays(self._files[index]), "moments_flip" if mirror else "moments"
        if key not in arrays:
            raise InputError(f"{self._files[index]}: has no {key}, but {', '.join(arrays)}: make it again")
        return arrays[key]

    def arrays(self, file: str) -> Mapping[str, NDArray[Any]]:
        """What one file holds, by name."""
        from drifting.runs.torch_file import read_state_dict

        return read_state_dict(file)


class MomentArchives(ReleasedCode):
    """`CLASS/IMAGE.npz` of `moments` and `moments_flip` `[2 C, h, w]`: means and log-variances, as MAR writes them."""

    writer, scale, vae, drawn, ending = "MAR (.npz)", 1.0, "", False, ".npz"

    def channels_first(self, shape: tuple[int, ...]) -> bool | None:
        """They come first."""
        return True

    def arrays(self, file: str) -> Mapping[str, NDArray[Any]]:
        """What one file holds, by name."""
        try:
            with while_reading(file), np.load(file, allow_pickle=False) as found:
                return {name: _numbers(found[name]) for name in found.files}
        except MachineError:
            raise
        except Exception as error:  # zipfile and NumPy raise errors of any kind on damaged files
            raise InputError(f"{file}: cannot be read as an .npz ({one_line(error)}): copy or make it again") from error


class MeansAndDeviations:
    """`00000/img-mean-std-00000000.npy` and `dataset.json`, as REPA's and EDM2's dataset_tools.py write them.

    They lie in a folder or in a zip archive.
    """

    writer, scale, vae, deviations, mirrored = "REPA (.npy)", 1.0, SD_VAE, True, False
    drawn = False
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

    def channels_first(self, shape: tuple[int, ...]) -> bool | None:
        """They come first."""
        return True

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
    drawn = None
    statistics = None

    def __init__(self, path: Path) -> None:
        features, labels = _pair(path) or (path, path)
        numbers, known = sorted(_numbers_of(features)), _numbers_of(labels)
        if missing := [number for number in numbers if number not in known]:
            raise InputError(
                f"{labels / f'{missing[0]}.npy'}: is missing, of {counted(len(numbers), 'label')}: make it again"
            )
        self._files = [os.path.join(features, f"{number}.npy") for number in numbers]
        of = [os.path.join(labels, f"{number}.npy") for number in numbers]
        kept = kept_arrays(path, "latents-train.npz", of, lambda: {"label": _labels_in(of)}, ("label",), labels.name)
        self.class_names = classes_of(kept["label"], None, labels)
        self.labels = label_numbers(kept["label"], self.class_names, False, labels)

    def channels_first(self, shape: tuple[int, ...]) -> bool | None:
        """They come first."""
        return True

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
    drawn = None

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
        values = label_values(
            np.concatenate(labels).tolist(), lambda place: f"{path}: label {place}", "make its shard again"
        )
        self.class_names = classes_of(values, None, path)
        self.labels = label_numbers(values, self.class_names, False, path)

    def channels_first(self, shape: tuple[int, ...]) -> bool | None:
        """They come first."""
        return True

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


LATENT_FORMATS: tuple[Any, ...] = (SafetensorsShards, NumberedArrays, MeansAndDeviations, ReleasedCode, MomentArchives)
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


def _numbers_of(folder: Path) -> set[int]:
    """The `N` of a folder's `N.npy`."""
    return {int(name[:-4]) for name in os.listdir(folder) if name.endswith(".npy") and name[:-4].isdecimal()}


def _labels_in(files: Sequence[str]) -> NDArray[np.int64]:
    """The labels in files of one each."""
    found = np.empty(len(files), np.int64)
    for place, file in enumerate(files):
        value = _load(file).reshape(-1)
        if len(value) != 1 or value.dtype.kind not in "iu":
            raise InputError(f"{file}: holds no single label: write a file for each image")
        found[place] = value[0]
    return found


def _statistics(path: Path) -> dict[str, NDArray[np.float64]] | None:
    """What LightningDiT's file of statistics holds, each `[1, C, 1, 1]`; None: there is none."""
    if not path.is_file():
        return None
    from drifting.runs.torch_file import read_state_dict

    arrays = read_state_dict(path)
    if missing := {"mean", "std"} - arrays.keys():
        raise InputError(f"{path}: has no {' and no '.join(sorted(missing))}, but {', '.join(arrays)}: remove it")
    found = {name: arrays[name].astype(np.float64).reshape(-1) for name in ("mean", "std")}
    if not all(np.isfinite(values).all() for values in found.values()) or not (found["std"] > 0).all():
        raise InputError(f"{path}: holds means that are not finite, or deviations that are not above 0: remove it")
    return found


def _labels_of_json(path: Any) -> dict[str, Any] | None:
    """EDM's list of labels, by file; None: there are none."""
    try:
        with while_reading(path):
            labels = json.loads(path.read_bytes())["labels"]
        if labels is None:
            return None
        files = [str(file) for file, _ in labels]
        values = label_values([label for _, label in labels], lambda place: f"{path}: {files[place]!r}", "add it")
        return dict(zip(files, values.tolist(), strict=True))
    except (InputError, MachineError):
        raise
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: holds no labels as EDM writes them ({one_line(error)}): make it again") from error


def _arrays_below(root: Path) -> Iterator[str]:
    """The paths of all `.npy` files below a folder."""
    for folder, _, names in os.walk(root):
        for name in names:
            if name.endswith(".npy"):
                yield os.path.relpath(os.path.join(folder, name), root).replace(os.sep, "/")


def _labels_and_members(path: Path) -> tuple[dict[str, Any] | None, ZipMembers]:
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
            found = np.load(content or path, allow_pickle=False)
        return _numbers(found)
    except MachineError:
        raise
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: cannot be read as an array ({one_line(error)}): copy or make it again") from error


def _numbers(found: Any) -> NDArray[Any]:
    """An array, if it is one of numbers."""
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "fiu":
        raise ValueError(f"holds no numbers but {getattr(found, 'dtype', type(found).__name__)}")
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
