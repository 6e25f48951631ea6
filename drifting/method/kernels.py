"""Radial kernels and the distances they act on.

A kernel `k(x, y) = phi(|x - y|^2)` is given by `log_k(d, width)`: the logarithm of its value at Euclidean distance `d`.
Its *sharp* `k#` and its *flat* `kb` ("Drifting Fields are not Conservative", Definition 6 and Eq. 11) satisfy

    grad_x k#(x, y) = k(x, y) (y - x)        k#(d) = integral from d to infinity of s k(s) ds
    grad_x k(x, y)  = kb(x, y) (y - x)       kb(d) = -k'(d) / d

Both have closed forms for the kernels of that paper's Table 1. A kernel that has none is one function and one entry in
`KERNELS`: its sharp is then found by quadrature and its flat by differentiation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Float32, Float64, Int32

Width = Float[ArrayLike, ""]
"""A kernel width: a positive number, traced or not."""

LogProfile = Callable[[Float[Array, "*shape"], Width], Float[Array, "*shape"]]
"""`(d, width) -> log k`, elementwise over distances `d >= 0`."""

WithWidth = tuple[Float[Array, "*shape"], Float[Array, ""]]
"""An array and one width: primals or tangents of a function of both."""

Bracket = tuple[Float[Array, "*shape"], Float[Array, "*shape"]]
"""Lower and upper bounds of a distance that is sought."""

EXACT_PRODUCT = jax.lax.Precision.HIGHEST
"""Distances that enter a matrix product must not be rounded to bfloat16 (TPU) or TF32 (GPU): widths go to 0.02."""

LARGEST_FACTOR = 3e38
"""Of what numbers in float32 are multiplied by."""

_WANTED = "must be a jax function (d, width) -> array of the shape of d"

_FLAT_AT_ZERO = 1e-4
"""`d / width` below which a flat that is found by differentiation is that of this ratio."""


@dataclass(frozen=True, repr=False)
class LogProduct:
    """A `LogProfile` that is `log_profile` plus the logarithm of a factor.

    Sums of the product itself need no logarithm for each pair, see `Kernel.sharp_parts`.

    Attributes:
        log_profile: the logarithm of what the factor stands before.
        factor: what it is multiplied by, 0 or more.
    """

    log_profile: LogProfile
    factor: LogProfile

    def __call__(self, d: Float[Array, "*shape"], width: Width) -> Float[Array, "*shape"]:
        """The logarithm of the product at distances `d >= 0`."""
        return self.log_profile(d, width) + jnp.log(self.factor(d, width))


@dataclass(frozen=True)
class Kernel:
    """One radial kernel as functions of distance.

    Attributes:
        log_profile: gives `log k`, a function of `d / width` alone.
        log_sharp_profile: gives `log k#`, or None to integrate numerically (`k` must decay faster than `1/d^2`).
        log_flat_profile: gives `log kb`, or None to differentiate `log_profile`.

    Raises:
        ValueError: one of them is no function.
    """

    log_profile: LogProfile
    log_sharp_profile: LogProfile | None = None
    log_flat_profile: LogProfile | None = None

    def __post_init__(self) -> None:
        for name in ("log_profile", "log_sharp_profile", "log_flat_profile"):
            profile = getattr(self, name)
            if not (callable(profile) or (profile is None and name != "log_profile")):
                raise ValueError(f"kernel: {name} {_WANTED}, is {profile!r}")

    def log_k(self, d: Float[Array, "*shape"], width: Width) -> Float[Array, "*shape"]:
        """`log k` at distances `d >= 0`."""
        return self.log_profile(d, width)

    def log_sharp(self, d: Float[Array, "*shape"], width: Width) -> Float[Array, "*shape"]:
        """`log k#` at distances `d >= 0`; differentiable in `d` and `width` either way."""
        if self.log_sharp_profile is not None:
            return self.log_sharp_profile(d, width)
        return _log_sharp_by_quadrature(self.log_profile, d, jnp.asarray(width, d.dtype))

    def sharp_parts(
        self, d: Float[Array, "*shape"], width: Width
    ) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"] | None]:
        """The logarithm of a number, and a factor that it is `k#` with (None: 1), at distances `d >= 0`."""
        sharp = self.log_sharp_profile
        if isinstance(sharp, LogProduct):
            # Finite: where the kernel is zero, as it is where nothing but a tile is filled, so is the product.
            return sharp.log_profile(d, width), jnp.minimum(sharp.factor(d, width), LARGEST_FACTOR)
        return self.log_sharp(d, width), None

    def log_flat(self, d: Float[Array, "*shape"], width: Width) -> Float[Array, "*shape"]:
        """`log kb` at distances `d >= 0`; `+inf` at `d = 0` for a kernel with a cusp there (Laplace)."""
        if self.log_flat_profile is not None:
            return self.log_flat_profile(d, width)
        d = jnp.maximum(d, _FLAT_AT_ZERO * jnp.asarray(width, d.dtype))
        log_k, slope = jax.jvp(lambda d: self.log_profile(d, width), (d,), (jnp.ones_like(d),))
        return log_k + jnp.log(-slope) - jnp.log(d)


def gaussian(d: Float[Array, "*shape"], width: Width) -> Float[Array, "*shape"]:
    """`log k = -d^2 / 2 width^2`."""
    return -0.5 * jnp.square(d / width)


def laplace(d: Float[Array, "*shape"], width: Width) -> Float[Array, "*shape"]:
    """`log k = -d / width`."""
    return -d / width


def rational_quadratic(d: Float[Array, "*shape"], width: Width) -> Float[Array, "*shape"]:
    """`log k = -2 log(1 + d^2 / width^2)`."""
    return -2.0 * jnp.log1p(jnp.square(d / width))


# Sharps and flats of Table 1 (Corollaries 17 to 19).
KERNELS: dict[str, Kernel] = {
    "gaussian": Kernel(
        gaussian,
        log_sharp_profile=lambda d, width: gaussian(d, width) + 2 * jnp.log(width),
        log_flat_profile=lambda d, width: gaussian(d, width) - 2 * jnp.log(width),
    ),
    "laplace": Kernel(
        laplace,
        log_sharp_profile=LogProduct(laplace, lambda d, width: jnp.square(width) + width * d),
        log_flat_profile=lambda d, width: laplace(d, width) - jnp.log(width) - jnp.log(d),
    ),
    "rational_quadratic": Kernel(
        rational_quadratic,
        log_sharp_profile=lambda d, width: 0.5 * rational_quadratic(d, width) + jnp.log(0.5 * jnp.square(width)),
        log_flat_profile=lambda d, width: 1.5 * rational_quadratic(d, width) + jnp.log(4.0 / jnp.square(width)),
    ),
}


def kernel_of(kernel: str | Kernel) -> Kernel:
    """The kernel itself, or the one of that name. Its functions are tried by shapes alone.

    Raises:
        ValueError: there is none of that name, or one of its functions is not one of distances and a width.
    """
    if isinstance(kernel, Kernel):
        return _tried(kernel)
    if not isinstance(kernel, str) or kernel not in KERNELS:
        raise ValueError(f"kernel={kernel!r}: use one of {', '.join(KERNELS)}, or a Kernel")
    return _tried(KERNELS[kernel])


@cache
def _tried(kernel: Kernel) -> Kernel:
    d, width = jax.ShapeDtypeStruct((2, 3), jnp.float32), jax.ShapeDtypeStruct((), jnp.float32)
    for name in ("log_profile", "log_sharp_profile", "log_flat_profile"):
        profile = getattr(kernel, name)
        if profile is None:
            continue
        wanted = f"kernel: {name} {_WANTED}"
        try:
            found = jax.eval_shape(profile, d, width)
        except Exception as error:  # whatever a function of somebody else raises
            raise ValueError(f"{wanted}; it raised {type(error).__name__}: {str(error).splitlines()[0]}") from error
        if getattr(found, "shape", None) != d.shape:
            raise ValueError(f"{wanted}; of d {d.shape} it made {getattr(found, 'shape', type(found).__name__)}")
    return kernel


def _exp_sinh_rule(
    nodes: int = 96, reach: float = 3.1
) -> tuple[Float64[np.ndarray, "{nodes}"], Float64[np.ndarray, "{nodes}"]]:
    """Nodes `t > 0` and log-weights of the double-exponential rule for integrals over (0, infinity)."""
    v = np.linspace(-reach, reach, nodes)
    log_t = 0.5 * np.pi * np.sinh(v)
    log_weight = np.log(0.5 * np.pi * np.cosh(v) * (v[1] - v[0])) + log_t
    return np.exp(log_t), log_weight


def _log_sharp_by_quadrature(
    log_profile: LogProfile, d: Float[Array, "*shape"], width: Float[Array, ""]
) -> Float[Array, "*shape"]:
    """`log k#(d) = log integral_d^inf s k(s) ds` with `s = d + width t`, to the rounding of float32.

    The nodes span 15 decades around the kernel width, so one rule serves tails that fall like a Gaussian and tails that
    fall like a power (`d^-3` or faster; what lies beyond `4e7 width` is cut off). They are visited one by one with a
    running log-sum-exp: memory is that of `d`, whatever their number. The derivative is the defining one,
    `dk#/dd = -d k`, not that of the quadrature.
    """
    t, log_weight = (jnp.asarray(a, d.dtype) for a in _exp_sinh_rule())

    def integral(d: Float[Array, "*shape"], width: Float[Array, ""]) -> Float[Array, "*shape"]:
        log_k = log_profile(d, width)

        def add_node(
            log_total: Float[Array, "*shape"], node: tuple[Float[Array, ""], Float[Array, ""]]
        ) -> tuple[Float[Array, "*shape"], None]:
            s = d + width * node[0]
            return jnp.logaddexp(log_total, log_profile(s, width) - log_k + jnp.log(s) + node[1]), None

        log_total, _ = jax.lax.scan(add_node, jnp.full_like(log_k, -jnp.inf), (t, log_weight))
        return log_k + log_total + jnp.log(width)

    function = jax.custom_jvp(integral)

    @function.defjvp
    def _(primals: WithWidth, tangents: WithWidth) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
        d, width = primals
        log_sharp = function(d, width)
        slope = -d * jnp.exp(log_profile(d, width) - log_sharp)
        # k# is width^2 times a function of d / width, because k is a function of d / width.
        return log_sharp, slope * tangents[0] + (2.0 - d * slope) / width * tangents[1]

    return function(d, width)


def pairwise_distance(
    x: Float[Array, "n dims"], y: Float[Array, "m dims"], floor: float = 0.0
) -> Float32[Array, "n m"]:
    """Euclidean distances between the rows of `x` and of `y`.

    The expansion `|x|^2 + |y|^2 - 2 x.y` loses every digit of a distance that is small against the norms, and features
    often share a large mean. So a common centre (the mean of `y`) is subtracted first; what is left is an error of
    about `1e-7 r^2 / d` in a distance `d` between points that lie within `r` of that centre (docs/small-widths.md).

    Value and gradient are finite everywhere: at and below `floor` the distance is `floor` and its gradient zero.
    """
    x, y = x.astype(jnp.float32), y.astype(jnp.float32)
    centre = jax.lax.stop_gradient(jnp.mean(y, axis=0))
    return centred_distance(x - centre, y - centre, floor)


def centred_distance(x: Float[Array, "n dims"], y: Float[Array, "m dims"], floor: float = 0.0) -> Float[Array, "n m"]:
    """`pairwise_distance` of points whose common centre is the origin already."""
    product = jnp.matmul(x, y.T, precision=EXACT_PRODUCT)
    return safe_sqrt(squared_norms(x)[:, None] + squared_norms(y)[None] - 2 * product, floor)


def squared_norms(x: Float[Array, "*points dims"]) -> Float[Array, "*points"]:
    """The squares of the points' distances from the origin."""
    return jnp.sum(jnp.square(x), axis=-1)


def safe_sqrt(squared: Float[Array, "*shape"], floor: float = 0.0) -> Float[Array, "*shape"]:
    """`max(sqrt(squared), floor)` whose gradient is zero, not infinite, wherever the floor (or zero) is reached.

    It is NaN where `squared` is: points that are not finite are not near one another.
    """
    low = squared <= floor * floor
    return jnp.where(low, floor, jnp.sqrt(jnp.where(low, 1.0, squared)))


@partial(jax.jit, static_argnames="kernel")
def inverse_log_sharp(kernel: Kernel, log_value: Float[Array, "*shape"], width: Width) -> Float[Array, "*shape"]:
    """The distance `d >= 0` with `log k#(d) = log_value`, elementwise (0 where `log_value` exceeds `log k#(0)`).

    Bisection on a doubling bracket; `k#` decreases strictly. Not differentiable: callers use the closed derivative.
    """
    log_value = jax.lax.stop_gradient(log_value)
    low = jnp.zeros_like(log_value)
    high = jnp.full_like(log_value, 1.0) * width

    def widen(_: Int32[Array, ""], high: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return jnp.where(kernel.log_sharp(high, width) > log_value, 2 * high, high)

    def halve(_: Int32[Array, ""], bracket: Bracket) -> Bracket:
        low, high = bracket
        middle = 0.5 * (low + high)
        further = kernel.log_sharp(middle, width) > log_value
        return jnp.where(further, middle, low), jnp.where(further, high, middle)

    high = jax.lax.fori_loop(0, 40, widen, high)
    low, high = jax.lax.fori_loop(0, 40, halve, (low, high))
    return 0.5 * (low + high)
