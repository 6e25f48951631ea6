"""The Monte Carlo estimate of the drift at fixed probes.

    drifting study equilibrium --config=configs/studies/equilibrium.py --out=studies/equilibrium

Expected: averaged over T pairs of batches the norm falls like 1/sqrt(T) when p = q, and has a limit that is not zero
when p and q differ. Half a minute on 2 busy CPU cores. To check a kernel or field of your own, enter it in `KERNELS` or
`FIELDS` in a copy of this file and name it in `study.kernel` or `study.fields`. `:tiny` has fewer draws.
"""

from ml_collections import ConfigDict

from drifting.config import read_variant
from drifting.studies.settings import EquilibriumStudy, study_config


def get_config(variant: str = "") -> ConfigDict:
    _, small = read_variant(variant)
    config = study_config(EquilibriumStudy())
    if small:
        config.study.update(fields=("drift", "sharp"), dimension=4, probes=16, batch=32, draws=512, repeats=12)
    return config
