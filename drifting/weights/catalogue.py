"""What is known of published weights: where they lie, their presets, and how they are to be used."""

KNOWN = {
    "hf://Goodeat/drifting/mae_latent_256": "latent_256",
    "hf://Goodeat/drifting/mae_latent_640": "latent_640",
    "hf://Goodeat/drifting/mae_pixel_640": "pixel_640",
    "hf://facebook/convnextv2-base-22k-224": "base",
    "hf://stabilityai/sd-vae-ft-ema": "sd",
    "hf://stabilityai/sd-vae-ft-mse": "sd",
}
"""Published networks that are presets, whose shapes need no download."""

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

INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"

INCEPTION_URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{INCEPTION_FILE}"
"""The network that the Fréchet inception distance is defined with."""

RELEASED_VAE = "hf://stabilityai/sd-vae-ft-mse"
"""The VAE of the released generators of latents, which do not name it."""

RELEASED_ALPHA = {"latent_B_sota": 1.1, "ablation": 2.0}
"""Guidance scales of the best published scores, where they are not 1; the metadata do not name them."""
