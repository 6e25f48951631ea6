"""`profiles`: shapes of the kernels and lengths of the fields far out ("not Conservative", Figures 2 and 3)."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from matplotlib.figure import Figure

from drifting.errors import require
from drifting.method.kernels import KERNELS, Kernel
from drifting.studies import plots
from drifting.studies.settings import ALL_KERNELS, ProfilesSettings, ProfilesStudy
from drifting.studies.study import Claim, Result, Table
from drifting.studies.targets import mixture

PROFILED_FIELDS = ("mmd", "mean_shift", "sharp")

TAIL_EXPONENTS: dict[tuple[str, str], float] = {
    ("mean_shift", "gaussian"): 1.0,
    ("mean_shift", "laplace"): 1.0,
    ("mean_shift", "rational_quadratic"): 1.0,
    ("sharp", "gaussian"): 1.0,
    ("sharp", "laplace"): 0.0,
    ("sharp", "rational_quadratic"): -1.0,
    ("mmd", "rational_quadratic"): -3.0,
}
"""Exponents `a` of `|V| ~ |x|^a` far from the data, by field and kernel; the others fall faster than any power."""


def log_magnitudes(x: Array, y: Array, kernel: Kernel, width: ArrayLike) -> dict[str, Array]:
    """`log |V(x)|` of one-dimensional samples, `[N]` and `[P]` to `[N]`, for the positive part of `PROFILED_FIELDS`.

    In logarithms, because far out the kernels themselves underflow. The sum of displacements may have either sign.
    """
    shift = y[None] - x[:, None]
    d = jnp.abs(shift)
    total, _ = jax.nn.logsumexp(
        kernel.log_k(d, width) + jnp.log(jnp.maximum(d, 1e-30)), b=jnp.sign(shift), axis=1, return_sign=True
    )
    log_sum = partial(jax.nn.logsumexp, axis=1)
    return {
        "mmd": total - jnp.log(float(y.shape[0])),
        "mean_shift": total - log_sum(kernel.log_k(d, width)),
        "sharp": total - log_sum(kernel.log_sharp(d, width)),
    }


def tail_exponents(y: Array, kernel: Kernel, width: float, far: tuple[float, float]) -> dict[str, float]:
    """`d log|V| / d log|x|` between two places on the right, in kernel widths from the origin."""
    x = width * jnp.asarray(far)
    steps = {name: value[1] - value[0] for name, value in log_magnitudes(x, y, kernel, width).items()}
    return {name: float(step / jnp.log(x[1] / x[0])) for name, step in steps.items()}


def run(settings: ProfilesStudy) -> Result:
    """Exponents of the tails against theory, and both figures as one."""
    config = settings.study
    y = mixture(jnp.asarray([[-1.0], [0.8]]), 0.3)(jax.random.key(config.seed), config.samples)[:, 0]
    far = (min(config.far), max(config.far))
    require(far[0] < far[1], "study.far", config.far, "give two places, one further than the other")
    rows, claims = [], []
    for name in config.kernels:
        for field, exponent in tail_exponents(y, KERNELS[name], config.width, far).items():
            # Nothing is claimed of a kernel that is not the papers'.
            wanted = TAIL_EXPONENTS.get((field, name), -np.inf if name in ALL_KERNELS else None)
            rows.append((plots.title(name), plots.title(field), exponent, wanted))
            text = f"{plots.title(field)}, {plots.title(name)}: exponent of the tail"
            if wanted is None:
                continue
            if np.isfinite(wanted):
                claims.append(Claim(text, exponent, wanted - 0.05, wanted + 0.05))
            else:
                claims.append(Claim(text, exponent, high=-10))
    table = Table(("kernel", "field", "exponent of the tail", "theory"), rows)
    return Result(table, claims, {"figure.png": draw(config, np.asarray(y))})


@plots.style()
def draw(config: ProfilesSettings, y: np.ndarray) -> Figure:
    """Figure 2 above Figure 3 of the paper, a column for each kernel."""
    figure, axes = plots.figure(2, len(config.kernels), height=2.9, sharey="row", sharex="row")
    d = jnp.linspace(0.02, 4, 200) * config.width
    x = jnp.linspace(-config.reach, config.reach, 401)
    for (top, bottom), name in zip(axes.T, config.kernels, strict=True):
        kernel = KERNELS[name]
        for label, line, log_profile in (
            ("$k^\\flat$", ":", kernel.log_flat),
            ("$k$", "-", kernel.log_k),
            ("$k^\\#$", "--", kernel.log_sharp),
        ):
            profile = jnp.exp(log_profile(d, config.width))
            # All are drawn at one width: the flat of Laplace is infinite at zero.
            top.plot(d / config.width, profile / jnp.interp(config.width, d, profile), line, label=label)
        top.set(title=plots.title(name), ylim=(0, 3), xlabel="$d/\\sigma$")
        density, edges = np.histogram(y, 60, density=True)
        bottom.fill_between(edges[:-1], density / density.max(), step="post", color="0.85", linewidth=0)
        for field, line in zip(PROFILED_FIELDS, (":", "-", "--"), strict=True):
            size = jnp.exp(log_magnitudes(x, jnp.asarray(y), kernel, config.width)[field])
            near = float(jnp.max(jnp.where(jnp.abs(x) < 2, size, 0)))
            bottom.plot(x, size / near, line, label=plots.title(field))
        bottom.set(xlabel="$x$", ylim=(0, 3))
    axes[0, 0].set_ylabel("profile, 1 at $d=\\sigma$")
    axes[1, 0].set_ylabel("$|V^+(x)|$, scaled")
    axes[0, -1].legend(loc="upper right")
    figure.legend(*axes[1, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
