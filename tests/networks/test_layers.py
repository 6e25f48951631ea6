"""Layers against float64 NumPy restatements and the properties that define them."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from drifting.networks.layers import (
    Conv,
    GroupNorm,
    LayerNorm,
    Linear,
    RMSNorm,
    attend,
    fourier_features,
    group_count,
    group_normalised,
    patchify,
    rotary_angles,
    rotate,
    sincos_table,
    unpatchify,
)


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_patchify_orders_features_by_row_column_channel():
    x = draw(2, 4, 6, 3)
    tokens = np.asarray(patchify(jnp.asarray(x), 2))
    assert tokens.shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(tokens[1, 1, 2], x[1, 2:4, 4:6].reshape(-1))


def test_unpatchify_inverts_patchify():
    x = draw(2, 4, 4, 3)
    np.testing.assert_array_equal(unpatchify(patchify(jnp.asarray(x), 2), 2), x)


def test_linear_is_matmul_plus_bias_on_any_leading_axes():
    layer = Linear(5, 7, dtype=jnp.float32, init=nnx.initializers.normal(1.0), rngs=nnx.Rngs(0))
    layer.bias[...] = jnp.asarray(draw(7))
    x = draw(2, 3, 5)
    expected = x.astype(np.float64) @ np.asarray(layer.kernel[...], np.float64) + draw(7)
    np.testing.assert_allclose(layer(jnp.asarray(x)), expected, atol=2e-6)


def test_rms_norm_is_its_formula():
    norm, x = RMSNorm(6), draw(4, 6)
    norm.gain[...] = jnp.asarray(draw(6, seed=1))
    y = x.astype(np.float64)
    expected = y / np.sqrt(np.mean(y**2, -1, keepdims=True) + 1e-6) * draw(6, seed=1)
    np.testing.assert_allclose(norm(jnp.asarray(x)), expected, rtol=1e-5)


def test_layer_norm_is_its_formula():
    norm, x = LayerNorm(6, affine=True), draw(4, 6) + 3
    norm.gain[...], norm.bias[...] = jnp.asarray(draw(6, seed=1)), jnp.asarray(draw(6, seed=2))
    y = x.astype(np.float64)
    plain = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(norm(jnp.asarray(x)), plain * draw(6, seed=1) + draw(6, seed=2), atol=1e-5)
    np.testing.assert_allclose(LayerNorm(6, affine=False)(jnp.asarray(x)), plain, atol=1e-5)


def test_layer_norm_without_affine_has_no_parameters():
    assert not jax.tree.leaves(nnx.state(LayerNorm(6, affine=False)))


@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (4, 4), (32, 32), (48, 24), (33, 11), (37, 1), (640, 32)])
def test_group_count_is_the_largest_divisor_up_to_32(channels: int, groups: int):
    assert group_count(channels) == groups


@pytest.mark.parametrize(("channels", "side"), [(64, 4), (48, 3), (256, 1)])
def test_group_norm_is_its_formula(channels: int, side: int):
    norm, x = GroupNorm(channels), draw(2, side, side, channels) * 3 + 5
    gain, bias = draw(channels, seed=1), draw(channels, seed=2)
    norm.gain[...], norm.bias[...] = jnp.asarray(gain), jnp.asarray(bias)
    y = x.astype(np.float64).reshape(2, side, side, group_count(channels), -1)
    y = (y - y.mean((1, 2, 4), keepdims=True)) / np.sqrt(y.var((1, 2, 4), keepdims=True) + 1e-6)
    np.testing.assert_allclose(norm(jnp.asarray(x)), y.reshape(x.shape) * gain + bias, atol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("offset", "spread"), [(0.0, 1.0), (5.0, 3.0), (1000.0, 1.0), (-40.0, 0.5)])
def test_group_norm_and_its_gradient_far_from_the_origin(offset: float, spread: float, dtype: Any):
    """Against autodiff of the formula in float64, on the same numbers."""
    x = jnp.asarray(draw(2, 5, 4, 48) * spread + offset * (1 + draw(48, seed=3) / 10), dtype)
    gain, bias, weights = draw(48, seed=1), draw(48, seed=2), draw(2, 5, 4, 48, seed=4)

    def formula(x: jax.Array, gain: jax.Array, bias: jax.Array) -> jax.Array:
        y = x.reshape(2, 20, 24, 2)
        y = (y - y.mean((1, 3), keepdims=True)) / jnp.sqrt(y.var((1, 3), keepdims=True) + 1e-6)
        return y.reshape(x.shape) * gain + bias

    def slopes(function: Any, *arguments: Any) -> Any:
        return jax.value_and_grad(lambda *given: jnp.sum(function(*given) * weights), (0, 1, 2))(*arguments)

    with jax.enable_x64():
        wide = [jnp.asarray(a, jnp.float64) for a in (x, gain, bias)]
        expected, (_, gradients) = formula(*wide), slopes(formula, *wide)
    # What the numbers leave: a rounding error of the largest in units of the spread; and that of the result's dtype.
    error = 1e-5 + 4e-7 * float(jnp.abs(x).max()) / spread + (0 if dtype == jnp.float32 else 2**-8)
    close = partial(np.testing.assert_allclose, rtol=0)
    found = group_normalised(x, gain, bias, 24)
    assert found.dtype == x.dtype
    close(found.astype(jnp.float32), expected, atol=error * np.abs(expected).max())
    for one, other in zip(slopes(partial(group_normalised, groups=24), x, gain, bias)[1], gradients, strict=True):
        close(one.astype(jnp.float32), other, atol=4 * error * np.abs(other).max())


def test_group_norm_agrees_with_flax():
    x = jnp.asarray(draw(2, 4, 4, 64))
    theirs = nnx.GroupNorm(64, 32, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(GroupNorm(64)(x), theirs(x), atol=1e-5)


@pytest.mark.parametrize("norm", [RMSNorm(64), LayerNorm(64, affine=True), GroupNorm(64)])
def test_norms_keep_bf16_but_reduce_in_float32(norm: nnx.Module):
    x = jnp.asarray(draw(2, 8, 8, 64) + 30).astype(jnp.bfloat16)
    y = norm(x)
    assert y.dtype == jnp.bfloat16
    # In bf16 the mean square of values near 30 would be off by several per cent.
    np.testing.assert_allclose(y.astype(jnp.float32), norm(x.astype(jnp.float32)), rtol=2**-7, atol=1e-2)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 2), (2, 5), (4, 4), (6, 5)])
@pytest.mark.parametrize("size", [1, 3])
def test_convolution_is_its_sum_whatever_the_size_of_the_map(size: int, height: int, width: int, stride: int):
    """Every output is the sum over the kernel around it, zeros outside; small maps take a path of their own."""
    layer = Conv(3, 4, size, stride=stride, bias=True, dtype=jnp.float32, rngs=nnx.Rngs(0))
    layer.bias[...] = jnp.asarray(draw(4))
    x, kernel = draw(2, height, width, 3), np.asarray(layer.kernel[...], np.float64)
    padded = np.pad(x.astype(np.float64), ((0, 0), (size // 2,) * 2, (size // 2,) * 2, (0, 0)))
    expected = [
        [np.einsum("bijc,ijco->bo", padded[:, i : i + size, j : j + size], kernel) for j in range(0, width, stride)]
        for i in range(0, height, stride)
    ]
    np.testing.assert_allclose(layer(jnp.asarray(x)), np.stack(expected).transpose(2, 0, 1, 3) + draw(4), atol=1e-5)


def test_attention_is_its_formula():
    q, k, v = (draw(2, 3, 5, 4, seed=s) for s in range(3))
    weights = np.exp(np.einsum("bhnd,bhmd->bhnm", q.astype(np.float64), k) / 2)
    expected = np.einsum("bhnm,bhmd->bhnd", weights / weights.sum(-1, keepdims=True), v)
    np.testing.assert_allclose(attend(*map(jnp.asarray, (q, k, v))), expected, atol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-6), ("bfloat16", 2e-2)])
def test_the_gradient_of_attention_is_that_of_its_formula(dtype: str, tolerance: float):
    *given, slope = (jnp.asarray(3 * draw(2, 3, 5, 4, seed=s), dtype) for s in range(4))

    def formula(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return jax.nn.softmax(jnp.einsum("bhnd,bhmd->bhnm", q, k) / 2) @ v

    def gradients(function: Any, *given: jax.Array) -> Any:
        return jax.grad(lambda *given: jnp.sum(function(*given) * slope.astype(jnp.float32)), (0, 1, 2))(*given)

    found, expected = gradients(attend, *given), gradients(formula, *(a.astype(jnp.float32) for a in given))
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == given[0].dtype
        assert np.linalg.norm(one.astype(jnp.float32) - other) < tolerance * np.linalg.norm(other)


@pytest.mark.parametrize("norm", [RMSNorm(6), LayerNorm(6, affine=True), LayerNorm(6, affine=False)])
def test_a_norm_times_a_scale_and_its_gradient(norm: Any):
    graphdef, params = nnx.split(norm)
    params = jax.tree.map(lambda p: p + jnp.asarray(draw(6, seed=2)), params)
    x, scale, slope = (jnp.asarray(draw(2, n, 6, seed=n)) for n in (5, 1, 4))

    def gradients(function: Any) -> Any:
        def value(params: Any, x: jax.Array, scale: jax.Array) -> jax.Array:
            return jnp.sum(function(nnx.merge(graphdef, params), x, scale)[:, 1:] * slope)

        return jax.value_and_grad(value, (0, 1, 2))(params, x, scale)

    found, expected = gradients(lambda norm, *given: norm(*given)), gradients(lambda norm, x, scale: norm(x) * scale)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)


def test_rotary_products_depend_on_the_distance_alone():
    cos, sin = rotary_angles(12, 8)
    q, k = (jnp.broadcast_to(jnp.asarray(draw(8, seed=s)), (12, 8)) for s in (1, 2))
    products = np.asarray(rotate(q, cos, sin) @ rotate(k, cos, sin).T)
    for offset in range(-11, 12):
        diagonal = np.diagonal(products, offset)
        np.testing.assert_allclose(diagonal, diagonal[0], atol=1e-5)
    assert np.ptp(products) > 0.1


def test_rotation_keeps_norms_and_the_first_position():
    x = jnp.asarray(draw(2, 3, 12, 8))
    y = rotate(x, *rotary_angles(12, 8))
    np.testing.assert_allclose(jnp.linalg.norm(y, axis=-1), jnp.linalg.norm(x, axis=-1), rtol=1e-5)
    np.testing.assert_array_equal(y[:, :, 0], x[:, :, 0])


def test_rotation_pairs_the_two_halves():
    """Feature k and feature k + d/2 turn by `position * 1e4^(-k/(d/2))`, here position 3 and k = 1 of d = 4."""
    x = np.zeros((4, 4), np.float32)
    x[3, 1] = 1
    y = np.asarray(rotate(jnp.asarray(x), *rotary_angles(4, 4)))
    np.testing.assert_allclose(y[3], [0, np.cos(0.03), 0, np.sin(0.03)], atol=1e-7)


def test_sincos_table_gives_every_position_its_own_unit_row():
    table = sincos_table(4, 6, 16).astype(np.float64)
    assert table.shape == (24, 16)
    np.testing.assert_allclose(np.sum(table**2, axis=1), 8, rtol=1e-6)
    gram = table @ table.T
    assert np.all(gram[~np.eye(24, dtype=bool)] < 8 - 1e-3)


def test_sincos_table_halves_hold_column_and_row():
    table = sincos_table(3, 5, 8).reshape(3, 5, 8)
    np.testing.assert_array_equal(table[:, :, :4], np.broadcast_to(table[:1, :, :4], (3, 5, 4)))
    np.testing.assert_array_equal(table[:, :, 4:], np.broadcast_to(table[:, :1, 4:], (3, 5, 4)))
    np.testing.assert_allclose(table[0, 2, :4], [np.sin(2), np.sin(0.02), np.cos(2), np.cos(0.02)], rtol=1e-6)


def test_fourier_features_are_cosines_then_sines():
    t = np.array([0.0, 1.5, 4.0])
    angle = t[:, None] * np.exp(-np.log(1e4) * np.arange(4) / 4)
    expected = np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
    np.testing.assert_allclose(fourier_features(jnp.asarray(t), 8), expected, atol=1e-6)
