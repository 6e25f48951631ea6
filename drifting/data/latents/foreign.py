"""The source of latents that other code has written, as moments like those of a cache."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from drifting.data.crop import Seed
from drifting.data.latents.formats import LATENT_FORMATS, LatentFiles
from drifting.data.latents.read import MomentSource
from drifting.data.source import Delivery, Indices, LabelledImages, LabelledSource, Records, delivery, read_records
from drifting.errors import InputError, counted

logger = logging.getLogger("drifting")

SAMPLE_CHANNELS, MOMENT_CHANNELS = (4, 16, 32), (8, 64)
"""Channels by which files are told to hold drawn latents, or means beside their variances. 32 may be either."""

DRAWN, LOG_VARS = -30.0, (-30.0, 20.0)
"""Log-variance of latents that are drawn already, and the range to which all are clipped, as VAEs do."""

USUAL_SIDE = 8
"""Side of an image over that of its latents, where nobody says how large the images were."""

RATIO_AT_MOST = 2.5
"""How far the deviation of latents may be from what it should be."""

PROBED_LATENTS = 64
"""Latents whose mean and deviation stand for those of all."""


@dataclass(frozen=True)
class LatentsOptions:
    """What files of latents of other code do not say; a cache of `drifting cache` says it."""

    channels: Annotated[
        int | None,
        "channels of the VAE's latents; None: told by the files': 4, 16, 32 are drawn, 8, 64 moments",
    ] = None
    scale: Annotated[float | None, "what the latents were multiplied by; None: what their writer's code does"] = None
    channels_first: Annotated[bool | None, "whether arrays are [C, h, w]; None: told by the files and shapes"] = None


def written_by(folder: Path) -> LatentFiles | None:
    """The files of a folder, or in an archive, in the first format that fits; None: in none."""
    if not folder.exists():
        return None
    found = next((kind for kind in LATENT_FORMATS if kind.is_there(folder)), None)
    return None if found is None else found(folder)


def missing_beside(folder: Path) -> str | None:
    """What keeps `.npy` files of latents from being those of a format: a clause; None: there are no such files."""
    if folder.name.endswith("_features") and any(folder.glob("[0-9]*.npy")):
        return f"holds features alone: give {folder.parent}, which must have {_labels_of(folder)}, too"
    for features in sorted(folder.glob("*_features")):
        if any(features.glob("[0-9]*.npy")):
            return (
                f"has {features.name}, and no {_labels_of(features)}, their labels, as fast-DiT writes them: copy them"
            )
    root = folder / "vae-sd" if (folder / "vae-sd").is_dir() else folder
    if any(root.glob("*/*.npy")) and not (root / "dataset.json").is_file():
        return f"has .npy files, and no {root / 'dataset.json'}, their labels, as REPA and EDM2 write them: copy it"
    return None


def _labels_of(features: Path) -> str:
    return f"{features.name.removesuffix('_features')}_labels"


class ForeignLatents(MomentSource):
    """Latents of other code, read when they are asked for.

    Attributes:
        shape: height, width, channels of the images that were encoded, as far as that is known.
        sample_shape: height, width, channels of their latents.
        scale: what the files' latents are divided by.
        scale_given: whether a person has said so.
        labels, class_names, num_classes: as of every source.
        path: the folder.

    Raises:
        InputError: an array is none of latents, or its channels are not those that are said.
    """

    name = "latents"

    def __init__(self, files: LatentFiles, path: Path, image_size: int | None, options: LatentsOptions) -> None:
        if not len(files.labels):
            raise InputError(f"{path}: holds no latents of {files.writer}: give a folder that does")
        self._files, self.path = files, path
        self.labels, self.class_names = files.labels, files.class_names
        self.num_classes = len(files.class_names)
        self._array_shape = files.read(0, False).shape
        self._channels_first = _are_channels_first(files, path, self._array_shape, options.channels_first)
        height, width, inside = self._channels_last(files.read(0, False), 0).shape
        self.are_drawn = _are_drawn(path, inside, options.channels, files.drawn)
        if not (options.scale is None or options.scale > 0):
            raise InputError(f"options.latents.scale={options.scale}: give a positive number")
        self.scale, self.scale_given = options.scale or (files.scale if self.are_drawn else 1.0), bool(options.scale)
        channels = inside if self.are_drawn else inside // 2
        self.sample_shape = height, width, channels
        side = image_size or USUAL_SIDE * height
        self.shape: tuple[int, int, int] = (side, side * width // height, 3)
        self.delivers = Delivery(
            shape=(height, width, 2 * channels),
            dtype="float16",
            vae=files.vae,
            mirrored=files.mirrored,
            path=str(path),
            measured=self._measured(channels),
        )
        what = "drawn latents" if self.are_drawn else "means and variances of latents"
        logger.info(
            "data: %s holds %s of %dx%dx%d, %s, as %s writes them", path, what, height, width, channels,
            "not scaled" if self.scale == 1 else f"multiplied by {self.scale:g}", files.writer,
        )  # fmt: skip
        self._check_statistics()

    def _read(self, indices: Indices, mirrored: NDArray[np.bool_], crop_seeds: Sequence[Seed] | None) -> Records:
        if crop_seeds is not None:
            raise InputError(f"{self.path}: latents cannot be cropped; leave data.random_crop=False")
        if mirrored.any() and not self.delivers.mirrored:
            raise InputError(f"{self.path}: has no mirror images; set data.flip=False")
        moments = np.empty((len(indices), *self.delivers.shape), np.float16)
        for row, index in enumerate(indices):
            found = self._channels_last(self._files.read(int(index), bool(mirrored[row])), int(index))
            moments[row] = self._moments(found.astype(np.float32), int(index))
        return moments, self.labels[np.asarray(indices, dtype=np.int64)]

    def probe(self) -> NDArray[np.float64]:
        """Means of some latents `[N, h, w, C]`, not scaled, spread over all."""
        rows = np.linspace(0, len(self) - 1, min(PROBED_LATENTS, len(self))).astype(np.int64)
        return np.asarray(self.__getitems__(rows)[0][..., : self.sample_shape[2]], np.float64)

    def _measured(self, channels: int) -> dict[str, list[float]] | None:
        """Mean and deviation of each channel that lie beside the files, not scaled; None: none do."""
        found = self._files.statistics
        if found is None:
            return None
        if any(len(values) != channels for values in found.values()):
            raise InputError(
                f"{self.path}: the statistics beside the latents are not of {counted(channels, 'channel')}"
            )
        return {name: (values / self.scale).tolist() for name, values in found.items()}

    def _check_statistics(self) -> None:
        """Raises `InputError` where statistics beside the files are not theirs: they have been normalised since."""
        if self.delivers.measured is None:
            return
        ratio = float(np.median(self.probe().std(axis=(0, 1, 2)) / np.asarray(self.delivers.measured["std"])))
        if not 1 / RATIO_AT_MOST < ratio < RATIO_AT_MOST:
            raise InputError(
                f"{self.path}: its latents deviate {ratio:.3g} times as much as the statistics beside them say: "
                "they are scaled already, or those are of others; put the right ones there"
            )

    def _moments(self, found: NDArray[np.float32], index: int) -> NDArray[np.float32]:
        """Mean and log-variance, not scaled, of what is in a file."""
        if not np.isfinite(found).all():
            raise InputError(f"{self.path}: latents {index} hold NaN or infinite values: make them again")
        if self.are_drawn:
            mean, log_var = found / self.scale, np.full(found.shape, DRAWN, np.float32)
        else:
            mean, spread = np.split(found, 2, axis=-1)
            mean = mean / self.scale
            if self._files.deviations:
                if spread.min() < 0:
                    raise InputError(f"{self.path}: latents {index} have deviations below 0: what are they?")
                spread = 2 * np.log(np.maximum(spread, np.float32(1e-20)))
            log_var = np.clip(spread - 2 * np.log(self.scale), *LOG_VARS)
        return np.concatenate([mean, log_var], axis=-1)

    def _channels_last(self, found: NDArray[Any], index: int) -> NDArray[Any]:
        """`[h, w, channels]` of an array that has channels at its end, or else at its beginning."""
        if found.shape != self._array_shape:
            raise InputError(
                f"{self.path}: latents {index} have shape {found.shape}, and the first {self._array_shape}: "
                "make them anew, all of one size"
            )
        return np.moveaxis(found, 0, -1) if self._channels_first else found


class Views:
    """Moments of images and, with `flip`, of their mirror images `[V, h, w, 2 C]`, as a cache keeps them together."""

    def __init__(self, source: LabelledSource, flip: bool) -> None:
        self.name, self.labels = source.name, source.labels
        self.class_names, self.num_classes = source.class_names, source.num_classes
        self.shape: Any = (1 + flip, *delivery(source).shape)
        self._source = source

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int, /) -> tuple[NDArray[Any], int]:
        moments, labels = self.__getitems__([index])
        return moments[0], int(labels[0])

    def __getitems__(self, indices: Indices, /) -> LabelledImages:
        kinds = [np.full(len(indices), mirror) for mirror in range(self.shape[0])]
        moments = [read_records(self._source, indices, kind.astype(bool), None)[0] for kind in kinds]
        return np.stack(moments, axis=1), self.labels[np.asarray(indices, dtype=np.int64)]


def _are_channels_first(files: LatentFiles, path: Path, shape: tuple[int, ...], given: bool | None) -> bool:
    """Whether arrays are `[channels, h, w]` rather than `[h, w, channels]`."""
    if len(shape) != 3:
        raise InputError(f"{path}: latents 0 have shape {shape}, not [C, h, w] or [h, w, C]: make them anew")
    found = files.channels_first(shape) if given is None else given
    if found is None:
        raise InputError(
            f"{path}: are the channels of latents of shape {shape} at their beginning or at their end? "
            "Set data.options.latents.channels_first=True or False"
        )
    return found


def _are_drawn(path: Path, inside: int, channels: int | None, drawn: bool | None) -> bool:
    """Whether so many channels are those of drawn latents, rather than of means and variances.

    Args:
        path: for messages.
        inside: channels of an array.
        channels: those of the VAE's latents, if a person has said so.
        drawn: what the format says; None: nothing.
    """
    if drawn is False and inside % 2:
        raise InputError(f"{path}: has {counted(inside, 'channel')}, no pairs of mean and variance or deviation")
    if channels is not None:
        if inside not in ((2 * channels,) if drawn is False else (channels, 2 * channels)):
            which = "not twice that" if drawn is False else "neither so many nor twice that"
            raise InputError(
                f"options.latents.channels={channels}: {path} has {inside}, {which}: "
                "give the channels of the VAE's latents"
            )
        return inside == channels
    if drawn is None and inside not in (*SAMPLE_CHANNELS, *MOMENT_CHANNELS):
        raise InputError(
            f"{path}: are its {counted(inside, 'channel')} latents, or means and variances? "
            "Set data.options.latents.channels to those of the VAE's latents"
        )
    return inside in SAMPLE_CHANNELS if drawn is None else drawn
