"""Images from a generator: each depends on its own seed, its class and the guidance scale, and on nothing else."""

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from drifting import build
from drifting.checkpoint import Checkpoints, abstract, read_config
from drifting.config import Config, ConfigError
from drifting.monitor import save_grid
from drifting.validate import require

logger = logging.getLogger("drifting")

Params = build.Params


class Sampler:
    """A jitted generator that draws images in batches of one size.

    Args:
        generator: the network without its parameters.
        batch_size: images a call of the network; the images do not depend on it.
    """

    def __init__(self, generator: build.Generator, batch_size: int) -> None:
        self._generator, self._batch_size = generator, batch_size
        self._draw = jax.jit(self._draw_batch)

    def _draw_batch(self, params: Params, seeds: Array, labels: Array, alpha: Array) -> Array:
        keys = jax.vmap(jax.random.key)(seeds)
        noise = self._generator.sample_noise(params, keys)
        return self._generator(params, noise, labels, alpha)

    def __call__(self, params: Params, labels: np.ndarray, seeds: np.ndarray, alpha: float) -> np.ndarray:
        """Images `[N, H, W, C]` float32 (not clipped) for class `labels` `[N]` and integer `seeds` `[N]`."""
        labels, seeds = np.asarray(labels, np.int32), np.asarray(seeds, np.uint32)
        out = []
        for first in range(0, len(labels), self._batch_size):
            chunk = slice(first, first + self._batch_size)
            missing = self._batch_size - len(labels[chunk])
            padded = [np.pad(a[chunk], (0, missing)) for a in (seeds, labels)]
            alphas = jnp.full((self._batch_size,), alpha, jnp.float32)
            images = np.asarray(self._draw(params, *padded, alphas))
            out.append(images[: self._batch_size - missing])
        return np.concatenate(out) if out else np.zeros((0, *self._generator.shape), np.float32)


def balanced_labels(count: int, num_classes: int) -> np.ndarray:
    """`count` labels `[count]` int32, the classes in turn: as evenly spread as can be."""
    return (np.arange(count) % num_classes).astype(np.int32)


def ema_decay(config: Config, wanted: float | None = None) -> float:
    """Which average of the parameters to use: `wanted`, or `eval.ema_decay`, or the first of `train.ema_decays`.

    Raises:
        ConfigError: the run does not keep the one that is wanted.
    """
    kept = config.train.ema_decays
    if wanted is None:
        return kept[0] if config.eval.ema_decay is None else config.eval.ema_decay
    if wanted not in kept:
        raise ConfigError(f"--ema={wanted}: the run does not keep it, use one of {', '.join(map(str, kept))}")
    return wanted


class TrainedGenerator:
    """The generator of a run directory, its averaged parameters read from the latest checkpoint. Needs no data.

    Args:
        workdir: what `drifting train` wrote.
        average: decay of the average to use; None: see `ema_decay`.

    Attributes:
        config: the run's settings. step: that of the checkpoint. ema_decay: the average in use.
        data: facts about the data of the run, see `build.data_facts`.
        generator, params: the network and its parameters.

    Raises:
        ConfigError: there is no run, no checkpoint, or no such average.
    """

    def __init__(self, workdir: Path, average: float | None = None) -> None:
        config = read_config(workdir, Config)
        assert isinstance(config, Config)
        self.config, self.ema_decay = config, ema_decay(config, average)
        checkpoints = Checkpoints(workdir)
        step = checkpoints.latest()
        if step is None:
            raise ConfigError(f"--workdir={workdir}: has no checkpoint yet; run `drifting train` first")
        self.step, key = step, str(self.ema_decay)
        self.data: dict[str, Any] = checkpoints.read_run(step)["identity"]
        height, width, channels = self.data["shape"]
        self.class_names: list[str] = self.data["classes"]
        self.generator, init = build.generator(
            config.model, (height, width, channels), len(self.class_names), config.train.seed
        )
        self.params: Any = checkpoints.restore_part(step, "ema", {key: abstract(jax.eval_shape(init))})[key]

    def alpha(self, alpha: float | None) -> float:
        """The guidance scale asked for, or `eval.alpha`; warns about one the generator was not trained with.

        Raises:
            ConfigError: it is not a positive number.
        """
        alpha = self.config.eval.alpha if alpha is None else alpha
        require(0 < alpha < math.inf, "--alpha", alpha, "use a positive guidance scale")
        guidance = self.config.guidance
        if not guidance.alpha_min <= alpha <= guidance.alpha_max:
            logger.warning(
                "alpha=%g lies outside the trained range [%g, %g]", alpha, guidance.alpha_min, guidance.alpha_max
            )
        return alpha

    def draw(self, labels: np.ndarray, seed: int, alpha: float, batch_size: int) -> np.ndarray:
        """Images `[N, H, W, C]` for `labels` `[N]`; image `i` has the seed `seed + i`."""
        seeds = np.arange(seed, seed + len(labels))
        return Sampler(self.generator, min(batch_size, max(1, len(labels))))(self.params, labels, seeds, alpha)


def write_samples(
    workdir: Path,
    *,
    out: Path | None = None,
    classes: Sequence[str] | None = None,
    columns: int = 10,
    alpha: float | None = None,
    seed: int = 0,
    ema_decay: float | None = None,
) -> Path:
    """Writes a PNG grid of a run's images, a row for each class; returns its path.

    Args:
        workdir: the run. out: the file; None: `samples.png` in it.
        classes: labels as numbers or names of the data's classes; None: all, at most 10.
        columns: images of each class. alpha: guidance scale; None: `eval.alpha`.
        seed: seed of the first image; the others count on from it.
        ema_decay: which average of the parameters.

    Raises:
        ConfigError: no such run, class or average.
    """
    path = workdir / "samples.png" if out is None else out
    require(path.suffix == ".png", "--out", str(path), "must end in .png")
    trained = TrainedGenerator(workdir, ema_decay)
    names = trained.class_names
    rows = list(range(min(len(names), 10))) if classes is None else [_class_label(c, names) for c in classes]
    if not rows:
        raise ConfigError("--classes=: give at least one class, or leave it out")
    labels = np.repeat(np.asarray(rows, np.int32), columns)
    scale = trained.alpha(alpha)
    images = trained.draw(labels, seed, scale, trained.config.eval.batch_size)
    save_grid(images, path, columns)
    return path


def _class_label(given: str, names: Sequence[str]) -> int:
    if given in names:
        return names.index(given)
    if given.isdecimal() and int(given) < len(names):
        return int(given)
    raise ConfigError(f"--classes={given}: use names or numbers from 0 to {len(names) - 1}, separated by commas")
