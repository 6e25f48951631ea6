"""Parameters in the dtype in which a network uses them: what it computes stays the same to the bit."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from drifting.method.placement import ONE_DEVICE
from drifting.method.step import gathered
from drifting.networks import PRESETS, mae
from drifting.networks.dit import DiT
from drifting.networks.network import Generator, as_used, structure
from tests.networks.test_dit import TINY


def generator(graphdef: Any, params: Any) -> jax.Array:
    model = nnx.merge(graphdef, params)
    noise = jax.vmap(model.sample_noise)(jax.random.split(jax.random.key(0), 2))
    out: jax.Array = model(noise, jnp.arange(2), jnp.ones(2))
    return out


def encoder(graphdef: Any, params: Any) -> Any:
    x = jax.random.normal(jax.random.key(0), (1, 4, 4, 4))
    return nnx.merge(graphdef, params).encode(x)


NETWORKS: dict[str, tuple[Callable[..., Any], Callable[..., nnx.Module]]] = {
    "dit": (generator, partial(DiT, **TINY | {"depth": 1, "dtype": "bfloat16"})),
    "mae": (encoder, partial(mae.MAE, **PRESETS["mae"]["latent_smoke"], dtype="bfloat16", remat=False)),
}


def drawn(name: str) -> tuple[Any, Any]:
    graphdef, state = nnx.split(NETWORKS[name][1](rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    return graphdef, jax.tree.map(
        lambda x: jnp.float32(np.asarray(x) + 0.1 * rng.normal(size=x.shape)), nnx.to_pure_dict(state)
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_computes_the_same_with_its_parameters_as_it_uses_them(name: str):
    graphdef, params = drawn(name)
    used = as_used(graphdef, params)
    half = sum(x.size for x in jax.tree.leaves(used) if x.dtype == jnp.bfloat16)
    assert half > 0.5 * sum(x.size for x in jax.tree.leaves(used))
    applied = jax.jit(partial(NETWORKS[name][0], graphdef))
    for a, b in zip(jax.tree.leaves(applied(used)), jax.tree.leaves(applied(params)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_network_in_float32_has_its_parameters_as_they_are():
    graphdef, params = structure("mae", PRESETS["mae"]["latent_smoke"] | {"dtype": "float32", "remat": False})
    assert as_used(graphdef, params) == params


def test_parameters_travel_as_they_are_used_and_arrive_in_their_own_dtype():
    graphdef, params = drawn("dit")
    sent: list[Any] = []

    class Recording(type(ONE_DEVICE)):  # type: ignore[misc]
        def gather(self, tree: Any) -> Any:
            sent.append(tree)
            return tree

    whole = gathered(Generator(graphdef, (8, 8, 3)), params, Recording())
    used = as_used(graphdef, params)
    assert jax.tree.map(lambda x: x.dtype, sent[0]) == jax.tree.map(lambda x: x.dtype, used)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(used), strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_array_equal(a, b.astype(jnp.float32))
