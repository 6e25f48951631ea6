"""Images from a generator: each depends on its own seed, its class and the guidance scale, and on nothing else.

The network always sees `BLOCK` images, and image `i` always stands in block `i // BLOCK` (see `drifting.blocks`). So a
file of images is the same to the last byte whatever the batch, the number of devices and processes, and however often
it was killed, on machines that compile alike. The same seed in another file, beside other images, may differ in
the rounding of float32.
"""

import copy
import dataclasses
import logging
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np
from jax import Array
from numpy.typing import NDArray

from drifting import __version__
from drifting.archive import UINT8, Pixels, Tick, nothing, remove_torn_pngs, to_uint8, write_npz, write_pngs
from drifting.blocks import Blocks
from drifting.build import Generator, Params
from drifting.config import ConfigError
from drifting.frozen import SampleSpace
from drifting.interrupts import interrupts
from drifting.monitor import Progress, save_grid
from drifting.parts import Parts, Share, check_facts, remove_torn, write_json
from drifting.trained import TrainedGenerator
from drifting.validate import SEED_LIMIT, one_of, require

logger = logging.getLogger("drifting")

BLOCK = 16
"""Images a call of the network; the VAE decodes as many at a time."""
PART = 512
"""Images a part of a file: what a process that is killed may have to draw again."""
METADATA = "metadata.json"
SOFTWARE = ("source", "software")
"""Metadata that may change between two calls that make one file: `weights` says whose images they are."""


class Sampler:
    """A jitted generator that draws images in blocks of one size.

    Args:
        generator: the network without its parameters.
        space: what its samples are; latents are decoded.
        batch_size: images in flight; they do not depend on it.
        devices: where to draw, in turn; None: where the parameters are.
    """

    def __init__(
        self,
        generator: Generator,
        space: SampleSpace,
        batch_size: int,
        devices: Sequence[jax.Device] | None = None,
    ) -> None:
        self._generator, self._space = generator, space
        in_flight = -(-batch_size // (BLOCK * len(devices or [None])))
        self._blocks = Blocks(self._draw_block, BLOCK, devices, in_flight)
        self._placed: tuple[Params, list[Any]] | None = None

    def _draw_block(self, params: tuple[Params, Params], seeds: Array, labels: Array, alpha: Array) -> Array:
        own, frozen = params
        keys = jax.vmap(jax.random.key)(seeds)
        noise = self._generator.sample_noise(own, keys)
        return self._space.decode(frozen, self._generator(own, noise, labels, alpha))

    def __call__(self, params: Params, labels: np.ndarray, seeds: np.ndarray, alpha: float) -> np.ndarray:
        """Images `[N, H, W, C]` float32 (not clipped) for class `labels` `[N]` and integer `seeds` `[N]`."""
        images = list(self.stream(params, labels, seeds, alpha))
        return np.concatenate(images) if images else np.zeros((0, *self._space.image_shape), np.float32)

    def stream(self, params: Params, labels: np.ndarray, seeds: np.ndarray, alpha: float) -> Iterator[np.ndarray]:
        """The same images, `BLOCK` at a time."""
        labels, seeds = np.asarray(labels, np.int32), np.asarray(seeds, np.uint32)
        if self._placed is None or self._placed[0] is not params:
            self._placed = params, self._blocks.place((params, self._space.params))
        return self._blocks(self._placed[1], (seeds, labels, np.full(len(labels), alpha, np.float32)))


def sampler(trained: TrainedGenerator, batch_size: int, count: int) -> Sampler:
    """Draws on all devices of this process, as far as there are blocks for them among `count` images."""
    devices = jax.local_devices()[: max(1, -(-count // BLOCK))]
    return Sampler(trained.generator, trained.space, batch_size, devices)


def draw(trained: TrainedGenerator, labels: np.ndarray, seed: int, alpha: float, batch_size: int) -> np.ndarray:
    """Images `[N, H, W, C]` for `labels` `[N]`; image `i` has the seed `seed + i`."""
    seeds = np.arange(seed, seed + len(labels))
    return sampler(trained, batch_size, len(labels))(trained.params, labels, seeds, alpha)


# --- labels -----------------------------------------------------------------------------------------------------------


def balanced_labels(count: int, num_classes: int) -> np.ndarray:
    """`count` labels `[count]` int32, the classes in turn: as evenly spread as can be."""
    return (np.arange(count) % num_classes).astype(np.int32)


def class_labels(classes: Sequence[str] | None, names: Sequence[str]) -> list[int]:
    """The labels that are meant by names or numbers; None: all.

    Raises:
        ConfigError: the list is empty, or there is no such class.
    """
    if classes is None:
        return list(range(len(names)))
    if not [name for name in classes if name.strip()]:
        raise ConfigError("--classes=: give at least one class, or leave it out")
    return [_class_label(name, names) for name in classes]


def _class_label(given: str, names: Sequence[str]) -> int:
    if given in names:
        return names.index(given)
    if given.isdecimal() and int(given) < len(names):
        return int(given)
    raise ConfigError(f"--classes={given}: use names or numbers from 0 to {len(names) - 1}, separated by commas")


def wanted_labels(
    trained: TrainedGenerator, count: int | None, classes: Sequence[str] | None = None, file: str | None = None
) -> NDArray[np.int32]:
    """The label of each image to draw, `[count]` int32: `classes` in turn, or the first of a file.

    Args:
        trained: whose classes. count: None: as many as the file has.
        classes: names or numbers; None: all. file: text, a number on each line, or `.npy`.

    Raises:
        ConfigError: there are no classes or no such, the file has too few labels or wrong ones.
    """
    names = trained.usage.class_names
    if file is None:
        if count is None:
            raise ConfigError("--num: give the number of images")
        chosen = np.asarray(class_labels(classes, names), np.int32)
        return chosen[balanced_labels(count, len(chosen))]
    require(classes is None, "--classes", classes, "--labels says which, leave one of them out")
    labels = _read_labels(file)
    wrong = labels[(labels < 0) | (labels >= len(names))]
    if len(wrong):
        raise ConfigError(f"--labels={file}: holds {wrong[0]}, labels lie in [0, {len(names) - 1}]")
    if count is not None and len(labels) < count:
        raise ConfigError(f"--labels={file}: holds {len(labels)} labels, --num={count} asks for more")
    return labels[:count].astype(np.int32)


def _read_labels(file: str) -> NDArray[np.int64]:
    try:
        if file.endswith(".npy"):
            found = np.load(file, allow_pickle=False)
        else:
            found = np.asarray([int(word) for word in Path(file).read_text(encoding="utf-8").split()], np.int64)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--labels={file}: cannot be read as whole numbers ({error})") from error
    if found.ndim != 1 or not len(found) or not np.issubdtype(found.dtype, np.integer):
        raise ConfigError(f"--labels={file}: must hold one whole number for each image, has {list(found.shape)}")
    return found.astype(np.int64)


# --- images as uint8, from a generator --------------------------------------------------------------------------------


class GeneratedImages:
    """uint8 images that are drawn when they are asked for; see `drifting.archive.Images`.

    Args:
        trained: the generator. source: what the person called it.
        labels: `[N]`. seed: of the first image, the others count on. alpha: guidance scale.
        uint8: a key of `UINT8`. batch_size: images in flight.

    Raises:
        ConfigError: no such conversion, or seeds beyond the last.
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
        one_of("--uint8", uint8, UINT8)
        remedy = f"with {len(labels):,} images the last seed must lie below 2^32"
        require(0 <= seed <= SEED_LIMIT - len(labels), "--seed", seed, remedy)
        self._trained, self._seed, self._alpha, self._uint8 = trained, seed, alpha, uint8
        self._sampler = sampler(trained, batch_size, len(labels))
        self.labels: NDArray[np.integer] = labels
        height, width, channels = trained.usage.image_shape
        self.shape = (height, width, channels)
        self.facts: dict[str, Any] = {
            "source": source,
            "step": trained.step,
            "ema_decay": trained.ema_decay,
            "weights": trained.checksum,
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
            ValueError: a pixel is not finite.
        """
        assert items.start % BLOCK == 0
        seeds, labels = np.arange(items.start, items.stop) + self._seed, self.labels[items.start : items.stop]
        drawn, first = [], items.start
        for block in self._sampler.stream(self._trained.params, labels, seeds, self._alpha):
            try:
                drawn.append(to_uint8(block, self._uint8, first))
            except ValueError as error:
                raise ValueError(f"{self.facts['source']}: {error}: the generator has diverged") from error
            first += len(block)
            tick(len(block))
        return np.concatenate(drawn)


# --- files ------------------------------------------------------------------------------------------------------------


def write_images(images: GeneratedImages, out: Path, share: Share | None = None) -> bool:
    """Draws images into ADM's `.npz`, or a folder of PNGs, going on where an earlier call stopped.

    Beside them is what is needed to draw them again: `OUT.json`, or `metadata.json` in the folder. SIGTERM and Ctrl-C
    stop it; the part under way is drawn again.

    Args:
        images: what to draw.
        out: the file, ending in .npz, or the folder.
        share: of several processes, which this is; all are given the same folder.

    Returns:
        Whether all images are there.

    Raises:
        ConfigError: there are other images at `out`.
    """
    share = share or Share()
    folder = out.suffix != ".npz"
    record = out / METADATA if folder else out.with_suffix(".json")
    parts = Parts(out.with_name(f"{out.name}.parts"), len(images), PART, ".done" if folder else ".npy")
    facts = images.facts | {"labels": np.asarray(images.labels).tolist(), "software": software()}
    if check_facts("--out", out, record, facts, SOFTWARE) and (folder or out.exists()):
        logger.info("sample: finished already, %s holds %s images", out, f"{len(images):,}")
        _tidy(parts, out, record)
        return True
    strange = out.exists() and not parts.folder.exists() and not (folder and not any(out.iterdir()))
    require(not strange, "--out", str(out), "is there and not known to be these images; choose another, or remove it")
    parts.claim("--out", facts, SOFTWARE)
    if folder:
        out.mkdir(exist_ok=True)
    if not _draw_parts(images, parts, share, out if folder else None):
        logger.info("sample: stopped, the same command goes on from there")
        return False
    if left := parts.left():
        logger.info("sample: this process is done; %d parts of other processes are not there yet", left)
        return False
    try:
        if not folder:
            pieces = (np.load(parts.path(number), allow_pickle=False) for number in range(len(parts.ranges)))
            write_npz(out, len(images), images.shape, pieces, images.labels)
        write_json(record, facts)
    except FileNotFoundError:
        if not record.exists():  # otherwise another process has just put them together
            raise
    _tidy(parts, out, record)
    return True


def _tidy(parts: Parts, *finished: Path) -> None:
    parts.remove()
    for path in finished:
        remove_torn(path)


class _Interrupted(Exception):
    """A stop was asked for."""


def _draw_parts(images: GeneratedImages, parts: Parts, share: Share, folder: Path | None) -> bool:
    """Draws the missing parts of this process; returns False after an interrupt."""
    missing = parts.missing(share)
    done, total = 0, sum(len(parts.ranges[number]) for number in missing)
    if total < len(images):
        logger.info("sample: %s of %s images are to be drawn here", f"{total:,}", f"{len(images):,}")
    if folder is not None:
        remove_torn_pngs(folder, [parts.ranges[number] for number in missing])
    with interrupts() as interrupted, Progress(total, label="sample", unit="images") as progress:

        def tick(count: int) -> None:
            nonlocal done
            done += count
            progress.update(done)
            if interrupted():
                raise _Interrupted

        try:
            for number in missing:
                drawn = images.part(parts.ranges[number], tick)
                if folder is None:
                    parts.write(number, partial(_save, drawn))
                else:
                    write_pngs(folder, parts.ranges[number].start, drawn)
                    parts.write(number, Path.touch)
        except _Interrupted:
            return False
    return True


def _save(array: np.ndarray, path: Path) -> None:
    with path.open("wb") as file:  # np.save would add to the name
        np.save(file, array, allow_pickle=False)


def software() -> dict[str, str]:
    """The versions that drew something, and on what."""
    return {"drifting": __version__, "jax": jax.__version__, "device": jax.devices()[0].device_kind}


def write_grid(
    trained: TrainedGenerator,
    path: Path,
    *,
    classes: Sequence[str] | None = None,
    columns: int = 10,
    alpha: float | None = None,
    seed: int = 0,
    batch_size: int = 64,
) -> None:
    """Writes a PNG grid of images, a row for each class.

    Args:
        trained: the generator. path: the file, ending in .png.
        classes: labels as numbers or names of the data's classes; None: all, at most 10.
        columns: images of each class. alpha: guidance scale; None: the generator's own.
        seed: seed of the first image; the others count on from it. batch_size: images in flight.

    Raises:
        ConfigError: no such class, or a path or scale that cannot be.
    """
    require(path.suffix == ".png", "--out", str(path), "must end in .png")
    rows = class_labels(classes, trained.usage.class_names)
    labels = np.repeat(np.asarray(rows if classes is not None else rows[:10], np.int32), columns)
    save_grid(draw(trained, labels, seed, trained.alpha(alpha), batch_size), path, columns)
