"""What the backward pass keeps of the forward pass, as policies of `jax.checkpoint`. The rest is computed again."""

from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name

_NAME = "kept"

_named = jax.checkpoint_policies.save_only_these_names(_NAME)


def keep(x: jax.Array) -> jax.Array:
    """`x`, which `kept_by_name` keeps."""
    named: jax.Array = checkpoint_name(x, _NAME)
    return named


def kept_by_name(primitive: Any, *arguments: Any, **settings: Any) -> bool:
    """Whether an operation gives what was named by `keep`, or is a kernel such as attention's."""
    kept: bool = primitive.name == "pallas_call" or _named(primitive, *arguments, **settings)
    return kept


def products_kept(primitive: Any, *arguments: Any, **settings: Any) -> bool:
    """Whether an operation is a product with weights, a convolution or a kernel: what is dear to compute."""
    if primitive.name in ("pallas_call", "conv_general_dilated"):
        return True
    kept: bool = jax.checkpoint_policies.dots_with_no_batch_dims_saveable(primitive, *arguments, **settings)
    return kept
