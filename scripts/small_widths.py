"""Accuracy of distances, kernels and fields at small kernel widths, on 4096-dimensional features with a common offset.

    python -m scripts.small_widths

Compares two ways of computing distances in float32 with exact differences in float64: the textbook expansion
`|x|^2 + |y|^2 - 2 x.y` of the features as they are, and the package's, which takes a common centre out first. All else
is equal. Writes docs/small-widths.png and prints the tables of docs/small-widths.md. Takes seconds on a CPU.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax import Array

from drifting.fields import FIELDS, Pairs, displace
from drifting.kernels import KERNELS, centred_distance, pairwise_distance

FIGURE = Path(__file__).resolve().parent.parent / "docs" / "small-widths.png"
DIMENSION = 4096
OFFSETS = (10, 100)  # norm of a feature over the mean distance of two
NEAR = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)  # distances of near duplicates, the mean distance being 1
WIDTHS = (0.5, 0.2, 0.1, 0.05, 0.02)
COPIES = 3  # near duplicates of each kind at each distance

METHODS: dict[str, Callable[[Array, Array], Array]] = {"textbook": centred_distance, "centred": pairwise_distance}
# Titles of the fields that are compared: log-KDE's is the sharp field.
COMPARED = {
    "log-KDE, Gaussian": ("sharp", "gaussian"),
    "log-KDE, Laplace": ("sharp", "laplace"),
    "drift, Laplace": ("drift", "laplace"),
}
# Generated samples that the fields are computed for: none near another, or all.
APART, ALL = "apart", "all"


@dataclass(frozen=True)
class Errors:
    """Errors of one method against float64.

    Attributes:
        distance: largest relative error of a distance, for each of NEAR.
        log_k: largest absolute error of `log k` over all pairs, {kernel: for each of WIDTHS}.
        field: relative error, in the Euclidean norm, of the field normalised to unit root mean square,
            {(which samples, title): for each of WIDTHS}.
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
        v = rng.normal(size=(n, DIMENSION))
        return v / np.linalg.norm(v, axis=1, keepdims=True)

    common = np.maximum(rng.normal(1.0, 1.0, DIMENSION), 0)
    common *= offset / np.linalg.norm(common)
    near = np.tile(NEAR, COPIES)
    y = common + directions(64) / np.sqrt(2)
    fresh = common + directions(len(near)) / np.sqrt(2)
    of_positives = y[: len(near)] + near[:, None] * directions(len(near))
    of_generated = fresh + near[:, None] * directions(len(near))
    return np.concatenate([of_positives, fresh, of_generated]).astype(np.float32), y.astype(np.float32)


def exact_distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distances of the rows from their differences, in float64."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    return np.stack([np.linalg.norm(row - y, axis=1) for row in x])


def field(
    name: str, kernel: str, width: float, d: tuple[np.ndarray, np.ndarray], x: np.ndarray, y: np.ndarray
) -> Array:
    """A field of unit root mean square, in the precision of the distances `d` (to positives, to negatives)."""
    centre = y.astype(np.float64).mean(axis=0)
    x, y = ((a - centre).astype(d[0].dtype) for a in (x, y))
    ones = jnp.ones(len(y), d[0].dtype), jnp.ones(len(x), d[0].dtype)
    pairs = Pairs(jnp.asarray(d[0]), jnp.asarray(d[1]), *ones, jnp.eye(len(x), dtype=bool))
    v = displace(FIELDS[name](pairs, KERNELS[kernel], width), jnp.asarray(x), jnp.asarray(y), jnp.asarray(x))
    return v / jnp.sqrt(jnp.mean(jnp.square(v)))


def measure(method: str, offset: float) -> Errors:
    """Errors of one of METHODS on features of that offset."""
    x, y = features(offset)
    to_pos, to_neg = (np.asarray(METHODS[method](jnp.asarray(x), jnp.asarray(a))) for a in (y, x))
    got = to_pos, to_neg
    want = exact_distance(x, y), exact_distance(x, x)

    count = len(NEAR) * COPIES
    rows = np.arange(count)
    pairs = ((0, rows, rows), (1, rows + count, rows + 2 * count))  # (to positives or negatives, query, target)
    relative = np.concatenate([np.abs(got[k][i, j] / want[k][i, j] - 1) for k, i, j in pairs])
    distance = relative.reshape(-1, len(NEAR)).max(axis=0)

    off_diagonal = ~np.eye(len(x), dtype=bool)
    every_got, every_want = (np.concatenate([d[0].ravel(), d[1][off_diagonal]]) for d in (got, want))
    log_k: dict[str, list[float]] = {}
    fields: dict[tuple[str, str], list[float]] = {}
    for width in WIDTHS:
        for kernel in ("gaussian", "laplace"):
            value = np.asarray(KERNELS[kernel].log_k(jnp.asarray(every_got), width), np.float64)
            with jax.enable_x64(True):
                reference = np.asarray(KERNELS[kernel].log_k(jnp.asarray(every_want), width))
            log_k.setdefault(kernel, []).append(float(np.abs(value - reference).max()))
        for which, kept in ((APART, slice(count, 2 * count)), (ALL, slice(None))):
            for title, (name, kernel) in COMPARED.items():
                value = np.asarray(
                    field(name, kernel, width, (got[0][kept], got[1][kept, kept]), x[kept], y), np.float64
                )
                with jax.enable_x64(True):
                    d = want[0][kept], want[1][kept, kept]
                    reference = np.asarray(field(name, kernel, width, d, x[kept], y))
                error = np.linalg.norm(value - reference) / np.linalg.norm(reference)
                fields.setdefault((which, title), []).append(float(error))
    return Errors(distance.tolist(), log_k, fields)


def tables(errors: dict[tuple[str, int], Errors]) -> str:
    """The Markdown tables: distances, log k, fields."""

    def row(*cells: object) -> str:
        return "| " + " | ".join(f"{c:.0e}" if isinstance(c, float) else str(c) for c in cells) + " |"

    columns = [(method, offset) for offset in OFFSETS for method in METHODS]
    lines = [row("distance", *(f"{method}, offset {offset}" for method, offset in columns)), "|---" * 5 + "|"]
    lines += [row(f"{d:g}", *(errors[c].distance[i] for c in columns)) for i, d in enumerate(NEAR)]
    textbook, centred = (errors[method, OFFSETS[-1]] for method in METHODS)

    def by_width(titles: list[str], textbook: list[list[float]], centred: list[list[float]]) -> None:
        lines.extend(["", row("width", *titles), "|---" * (len(titles) + 1) + "|"])
        for i, width in enumerate(WIDTHS):
            both = (f"{a[i]:.0e} → {b[i]:.0e}" for a, b in zip(textbook, centred, strict=True))
            lines.append(row(f"{width:g}", *both))

    by_width(
        [f"log k, {kernel.capitalize()}" for kernel in textbook.log_k],
        list(textbook.log_k.values()),
        list(centred.log_k.values()),
    )
    titles = [f"{title}, {which}" for which, title in textbook.field]
    by_width(titles, list(textbook.field.values()), list(centred.field.values()))
    return "\n".join(lines)


def plot(errors: dict[tuple[str, int], Errors], path: Path) -> None:
    """Distances on the left, fields on the right."""
    colours = {"textbook": "#D55E00", "centred": "#0072B2"}
    with plt.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.2), layout="constrained", sharey=True)
        for (method, offset), e in errors.items():
            line = "o-" if offset == OFFSETS[-1] else "s:"
            left.loglog(NEAR, e.distance, line, color=colours[method], markersize=4, label=f"{method}, offset {offset}")
        for marker, title in zip("^vD", COMPARED, strict=True):
            for method, colour in colours.items():
                error = errors[method, OFFSETS[-1]].field[APART, title]
                right.loglog(WIDTHS, error, f"{marker}-", color=colour, markersize=4)
            right.plot([], [], marker, color="0.3", markersize=4, label=title)
        left.set(xlabel="true distance / mean distance", ylabel="relative error", title="distances")
        right.set(xlabel="kernel width", title=f"fields, no near duplicates, offset {OFFSETS[-1]}")
        right.set_xticks(WIDTHS, [f"{w:g}" for w in WIDTHS], minor=False)
        right.minorticks_off()
        for axes in (left, right):
            axes.invert_xaxis()
            axes.axhline(1, color="0.8", linewidth=0.8, zorder=0)
        left.legend(fontsize=7.5, frameon=False, loc="lower right")
        right.legend(fontsize=7.5, frameon=False, loc="upper left")
        figure.savefig(path, dpi=200)
        plt.close(figure)


def main() -> None:
    """Measures, prints the tables and draws the figure."""
    errors = {(method, offset): measure(method, offset) for method in METHODS for offset in OFFSETS}
    print(tables(errors))
    plot(errors, FIGURE)


if __name__ == "__main__":
    main()
