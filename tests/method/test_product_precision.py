"""Products of parts, as tensor cores make them: what the loss in kernels asks for loses nothing of float32."""

import jax.numpy as jnp
import numpy as np
import pytest

from scripts.product_precision import PROBLEMS, PRODUCTS, errors, parts_of, rounded


def test_parts_are_rounded_to_the_nearest_and_add_up():
    x = jnp.asarray(np.random.default_rng(0).standard_normal(1000), jnp.float32)
    assert np.array_equal(rounded(x, 7), x.astype(jnp.bfloat16).astype(jnp.float32))
    three = parts_of(x, 7, 3)
    assert np.array_equal(three[0] + three[1] + three[2], x)
    assert all(np.array_equal(part, rounded(part, 7)) for part in three)
    two = parts_of(x, 10, 2)
    assert np.max(np.abs((np.float64(two[0]) + np.float64(two[1])) / np.float64(x) - 1)) < 2**-21


@pytest.mark.parametrize("kind", PROBLEMS)
def test_six_products_are_as_good_as_float32_and_three_are_not(kind: str):
    exact = errors(PRODUCTS["float32 (HIGHEST)"], kind, 64)
    for error, found in zip(exact, errors(PRODUCTS["BF16_BF16_F32_X6"], kind, 64), strict=True):
        assert found < 2 * error
    for error, found in zip(exact, errors(PRODUCTS["BF16_BF16_F32_X3"], kind, 64), strict=True):
        assert found > 3 * error
