"""Accuracy of distances, kernels and fields at small kernel widths, on 4096-dimensional features with a common offset.

Part of the study `links`. Compares two ways of computing distances in float32 with exact differences in float64: the
textbook expansion `|x|^2 + |y|^2 - 2 x.y` of the features as they are, and the package's, which takes a common centre
out first. All else is equal. docs/small-widths.md says what came out.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from drifting.method.fields import FIELDS, Pairs, displace
from drifting.method.kernels import KERNELS, centred_distance
from drifting.studies import plots
from drifting.studies.study import Table

FEATURE_DIMENSION = 4096

FEATURE_OFFSETS = (10, 100)  # norm of a feature over the mean distance of two

NEAR_DISTANCES = (
    0.5,
    0.2,
    0.1,
    0.05,
    0.02,
    0.01,
    0.005,
    0.002,
    0.001,
)  # distances of near duplicates, the mean distance being 1

SMALL_WIDTHS = (0.5, 0.2, 0.1, 0.05, 0.02)

NEAR_COPIES = 3  # near duplicates of each kind at each distance

DISTANCE_METHODS = ("textbook", "centred")

# Titles of the fields that are compared: log-KDE's is the sharp field.
COMPARED_FIELDS = {
    "log-KDE, Gaussian": ("sharp", "gaussian"),
    "log-KDE, Laplace": ("sharp", "laplace"),
    "drift, Laplace": ("drift", "laplace"),
}

# Generated samples that the fields are computed for: none near another, or all.
SAMPLES_APART, SAMPLES_ALL = "apart", "all"


@dataclass(frozen=True)
class Errors:
    """Errors of one method against float64.

    Attributes:
        distance: largest relative error of a distance, for each of `NEAR_DISTANCES`.
        log_k: largest absolute error of `log k` over all pairs, {kernel: for each of `SMALL_WIDTHS`}.
        field: relative error, in the Euclidean norm, of the field normalised to unit root mean square,
            {(which samples, title): for each of `SMALL_WIDTHS`}.
    """

    distance: list[float]
    log_k: dict[str, list[float]]
    field: dict[tuple[str, str], list[float]]


def features(offset: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Generated samples and positives, float32 `[81, 4096]` and `[64, 4096]`, at distance 1 from each other on average.

    Every feature is near one vector of length `offset` whose entries are not negative, as activations after a ReLU are.
    The first 27 generated samples are near duplicates of positives, the last 27 of the 27 generated ones between.
    """
    rng = np.random.default_rng(seed)

    def directions(n: int) -> np.ndarray:
        v = rng.normal(size=(n, FEATURE_DIMENSION))
        return v / np.linalg.norm(v, axis=1, keepdims=True)

    common = np.maximum(rng.normal(1.0, 1.0, FEATURE_DIMENSION), 0)
    common *= offset / np.linalg.norm(common)
    near = np.tile(NEAR_DISTANCES, NEAR_COPIES)
    y = common + directions(64) / np.sqrt(2)
    fresh = common + directions(len(near)) / np.sqrt(2)
    of_positives = y[: len(near)] + near[:, None] * directions(len(near))
    of_generated = fresh + near[:, None] * directions(len(near))
    return np.concatenate([of_positives, fresh, of_generated]).astype(np.float32), y.astype(np.float32)


class Distances(NamedTuple):
    """Distances of the generated samples to the positives and among themselves."""

    pos: np.ndarray
    neg: np.ndarray


def float32_distances(method: str, x: np.ndarray, y: np.ndarray) -> Distances:
    """What `map_loss` computes ('centred': the mean of the positives is the origin), or without a centre."""
    query, positives = jnp.asarray(x), jnp.asarray(y)
    centre = jnp.mean(positives, axis=0) if method == "centred" else 0.0
    return Distances(*(np.asarray(centred_distance(query - centre, a - centre)) for a in (positives, query)))


def exact_distances(x: np.ndarray, y: np.ndarray) -> Distances:
    """Distances from the differences of coordinates, in float64."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    return Distances(*(np.stack([np.linalg.norm(row - a, axis=1) for row in x]) for a in (y, x)))


def near_pairs(d: Distances) -> np.ndarray:
    """The distances of the near duplicates, `[pairs, len(NEAR_DISTANCES)]`."""
    n = len(NEAR_DISTANCES) * NEAR_COPIES
    pairs = np.concatenate([np.diagonal(d.pos[:n]), np.diagonal(d.neg[n : 2 * n, 2 * n :])])
    return pairs.reshape(-1, len(NEAR_DISTANCES))


def all_pairs(d: Distances) -> np.ndarray:
    """Every distance but a sample's to itself."""
    return np.concatenate([d.pos.ravel(), d.neg[~np.eye(len(d.neg), dtype=bool)]])


def log_kernel(kernel: str, width: float, d: np.ndarray) -> np.ndarray:
    """`log k`, in the precision of the distances."""
    with jax.enable_x64(d.dtype == np.float64):
        return np.asarray(KERNELS[kernel].log_k(jnp.asarray(d), width))


def unit_field(name: str, kernel: str, width: float, d: Distances, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A field of unit root mean square, in the precision of the distances."""
    centre = y.mean(axis=0, dtype=np.float64)
    x, y = ((a - centre).astype(d.pos.dtype) for a in (x, y))
    with jax.enable_x64(d.pos.dtype == np.float64):
        w_pos, w_neg = (jnp.ones(len(a), d.pos.dtype) for a in (y, x))
        pairs = Pairs(jnp.asarray(d.pos), jnp.asarray(d.neg), w_pos, w_neg, jnp.eye(len(x), dtype=bool))
        coordinates = (jnp.asarray(a) for a in (x, y, x))
        v = displace(FIELDS[name](pairs, KERNELS[kernel], width), *coordinates)
        return np.asarray(v / jnp.sqrt(jnp.mean(jnp.square(v))))


def measure_errors(method: str, offset: float) -> Errors:
    """Errors of one of `DISTANCE_METHODS` on features of that offset."""
    x, y = features(offset)
    got, want = float32_distances(method, x, y), exact_distances(x, y)
    distance = np.abs(near_pairs(got) / near_pairs(want) - 1).max(axis=0)

    log_k: dict[str, list[float]] = {}
    for kernel in ("gaussian", "laplace"):
        values = [[log_kernel(kernel, width, all_pairs(d)) for d in (got, want)] for width in SMALL_WIDTHS]
        log_k[kernel] = [float(np.abs(a - b).max()) for a, b in values]

    fields: dict[tuple[str, str], list[float]] = {}
    n = len(NEAR_DISTANCES) * NEAR_COPIES
    for which, kept in ((SAMPLES_APART, slice(n, 2 * n)), (SAMPLES_ALL, slice(None))):
        sets = [Distances(d.pos[kept], d.neg[kept, kept]) for d in (got, want)]
        for title, (name, kernel) in COMPARED_FIELDS.items():
            values = [[unit_field(name, kernel, width, d, x[kept], y) for d in sets] for width in SMALL_WIDTHS]
            fields[which, title] = [float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in values]
    return Errors(distance.tolist(), log_k, fields)


def measure_all() -> dict[tuple[str, int], Errors]:
    """Errors of every method and offset."""
    return {
        (method, offset): measure_errors(method, offset) for method in DISTANCE_METHODS for offset in FEATURE_OFFSETS
    }


def tables(errors: dict[tuple[str, int], Errors]) -> dict[str, Table]:
    """Errors of distances, and of `log k` and fields at the larger offset, by file name."""
    columns = [(method, offset) for offset in FEATURE_OFFSETS for method in DISTANCE_METHODS]
    distance = Table(
        ("distance", *(f"{method}, offset {offset}" for method, offset in columns)),
        [(near, *(errors[column].distance[i] for column in columns)) for i, near in enumerate(NEAR_DISTANCES)],
    )

    def by_width(found: dict[str, dict[str, list[float]]]) -> Table:
        titles = [f"{title}, {method}" for title in found[DISTANCE_METHODS[0]] for method in DISTANCE_METHODS]
        values = [found[method][title] for title in found[DISTANCE_METHODS[0]] for method in DISTANCE_METHODS]
        return Table(("width", *titles), [(width, *(v[i] for v in values)) for i, width in enumerate(SMALL_WIDTHS)])

    log_k = {method: errors[method, FEATURE_OFFSETS[-1]].log_k for method in DISTANCE_METHODS}
    fields = {
        method: {f"{title}, {which}": v for (which, title), v in errors[method, FEATURE_OFFSETS[-1]].field.items()}
        for method in DISTANCE_METHODS
    }
    return {"distances.csv": distance, "log_k.csv": by_width(log_k), "fields.csv": by_width(fields)}


@plots.style()
def draw(errors: dict[tuple[str, int], Errors]) -> Figure:
    """Distances above, fields below."""
    colours = {"textbook": plots.RED, "centred": plots.BLUE}
    figure, axes = plots.figure(2, 1, height=4.2)
    top, bottom = axes[:, 0]
    for (method, offset), e in errors.items():
        line = "o-" if offset == FEATURE_OFFSETS[-1] else "s:"
        top.loglog(NEAR_DISTANCES, e.distance, line, color=colours[method], label=f"{method}, offset {offset}")
    for marker, title in zip("^vD", COMPARED_FIELDS, strict=True):
        for method, colour in colours.items():
            bottom.loglog(
                SMALL_WIDTHS,
                errors[method, FEATURE_OFFSETS[-1]].field[SAMPLES_APART, title],
                f"{marker}-",
                color=colour,
            )
        bottom.plot([], [], marker, color="0.3", label=title)
    top.set(xlabel="true distance / mean distance", ylabel="relative error of distances")
    bottom.set(xlabel="kernel width", ylabel="relative error of fields")
    bottom.set_xticks(SMALL_WIDTHS, [f"{w:g}" for w in SMALL_WIDTHS], minor=False)
    bottom.minorticks_off()
    for ax in (top, bottom):
        ax.invert_xaxis()
        ax.axhline(1, color="0.8", linewidth=0.8, zorder=0)
    top.legend(loc="lower right")
    bottom.legend(loc="center right")
    return figure
