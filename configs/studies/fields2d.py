"""Every field on one pair of distributions, and score against mean shift ("A Unified View", Figure 1, Theorem 1).

    drifting study fields2d --config=configs/studies/fields2d.py --out=studies/fields2d

Published: with the Gaussian kernel the mean shift is the score times the squared width. Seconds on a CPU. `:tiny` has
one kernel, fewer samples and arrows.
"""

from ml_collections import ConfigDict

from drifting.config import read_variant
from drifting.studies.settings import Fields2dStudy, study_config


def get_config(variant: str = "") -> ConfigDict:
    _, small = read_variant(variant)
    config = study_config(Fields2dStudy())
    if small:
        config.study.update(kernels=("gaussian",), samples=100, grid=5)
    return config
