"""What is given to a loss or a field of own arrays, as arrays. What it cannot be is one line before anything is traced.

The values of what is traced are not known; they are not looked at.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Float32

WIDTH_RANGE = (1e-6, 1e12)
"""Kernel widths: below them the rounding of a distance of 1 is a factor in its kernel, above float32 has no squares."""


def floating_array(argument: str, given: Any) -> Float[Array, "..."]:
    """What was given for `argument`, as an array.

    Raises:
        ValueError: it is no array of floating-point numbers.
    """
    try:
        found = jnp.asarray(given)
    except (TypeError, ValueError) as error:  # what jax says of None, of words and of ragged lists
        raise ValueError(f"{argument}: is a {type(given).__name__}, give an array of floating-point numbers") from error
    if not jnp.issubdtype(found.dtype, jnp.floating):
        raise ValueError(f"{argument}: is of {found.dtype}, give floating-point numbers")
    return found


def number_array(argument: str, given: Any, wanted: str) -> Float32[Array, "..."]:
    """A number or several as an array; the message says what is `wanted`.

    Raises:
        ValueError: there is something else in it.
    """
    try:
        # JAX makes numbers of some of these.
        if any(
            leaf is None or isinstance(leaf, str | bytes | bool) for leaf in jax.tree.leaves(given, is_leaf=_is_none)
        ):
            raise TypeError
        return jnp.asarray(given, jnp.float32)
    except (TypeError, ValueError) as error:  # what jax says of objects and of ragged lists
        raise ValueError(f"{argument}: is {given!r}, give {wanted}") from error


def kernel_width(argument: str, given: Any, ranks: tuple[int, ...], wanted: str) -> Float32[Array, "..."]:
    """One kernel width, or several where `ranks` has 1.

    Raises:
        ValueError: it is of another rank, or a width that is known is not a positive number that float32 can square.
    """
    width = number_array(argument, given, wanted)
    if width.ndim not in ranks or not width.size:
        raise ValueError(f"{argument}: has shape {width.shape}, give {wanted}")
    if is_known(given):
        low, high = WIDTH_RANGE
        numbers = np.asarray(given, np.float64)
        if not (numbers > 0).all():
            raise ValueError(f"{argument}: is {numbers.tolist()}, give {wanted}, positive")
        if not ((numbers >= low) & (numbers <= high)).all():
            raise ValueError(f"{argument}: is {numbers.tolist()}, give {wanted}, from {low:g} to {high:g}")
    return width


def sample_weights(argument: str, given: Any, count: int) -> Float32[Array, "samples"]:
    """A weight for each of `count` samples; None: one each.

    Raises:
        ValueError: they are not so many, one that is known is negative or no number, or all are 0.
    """
    if given is None:
        return jnp.ones(count)
    weights = number_array(argument, given, f"[{count}], a weight for each sample")
    if weights.shape != (count,):
        raise ValueError(f"{argument}: has shape {weights.shape}, give [{count}], a weight for each sample")
    if is_known(given):
        numbers = np.asarray(given, np.float64)
        if not (np.isfinite(numbers).all() and (numbers >= 0).all() and numbers.any()):
            raise ValueError(f"{argument}: is {numbers.tolist()}, give finite numbers of at least 0, not all of them 0")
    return weights


def is_known(given: Any) -> bool:
    """Whether no part of what was given is traced. Arrays made of it are, inside somebody's jit."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(given))


def _is_none(given: Any) -> bool:
    return given is None
