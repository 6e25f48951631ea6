"""Which drift fields are conservative ("Drifting Fields are not Conservative", Section 3, Figure 1).

    drifting study curl --config=configs/studies/curl.py --out=studies/curl

Curl of the attraction (or, where it has none of its own, of the whole field) over the norm of the Jacobian, on a
grid in the plane. Published: none for Gauss and for every sharp field, some for Laplace and rational quadratic with
the drift normalisation. Half a minute on 2 busy CPU cores. `:tiny` has fewer fields and a coarser grid.
"""

from ml_collections import ConfigDict

from drifting.config import read_variant
from drifting.studies.settings import CurlStudy, study_config


def get_config(variant: str = "") -> ConfigDict:
    _, small = read_variant(variant)
    config = study_config(CurlStudy())
    if small:
        config.study.update(kernels=("gaussian", "laplace"), fields=("mean_shift", "sharp", "drift_row"))
        config.study.update(samples=40, grid=9)
    return config
