"""What a loss computes: its field or potential, its kernel, its normalisations; and how its gradient is attached."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Float32

from drifting.method.fields import BALANCED, FIELDS, Affinities, Field, Pairs
from drifting.method.kernels import Kernel, Width, kernel_of
from drifting.method.placement import Tree
from drifting.method.potentials import LOSSES, Link, potential_affinities


@dataclass(frozen=True)
class LossMemory:
    """How many numbers the loss may have in memory at a time, on each device.

    Attributes:
        chunk: those in the arrays of the problems that are computed together.
        kept: those in the fields of all widths that are kept until their norms are known; fields that are more are
            computed a second time.
        together: those of all problems of maps of equal channels that are joined, see `maps_together`; None: no more
            than `chunk`.
        remade: whether what is made of distances is made again where it is wanted again, see `StoredPairs`.
    """

    chunk: int
    kept: int
    together: int | None = None
    remade: bool = False


LOSS_MEMORY = {
    "cpu": LossMemory(2**20, 2**23, 2**24),
    "gpu": LossMemory(5 * 2**28, 2**29, 2**29, remade=True),
    "tpu": LossMemory(2**28, 2**28, remade=True),
}
"""By platform: chunks that stay in a processor's cache, all maps of equal channels in one loop, the least to compile;
or a few large launches of an accelerator, where large maps stay where they are."""

FUSED_PLATFORMS = ("gpu", "tpu")
"""Platforms that have kernels for the loss."""

KERNEL_BACKENDS = ("jax", "pallas")
"""What may compute the loss, see `Objective.fused`."""

FEATURE_SCALES = ("per_map", "per_problem", "neighbour", "none")


@dataclass(frozen=True, init=False)
class Objective:
    """The static part of a loss; kernel widths are traced and apart.

    Attributes:
        name: a key of `FIELDS` (trained through the stop-gradient objective) or of `LOSSES` (a potential).
        kernel: the radial kernel, or its name in `KERNELS`.
        normalise_field: divide each width's field by its root mean square over the map. A potential's gradient is
            normalised the same way and then trained through the stop-gradient objective.
        feature_scale: 'per_map' (one scale for all problems of a map: the released recipe), 'per_problem', or 'none'
            and 'neighbour' (features are used as they come; 'neighbour' means the caller divided them by the
            per-class neighbour scale).
        memory: what the loss may have in memory; None: what suits the default backend, see `LOSS_MEMORY`.
        fused: how the loss is computed: by operations of JAX (None), or where they cover it by kernels in Pallas, for
            `gpu` or `tpu`; or by these interpreted, on any platform, to compare them (`gpu-interpreted`).
        link: what `LOSSES` has under the name, now: programs are made for it, whatever stands there later.
        field: what `FIELDS` has under the name, for an objective that is no potential.

    Raises:
        ValueError: the name, the kernel or the feature scale is none of these.
    """

    name: str
    kernel: Kernel
    normalise_field: bool = True
    feature_scale: str = "per_map"
    memory: LossMemory | None = None
    fused: str | None = None
    link: Link | None = dataclasses.field(init=False, repr=False)
    field: Field | None = dataclasses.field(init=False, repr=False)

    def __init__(
        self,
        name: str,
        kernel: str | Kernel,
        normalise_field: bool = True,
        feature_scale: str = "per_map",
        memory: LossMemory | None = None,
        fused: str | None = None,
    ) -> None:
        given = dict(name=name, kernel=kernel_of(kernel), normalise_field=normalise_field)
        for key, value in (given | dict(feature_scale=feature_scale, memory=memory, fused=fused)).items():
            object.__setattr__(self, key, value)  # a frozen dataclass sets its fields so
        if not isinstance(self.name, str) or self.name not in {**LOSSES, **FIELDS}:
            raise ValueError(f"objective={self.name!r}: use one of {', '.join([*LOSSES, *FIELDS])}")
        if not isinstance(self.normalise_field, bool):
            raise ValueError(f"normalise_field={self.normalise_field!r}: give True or False")
        if self.feature_scale not in FEATURE_SCALES:
            raise ValueError(f"feature_scale={self.feature_scale!r}: use one of {', '.join(FEATURE_SCALES)}")
        object.__setattr__(self, "link", LOSSES.get(self.name))
        object.__setattr__(self, "field", None if self.link is not None else FIELDS[self.name])

    def affinities(self, pairs: Pairs, width: Width) -> Affinities:
        """Affinities of the objective's field for one problem and one width."""
        if self.link is not None:
            return potential_affinities(pairs, self.kernel, width, self.link)
        assert self.field is not None  # it has one of the two
        return self.field(pairs, self.kernel, width)

    @property
    def room(self) -> LossMemory:
        """What the loss may have in memory."""
        return self.memory or LOSS_MEMORY.get(jax.default_backend(), LOSS_MEMORY["gpu"])

    @property
    def is_balanced(self) -> bool:
        """Whether the affinities of each query sum to zero by construction."""
        return self.field in BALANCED

    @property
    def is_scalar(self) -> bool:
        """Whether the loss is the potential itself (and not the square of a field)."""
        return self.link is not None and not self.normalise_field


class MapMetrics(NamedTuple):
    """What one feature map tells about training, reduced over its problems and the widths.

    Attributes:
        loss: this map's term of the loss. With one width and field normalisation it is 1 by construction.
        gap: `mean(log q# - log p#)`, the log-KDE gap, whatever the objective: it falls towards 0 as the sets agree.
        field_norm: root mean square of the field of each width before any normalisation.
        scale: the feature scale (its mean, if there is one for each problem).
    """

    loss: Float32[Array, ""]
    gap: Float32[Array, ""]
    field_norm: Float32[Array, "widths"]
    scale: Float32[Array, ""]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MetricsByMap(Mapping[str, MapMetrics]):
    """The metrics of all feature maps by name, in one array: of an array for each, a step would have hundreds.

    Attributes:
        numbers: loss, gap, scale and the field norm of each width.
        names: the names of the maps.
    """

    numbers: Float32[Array, "maps numbers"] = dataclasses.field(repr=False)
    names: tuple[str, ...] = dataclasses.field(metadata={"static": True})

    def __getitem__(self, name: str) -> MapMetrics:
        if name not in self.names:
            raise KeyError(name)
        row = self.numbers[self.names.index(name)]
        return MapMetrics(row[0], row[1], row[3:], row[2])

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def gap(self) -> Float32[Array, ""]:
        """The mean gap of all maps."""
        return jnp.mean(self.numbers[:, 1])

    @property
    def field_norm(self) -> Float32[Array, "widths"]:
        """The mean field norm of all maps, for each width."""
        return jnp.mean(self.numbers[:, 3:], axis=0)


@jax.custom_vjp
def attach_gradient(x: Tree, value: Float[Array, ""], gradient: Tree) -> Float[Array, ""]:
    """`value`, whose derivative with respect to the arrays `x` is declared to be `gradient`."""
    return value


def _attach_forward(x: Tree, value: Float[Array, ""], gradient: Tree) -> tuple[Float[Array, ""], Tree]:
    return value, jax.tree.map(lambda x, gradient: gradient.astype(x.dtype), x, gradient)


def _attach_backward(gradient: Tree, cotangent: Float[Array, ""]) -> tuple[Tree, None, None]:
    return jax.tree.map(lambda gradient: (cotangent * gradient).astype(gradient.dtype), gradient), None, None


attach_gradient.defvjp(_attach_forward, _attach_backward)
