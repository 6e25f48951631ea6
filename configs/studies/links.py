"""What "Drifting Fields are not Conservative" leaves open: other links than the logarithm, and small kernel widths.

    drifting study links --config=configs/studies/links.py --out=studies/links

Log-KDE, MMD and inverse profile on two moons and on scikit-learn's digits, by width; log-KDE and drift at small widths
on digits far from the origin, with centred and with textbook distances. Everything is trained at a few learning rates,
and the best counts. Published: nothing, these are the paper's open questions. Fifteen minutes of CPU time. `:tiny`
trains hardly at all.
"""

from ml_collections import ConfigDict

from drifting.config import read_variant
from drifting.studies.settings import LinksStudy, study_config


def get_config(variant: str = "") -> ConfigDict:
    _, small = read_variant(variant)
    config = study_config(LinksStudy())
    if small:
        config.study.update(objectives=("log_kde",), kernels=("gaussian",), toy_learning_rates=(0.01,))
        config.study.update(toy_widths=(0.2,), digits_widths=(0.2,), small_widths=(0.1,), digits_learning_rates=(2e-3,))
        config.study.update(toy_steps=5, digits_steps=5, batch=32, hidden_size=16, samples=100, accuracy=False)
    return config
