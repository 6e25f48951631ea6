"""The MLP generator: its signature, its conditioning, its invariants."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from drifting.networks.mlp import MLP


def build(**changes: Any) -> MLP:
    options = dict(noise_dim=5, out_dim=2, hidden_size=16, depth=4, num_classes=0, dtype="float32")
    return MLP(**options | changes, rngs=nnx.Rngs(0))


def batch(model: MLP, count: int = 6) -> dict[str, jax.Array]:
    return jax.vmap(model.sample_noise)(jax.random.split(jax.random.key(0), count))


def test_output_is_a_point_for_each_noise():
    model = build()
    out = model(batch(model), jnp.zeros(6, jnp.int32), 1.0)
    assert out.shape == (6, 2) and out.dtype == jnp.float32
    assert np.unique(np.asarray(out), axis=0).shape == (6, 2)


def test_is_the_composition_of_its_layers():
    model = build(depth=3)
    noise = batch(model)

    def silu(x: np.ndarray) -> np.ndarray:
        return x / (1 + np.exp(-x))

    x = np.asarray(noise["image"], np.float64)
    for i, layer in enumerate((model.first, model.hidden["layer1"], model.last)):
        x = (silu(x) if i else x) @ np.asarray(layer.kernel[...], np.float64) + np.asarray(layer.bias[...])
    np.testing.assert_allclose(model(noise, jnp.zeros(6, jnp.int32), 1.0), x, atol=1e-5)


def test_layers_keep_their_order_beyond_ten():
    """Parameters travel as sorted dicts, in which `layer10` comes before `layer2`."""
    model = build(depth=13, noise_dim=16)
    graphdef, state = nnx.split(model)
    merged = nnx.merge(graphdef, jax.tree.map(lambda x: x, nnx.to_pure_dict(state)))
    noise, labels = batch(model), jnp.zeros(6, jnp.int32)
    np.testing.assert_array_equal(merged(noise, labels, 1.0), model(noise, labels, 1.0))


def test_depth_counts_linear_layers():
    kernels = [x for x in jax.tree.leaves(nnx.to_pure_dict(nnx.state(build(depth=4)))) if x.ndim == 2]
    assert len(kernels) == 4


def test_unconditional_network_reads_neither_label_nor_alpha():
    model = build()
    noise = batch(model)
    first, second = (model(noise, jnp.full(6, label), alpha) for label, alpha in ((0, 1.0), (3, 4.0)))
    np.testing.assert_array_equal(first, second)


def test_conditional_network_reads_label_and_alpha():
    model = build(num_classes=4)
    noise = batch(model)
    labels = jnp.arange(6) % 4
    out = model(noise, labels, 2.0)
    assert np.all(np.any(out != model(noise, (labels + 1) % 4, 2.0), axis=1))
    assert np.all(np.any(out != model(noise, labels, 3.0), axis=1))
    np.testing.assert_allclose(out, model(noise, labels, jnp.full(6, 2.0)), rtol=1e-6)


def test_noise_of_a_sample_depends_on_its_key_alone():
    model = build()
    keys = jax.random.split(jax.random.key(0), 6)
    np.testing.assert_array_equal(jax.vmap(model.sample_noise)(keys[3:])["image"], batch(model)["image"][3:])


def test_bf16_is_close_with_float32_parameters_and_output():
    model, low = build(), build(dtype="bfloat16")
    noise, labels = batch(model), jnp.zeros(6, jnp.int32)
    out = low(noise, labels, 1.0)
    assert out.dtype == jnp.float32
    assert {x.dtype for x in jax.tree.leaves(nnx.state(low))} == {jnp.dtype("float32")}
    np.testing.assert_allclose(out, model(noise, labels, 1.0), atol=0.1)
    assert np.any(np.asarray(out) != np.asarray(model(noise, labels, 1.0)))


def test_one_layer_is_refused():
    with pytest.raises(ValueError, match="depth=1: must be at least 2"):
        build(depth=1)
