"""Attention's kernel against the plain products, and where it is used."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from drifting.assembly import networks
from drifting.networks.flash import flash_attend
from drifting.networks.layers import attend
from tests.support.runs import tiny_config


def arrays(tokens: int, dtype: Any) -> list[jax.Array]:
    rng = np.random.default_rng(tokens)
    return [jnp.asarray(rng.normal(size=(2, 3, tokens, 16)), dtype) for _ in range(4)]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-6), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("tokens", [32, 40])  # a whole tile, and one that is filled up
def test_the_kernel_for_gpu_computes_attention_and_its_gradient(tokens: int, dtype: str, tolerance: float):
    *given, cotangent = arrays(tokens, dtype)

    def value(attention: Any, *given: jax.Array) -> tuple[jax.Array, jax.Array]:
        out = attention(*given).astype(jnp.float32)
        return jnp.sum(out * cotangent.astype(jnp.float32)), out

    def found(attention: Any, *given: jax.Array) -> list[jax.Array]:
        (_, out), gradients = jax.value_and_grad(value, (1, 2, 3), has_aux=True)(attention, *given)
        return [out, *gradients]

    expected = found(attend, *(x.astype(jnp.float32) for x in given))
    computed = found(lambda *given: flash_attend(*given, "gpu", interpret=True), *given)
    for a, b in zip(computed, expected, strict=True):
        assert np.linalg.norm(a.astype(jnp.float32) - b) < tolerance * np.linalg.norm(b)


def test_products_are_exact_where_that_is_asked_for():
    given = arrays(32, "float32")[:3]
    for asked in (None, "highest"):
        with jax.default_matmul_precision(asked):
            traced = str(jax.make_jaxpr(lambda *given: flash_attend(*given, "gpu"))(*given))
        assert ("Precision.HIGHEST" in traced) == (asked is not None)


def test_it_is_used_where_there_is_one():
    def attention_of(platform: str, **model: Any) -> str | None:
        config = tiny_config(model=model)
        found, _ = networks.generator(config.model, (8, 8, 1), 10, 0, platform)
        blocks: Any = nnx.merge(found.graphdef, jax.eval_shape(networks.generator(config.model, (8, 8, 1), 10, 0)[1]))
        used: str | None = blocks.blocks.flash
        return used

    half = dict(dtype="bfloat16", attention_dtype=None)
    assert attention_of("gpu", **half) == "gpu" and attention_of("tpu", **half) == "tpu"
    assert attention_of("cpu", **half) is None
    assert attention_of("gpu", dtype="bfloat16") == "gpu"  # in float32, as that of the published runs
    config = tiny_config(model=half)
    assert "flash" not in networks.generator_arguments(config.model, (8, 8, 1), 10)  # nor in what is exported
