"""Settings of the studies: frozen dataclasses, the only place where their defaults live.

Every study has a dataclass here with the section `study`, which `drifting study NAME --config.study.KEY=VALUE` changes
and a file in `configs/studies/` starts from (`study_config`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from ml_collections import ConfigDict

from drifting.config.checks import WHOLE_LIMIT
from drifting.config.parse import to_config_dict
from drifting.config.schema import SEED_LIMIT, DataConfig, DiagnoseSettings, FeaturesConfig, LossConfig, StudyRun
from drifting.errors import require

ZERO_SETTINGS = ("angle", "offset")
"""Settings of studies that may be 0."""


def check_study_numbers(section: Mapping[str, Any]) -> None:
    """Raises `ConfigError` unless the numbers in a study's settings are positive and finite, and no tuple is empty."""
    for key, value in section.items():
        values = value if isinstance(value, tuple) else (value,)
        require(len(values) > 0 or key == "widths", f"study.{key}", value, "give at least one")
        for one in values:
            if not isinstance(one, int | float) or isinstance(one, bool):
                continue
            if key == "seed":
                require(0 <= one < SEED_LIMIT, "study.seed", one, "a seed lies in [0, 2^32)")
                continue
            if key in ZERO_SETTINGS:
                require(0 <= one < math.inf, f"study.{key}", value, "use 0 or a positive number")
            else:
                require(0 < one < math.inf, f"study.{key}", value, "use a positive number")
            remedy = "whole numbers have 32 bits: use less than 2^31"
            require(isinstance(one, float) or one < WHOLE_LIMIT, f"study.{key}", value, remedy)


ALL_KERNELS = ("gaussian", "laplace", "rational_quadratic")


@dataclass(frozen=True)
class CurlSettings:
    """A mixture of Gaussians in the square `[-extent, extent]^2`, and the fields whose curl is taken there."""

    kernels: Annotated[tuple[str, ...], "kernels whose fields are looked at"] = ALL_KERNELS
    fields: Annotated[tuple[str, ...], "drift fields whose curl is taken"] = (
        "mean_shift",
        "sharp",
        "mmd",
        "score",
        "drift_row",
        "drift_raw",
    )
    width: Annotated[float, "kernel width, in the units of the plane"] = 0.5
    samples: Annotated[int, "samples of each of the two mixtures"] = 200
    extent: Annotated[float, "half the side of the square that is looked at"] = 2.0
    grid: Annotated[int, "points on a side of the square"] = 61
    seed: Annotated[int, "all that is drawn at random follows from it"] = 0


@dataclass(frozen=True)
class CurlStudy(StudyRun):
    """Figure 1 of "Drifting Fields are not Conservative"."""

    study: CurlSettings = field(default_factory=CurlSettings)


@dataclass(frozen=True)
class ProfilesSettings:
    """Kernels by distance, and fields of a one-dimensional mixture of Gaussians by place."""

    kernels: Annotated[tuple[str, ...], "kernels that are drawn by distance"] = ALL_KERNELS
    width: Annotated[float, "kernel width"] = 0.5
    samples: Annotated[int, "samples of the mixture"] = 2000
    reach: Annotated[float, "the picture ends here; the data lie within about 2"] = 6.0
    far: Annotated[
        tuple[float, ...], "distances, in kernel widths, between which the exponents of the tails are taken"
    ] = (200.0, 400.0)
    seed: Annotated[int, "all that is drawn at random follows from it"] = 0


@dataclass(frozen=True)
class ProfilesStudy(StudyRun):
    """Figures 2 and 3 of "Drifting Fields are not Conservative"."""

    study: ProfilesSettings = field(default_factory=ProfilesSettings)


@dataclass(frozen=True)
class Fields2dSettings:
    """Three modes on the unit circle, and the same turned by `angle`."""

    kernels: Annotated[tuple[str, ...], "kernels whose fields are drawn"] = ("gaussian", "laplace")
    width: Annotated[float, "kernel width, in the units of the plane"] = 0.3
    samples: Annotated[int, "samples of each of the two distributions"] = 1000
    noise: Annotated[float, "standard deviation of a mode"] = 0.2
    angle: Annotated[float, "how far the generated modes are turned, in radian"] = 0.6
    extent: Annotated[float, "half the side of the square that is drawn"] = 2.0
    grid: Annotated[int, "arrows on a side of the square"] = 15
    seed: Annotated[int, "all that is drawn at random follows from it"] = 0


@dataclass(frozen=True)
class Fields2dStudy(StudyRun):
    """Figure 1 of "A Unified View"."""

    study: Fields2dSettings = field(default_factory=Fields2dSettings)


@dataclass(frozen=True)
class EquilibriumSettings:
    """Estimates of the field at fixed probes from 1 to `draws` pairs of batches, repeated `repeats` times."""

    fields: Annotated[tuple[str, ...], "drift fields that are estimated"] = ("drift", "mean_shift", "sharp")
    kernel: Annotated[str, "the kernel"] = "laplace"
    width: Annotated[float, "kernel width"] = 0.3
    dimension: Annotated[int, "dimensions of the data"] = 8
    probes: Annotated[int, "points at which the fields are estimated"] = 32
    batch: Annotated[int, "samples a side of one pair of batches"] = 64
    draws: Annotated[int, "the most pairs of batches that are averaged"] = 4096
    repeats: Annotated[int, "estimates for each number of pairs, for their spread"] = 8
    shift: Annotated[float, "between the means of p and of the other q, in standard deviations"] = 0.5
    seed: Annotated[int, "all that is drawn at random follows from it"] = 0


@dataclass(frozen=True)
class EquilibriumStudy(StudyRun):
    """The Monte Carlo estimate of the drift, for equal and for unequal distributions."""

    study: EquilibriumSettings = field(default_factory=EquilibriumSettings)


@dataclass(frozen=True)
class AlignmentSettings:
    """Ring and Raw mixtures of "A Unified View", App. C.1."""

    mixtures: Annotated[tuple[str, ...], "the mixtures: ring, raw or both"] = ("ring", "raw")
    kernel: Annotated[str, "the kernel"] = "laplace"
    dimensions: Annotated[tuple[int, ...], "dimensions in which the mixtures lie"] = (
        2,
        3,
        4,
        6,
        8,
        12,
        16,
        24,
        32,
        48,
        64,
        96,
        128,
        192,
        256,
        384,
        512,
        768,
        1024,
    )
    fit_from: Annotated[int, "the slope is fitted from this dimension on"] = 6
    references: Annotated[int, "samples of each distribution, from which the fields are made"] = 3000
    queries: Annotated[int, "points at which the fields are compared"] = 500
    width: Annotated[float, "kernel width, in mean norms of the queries"] = 0.3
    trials: Annotated[int, "independent planes, directions and samples, averaged"] = 4
    seed: Annotated[int, "all that is drawn at random follows from it"] = 0


@dataclass(frozen=True)
class AlignmentStudy(StudyRun):
    """Figures 3 and 7 of "A Unified View"."""

    study: AlignmentSettings = field(default_factory=AlignmentSettings)


@dataclass(frozen=True)
class Toy2dSettings:
    """Generators of four shapes; SWD and MMD on `points` generated and as many real samples.

    Published: batch 2048, width 0.30 for the ring and 0.05 for the others, 200 projections, 5000 points. The batch here
    is smaller, and so is the budget.
    """

    targets: Annotated[tuple[str, ...], "the shapes that are learnt"] = (
        "ring",
        "swiss_roll",
        "checkerboard",
        "two_moons",
    )
    objectives: Annotated[tuple[str, ...], "objectives that train them: losses or drift fields"] = ("mean_shift",)
    kernels: Annotated[tuple[str, ...], "kernels that train them"] = ("laplace", "gaussian")
    width: Annotated[float, "kernel width, in the units of the plane"] = 0.05
    ring_width: Annotated[float, "kernel width for the ring"] = 0.3
    steps: Annotated[int, "steps of each training"] = 6000
    batch: Annotated[int, "samples a side"] = 256
    learning_rate: Annotated[float, "Adam's rate"] = 0.01
    hidden_size: Annotated[int, "width of the network's layers"] = 128
    start_scale: Annotated[float, "scale of the untrained network's output"] = 0.7
    points: Annotated[int, "generated and real samples that are scored"] = 5000
    projections: Annotated[int, "directions of the sliced Wasserstein distance"] = 200
    evaluations: Annotated[int, "draws that the sliced Wasserstein distance is averaged over"] = 10
    frames: Annotated[int, "pictures of the animation; 1: none"] = 25
    animated_steps: Annotated[int, "steps of the training that is animated"] = 240
    animated_width: Annotated[float, "kernel width of the training that is animated"] = 0.3
    seed: Annotated[int, "all that is drawn at random follows from it"] = 0


@dataclass(frozen=True)
class Toy2dStudy(StudyRun):
    """Figure 8 of "A Unified View", and the evolution of a generated distribution as in the released demo."""

    study: Toy2dSettings = field(default_factory=Toy2dSettings)


@dataclass(frozen=True)
class LinksSettings:
    """Links on a toy and on scikit-learn's digits, and training at small widths with two kinds of distances.

    Widths on the digits are in mean distances between digits; fields there are normalised, as in the published recipes.
    """

    objectives: Annotated[tuple[str, ...], "losses that are compared, each a link of its own"] = (
        "log_kde",
        "mmd_kde",
        "inverse_profile_kde",
    )
    kernels: Annotated[tuple[str, ...], "kernels that train"] = ("gaussian", "laplace")
    target: Annotated[str, "the shape in the plane"] = "two_moons"
    toy_widths: Annotated[tuple[float, ...], "kernel widths in the plane"] = (0.05, 0.1, 0.2, 0.4)
    toy_steps: Annotated[int, "steps of each training in the plane"] = 1500
    digits_widths: Annotated[tuple[float, ...], "kernel widths on the digits, in mean distances between digits"] = (
        0.05,
        0.1,
        0.2,
        0.4,
    )
    digits_steps: Annotated[int, "steps of each training on the digits"] = 1000
    small_widths: Annotated[
        tuple[float, ...], "kernel widths at which two kinds of distances are compared, in mean distances of the digits"
    ] = (0.02, 0.05, 0.1, 0.2)
    offset: Annotated[float, "length of the vector added to the digits at small widths, in their mean distances"] = (
        100.0
    )
    batch: Annotated[int, "samples a side"] = 256
    toy_learning_rates: Annotated[tuple[float, ...], "rates in the plane; the best counts, for each width anew"] = (
        0.01,
        0.003,
        0.001,
    )
    digits_learning_rates: Annotated[tuple[float, ...], "rates on the digits; the best counts, for each width anew"] = (
        0.002,
        0.0003,
    )
    hidden_size: Annotated[int, "width of the network's layers"] = 128
    samples: Annotated[int, "digits that are drawn and scored"] = 1400
    accuracy: Annotated[bool, "measure distances and fields themselves, too"] = True
    seed: Annotated[int, "all that is drawn at random follows from it"] = 0


@dataclass(frozen=True)
class LinksStudy(StudyRun):
    """Questions that "Drifting Fields are not Conservative" leaves open (Section 6)."""

    study: LinksSettings = field(default_factory=LinksSettings)


@dataclass(frozen=True)
class DiagnoseStudy(StudyRun):
    """Figure 5 of "A Unified View". A run has its own data, features and loss, of which only where they lie may be said
    anew; published weights get them here."""

    study: DiagnoseSettings = field(default_factory=DiagnoseSettings)
    data: DataConfig = field(default_factory=DataConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    loss: LossConfig = field(default_factory=LossConfig)


def study_config(study: StudyRun) -> ConfigDict:
    """Every key of a study with its default, to be changed by a file in `configs/studies/`."""
    return to_config_dict(study)
