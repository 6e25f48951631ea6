"""Settings of the studies: frozen dataclasses, the only place where their defaults live.

Every study has a dataclass here with the section `study`, which `drifting study NAME --config.study.KEY=VALUE` changes
and a file in `configs/studies/` starts from (`study_config`).
"""

from dataclasses import dataclass, field

from ml_collections import ConfigDict

from drifting.config.parse import to_config_dict
from drifting.config.schema import DataConfig, DiagnoseSettings, FeaturesConfig, LossConfig, StudyRun

ALL_KERNELS = ("gaussian", "laplace", "rational_quadratic")


@dataclass(frozen=True)
class CurlSettings:
    """A mixture of Gaussians in the square `[-extent, extent]^2`, and the fields whose curl is taken there."""

    kernels: tuple[str, ...] = ALL_KERNELS
    fields: tuple[str, ...] = ("mean_shift", "sharp", "mmd", "score", "drift_row", "drift_raw")
    width: float = 0.5
    samples: int = 200
    extent: float = 2.0
    grid: int = 61  # points on a side
    seed: int = 0


@dataclass(frozen=True)
class CurlStudy(StudyRun):
    """Figure 1 of "Drifting Fields are not Conservative"."""

    study: CurlSettings = field(default_factory=CurlSettings)


@dataclass(frozen=True)
class ProfilesSettings:
    """Kernels by distance, and fields of a one-dimensional mixture of Gaussians by place."""

    kernels: tuple[str, ...] = ALL_KERNELS
    width: float = 0.5
    samples: int = 2000
    reach: float = 6.0  # the picture ends here; the data lie within about 2
    far: tuple[float, ...] = (200.0, 400.0)  # in kernel widths: between these the exponents of the tails are taken
    seed: int = 0


@dataclass(frozen=True)
class ProfilesStudy(StudyRun):
    """Figures 2 and 3 of "Drifting Fields are not Conservative"."""

    study: ProfilesSettings = field(default_factory=ProfilesSettings)


@dataclass(frozen=True)
class Fields2dSettings:
    """Three modes on the unit circle, and the same turned by `angle`."""

    kernels: tuple[str, ...] = ("gaussian", "laplace")
    width: float = 0.3
    samples: int = 1000
    noise: float = 0.2
    angle: float = 0.6  # radian
    extent: float = 2.0
    grid: int = 15  # arrows on a side
    seed: int = 0


@dataclass(frozen=True)
class Fields2dStudy(StudyRun):
    """Figure 1 of "A Unified View"."""

    study: Fields2dSettings = field(default_factory=Fields2dSettings)


@dataclass(frozen=True)
class EquilibriumSettings:
    """Estimates of the field at fixed probes from 1 to `draws` pairs of batches, repeated `repeats` times."""

    fields: tuple[str, ...] = ("drift", "mean_shift", "sharp")
    kernel: str = "laplace"
    width: float = 0.3
    dimension: int = 8
    probes: int = 32
    batch: int = 64  # samples a side
    draws: int = 4096
    repeats: int = 8
    shift: float = 0.5  # between the means of p and of the other q, in standard deviations
    seed: int = 0


@dataclass(frozen=True)
class EquilibriumStudy(StudyRun):
    """The Monte Carlo estimate of the drift, for equal and for unequal distributions."""

    study: EquilibriumSettings = field(default_factory=EquilibriumSettings)


@dataclass(frozen=True)
class AlignmentSettings:
    """Ring and Raw mixtures of "A Unified View", App. C.1."""

    mixtures: tuple[str, ...] = ("ring", "raw")
    kernel: str = "laplace"
    dimensions: tuple[int, ...] = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
    fit_from: int = 6  # the slope is fitted from this dimension on
    references: int = 3000
    queries: int = 500
    width: float = 0.3  # kernel width in mean norms of the queries
    trials: int = 4  # independent planes, directions and samples, averaged
    seed: int = 0


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

    targets: tuple[str, ...] = ("ring", "swiss_roll", "checkerboard", "two_moons")
    objectives: tuple[str, ...] = ("mean_shift",)
    kernels: tuple[str, ...] = ("laplace", "gaussian")
    width: float = 0.05
    ring_width: float = 0.3
    steps: int = 6000
    batch: int = 256  # samples a side
    learning_rate: float = 0.01
    hidden_size: int = 128
    start_scale: float = 0.7  # scale of the untrained network's output
    points: int = 5000
    projections: int = 200
    evaluations: int = 10  # draws that the SWD is averaged over
    frames: int = 25  # pictures of the animation; 1: none
    animated_steps: int = 240
    animated_width: float = 0.3
    seed: int = 0


@dataclass(frozen=True)
class Toy2dStudy(StudyRun):
    """Figure 8 of "A Unified View", and the evolution of a generated distribution as in the released demo."""

    study: Toy2dSettings = field(default_factory=Toy2dSettings)


@dataclass(frozen=True)
class LinksSettings:
    """Links on a toy and on scikit-learn's digits, and training at small widths with two kinds of distances.

    Widths on the digits are in mean distances between digits; fields there are normalised, as in the published recipes.
    """

    objectives: tuple[str, ...] = ("log_kde", "mmd_kde", "inverse_profile_kde")
    kernels: tuple[str, ...] = ("gaussian", "laplace")
    target: str = "two_moons"
    toy_widths: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4)
    toy_steps: int = 1500
    digits_widths: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4)
    digits_steps: int = 1000
    small_widths: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2)
    offset: float = 100.0  # length of the vector added to the digits at small widths, in their mean distances
    batch: int = 256
    toy_learning_rates: tuple[float, ...] = (0.01, 0.003, 0.001)  # the best of them counts, for each width anew
    digits_learning_rates: tuple[float, ...] = (0.002, 0.0003)
    hidden_size: int = 128
    samples: int = 1400
    accuracy: bool = True  # measure distances and fields themselves too
    seed: int = 0


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
