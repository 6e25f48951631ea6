"""Images that can be had in parts: what they are, and those that a generator draws when they are asked for."""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from drifting.config.schema import SEED_LIMIT
from drifting.errors import InputError, counted, require_argument, use_one_of
from drifting.method.space import Shape
from drifting.networks.network import Params
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
        remedy = f"with {counted(len(labels), 'image')} the last seed must lie below 2^32"
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
            "ema_std": trained.ema_std,
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

    def tell(self) -> None:
        """Warns of what a person should know of the generator, see `TrainedGenerator.tell`."""
        self._trained.tell(self.facts["source"])

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
