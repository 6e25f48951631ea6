"""One-step generators of four shapes in the plane ("A Unified View", Figure 8), and an animation like the demo.

    drifting study toy2d --config=configs/studies/toy2d.py --out=studies/toy2d

Sliced Wasserstein distance (SWD) and MMD, beside those of two sets of real samples. Published: Laplace and Gauss come
out alike. 6000 steps of batch 256 in place of 2048; four minutes on 2 idle CPU cores. Any field or loss:
`--config.study.objectives="('drift','log_kde')"`. `:tiny` trains hardly at all.
"""

from ml_collections import ConfigDict

from drifting.config import read_variant
from drifting.studies.settings import Toy2dStudy, study_config


def get_config(variant: str = "") -> ConfigDict:
    _, small = read_variant(variant)
    config = study_config(Toy2dStudy())
    if small:
        config.study.update(targets=("ring",), objectives=("mean_shift", "drift"), kernels=("laplace",))
        config.study.update(
            steps=5, batch=32, hidden_size=16, points=100, projections=10, evaluations=2, frames=2, animated_steps=5
        )
    return config
