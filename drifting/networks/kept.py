"""What the backward pass keeps of the forward pass, as policies of `jax.checkpoint`. The rest is computed again."""

from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name

_NAME = "kept"

kept_by_name = jax.checkpoint_policies.save_only_these_names(_NAME)
"""The policy that keeps what was named by `keep`."""


def keep(x: jax.Array) -> jax.Array:
    """`x`, which `kept_by_name` keeps."""
    named: jax.Array = checkpoint_name(x, _NAME)
    return named


def products_kept(primitive: Any, *arguments: Any, **settings: Any) -> bool:
    """Whether an operation is a product with weights or a convolution: what is dear to compute."""
    kept: bool = jax.checkpoint_policies.dots_with_no_batch_dims_saveable(primitive, *arguments, **settings)
    return kept or primitive.name == "conv_general_dilated"
