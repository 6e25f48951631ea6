"""`curl`: which fields are not conservative ("Drifting Fields are not Conservative", Section 3 and Figure 1)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from matplotlib.figure import Figure

from drifting.errors import require_argument
from drifting.method.exact_pairs import independent_pairs
from drifting.method.fields import FIELDS, Affinities, displace
from drifting.method.kernels import KERNELS
from drifting.studies import plots
from drifting.studies.settings import CurlSettings, CurlStudy
from drifting.studies.study import Claim, Result, Table
from drifting.studies.targets import circle, mixture

PointField = Callable[[Array], Array]

ONE_SIDED_FIELDS = ("mean_shift", "sharp", "mmd", "score", "coulomb")
"""Fields whose attraction to p does not depend on q, so that it can be looked at alone, as in the paper's figure."""

CONSERVATIVE_FIELDS = ("sharp", "mmd", "score", "coulomb")

CONSERVATIVE_WITH_GAUSS = ("mean_shift", "drift_row")
"""Conservative with the Gaussian kernel alone. The row-normalised drift is `pq/(p+q)^2 (mean shift)`: a function of the
ratio p/q times the gradient of its logarithm."""


def curl(jacobian: Array) -> Array:
    """The n-dimensional curl of a field with `jacobian[..., i, j] = dV_i/dx_j`: `[..., n, n]` to `[..., n(n-1)/2]`.

    Definition 5 of the paper: `(-1)^(i+j) (dV_i/dx_j - dV_j/dx_i)` for `i < j`, pairs in reverse lexicographic order.
    For n = 3 this is the usual curl, for n = 2 the usual scalar `dV_2/dx_1 - dV_1/dx_2`. (The index of the definition
    as printed is this order for n up to 3; beyond it gives two pairs the same place.)
    """
    n = jacobian.shape[-1]
    i, j = (a[::-1] for a in np.triu_indices(n, k=1))
    signs = jnp.asarray((-1.0) ** (i + j), jacobian.dtype)
    return signs * (jacobian[..., i, j] - jacobian[..., j, i])


def jacobian(field: PointField, x: Array) -> Array:
    """Jacobians `[N, D, D]` of a field at the points `x` `[N, D]`; `field` maps one point `[D]` to its vector `[D]`."""
    return jax.vmap(jax.jacfwd(field))(x)


def attraction(name: str, y: Array, kernel: str, width: ArrayLike) -> PointField:
    """The positive part of a field, towards samples `y` `[P, D]`, as a function of one point.

    Raises:
        ArgumentError: `name` is not in `ONE_SIDED_FIELDS`.
    """
    remedy = f"has no attraction of its own: use one of {', '.join(ONE_SIDED_FIELDS)}"
    require_argument(name in ONE_SIDED_FIELDS, "name", name, remedy)

    def field(x: Array) -> Array:
        # The point is the origin: beside a sample its displacement is then not the difference of two large numbers.
        here = jnp.zeros_like(x)[None]
        affinities = FIELDS[name](independent_pairs(here, y - x, y - x), KERNELS[kernel], width)
        return displace(Affinities(affinities.pos, jnp.zeros_like(affinities.neg)), here, y - x, y - x)[0]

    return field


def point_field(name: str, y_pos: Array, y_neg: Array, kernel: str, width: ArrayLike) -> PointField:
    """Any field as a function of one point. Those with a softmax over queries (`drift`) then see a single query."""

    def field(x: Array) -> Array:
        here, pos, neg = jnp.zeros_like(x)[None], y_pos - x, y_neg - x
        return displace(FIELDS[name](independent_pairs(here, pos, neg), KERNELS[kernel], width), here, pos, neg)[0]

    return field


def relative_curl(jacobians: Array) -> tuple[Array, Array]:
    """`|curl| / |J|` at every point, `[N]`, and over all of them: the root mean squares of both divided."""
    size, total = jnp.linalg.norm(curl(jacobians), axis=-1), jnp.linalg.norm(jacobians, axis=(-2, -1))
    return size / total, jnp.sqrt(jnp.mean(size**2) / jnp.mean(total**2))


def vanishes(name: str, kernel: str) -> bool:
    """Whether the theory says that a field has no curl."""
    return name in CONSERVATIVE_FIELDS or (name in CONSERVATIVE_WITH_GAUSS and kernel == "gaussian")


def curl_samples(settings: CurlSettings) -> tuple[Array, Array]:
    """Positives from three modes and negatives from two, `[samples, 2]` each."""
    key_p, key_q = jax.random.split(jax.random.key(settings.seed))
    p = mixture(circle(3, 0.5 * settings.extent), 0.2 * settings.extent)
    q = mixture(circle(2, 0.4 * settings.extent, 1.0), 0.15 * settings.extent)
    return p(key_p, settings.samples), q(key_q, settings.samples)


def run(settings: CurlStudy) -> Result:
    """Curl of every field and kernel on a grid; the first two fields of the paper's figure are drawn."""
    config = settings.study
    y_pos, y_neg = curl_samples(config)
    side = jnp.linspace(-config.extent, config.extent, config.grid)
    points = jnp.stack(jnp.meshgrid(side, side), axis=-1).reshape(-1, 2)

    rows, claims, pictures = [], [], {}
    for name in config.fields:
        for kernel in config.kernels:
            if name in ONE_SIDED_FIELDS:
                part, field = "attraction", attraction(name, y_pos, kernel, config.width)
            else:
                part, field = "whole", point_field(name, y_pos, y_neg, kernel, config.width)
            jacobians = jax.jit(lambda x, field=field: jacobian(field, x))(points)
            each, overall = relative_curl(jacobians)
            pictures[name, kernel] = np.asarray(
                curl(jacobians)[:, 0] / jnp.max(jnp.linalg.norm(jacobians, axis=(1, 2)))
            )
            zero = vanishes(name, kernel)
            rows.append((plots.title(name), plots.title(kernel), part, float(overall), float(jnp.max(each))))
            bound = {"high": 1e-4} if zero else {"low": 1e-2}
            text = f"{plots.title(name)}, {plots.title(kernel)}: {'no curl' if zero else 'curl'}"
            claims.append(Claim(text, float(jnp.max(each)) if zero else float(overall), **bound))
    table = Table(("field", "kernel", "of", "rms curl / rms gradient", "largest curl / gradient"), rows)
    return Result(table, claims, {"figure.png": draw(config, pictures, np.asarray(y_pos))})


@plots.style()
def draw(config: CurlSettings, pictures: dict[tuple[str, str], np.ndarray], y: np.ndarray) -> Figure:
    """Figure 1 of the paper: two fields above each other, the kernels side by side."""
    fields = config.fields[:2]
    figure, axes = plots.figure(len(fields), len(config.kernels), height=0.45 + 0.78 * len(fields), pictures=True)
    limit = max(float(np.abs(pictures[name, kernel]).max()) for name in fields for kernel in config.kernels)
    for row, name in zip(axes, fields, strict=True):
        for ax, kernel in zip(row, config.kernels, strict=True):
            image = ax.imshow(
                pictures[name, kernel].reshape(config.grid, config.grid),
                extent=(-config.extent, config.extent) * 2,
                origin="lower",
                cmap=plots.DIVERGING_COLOURS,
                vmin=-limit,
                vmax=limit,
            )
            ax.plot(*y.T, ".", color="0.2", markersize=0.8, alpha=0.6)
            plots.plane(ax, config.extent, plots.title(name))
    for ax, kernel in zip(axes[0], config.kernels, strict=True):
        ax.set_title(plots.title(kernel))
    bar = figure.colorbar(image, ax=axes, fraction=0.04, aspect=30)
    bar.set_label("curl / largest |J|")
    return figure
