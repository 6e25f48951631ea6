"""What "Drifting Fields are not Conservative" leaves open: other links than the logarithm, and small kernel widths.

    drifting study links --config=configs/studies/links.py --out=studies/links

Log-KDE, MMD and inverse profile on two moons and on scikit-learn's digits, by width; log-KDE and drift at small widths
on digits far from the origin, with accurate and with textbook distances. Five minutes on 2 idle CPU cores. `:tiny`
trains hardly at all.
"""

from ml_collections import ConfigDict

from drifting.analysis.settings import LinksStudy, study_config
from drifting.config import read_variant


def get_config(variant: str = "") -> ConfigDict:
    _, small = read_variant(variant)
    config = study_config(LinksStudy())
    if small:
        config.study.update(kernels=("gaussian",), toy_widths=(0.2,), digits_widths=(0.2,), small_widths=(0.1,))
        config.study.update(toy_steps=20, digits_steps=20, batch=32, hidden_size=16, samples=100, accuracy=False)
    return config
