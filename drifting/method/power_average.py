"""Averages of the parameters whose width is relative to the run, and how any of them is made of stored ones afterwards.

Source: "Analyzing and Improving the Training Dynamics of Diffusion Models" (Karras et al. 2024), section 3 and the
appendix on post-hoc EMA. The average with exponent `gamma` weighs the parameters after update `s` of `t` by
`(s^(gamma+1) - (s-1)^(gamma+1)) / t^(gamma+1)`; its width is the deviation of `s` over `t`.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float32, Float64, Int32

WIDEST_STD = 0.25
"""The largest width, as in the paper; where all updates weigh the same, `gamma = 0`, it is `1 / sqrt(12)`, 0.289."""

UPDATES_A_PART = 4096
"""Updates whose weights are in memory at a time."""


def exponent(std: float) -> float:
    """`gamma` of the average of width `std`: the root of `sqrt(gamma + 1) / ((gamma + 2) sqrt(gamma + 3)) = std`.

    Raises:
        ValueError: `std` is not in (0, `WIDEST_STD`].
    """
    if not 0 < std <= WIDEST_STD:
        raise ValueError(f"std={std}: use a width above 0 and at most {WIDEST_STD}")
    inverse = std**-2.0
    roots = np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse])
    return float(roots.real[np.abs(roots.imag) < 1e-6 * np.abs(roots)].max())


def share_of_new(std: float, updates: Int32[Array, ""]) -> Float32[Array, ""]:
    """What the parameters after update number `updates`, from 1 on, weigh in the average: `1 - (1 - 1/t)^(gamma+1)`."""
    # Without cancellation: late in a run the share is close to the rounding of 1.
    return -jnp.expm1((exponent(std) + 1) * jnp.log1p(-1.0 / updates.astype(jnp.float32)))


def profile(std: float, updates: int, first: int, last: int) -> Float64[np.ndarray, "updates"]:
    """Weights of the parameters after updates `first` .. `last` in the average of width `std` after `updates`."""
    power, edges = exponent(std) + 1, np.arange(first - 1, last + 1) / updates
    return np.diff(np.minimum(edges, 1.0) ** power)


def combination(
    stored: Sequence[tuple[float, int]], std: float, updates: int
) -> tuple[Float64[np.ndarray, "averages"], float]:
    """Factors of stored averages whose sum is nearest to the average of width `std` after `updates`.

    They are a least-squares fit of the weights of all updates, and add up to 1, as the weights of every average do.

    Args:
        stored: width, and number of updates, of each; those after `updates` weigh nothing.
        std: the width that is wanted.
        updates: the number of updates after which it is wanted.

    Returns:
        The factors, float64 `[len(stored)]`, and the share of all weight that lies at other updates than it should.

    Raises:
        ValueError: nothing is stored of so early, or `std` is out of range.
    """
    early = [k for k, (_, after) in enumerate(stored) if after <= updates]
    if not early:
        raise ValueError(f"no average of update {updates} or before is stored")
    count = len(early)
    products, towards = np.zeros((count, count)), np.zeros(count)
    for first in range(1, updates + 1, UPDATES_A_PART):
        last = min(first + UPDATES_A_PART - 1, updates)
        rows = np.stack([profile(*stored[k], first, last) for k in early])
        products += rows @ rows.T
        towards += rows @ profile(std, updates, first, last)
    # Scaled to ones on the diagonal, and with a Lagrange multiplier for the sum.
    scale = 1 / np.sqrt(np.diag(products))
    system = np.zeros((count + 1, count + 1))
    system[:count, :count] = products * scale[:, None] * scale
    system[count, :count] = system[:count, count] = scale / scale.max()
    right = np.append(towards * scale, 1 / scale.max())
    found = np.zeros(len(stored))
    found[early] = factors = np.linalg.lstsq(system, right, rcond=1e-14)[0][:count] * scale
    off = 0.0
    for first in range(1, updates + 1, UPDATES_A_PART):
        last = min(first + UPDATES_A_PART - 1, updates)
        weights = sum(f * profile(*stored[k], first, last) for f, k in zip(factors, early, strict=True))
        off += float(np.abs(weights - profile(std, updates, first, last)).sum()) / 2
    return found, off
