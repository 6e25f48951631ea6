"""The objectives that are potentials: log-KDE and its relatives, each a link function and one entry in `LOSSES`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Float32

from drifting.method.fields import Affinities, Pairs, density_weights, log_density
from drifting.method.kernels import Kernel, Width, WithWidth, inverse_log_sharp

Link = Callable[[Float[Array, "queries"], Kernel, Width], Float[Array, "queries"]]
"""`(log v, kernel, width) -> g(v)` of densities `v`, elementwise."""


def log_link(log_density: Float[Array, "*shape"], kernel: Kernel, width: Width) -> Float[Array, "*shape"]:
    """`g(v) = log v`: the log-KDE loss ("Drifting Fields are not Conservative", Eq. 19)."""
    return log_density


def identity_link(log_density: Float[Array, "*shape"], kernel: Kernel, width: Width) -> Float[Array, "*shape"]:
    """`g(v) = v`: the (squared) MMD loss (Eq. 6), whose gradient decays in the tails."""
    return jnp.exp(log_density)


def inverse_profile_link(log_density: Float[Array, "*shape"], kernel: Kernel, width: Width) -> Float[Array, "*shape"]:
    """`g(v) = -phi^-1(v)` with `phi` the profile of `k#`: minus the squared distance at which one sample would give the
    density `v`, so that the gradient grows linearly in the tails (Section 6, future work)."""

    @jax.custom_jvp
    def link(log_v: Float[Array, "*shape"], width: Float[Array, ""]) -> Float[Array, "*shape"]:
        return -jnp.square(inverse_log_sharp(kernel, log_v, width))

    @link.defjvp
    def _(primals: WithWidth, tangents: WithWidth) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
        # d(r^2)/d(log k#) = -2 k# / k at the distance r, from dk#/dr = -r k.
        log_v, width = primals
        value = link(log_v, width)
        r = jnp.sqrt(-value)
        return value, 2 * jnp.exp(kernel.log_sharp(r, width) - kernel.log_k(r, width)) * tangents[0]

    return link(log_density, jax.lax.stop_gradient(jnp.asarray(width, log_density.dtype)))


# Objectives that are potentials: the loss is mean_i [g(q#(x_i)) - g(p#(x_i))] with the link g.
LOSSES: dict[str, Link] = {
    "log_kde": log_link,
    "mmd_kde": identity_link,
    "inverse_profile_kde": inverse_profile_link,
}


def log_sharp_densities(
    pairs: Pairs, kernel: Kernel, width: Width
) -> tuple[Float32[Array, "queries"], Float32[Array, "queries"]]:
    """`log p#` and `log q#` at the generated samples of one problem; a sample's own pair is excluded."""
    (log_pos, of_pos), (log_neg, of_neg) = (kernel.sharp_parts(d, width) for d in (pairs.d_pos, pairs.d_neg))
    log_p = log_density(log_pos, pairs.w_pos, None, pairs.log_sum, of_pos)
    log_q = log_density(log_neg, pairs.w_neg, pairs.is_self, pairs.log_sum, of_neg)
    return log_p, log_q


def potential(pairs: Pairs, kernel: Kernel, width: Width, link: Link) -> Float32[Array, "queries"]:
    """`g(q#(x_i)) - g(p#(x_i))` for each generated sample of one problem.

    Its mean is the scalar loss; minus its gradient with respect to `x_i`, negatives held constant, is the field.
    """
    log_p, log_q = log_sharp_densities(pairs, kernel, width)
    return link(log_q, kernel, width) - link(log_p, kernel, width)


def potential_affinities(pairs: Pairs, kernel: Kernel, width: Width, link: Link) -> Affinities:
    """Affinities of `-grad potential`, from the defining property of the sharp kernel, `grad k# = k (y - x)`."""
    log_p, log_q = log_sharp_densities(pairs, kernel, width)
    slope_p, slope_q = (
        jax.jvp(lambda log_v: link(log_v, kernel, width), (log_v,), (jnp.ones_like(log_v),))[1]
        for log_v in (log_p, log_q)
    )
    pos = density_weights(kernel.log_k(pairs.d_pos, width), pairs.w_pos, log_p)
    neg = density_weights(kernel.log_k(pairs.d_neg, width), pairs.w_neg, log_q, pairs.is_self)
    return Affinities(slope_p[:, None] * pos, -slope_q[:, None] * neg)
