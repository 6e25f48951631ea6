"""The names that the code of latent diffusion gives an autoencoder's tensors, as those of the diffusers library.

Source: `ldm/modules/diffusionmodules/model.py` of "High-Resolution Image Synthesis with Latent Diffusion Models"
(Rombach et al. 2022), which MAR, LightningDiT and others took over with these names; they are turned as
`convert_ldm_vae_checkpoint` of diffusers does.
"""

import re
from collections.abc import Mapping

import numpy as np

LDM_PARTS = ("encoder", "decoder", "quant_conv", "post_quant_conv")
"""What an autoencoder consists of. Files of whole trainings hold more, which is left out."""

LDM_PREFIX = "first_stage_model."
"""What stands before the autoencoder's names in a file with a whole latent diffusion model."""

_RENAMED = {
    r"^(en|de)coder\.norm_out\.": r"\1coder.conv_norm_out.",
    r"\.block\.(\d+)\.": r".resnets.\1.",
    r"\.mid\.block_1\.": ".mid_block.resnets.0.",
    r"\.mid\.block_2\.": ".mid_block.resnets.1.",
    r"\.mid\.attn_1\.": ".mid_block.attentions.0.",
    r"\.attn\.(\d+)\.": r".attentions.\1.",
    r"\.nin_shortcut\.": ".conv_shortcut.",
    r"\.downsample\.": ".downsamplers.0.",
    r"\.upsample\.": ".upsamplers.0.",
    r"(\.attentions\.\d+)\.norm\.": r"\1.group_norm.",
    r"(\.attentions\.\d+)\.q\.": r"\1.to_q.",
    r"(\.attentions\.\d+)\.k\.": r"\1.to_k.",
    r"(\.attentions\.\d+)\.v\.": r"\1.to_v.",
    r"(\.attentions\.\d+)\.proj_out\.": r"\1.to_out.0.",
}


def with_diffusers_names(tensors: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """The autoencoder's tensors under the names of diffusers; those of a file that has them already are as they were.

    Returns:
        The same arrays. Tensors of other parts are left out where names are turned, and levels of the decoder counted
        from the lowest resolution on.
    """
    if any(name.startswith(LDM_PREFIX) for name in tensors):
        tensors = {
            name.removeprefix(LDM_PREFIX): tensor for name, tensor in tensors.items() if name.startswith(LDM_PREFIX)
        }
    levels = {int(match[1]) for name in tensors if (match := re.match(r"decoder\.up\.(\d+)\.", name))}
    if not levels:
        return tensors
    kept = {name: tensor for name, tensor in tensors.items() if name.partition(".")[0] in LDM_PARTS}
    return {_diffusers_name(name, max(levels)): tensor for name, tensor in kept.items()}


def _diffusers_name(name: str, lowest: int) -> str:
    """`decoder.up.3.attn.0.q.weight` to `decoder.up_blocks.0.attentions.0.to_q.weight`, where 3 is the `lowest`."""
    name = re.sub(r"^encoder\.down\.", "encoder.down_blocks.", name)
    name = re.sub(r"^decoder\.up\.(\d+)", lambda match: f"decoder.up_blocks.{lowest - int(match[1])}", name)
    for theirs, ours in _RENAMED.items():
        name = re.sub(theirs, ours, name)
    return name
