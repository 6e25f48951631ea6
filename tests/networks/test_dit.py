"""The transformer generator: golden outputs and gradients, initialisation, parameter counts, and its invariants."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from drifting.networks.dit import PRESETS, DiT, swiglu_width
from drifting.weights.released_names import (
    generator_from_released,
    generator_kwargs_from_released,
    generator_to_released,
)
from tests.support.golden_files import group, load, meta

TINY: dict[str, Any] = dict(
    input_size=8, patch_size=2, in_channels=4, out_channels=3, hidden_size=32, depth=3, num_heads=2, cond_dim=24,
    num_classes=5, register_tokens=3, style_tokens=4, style_codebook=6, qk_norm=True, swiglu=True, rope=True,
    rms_norm=True, dtype="float32", attention_dtype="float32", remat=False,
)  # fmt: skip
"""A generator small enough to compile in a second."""


def apply(graphdef: Any, params: Any, *batch: Any) -> jax.Array:
    return nnx.merge(graphdef, params)(*batch)


def split(**changes: Any) -> tuple[Any, dict[str, Any]]:
    """Graph definition and parameters of a tiny generator, every zero-initialised tensor made random."""
    graphdef, state = nnx.split(DiT(**TINY | changes, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(1)
    params = nnx.to_pure_dict(state)
    return graphdef, jax.tree.map(lambda x: jnp.float32(np.asarray(x) + 0.1 * rng.normal(size=x.shape)), params)


def inputs(graphdef: Any, params: Any) -> tuple[dict[str, jax.Array], jax.Array, jax.Array]:
    noise = jax.vmap(nnx.merge(graphdef, params).sample_noise)(jax.random.split(jax.random.key(2), 3))
    return noise, jnp.arange(3), jnp.linspace(1, 4, 3)


def relative(actual: Any, expected: Any) -> float:
    expected = np.asarray(expected)
    return float(np.max(np.abs(np.asarray(actual) - expected)) / np.max(np.abs(expected)))


jitted = jax.jit(apply, static_argnums=0)


@pytest.fixture(scope="module")
def tiny() -> tuple[Any, Any, Any, Any]:
    """Graph definition, parameters, inputs, and their output with its gradient."""
    graphdef, params = split()
    batch = inputs(graphdef, params)
    return graphdef, params, batch, value_and_grad(graphdef, params, batch)


def value_and_grad(graphdef: Any, params: Any, batch: Any) -> tuple[jax.Array, Any]:
    def loss(params: Any) -> tuple[jax.Array, jax.Array]:
        out = nnx.merge(graphdef, params)(*batch)
        return jnp.mean(out**2), out

    (_, out), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return out, grads


@pytest.fixture(scope="module", params=["a", "b", "c"])
def reference(request: pytest.FixtureRequest, golden: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """A golden generator, and what ours gives on its inputs."""
    z = load(golden / f"generator_{request.param}.npz")
    kwargs = generator_kwargs_from_released(meta(z))
    params = generator_from_released(group(z, "params"), **kwargs)
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: DiT(**kwargs, rngs=nnx.Rngs(0))))
    style = {"style": z["noise_labels"]} if kwargs["style_tokens"] else {}

    def loss(params: Any, x: jax.Array) -> tuple[jax.Array, Any]:
        model, noise = nnx.merge(graphdef, params), {"image": x, **style}
        out = model(noise, z["labels"], z["cfg_scale"])
        conditions = [model.condition(noise, z["labels"], alpha) for alpha in (z["cfg_scale"], 1.5)]
        return jnp.mean(out**2), (out, conditions)

    (value, (out, conditions)), (dparams, dx) = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, z["x"])
    ours = dict(L=value, out=out, cond=conditions[0], scalar=conditions[1], dx=dx)
    return z, ours | {"grads": generator_to_released(dparams)}


def test_golden_outputs(reference: Any):
    z, ours = reference
    assert ours["out"].dtype == jnp.float32
    assert relative(ours["out"], z["out"]) < 1e-5
    assert relative(ours["cond"], z["cond"]) < 1e-6
    assert relative(ours["scalar"], z["cond_scalar_cfg1.5"]) < 1e-6
    assert relative(ours["L"], z["L"]) < 1e-5


def test_golden_gradients(reference: Any):
    z, ours = reference
    assert relative(ours["dx"], z["dL_dx"]) < 1e-4
    norms = dict(zip(z["grad_norm_names"].tolist(), z["grad_norms"], strict=True))
    assert set(norms) == set(ours["grads"])
    for name, norm in norms.items():
        np.testing.assert_allclose(np.linalg.norm(ours["grads"][name]), norm, rtol=1e-4, atol=1e-6, err_msg=name)
    for name, expected in group(z, "dL_dparams").items():
        bound = 1e-4 * np.max(np.abs(expected)) + 1e-6
        np.testing.assert_allclose(ours["grads"][name], expected, rtol=0, atol=bound, err_msg=name)


@pytest.mark.parametrize("case", ["a", "b"])
def test_initialisation_is_the_released_one(golden: Path, case: str):
    """Tensor by tensor: constants exact, random ones with the released mean, spread and support."""
    kwargs = generator_kwargs_from_released(meta(load(golden / f"generator_{case}.npz")))
    params = nnx.to_pure_dict(nnx.state(DiT(**kwargs, rngs=nnx.Rngs(3))))
    ours = {k: np.asarray(v) for k, v in generator_to_released(params).items()}
    expected = json.loads((golden / "init_stats.json").read_text())[f"generator_{case}"]
    assert set(ours) == set(expected)
    for name, stats in expected.items():
        x = ours[name]
        assert list(x.shape) == stats["shape"], name
        if stats["std"] == 0 or name.endswith("pos_embed"):
            found = [x.mean(), x.std(), x.min(), x.max()]
            np.testing.assert_allclose(
                found, [stats[k] for k in ("mean", "std", "min", "max")], rtol=1e-5, err_msg=name
            )
            continue
        # Both sides are samples: standard errors of a mean and of a spread, generously for the kurtosis of a normal.
        error = stats["std"] / np.sqrt(x.size)
        assert abs(x.mean() - stats["mean"]) < 6 * error, name
        assert abs(x.std() - stats["std"]) < 6 * error, name
        if name.endswith("kernel") and "Timestep" not in name:
            assert np.abs(x).max() < 1.05 * max(-stats["min"], stats["max"]), name


@pytest.mark.parametrize(
    ("config", "kwargs"),
    [
        ("latent_ablation.yaml", dict(input_size=32, patch_size=2, channels=4, preset="B")),
        ("latent_sota_B.yaml", dict(input_size=32, patch_size=2, channels=4, preset="B")),
        ("latent_sota_L.yaml", dict(input_size=32, patch_size=2, channels=4, preset="L")),
        ("pixel_sota_B.yaml", dict(input_size=256, patch_size=16, channels=3, preset="B")),
        ("pixel_sota_L.yaml", dict(input_size=256, patch_size=16, channels=3, preset="L")),
    ],
)
def test_parameter_counts_of_the_published_models(golden: Path, config: str, kwargs: dict[str, Any]):
    channels, preset = kwargs.pop("channels"), PRESETS[kwargs.pop("preset")]
    kwargs |= TINY | kwargs | preset | dict(register_tokens=16, style_tokens=32, style_codebook=64, num_classes=1000)
    kwargs |= dict(in_channels=channels, out_channels=channels, cond_dim=preset["hidden_size"])
    params = nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: DiT(**kwargs, rngs=nnx.Rngs(0)))))
    released = jax.eval_shape(generator_to_released, params)
    expected = json.loads((golden / "counts.json").read_text())["generator"][config]
    assert sum(x.size for x in jax.tree.leaves(params)) == expected["total"]
    assert len(released) == expected["n_tensors"]
    for name, count in expected["by_group"].items():
        prefix = name.removesuffix("*")
        assert sum(x.size for k, x in released.items() if (k + "/").startswith(prefix)) == count, name


def test_new_generator_gives_zero():
    """The final layer and every gate start at zero."""
    graphdef, state = nnx.split(DiT(**TINY, rngs=nnx.Rngs(0)))
    out = jitted(graphdef, nnx.to_pure_dict(state), *inputs(graphdef, state))
    assert out.shape == (3, 8, 8, 3)
    np.testing.assert_array_equal(out, 0)


def test_samples_do_not_see_each_other(tiny: Any):
    graphdef, params, batch, (out, _) = tiny
    others = jax.tree.map(lambda x: x[jnp.array([2, 1, 0])], batch)
    np.testing.assert_allclose(jitted(graphdef, params, *others)[1], out[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("changed", ["image", "style", "labels", "alpha"])
def test_every_input_matters(tiny: Any, changed: str):
    graphdef, params, (noise, labels, alpha), (out, _) = tiny
    image, style = noise["image"] + (changed == "image"), (noise["style"] + (changed == "style")) % 6
    labels, alpha = labels + (changed == "labels"), alpha + (changed == "alpha")
    assert relative(jitted(graphdef, params, {"image": image, "style": style}, labels, alpha), out) > 1e-3


def test_scalar_alpha_is_the_same_for_all(tiny: Any):
    graphdef, params, (noise, labels, _), _ = tiny
    model = nnx.merge(graphdef, params)
    full = model.condition(noise, labels, jnp.full(3, 2.5))
    np.testing.assert_array_equal(model.condition(noise, labels, 2.5), full)


def test_style_table_adds_one_row_for_each_token(tiny: Any):
    graphdef, params, (noise, labels, alpha), _ = tiny
    model = nnx.merge(graphdef, params)
    bare = model.condition({**noise, "style": jnp.zeros_like(noise["style"])}, labels, alpha)
    table, style = np.asarray(params["style_embed"]), np.asarray(noise["style"])
    added = np.stack([sum(table[t, row[t]] - table[t, 0] for t in range(4)) for row in style])
    np.testing.assert_allclose(model.condition(noise, labels, alpha) - bare, added, atol=1e-5)


@pytest.mark.parametrize("setting", ["remat", "remat_mlp"])
def test_rematerialisation_changes_no_gradient(tiny: Any, setting: str):
    _, params, batch, (out, grads) = tiny
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: DiT(**TINY | {setting: True}, rngs=nnx.Rngs(0))))
    remat_out, remat_grads = value_and_grad(graphdef, params, batch)
    np.testing.assert_allclose(remat_out, out, rtol=1e-5, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), remat_grads, grads)


@pytest.mark.parametrize("swiglu", [True, False])
def test_what_blocks_keep_for_the_backward_pass(swiglu: bool):
    """Their input and the products with weights; with `remat_mlp` not the hidden layers, with `remat` nothing more."""

    def kept(**changes: bool) -> int:
        """Numbers of a token in a block."""
        model = nnx.eval_shape(lambda: DiT(**TINY | changes | {"swiglu": swiglu}, rngs=nnx.Rngs(0)))
        graphdef, params = nnx.split(model)

        def pull_back(params: Any, x: jax.Array, activated: jax.Array) -> Any:
            return jax.vjp(nnx.merge(graphdef, params)._transform, x, activated)[1]

        def numbers(batch: int) -> int:
            x, activated = (jax.ShapeDtypeStruct(s, jnp.float32) for s in ((batch, 19, 32), (batch, 24)))
            stacked = [a for a in jax.tree.leaves(jax.eval_shape(pull_back, params, x, activated)) if a.ndim == 4]
            return sum(a.size for a in stacked if a.shape[:3] == (3, batch, 19))

        return (numbers(4) - numbers(2)) // (2 * 3 * 19)

    hidden = 2 * swiglu_width(32, 4.0) if swiglu else 128
    assert kept(remat=True) == kept(remat=True, remat_mlp=True) == 32
    assert kept(remat_mlp=True) == 32 + 96 + 32
    assert kept() == 32 + 96 + 32 + hidden


def test_stacked_blocks_equal_a_loop_over_them(tiny: Any):
    graphdef, params, (noise, labels, alpha), _ = tiny
    model = nnx.merge(graphdef, params)
    x = jnp.float32(np.random.default_rng(5).normal(size=(3, 19, 32)))
    activated = jax.nn.silu(model.condition(noise, labels, alpha))
    block_graphdef, block_params = nnx.split(model.blocks)
    one_block = jax.jit(lambda params, x, modulation: nnx.merge(block_graphdef, params)(x, modulation))
    looped = x
    for i in range(TINY["depth"]):
        modulation = activated @ params["modulation_kernel"][i] + params["modulation_bias"][i]
        looped = one_block(jax.tree.map(lambda p, i=i: p[i], block_params), looped, modulation.reshape(3, 6, 32))
    np.testing.assert_allclose(jax.jit(model._transform)(x, activated), looped, rtol=1e-4, atol=1e-5)


def test_blocks_are_initialised_independently():
    kernel = np.asarray(DiT(**TINY, rngs=nnx.Rngs(0)).blocks.qkv.kernel[...])
    assert kernel.shape == (3, 32, 96)
    correlation = np.corrcoef(kernel.reshape(3, -1))
    assert np.all(np.abs(correlation[~np.eye(3, dtype=bool)]) < 0.1)


@pytest.mark.parametrize("attention_dtype", [None, "float32"])
def test_bf16_is_close_and_its_parameters_and_output_are_float32(tiny: Any, attention_dtype: str | None):
    _, params, batch, (out, _) = tiny
    changes = {"dtype": "bfloat16", "attention_dtype": attention_dtype}
    model = nnx.eval_shape(lambda: DiT(**TINY | changes, rngs=nnx.Rngs(0)))
    assert {x.dtype for x in jax.tree.leaves(nnx.state(model))} == {jnp.dtype("float32")}
    low, grads = value_and_grad(nnx.graphdef(model), params, batch)
    assert low.dtype == jnp.float32
    assert 0 < relative(low, out) < 0.05
    assert {g.dtype for g in jax.tree.leaves(grads)} == {jnp.dtype("float32")}


def test_noise_of_a_sample_depends_on_its_key_alone():
    model = DiT(**TINY, rngs=nnx.Rngs(0))
    keys = jax.random.split(jax.random.key(0), 6)
    batch, pair = jax.vmap(model.sample_noise)(keys), jax.vmap(model.sample_noise)(keys[2:4])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[2:4], b), batch, pair)
    assert batch["image"].shape == (6, 8, 8, 4) and batch["image"].dtype == jnp.float32
    assert batch["style"].shape == (6, 4) and batch["style"].dtype == jnp.int32
    assert len({x.tobytes() for x in np.asarray(batch["image"])}) == 6


def test_noise_is_standard_normal_and_uniform_over_the_codebook():
    model = DiT(**TINY, rngs=nnx.Rngs(0))
    noise = jax.vmap(model.sample_noise)(jax.random.split(jax.random.key(0), 2000))
    assert abs(float(noise["image"].mean())) < 0.01 and abs(float(noise["image"].std()) - 1) < 0.01
    counts = np.bincount(np.asarray(noise["style"]).ravel(), minlength=6)
    assert counts.size == 6 and np.all(np.abs(counts / counts.sum() - 1 / 6) < 0.02)


def test_without_style_or_register_tokens_they_have_no_parameters():
    model = DiT(**TINY | dict(style_tokens=0, style_codebook=0, register_tokens=0), rngs=nnx.Rngs(0))
    assert not {k for k in nnx.to_pure_dict(nnx.state(model)) if k.startswith(("style", "register"))}
    assert set(model.sample_noise(jax.random.key(0))) == {"image"}


def test_swiglu_width_is_two_thirds_rounded_up():
    assert [swiglu_width(h, 4.0) for h in (64, 128, 768, 1024)] == [192, 352, 2048, 2752]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(patch_size=3), "patch_size=3: must divide input_size 8"),
        (dict(num_heads=5), "num_heads=5: must divide hidden_size 32"),
        (dict(hidden_size=30, num_heads=2), "hidden_size=30: must be a multiple of 4"),
        (dict(num_heads=32), "num_heads=32: makes heads 1 wide, which must be even"),
        (dict(num_classes=0), "num_classes=0: must"),
        (dict(style_codebook=0), "style_codebook=0: must"),
    ],
)
def test_impossible_sizes_are_refused_in_one_line(changes: dict[str, int], words: str):
    with pytest.raises(ValueError, match=words) as error:
        DiT(**TINY | changes, rngs=nnx.Rngs(0))
    assert "\n" not in str(error.value)
