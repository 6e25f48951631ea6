"""Latents in the files of other code, laid out as its writer does it; docs/data.md says where that was looked up."""

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

CLASSES = ("ant", "bee")

COUNT, SIDE, CHANNELS = 60, 8, 4

SD = 0.18215


@dataclass(frozen=True)
class Encoded:
    """What an encoder found: float32 `[N, h, w, C]`, not scaled, of images and of their mirror images."""

    mean: np.ndarray
    deviation: np.ndarray
    mirrored: np.ndarray
    labels: np.ndarray


def encoded(spread: float = 1 / SD, channels: int = CHANNELS, side: int = SIDE) -> Encoded:
    rng, shape = np.random.default_rng(0), (COUNT, side, side, channels)
    mean, mirrored = (rng.normal(0, spread, shape).astype(np.float32) for _ in range(2))
    deviation = rng.uniform(0.01, 0.5, shape).astype(np.float32)
    return Encoded(mean, deviation, mirrored, np.sort(np.arange(COUNT) % 2))


def first(x: np.ndarray) -> np.ndarray:
    """Channels first."""
    return np.moveaxis(x, -1, -3)


def torch_save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """What `torch.save` writes of a dict of NumPy arrays: a pickle of protocol 2 in a zip archive."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{path.stem}/data.pkl", pickle.dumps(arrays, protocol=2))
        archive.writestr(f"{path.stem}/byteorder", "little")
        archive.writestr(f"{path.stem}/version", "3\n")


def released(root: Path, found: Encoded, scale: float = SD) -> Path:
    """dataset/latent.py of the released code: drawn and scaled, channels last, whatever the arrays are called."""
    for k, label in enumerate(found.labels):
        arrays = {"moments": found.mean[k] * np.float32(scale), "moments_flip": found.mirrored[k] * np.float32(scale)}
        torch_save(root / "train" / CLASSES[label] / f"{k:05}.pt", arrays)
    torch_save(root / "val" / "ant" / "0.pt", arrays)
    return root


def moments(found: Encoded, mean: np.ndarray) -> np.ndarray:
    return first(np.concatenate([mean, 2 * np.log(found.deviation)], axis=-1))


def mar(root: Path, found: Encoded) -> Path:
    """cache_latents in engine_mar.py of MAR: means and log-variances, channels first, by the names of the images."""
    both = moments(found, found.mean), moments(found, found.mirrored)
    for k, label in enumerate(found.labels):
        file = root / CLASSES[label] / f"{k:05}.JPEG.npz"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, moments=both[0][k], moments_flip=both[1][k])
    return root


def moments_in_pt(root: Path, found: Encoded) -> Path:
    """The same in files that are named as those of the released code."""
    both = moments(found, found.mean), moments(found, found.mirrored)
    for k, label in enumerate(found.labels):
        torch_save(root / CLASSES[label] / f"{k:05}.pt", {"moments": both[0][k], "moments_flip": both[1][k]})
    return root


def repa(root: Path, found: Encoded) -> Path:
    """preprocessing/dataset_tools.py encode of REPA, which is EDM2's: mean and standard deviation, channels first."""
    labels, folder = [], root / "vae-sd"
    for k, label in enumerate(found.labels):
        name = f"{k // 32:05}/img-mean-std-{k:08}.npy"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / name, first(np.concatenate([found.mean[k], found.deviation[k]], axis=-1)))
        labels.append([name, int(label)])
    (folder / "dataset.json").write_text(json.dumps({"labels": labels}))
    return root


def edm2(root: Path, found: Encoded) -> Path:
    """The same in an archive, as EDM2's examples have it."""
    repa(root / "made", found)
    root = root / "img512-sd.zip"
    with zipfile.ZipFile(root, "w") as archive:
        for file in (folder := root.parent / "made" / "vae-sd").rglob("*"):
            archive.write(file, file.relative_to(folder))
    return root


def fast_dit(root: Path, found: Encoded, scale: float = SD) -> Path:
    """extract_features.py of fast-DiT: drawn and scaled, a file for each image, numbered without zeros."""
    for name, arrays in {"features": first(found.mean) * np.float32(scale), "labels": found.labels}.items():
        folder = root / f"imagenet256_{name}"
        folder.mkdir(parents=True)
        for k in range(COUNT):
            np.save(folder / f"{k}.npy", arrays[k : k + 1])
    return root


def lightning_dit(root: Path, found: Encoded, both: bool = False, scale: float = 1.0) -> Path:
    """extract_features.py of LightningDiT: drawn, not scaled, with statistics that it computes at first use."""
    root.mkdir(parents=True, exist_ok=True)
    tensors = [moments(found, x) if both else first(x) for x in (found.mean, found.mirrored)]
    for number, rows in enumerate((slice(0, 40), slice(40, None))):
        arrays = {"latents": tensors[0][rows] * scale, "latents_flip": tensors[1][rows] * scale}
        arrays = {name: np.ascontiguousarray(x, np.float32) for name, x in arrays.items()}
        save_file(arrays | {"labels": found.labels[rows]}, root / f"latents_rank00_shard{number:03}.safetensors")
    axes = (0, 1, 2)
    statistics = {"mean": found.mean.mean(axes), "std": found.mean.std(axes)}
    torch_save(root / "latents_stats.pt", {name: x.reshape(1, -1, 1, 1) for name, x in statistics.items()})
    return root


FOREIGN: dict[str, tuple[Callable[[Path, Encoded], Path], bool, bool]] = {
    "released": (released, True, True),
    "mar": (mar, False, True),
    "moments_in_pt": (moments_in_pt, False, True),
    "repa": (repa, False, False),
    "edm2": (edm2, False, False),
    "fast_dit": (fast_dit, True, False),
    "lightning_dit": (lightning_dit, True, True),
    "lightning_dit_moments": (lambda root, found: lightning_dit(root, found, both=True), False, True),
}
"""What writes each format, whether latents in it are drawn, and whether those of mirror images are there."""


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()
