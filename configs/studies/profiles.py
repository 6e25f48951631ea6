"""Kernels by distance, and fields far from the data ("Drifting Fields are not Conservative", Figures 2 and 3).

    drifting study profiles --config=configs/studies/profiles.py --out=studies/profiles

Exponents of the tails. Published: the drift grows without bound, MMD vanishes, the sharp field saturates for Laplace
and falls slowly for the rational quadratic. Seconds on a CPU. `:tiny` has fewer samples.
"""

from ml_collections import ConfigDict

from drifting.config import read_variant
from drifting.studies.settings import ProfilesStudy, study_config


def get_config(variant: str = "") -> ConfigDict:
    _, small = read_variant(variant)
    config = study_config(ProfilesStudy())
    if small:
        config.study.update(samples=200)
    return config
