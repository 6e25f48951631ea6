"""What a feature encoder is: frozen networks whose maps make the feature space of the loss."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from jax import Array
from jaxtyping import Float

from drifting.method.features import Features
from drifting.method.space import SampleSpace
from drifting.networks.network import Network, Params

FeatureFn = Callable[[Params, Float[Array, "samples height width channels"]], Features]
"""`(params, x) -> features`, differentiable in `x`."""


@dataclass(frozen=True)
class FeatureEncoder:
    """A frozen feature space.

    Attributes:
        features: maps samples into the space.
        params: the encoders' parameters, constants of training; `{"vae": ...}` among them where images are needed.
        checksums: checksums of the encoders' weights, by name.
    """

    features: FeatureFn = field(repr=False)
    params: Params = field(default_factory=dict, repr=False)
    checksums: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Encoder:
    """An encoder with its weights and settings.

    Attributes:
        features: gives the features of what the encoder reads.
        of_images: whether the encoder reads images in [-1, 1]; otherwise it reads samples, which may be latents.
    """

    features: FeatureFn
    of_images: bool


@dataclass(frozen=True)
class EncoderKind:
    """A kind of feature encoder, an entry of `ENCODERS`.

    Attributes:
        network: the kind of its weights, a key of `drifting.networks.NETWORKS`.
        options: a frozen dataclass of its settings with their defaults, `weights: str | None` and `dtype: str` among
            them; it raises `ValueError` for values that cannot work. They are the settings `features.options[NAME]`.
        make: makes the encoder of options and weights. It raises `ValueError` where the network cannot read the samples
            of that space. It must not need parameters, which may be shapes only: `Encoder.features` is given them.
    """

    network: str
    options: type
    make: Callable[[Any, Network, SampleSpace], Encoder]
