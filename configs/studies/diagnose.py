"""A trained generator in the feature space of its loss ("A Unified View", Section 4.2 and Appendix B.3).

    drifting study diagnose --run=runs/demo --out=studies/diagnose --config.study.kernel=laplace

    drifting study diagnose --config=configs/studies/diagnose.py --out=studies/latent_l \\
        --weights=hf://Goodeat/drifting/latent_L_sota

A run is looked at with its own data, features and loss, published weights with those below. Published for the released
L model: relative error 0.184, cosine 0.983, pre-conditioner ratio 1.002, residual gap 1.6e-6. A minute on the
digits' run and 2 idle CPU cores. `:tiny` looks at fewer samples, and is for runs.
"""

from ml_collections import ConfigDict

from drifting.config import read_variant
from drifting.studies.settings import DiagnoseStudy, study_config


def get_config(variant: str = "") -> ConfigDict:
    _, small = read_variant(variant)
    config = study_config(DiagnoseStudy())
    if small:
        config.study.update(labels=2, generated=8, references=16, positions=1)
        return config
    config.data.update(name="imagefolder", path="data/imagenet", image_size=256)
    config.features.options.mae = {"weights": "hf://Goodeat/drifting/mae_latent_640"}
    config.loss.update(objective="drift", kernel="laplace", widths=(0.2, 0.05, 0.02), positives=64, unconditional=32)
    return config
