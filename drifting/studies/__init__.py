"""Studies: claims of the papers that need no ImageNet, each checked by one command, `drifting study NAME --out=DIR`.

A study is a module of this package with pure numerical functions and `run(settings) -> Result`, its settings in
`settings.py`, and an entry in `STUDIES`. Nothing heavy is imported here: the command line lists the studies.
"""

from dataclasses import dataclass

from drifting.config.schema import StudyRun
from drifting.studies.settings import (
    AlignmentStudy,
    CurlStudy,
    DiagnoseStudy,
    EquilibriumStudy,
    Fields2dStudy,
    LinksStudy,
    ProfilesStudy,
    Toy2dStudy,
)


@dataclass(frozen=True)
class Study:
    """One study: a line for the overview, and what its module's `run` takes."""

    summary: str
    settings: type[StudyRun]


STUDIES: dict[str, Study] = {
    "curl": Study("which fields are conservative: their curl in the plane", CurlStudy),
    "profiles": Study("kernels by distance, and fields far from the data", ProfilesStudy),
    "fields2d": Study("every field in the plane, score against mean shift", Fields2dStudy),
    "equilibrium": Study("the drift vanishes when the distributions are equal", EquilibriumStudy),
    "alignment": Study("mean shift against score from 2 to 1024 dimensions", AlignmentStudy),
    "toy2d": Study("one-step generators of shapes in the plane", Toy2dStudy),
    "links": Study("log-KDE, MMD and inverse-profile links; small kernel widths", LinksStudy),
    "diagnose": Study("a trained generator, map by map, in its loss's features", DiagnoseStudy),
}
