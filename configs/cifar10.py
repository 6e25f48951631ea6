"""CIFAR-10 without labels, in pixel space: a DiT of 8 layers, features of ConvNeXt-V2 base or of the pixel MAE-640.

    drifting train --config=configs/cifar10.py:mae_gauss --workdir=runs/cifar10

Variants: encoder `mae` or `convnext`, kernel `gauss` or `laplace`; `tiny` tries one out (`:convnext_laplace,tiny`).
Published FID-50k after 100,000 steps on up to 8 A100 ("A Unified View of Score-Based and Drifting Models", App. C.3):

    mae_laplace       4.79
    mae_gauss         4.72
    convnext_laplace  8.66
    convnext_gauss    8.38

The paper does not say how many drift problems a step has (`loss.labels`), nor how many images it pushes: here 16 and
256, its loader's batch. Its Gaussian kernel is exp(-(d / tau)^2), so that our width is tau / sqrt(2). Not trained
here yet.
"""

from ml_collections import ConfigDict

from drifting.config import read_variant, tiny, train_config

KERNELS = {
    "gauss": dict(kernel="gaussian", widths=tuple(tau / 2**0.5 for tau in (0.5, 0.25, 0.125))),
    "laplace": dict(kernel="laplace", widths=(0.2, 0.05, 0.02)),
}

VARIANTS = ("mae_laplace", "mae_gauss", "convnext_laplace", "convnext_gauss")


def get_config(variant: str = "") -> ConfigDict:
    config = train_config()
    name, small = read_variant(variant, VARIANTS)
    encoder, kernel = name.split("_")
    config.data.name = "cifar10"
    config.data.path = "data/cifar10"
    config.data.unconditional = True
    config.features.encoders = (encoder,)
    mae = {"weights": "hf://Goodeat/drifting/mae_pixel_640", "size": 256, "dtype": "bfloat16"}
    config.features.options.mae = mae
    config.model.update(hidden_size=512, depth=8, num_heads=8, cond_dim=384)
    config.model.update(register_tokens=8, style_tokens=16, style_codebook=32)
    config.loss.update(KERNELS[kernel], objective="drift")
    config.loss.update(labels=16, positives=32, unconditional=8)
    config.bank.push = 256
    config.train.steps = 100_000
    config.train.checkpoint_every = 5000
    return tiny(config) if small else config
