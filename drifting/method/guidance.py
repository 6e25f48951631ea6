"""Classifier-free guidance inside the objective: the prior of the guidance scale and the weight of its negatives.

Source: "Generative Modeling via Drifting" (Deng et al.), classifier-free guidance, and its released recipe.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Float32, Key


class GuidancePrior(NamedTuple):
    """The prior of the guidance scale `α`; its fields are arguments of `draw_alpha`."""

    alpha_min: float = 1.0
    alpha_max: float = 1.0
    exponent: float = 3.0
    p_one: float = 0.0

    def draw(self, key: Key[Array, ""], key_one: Key[Array, ""], count: int) -> Float32[Array, "{count}"]:
        """`count` guidance scales; the second key decides where there is no guidance."""
        return draw_alpha(jax.random.uniform(key, (count,)), jax.random.uniform(key_one, (count,)), **self._asdict())


def draw_alpha(
    u: Float[ArrayLike, "*shape"],
    u_one: Float[ArrayLike, "*shape"],
    *,
    alpha_min: Float[ArrayLike, ""],
    alpha_max: Float[ArrayLike, ""],
    exponent: Float[ArrayLike, ""],
    p_one: Float[ArrayLike, ""],
) -> Float32[Array, "*shape"]:
    """Guidance scales from `p(α) ∝ α^(-k)` on `[alpha_min, alpha_max]`, with probability `p_one` of `α = 1` instead.

    Inverse CDF with `p = 1 - k`: `α = (α_min^p + u (α_max^p - α_min^p))^(1/p)`, whose limit at `k = 1` is
    `α_min (α_max/α_min)^u`. It is evaluated in logarithms, so that it has no cancellation near `k = 1`. Every
    argument may be traced: sweeping one never recompiles.

    Args:
        u: uniforms on `[0, 1)` that choose the scale.
        u_one: uniforms on `[0, 1)`; `α = 1` where `u_one < p_one`.
        alpha_min: smallest scale, > 0.
        alpha_max: largest scale, >= alpha_min.
        exponent: `k`; larger values favour small scales.
        p_one: probability of no guidance, in `[0, 1]`.
    """
    low, high = jnp.float32(alpha_min), jnp.float32(alpha_max)
    power = 1.0 - jnp.asarray(exponent, jnp.float32)
    log_ratio = jnp.log(high / low)
    # `where` on the operand too: the branch that is not taken must not divide by zero.
    safe_power = jnp.where(power == 0.0, 1.0, power)
    u = jnp.asarray(u, jnp.float32)
    exponent_form = jnp.log1p(u * jnp.expm1(safe_power * log_ratio)) / safe_power
    log_alpha = jnp.where(power == 0.0, u * log_ratio, exponent_form)
    alpha = jnp.clip(low * jnp.exp(log_alpha), low, high)
    return jnp.where(jnp.asarray(u_one) < p_one, jnp.float32(1.0), alpha)


def unconditional_weight(
    alpha: Float[ArrayLike, "*shape"], n_generated: int, n_unconditional: int
) -> Float32[Array, "*shape"]:
    """Weight `w_u = (α - 1)(N_gen - 1) / max(U, 1)` of one unconditional negative.

    The negatives then follow `((N-1) q + U w_u p_∅) / ((N-1) + U w_u)`; `α = 1` switches the unconditional ones off.

    Args:
        alpha: guidance scales.
        n_generated: generated samples of one drift problem, the query among them.
        n_unconditional: unconditional negatives of one drift problem; 0 is allowed.

    Returns:
        Weights in units of the weight of a generated negative, which is 1.
    """
    return (jnp.asarray(alpha, jnp.float32) - 1.0) * ((n_generated - 1) / max(1, n_unconditional))
