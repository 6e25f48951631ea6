"""What the precision of matrix products does to distances and fields, emulated on the CPU.

    python -m scripts.product_precision

Tensor cores multiply bfloat16 or TF32 numbers and add up in float32. A float32 number is the sum of three bfloat16
ones, or of two of TF32 to within a bit or two, so that some products of parts come near to that of the numbers, by the
names that XLA has for them (`jax.lax.DotAlgorithmPreset`). Products of parts are exact in float32, so that the
emulation differs from a card in the order of additions alone. Everything besides products is float32; compared is with
float64.
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from rich.console import Console
from rich.table import Table

from drifting.method.fields import FIELDS, Pairs
from drifting.method.kernels import EXACT_PRODUCT, KERNELS

Product = Callable[[Array, Array], Array]

WIDTH = 0.02
"""The smallest kernel width of the published runs."""


def rounded(x: Array, bits: int) -> Array:
    """A float32 array with so many bits after the leading one, the nearest, ties to even."""
    drop = 23 - bits
    whole = jax.lax.bitcast_convert_type(x, jnp.uint32)
    half = jnp.uint32((1 << (drop - 1)) - 1) + ((whole >> drop) & 1)
    return jax.lax.bitcast_convert_type((whole + half) >> drop << drop, jnp.float32)


def parts_of(x: Array, bits: int, count: int) -> list[Array]:
    """Numbers of fewer bits whose sum is `x`, as nearly as so many can be; the largest first."""
    found: list[Array] = []
    for _ in range(count):
        found.append(rounded(x, bits))
        x = x - found[-1]
    return found


def of_parts(bits: int, pairs: Sequence[tuple[int, int]]) -> Product:
    """A product that adds up those of some parts of its factors, the smallest first."""

    def product(a: Array, b: Array) -> Array:
        count = 1 + max(max(pair) for pair in pairs)
        left, right = parts_of(a, bits, count), parts_of(b, bits, count)
        total = jnp.zeros((), jnp.float32)
        for i, j in sorted(pairs, key=sum, reverse=True):
            total = total + jnp.matmul(left[i], right[j], precision=EXACT_PRODUCT)
        return total

    return product


def up_to(most: int, count: int) -> list[tuple[int, int]]:
    """The pairs of parts whose numbers add up to at most that."""
    return [(i, j) for i in range(count) for j in range(count) if i + j <= most]


PRODUCTS: dict[str, Product] = {
    "float32 (HIGHEST)": partial(jnp.matmul, precision=EXACT_PRODUCT),
    "BF16_BF16_F32_X9": of_parts(7, up_to(4, 3)),
    "BF16_BF16_F32_X6": of_parts(7, up_to(2, 3)),
    "BF16_BF16_F32_X3": of_parts(7, up_to(1, 2)),
    "BF16_BF16_F32": of_parts(7, [(0, 0)]),
    "TF32_TF32_F32_X3": of_parts(10, up_to(1, 2)),
    "TF32_TF32_F32": of_parts(10, [(0, 0)]),
}

PROBLEMS = ("spread", "near")
"""Samples of which each is far from all others, and such that each has a positive at a fiftieth of that distance."""


def samples(kind: str, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """64 generated samples, and 64 positives, float32."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, channels)).astype(np.float32)
    y = rng.standard_normal((64, channels)).astype(np.float32)
    return x, (y if kind == "spread" else x + 0.02 * y)


def distances_and_field(product: Product, x: Any, y: Any) -> tuple[Array, Array]:
    """Of the two-axis drift with the Laplace kernel, distances and coordinates divided by the mean distance."""
    targets = jnp.concatenate([x, y])
    origin = jnp.mean(y, axis=0)
    points, queries = targets - origin, x - origin
    norms = jnp.sum(points**2, axis=1)
    squares = norms[: len(x), None] + norms - 2 * product(queries, points.T)
    is_self = jnp.eye(len(x), dtype=bool)
    d = jnp.where(jnp.eye(len(x), len(targets), dtype=bool), 1e-4, jnp.sqrt(jnp.maximum(squares, 1e-8)))
    unit = jnp.mean(d)
    ones = jnp.ones(len(x), d.dtype)
    pairs = Pairs(d[:, len(x) :] / unit, d[:, : len(x)] / unit, ones, ones, is_self)
    b = FIELDS["drift"](pairs, KERNELS["laplace"], WIDTH)
    joined = jnp.concatenate([b.neg, b.pos], axis=1)
    return d, (product(joined, points) - jnp.sum(joined, axis=1, keepdims=True) * queries) / unit


def errors(product: Product, kind: str, channels: int) -> tuple[float, float]:
    """The largest relative error of a distance, and that of the field in the norm of all."""
    x, y = samples(kind, channels)
    with jax.enable_x64(True):
        true = [np.asarray(v) for v in distances_and_field(jnp.matmul, x.astype(np.float64), y.astype(np.float64))]
    d, field = (np.asarray(v, np.float64) for v in distances_and_field(product, jnp.asarray(x), jnp.asarray(y)))
    distance = np.max(np.abs(d / true[0] - 1))
    return float(distance), float(np.linalg.norm(field - true[1]) / np.linalg.norm(true[1]))


def main() -> int:
    """Prints the table."""
    table = Table("product", title=f"relative errors of distances, and of the field at the width {WIDTH}")
    cases = [(kind, channels) for kind in PROBLEMS for channels in (64, 1024)]
    for kind, channels in cases:
        table.add_column(f"{kind}, {channels}")
    for name, product in PRODUCTS.items():
        found = [errors(product, *case) for case in cases]
        table.add_row(name, *(f"{distance:.0e}, {field:.0e}" for distance, field in found))
    Console(width=120).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
