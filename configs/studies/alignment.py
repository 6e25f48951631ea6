"""Mean shift against score from 2 to 1024 dimensions ("A Unified View", Figures 3 and 7, App. C).

    drifting study alignment --config=configs/studies/alignment.py --out=studies/alignment

Published: slopes of the errors near -1, cosine to 1, C* / C_theory to 1. The slope depends on where the fit begins:
docs/studies.md. A minute on 2 idle CPU cores. `:tiny` has fewer queries and dimensions.
"""

from ml_collections import ConfigDict

from drifting.config import read_variant
from drifting.studies.settings import AlignmentStudy, study_config


def get_config(variant: str = "") -> ConfigDict:
    _, small = read_variant(variant)
    config = study_config(AlignmentStudy())
    if small:
        config.study.update(dimensions=(8, 64, 256, 1024), queries=100, trials=1)
    return config
