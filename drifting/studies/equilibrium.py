"""`equilibrium`: the Monte Carlo estimate of the drift at fixed probes. It tends to zero when p = q, and only then.

One pair of batches gives a noisy field even when both come from the same distribution. Averaged over `T` independent
pairs the noise falls like `1/sqrt(T)`; what stays is the field of the distributions.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from matplotlib.figure import Figure

from drifting.method.fields import drift_field
from drifting.method.kernels import Kernel
from drifting.studies import plots
from drifting.studies.settings import EquilibriumSettings, EquilibriumStudy
from drifting.studies.study import Claim, Result, Table, loglog_slope

Batches = Callable[[Array], Array]

ProbeField = Callable[[Array, Array, Array], Array]


class Estimate(NamedTuple):
    """A Monte Carlo estimate of a field at `[N, D]` probes.

    Attributes:
        mean: `[N, D]`, the mean over all draws.
        norms: `[T]`, root mean square over probes and coordinates of the mean of the first 1, 2, .. draws.
        deviation: root mean square deviation of a single draw from the mean, likewise.
    """

    mean: Array
    norms: Array
    deviation: Array


def estimate_drift(
    x: Array,
    sample_pos: Batches,
    sample_neg: Batches,
    *,
    field: str | ProbeField = "drift",
    kernel: str | Kernel = "laplace",
    width: ArrayLike = 0.3,
    draws: int = 1024,
    key: Array,
) -> Estimate:
    """The field at the probes `x` `[N, D]` averaged over `draws` independent batches; jittable.

    With this anyone can check a kernel or field of their own: for equal distributions and equally large batches
    `norms[-1]` must fall like `deviation / sqrt(draws)`. (With unequal batches a mean shift is biased by the order of
    one over the batch.)

    Args:
        x: fixed probes, apart from the batches.
        sample_pos: it draws a batch `[P, D]` of p by a key.
        sample_neg: it draws a batch `[M, D]` of q by a key.
        field: a key of `FIELDS`, or a function `(x, y_pos, y_neg) -> [N, D]`; `kernel` and `width` are for the former.
        draws: how many pairs of batches, T.
    """
    if isinstance(field, str):
        name = field

        def field(x: Array, y_pos: Array, y_neg: Array) -> Array:
            return drift_field(x, y_pos, y_neg, field=name, kernel=kernel, width=width)

    def draw(sums: tuple[Array, Array], t: Array) -> tuple[tuple[Array, Array], Array]:
        key_pos, key_neg = jax.random.split(jax.random.fold_in(key, t))
        v = field(x, sample_pos(key_pos), sample_neg(key_neg))
        total = sums[0] + v
        return (total, sums[1] + jnp.mean(jnp.square(v))), jnp.sqrt(jnp.mean(jnp.square(total / (t + 1))))

    (total, squares), norms = jax.lax.scan(draw, (jnp.zeros_like(x), jnp.float32(0)), jnp.arange(draws))
    mean = total / draws
    variance = squares / draws - jnp.mean(jnp.square(mean))
    return Estimate(mean, norms, jnp.sqrt(jnp.maximum(variance, 0)))


def powers_of_two(count: int) -> np.ndarray:
    """1, 2, 4, .. up to `count`."""
    return 2 ** np.arange(int(np.log2(count)) + 1)


def measure_norms(config: EquilibriumSettings, field: str, shift: float) -> tuple[np.ndarray, float]:
    """Norm after 1, 2, 4, .. draws, its root mean square over the repeats, and the deviation of a draw."""

    def batch(key: Array, mean: float) -> Array:
        return mean + jax.random.normal(key, (config.batch, config.dimension)) / np.sqrt(config.dimension)

    def one(key: Array) -> Estimate:
        probes, key = jax.random.split(key)
        x = jax.random.normal(probes, (config.probes, config.dimension)) / np.sqrt(config.dimension)
        offset = shift / np.sqrt(config.dimension) / np.sqrt(config.dimension)  # on every coordinate
        estimate = partial(estimate_drift, x, partial(batch, mean=0.0), partial(batch, mean=offset), key=key)
        return estimate(field=field, kernel=config.kernel, width=config.width, draws=config.draws)

    keys = jax.random.split(jax.random.key(config.seed), config.repeats)
    found = jax.jit(lambda keys: jax.lax.map(one, keys))(keys)
    norms = np.sqrt(np.mean(np.square(found.norms), axis=0))
    return norms[powers_of_two(config.draws) - 1], float(np.sqrt(np.mean(np.square(found.deviation))))


def run(settings: EquilibriumStudy) -> Result:
    """Norm against number of draws, for p = q and for shifted q."""
    config = settings.study
    draws = powers_of_two(config.draws)
    rows, claims, curves = [], [], {}
    for field in config.fields:
        equal, noise = measure_norms(config, field, 0.0)
        apart, _ = measure_norms(config, field, config.shift)
        curves[field] = equal / noise, apart / noise
        slope = loglog_slope(draws, equal)
        rows += [
            (plots.title(field), int(t), float(a), float(noise / np.sqrt(t)), float(b))
            for t, a, b in zip(draws, equal, apart, strict=True)
        ]
        name = f"{plots.title(field)}, {plots.title(config.kernel)}"
        claims.append(Claim(f"{name}, p = q: slope of the norm against T", slope, -0.6, -0.4))
        claims.append(Claim(f"{name}, p != q: last norm / the one before", float(apart[-1] / apart[-2]), 0.98, 1.02))
        claims.append(Claim(f"{name}: norm for p != q / for p = q", float(apart[-1] / equal[-1]), low=3))
    table = Table(("field", "T", "norm, p = q", "deviation / √T", "norm, p ≠ q"), rows)
    return Result(table, claims, {"figure.png": draw(curves, draws)})


@plots.style()
def draw(curves: dict[str, tuple[np.ndarray, np.ndarray]], draws: np.ndarray) -> Figure:
    """Norms in units of the deviation of one draw, so that one line serves all fields."""
    figure, axes = plots.figure(height=2.3)
    ax = axes[0, 0]
    for (field, (equal, apart)), marker, _ in plots.styled(curves.items()):
        (line,) = ax.loglog(draws, equal, marker, label=f"{plots.title(field)}, p = q")
        ax.loglog(
            draws, apart, marker + "--", color=line.get_color(), mfc="white", label=f"{plots.title(field)}, p ≠ q"
        )
    ax.loglog(draws, draws**-0.5, "-", color="0.6", zorder=0, label="$1/\\sqrt{T}$")
    ax.set(xlabel="number of batches $T$", ylabel="norm / deviation of one batch")
    ax.legend(loc="lower left", handlelength=2.4)
    return figure
