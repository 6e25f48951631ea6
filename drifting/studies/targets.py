"""Distributions that the studies draw from: mixtures in any dimension, and the usual shapes in the plane.

Each is a function of a key and a number of samples, pure and jittable.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

PointSampler = Callable[[Array, int], Array]


def mixture(centres: Array, noise: float) -> PointSampler:
    """A mixture of equal Gaussians of standard deviation `noise` at `centres` `[K, D]`; samples `[N, D]`."""

    def sample(key: Array, n: int) -> Array:
        which, place = jax.random.split(key)
        modes = jax.random.randint(which, (n,), 0, centres.shape[0])
        return centres[modes] + noise * jax.random.normal(place, (n, centres.shape[1]))

    return sample


def circle(modes: int, radius: float = 1.0, angle: float = 0.0) -> Array:
    """Points `[modes, 2]` at equal distances on a circle, the first at `angle` radian."""
    angles = angle + 2 * jnp.pi * jnp.arange(modes) / modes
    return radius * jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)


def ring_pair(key: Array, dimension: int) -> tuple[PointSampler, PointSampler]:
    """The Ring mixtures p and q ("A Unified View", App. C.1 A): six modes on a circle of radius 3 in a random plane,
    noise 0.40, and the same turned by pi/6 in that plane."""
    plane, _ = jnp.linalg.qr(jax.random.normal(key, (dimension, 2)))
    p, q = (mixture(circle(6, 3.0, angle) @ plane.T, 0.40) for angle in (0.0, jnp.pi / 6))
    return p, q


def raw_pair(key: Array, dimension: int) -> tuple[PointSampler, PointSampler]:
    """The Raw mixtures p and q (App. C.1 B): six and four modes at several radii in random directions, noise 0.5."""

    def one(key: Array, radii: tuple[float, ...]) -> PointSampler:
        directions = jax.random.normal(key, (len(radii), dimension))
        directions /= jnp.linalg.norm(directions, axis=1, keepdims=True)
        return mixture(jnp.asarray(radii)[:, None] * directions, 0.5)

    key_p, key_q = jax.random.split(key)
    return one(key_p, (1.5, 2.5, 3.0, 4.0, 5.0, 6.0)), one(key_q, (2.0, 3.5, 4.0, 5.5))


MIXTURE_PAIRS = {"ring": ring_pair, "raw": raw_pair}


def swiss_roll(key: Array, n: int) -> Array:
    """A spiral of one and a half turns within about `[-1, 1]^2`, noise 0.02; `[n, 2]`."""
    along, across = jax.random.split(key)
    t = 1.5 * jnp.pi * (1 + 2 * jax.random.uniform(along, (n,)))
    spiral = jnp.stack([t * jnp.cos(t), t * jnp.sin(t)], axis=1) / (4.5 * jnp.pi)
    return spiral + 0.02 * jax.random.normal(across, (n, 2))


def checkerboard(key: Array, n: int) -> Array:
    """Uniform on the eight dark squares of a 4 x 4 board over `[-1, 1]^2`; `[n, 2]`."""
    which, where = jax.random.split(key)
    square = jax.random.randint(which, (n,), 0, 8)
    row, column = square // 2, 2 * (square % 2) + (square // 2) % 2
    corner = jnp.stack([column, row], axis=1).astype(jnp.float32)
    return (corner + jax.random.uniform(where, (n, 2))) / 2 - 1


def two_moons(key: Array, n: int) -> Array:
    """Two half circles that reach into each other, noise a twentieth of their radius, within about `[-1, 1]^2`."""
    which, along, across = jax.random.split(key, 3)
    angle = jnp.pi * jax.random.uniform(along, (n,))
    moon = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
    lower = jax.random.bernoulli(which, shape=(n, 1))
    points = jnp.where(lower, jnp.array([1.0, 0.5]) - moon, moon) - jnp.array([0.5, 0.25])
    return (points + 0.05 * jax.random.normal(across, (n, 2))) / 1.6


def ring(key: Array, n: int) -> Array:
    """The Ring of App. C.1, three times smaller: as large as the other shapes.

    At its own size two sets of 5000 real samples are 0.06 apart in sliced Wasserstein distance already.
    """
    return mixture(circle(6), 0.40 / 3)(key, n)


def two_modes(key: Array, n: int) -> Array:
    """Two Gaussians of standard deviation 0.2, two apart."""
    return mixture(jnp.array([[-1.0, 0.0], [1.0, 0.0]]), 0.2)(key, n)


TARGETS: dict[str, PointSampler] = {
    "ring": ring,
    "swiss_roll": swiss_roll,
    "checkerboard": checkerboard,
    "two_moons": two_moons,
    "two_modes": two_modes,
}
