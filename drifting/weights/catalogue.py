"""What is known of published weights and they do not say themselves: where they lie, what they are, how to use them."""

from collections.abc import Mapping
from typing import Any

KNOWN_PRESETS = {
    "hf://Goodeat/drifting/mae_latent_256": ("mae", "latent_256"),
    "hf://Goodeat/drifting/mae_latent_640": ("mae", "latent_640"),
    "hf://Goodeat/drifting/mae_pixel_640": ("mae", "pixel_640"),
    "runs/mae_latent_256_512px/encoder": ("mae", "latent_256"),
    "hf://facebook/convnextv2-base-22k-224": ("convnext", "base"),
    "hf://facebook/dinov2-small": ("dinov2", "small"),
    "hf://facebook/dinov2-base": ("dinov2", "base"),
    "hf://facebook/dinov2-large": ("dinov2", "large"),
    "hf://stabilityai/sd-vae-ft-ema": ("vae", "sd"),
    "hf://stabilityai/sd-vae-ft-mse": ("vae", "sd"),
    "hf://stabilityai/sdxl-vae": ("vae", "sdxl"),
    "hf://madebyollin/sdxl-vae-fp16-fix": ("vae", "sdxl"),
    "hf://stabilityai/stable-diffusion-3-medium-diffusers/vae": ("vae", "sd3"),
    "hf://black-forest-labs/FLUX.1-dev/vae": ("vae", "flux"),
    "hf://mit-han-lab/dc-ae-f32c32-sana-1.0-diffusers": ("vae", "dc_f32c32_sana"),
    "hf://mit-han-lab/dc-ae-f32c32-in-1.0-diffusers": ("vae", "dc_f32c32"),
    "hf://mit-han-lab/dc-ae-f64c128-in-1.0-diffusers": ("vae", "dc_f64c128"),
}
"""Network and preset of weights whose shapes are known before they are there: published ones, and one to be trained."""

RELEASED_REPO = "Goodeat/drifting"

RELEASED_FOLDERS = {
    name: f"models/{kind}/jax/{name}"
    for kind, names in {
        "gen": ("latent_L_sota", "latent_B_sota", "pixel_L_sota", "pixel_B_sota", "ablation"),
        "mae": ("mae_latent_640", "mae_latent_256", "mae_pixel_640"),
    }.items()
    for name in names
}
"""The released weights by name, as `hf://Goodeat/drifting/NAME`, and the folders they lie in."""

_OF_LATENTS = ("latent_L_sota", "latent_B_sota", "ablation", "mae_latent_640", "mae_latent_256")

RELEASED_VAE = "hf://stabilityai/sd-vae-ft-mse"
"""The VAE of the released generators and encoders of latents."""

RELEASED_VAE_SHA256 = (
    "a1d993488569e928462932c8c38a0760b874d166399b14414135bd9c42df5815",
    "1b4889b6b1d4ce7ae320a02dedaeff1780ad77d415ea0d744b476155c6377ddc",
)
"""Checksums of its `diffusion_pytorch_model.safetensors` and `.bin`, as they have been since commit 31f26fd."""

_PIXELS: dict[str, Any] = dict(image_shape=[256, 256, 3], vae=None, alpha=1.0, alpha_range=[1.0, 4.0])

_LATENTS: dict[str, Any] = _PIXELS | dict(vae=RELEASED_VAE)

RELEASED_USAGE: dict[str, dict[str, Any]] = {
    "hf://Goodeat/drifting/latent_L_sota": _LATENTS,
    "hf://Goodeat/drifting/latent_B_sota": _LATENTS | dict(alpha=1.1),
    "hf://Goodeat/drifting/pixel_L_sota": _PIXELS,
    "hf://Goodeat/drifting/pixel_B_sota": _PIXELS,
    "hf://Goodeat/drifting/ablation": _LATENTS | dict(alpha=2.0),
}
"""How to use the released generators; alpha is the guidance scale of the best published score.

The fields are those of `metadata["usage"]` but for the names of the classes; see `sampling.generator.Usage`."""

INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"

INCEPTION_URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{INCEPTION_FILE}"
"""The network that the Fréchet inception distance is defined with."""

INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""Checksum of `INCEPTION_FILE`, which pytorch-fid and torch-fidelity both use."""


def released_vae_sha256(repo: str, folder: str) -> list[str] | None:
    """Checksums of the files of the VAE in whose latents the released network in a folder of a repository has learned.

    None: it is no released one, or has learned in pixels.
    """
    name = {path: name for name, path in RELEASED_FOLDERS.items()}.get(folder)
    return list(RELEASED_VAE_SHA256) if repo == RELEASED_REPO and name in _OF_LATENTS else None


def released_usage(repo: str, folder: str, arguments: Mapping[str, Any]) -> dict[str, Any] | None:
    """How to use the generator in a folder of a repository of the hub, if it is a released one.

    Args:
        repo: `OWNER/NAME`.
        folder: inside the repository.
        arguments: the constructor's arguments; the classes are named by their numbers.
    """
    name = {path: name for name, path in RELEASED_FOLDERS.items()}.get(folder)
    usage = RELEASED_USAGE.get(f"hf://{repo}/{name}")
    return usage and usage | {"class_names": [str(label) for label in range(arguments["num_classes"])]}
