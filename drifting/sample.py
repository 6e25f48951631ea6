"""Images from a generator: each depends on its own seed, its class and the guidance scale, and on nothing else."""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from drifting.build import Generator, Params
from drifting.config import ConfigError
from drifting.frozen import SampleSpace
from drifting.monitor import save_grid
from drifting.trained import TrainedGenerator
from drifting.validate import require


class Sampler:
    """A jitted generator that draws images in batches of one size.

    Args:
        generator: the network without its parameters.
        space: what its samples are; latents are decoded.
        batch_size: images a call of the network; the images do not depend on it.
    """

    def __init__(self, generator: Generator, space: SampleSpace, batch_size: int) -> None:
        self._generator, self._space, self._batch_size = generator, space, batch_size
        self._draw = jax.jit(self._draw_batch)

    def _draw_batch(self, params: Params, frozen: Params, seeds: Array, labels: Array, alpha: Array) -> Array:
        keys = jax.vmap(jax.random.key)(seeds)
        noise = self._generator.sample_noise(params, keys)
        return self._space.decode(frozen, self._generator(params, noise, labels, alpha))

    def __call__(self, params: Params, labels: np.ndarray, seeds: np.ndarray, alpha: float) -> np.ndarray:
        """Images `[N, H, W, C]` float32 (not clipped) for class `labels` `[N]` and integer `seeds` `[N]`."""
        labels, seeds = np.asarray(labels, np.int32), np.asarray(seeds, np.uint32)
        out = []
        for first in range(0, len(labels), self._batch_size):
            chunk = slice(first, first + self._batch_size)
            missing = self._batch_size - len(labels[chunk])
            padded = [np.pad(a[chunk], (0, missing)) for a in (seeds, labels)]
            alphas = jnp.full((self._batch_size,), alpha, jnp.float32)
            images = np.asarray(self._draw(params, self._space.params, *padded, alphas))
            out.append(images[: self._batch_size - missing])
        return np.concatenate(out) if out else np.zeros((0, *self._space.image_shape), np.float32)


def balanced_labels(count: int, num_classes: int) -> np.ndarray:
    """`count` labels `[count]` int32, the classes in turn: as evenly spread as can be."""
    return (np.arange(count) % num_classes).astype(np.int32)


def draw(trained: TrainedGenerator, labels: np.ndarray, seed: int, alpha: float, batch_size: int) -> np.ndarray:
    """Images `[N, H, W, C]` for `labels` `[N]`; image `i` has the seed `seed + i`."""
    seeds = np.arange(seed, seed + len(labels))
    sampler = Sampler(trained.generator, trained.space, min(batch_size, max(1, len(labels))))
    return sampler(trained.params, labels, seeds, alpha)


def write_samples(
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
        seed: seed of the first image; the others count on from it. batch_size: images a call of the network.

    Raises:
        ConfigError: no such class, or a path or scale that cannot be.
    """
    require(path.suffix == ".png", "--out", str(path), "must end in .png")
    names = trained.usage.class_names
    rows = list(range(min(len(names), 10))) if classes is None else [_class_label(c, names) for c in classes]
    if not rows:
        raise ConfigError("--classes=: give at least one class, or leave it out")
    labels = np.repeat(np.asarray(rows, np.int32), columns)
    save_grid(draw(trained, labels, seed, trained.alpha(alpha), batch_size), path, columns)


def _class_label(given: str, names: Sequence[str]) -> int:
    if given in names:
        return names.index(given)
    if given.isdecimal() and int(given) < len(names):
        return int(given)
    raise ConfigError(f"--classes={given}: use names or numbers from 0 to {len(names) - 1}, separated by commas")
