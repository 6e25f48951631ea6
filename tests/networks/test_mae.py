"""The masked autoencoder: golden masked forward and gradients, initialisation, counts, masks and conventions."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from drifting.networks.mae import MAE, MAEStage, MAEUp, draw_mask, mae_loss
from drifting.weights.released_names import mae_from_released, mae_kwargs_from_released, mae_to_released
from tests.support.golden_files import group, load, mae_params_a, mae_params_b, meta

TINY: dict[str, Any] = dict(
    num_classes=5, in_channels=3, base_channels=8, layers=(1, 2), patch_size=2, input_patch_size=1,
    dtype="float32", remat=False,
)  # fmt: skip


def graph(**changes: Any) -> Any:
    return nnx.graphdef(nnx.eval_shape(lambda: MAE(**TINY | changes, rngs=nnx.Rngs(0))))


def outputs_and_grads(graphdef: Any, params: Any, *batch: Any, lambda_cls: Any) -> tuple[dict[str, jax.Array], Any]:
    """Outputs, with the loss of each sample among them, and the gradient of its mean."""

    def loss(params: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        outputs = nnx.merge(graphdef, params)(*batch)
        losses = mae_loss(outputs, lambda_cls)
        return jnp.mean(losses), outputs | {"loss": losses}

    grads, outputs = jax.grad(loss, has_aux=True)(params)
    return outputs, grads


jitted = jax.jit(outputs_and_grads, static_argnums=0)


@pytest.fixture(scope="module")
def tiny() -> tuple[Any, Any, Any, Any, Any]:
    """Graph definition, parameters, batch, outputs, gradients."""
    graphdef, params = nnx.split(MAE(**TINY, rngs=nnx.Rngs(0)))
    x = jax.random.normal(jax.random.key(1), (3, 8, 8, 3))
    batch = x, jnp.arange(3), draw_mask(jax.random.key(2), 3, 8, 8, 2, 0.5, 0.5)
    params = nnx.to_pure_dict(params)
    return graphdef, params, batch, *jitted(graphdef, params, *batch, lambda_cls=0.1)


@pytest.fixture(scope="module", params=["a", "b"])
def reference(request: pytest.FixtureRequest, golden: Path) -> tuple[dict[str, np.ndarray], Any, Any]:
    """A golden masked forward file, the graph definition of its model and its parameters."""
    z = load(golden / f"mae_forward_{request.param}.npz")
    kwargs = mae_kwargs_from_released(meta(z)["config"])
    released = mae_params_a(golden) if request.param == "a" else mae_params_b(golden)
    return z, graph(**kwargs), mae_from_released(released, **kwargs)


@pytest.mark.parametrize("case", range(4))
def test_golden_masked_forward(reference: Any, case: int):
    z, graphdef, params = reference
    expected = group(z, f"fwd{case}")
    lambda_cls = meta(expected)["lambda_cls"]
    ours, grads = jitted(graphdef, params, z["x"], z["labels"], expected["mask"], lambda_cls=lambda_cls)
    np.testing.assert_allclose(ours["loss"], expected["loss"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ours["logits"], expected["logits"], atol=1e-5 * np.abs(expected["logits"]).max())
    for name, metric in _metrics(expected).items():
        np.testing.assert_allclose(ours[name], metric, rtol=1e-5, atol=1e-6, err_msg=name)
    if "recon" in expected:
        np.testing.assert_allclose(ours["recon"], expected["recon"], atol=1e-5 * np.abs(expected["recon"]).max())
    released = mae_to_released(grads)
    # In a's third case a ReLU input is within rounding of 0: a float64 evaluation is as far from what is stored.
    rtol = 1e-3 if (meta(z)["config"]["in_channels"], case) == (4, 2) else 1e-4
    norms = dict(zip(expected["grad_norm_names"].tolist(), expected["grad_norms"], strict=True))
    assert set(norms) == set(released)
    for name, norm in norms.items():
        np.testing.assert_allclose(np.linalg.norm(released[name]), norm, rtol=rtol, atol=1e-6, err_msg=name)
    for name, value in group(expected, "grad").items():
        bound = rtol * np.max(np.abs(value)) + 1e-7
        np.testing.assert_allclose(released[name], value, rtol=0, atol=bound, err_msg=name)


def _metrics(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {k.removeprefix("metric_"): v for k, v in arrays.items() if k.startswith("metric_")}


def test_initialisation_is_the_released_one(golden: Path):
    kwargs = mae_kwargs_from_released(meta(load(golden / "mae_forward_a.npz"))["config"])
    ours = mae_to_released(nnx.to_pure_dict(nnx.state(MAE(**kwargs, rngs=nnx.Rngs(3)))))
    expected = json.loads((golden / "init_stats.json").read_text())["mae_a"]
    assert set(ours) == set(expected)
    for name, stats in expected.items():
        x = np.asarray(ours[name])
        assert list(x.shape) == stats["shape"], name
        if stats["std"] == 0:
            assert np.all(x == stats["mean"]), name
            continue
        error = stats["std"] / np.sqrt(x.size)
        assert abs(x.mean() - stats["mean"]) < 6 * error, name
        assert abs(x.std() - stats["std"]) < 6 * error, name
        # A normal cut at two standard deviations: the largest of many values lies just below the cut.
        assert np.abs(x).max() < 1.15 * max(-stats["min"], stats["max"]), name


@pytest.mark.parametrize(
    ("config", "kwargs"),
    [
        ("latent_640.yaml", dict(in_channels=4, base_channels=640)),
        ("latent_ablation_256.yaml", dict(in_channels=4, base_channels=256)),
        ("pixel_640.yaml", dict(in_channels=3, base_channels=640, input_patch_size=8)),
    ],
)
def test_parameter_counts_of_the_published_models(golden: Path, config: str, kwargs: dict[str, Any]):
    kwargs |= TINY | dict(num_classes=1000, layers=(3, 4, 6, 3)) | kwargs
    params = nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: MAE(**kwargs, rngs=nnx.Rngs(0)))))
    released = jax.eval_shape(mae_to_released, params)
    expected = json.loads((golden / "counts.json").read_text())["mae"][config]
    assert sum(x.size for x in released.values()) == expected["total"]
    assert len(released) == expected["n_tensors"]
    for part in ("encoder", "decoder", "fc"):
        assert sum(x.size for k, x in released.items() if k.startswith(part + "/")) == expected[part], part


def test_losses_are_their_formulas(tiny: Any):
    _, _, (x, labels, mask), outputs, _ = tiny
    recon, logits = (np.asarray(outputs[k], np.float64) for k in ("recon", "logits"))
    error = (np.asarray(mask) * (recon - np.asarray(x)) ** 2).sum((1, 2, 3)) / np.asarray(mask).sum((1, 2, 3))
    np.testing.assert_allclose(outputs["recon_loss"], error, rtol=1e-5)
    entropy = np.log(np.exp(logits).sum(1)) - logits[np.arange(3), np.asarray(labels)]
    np.testing.assert_allclose(outputs["cls_loss"], entropy, rtol=1e-5)
    np.testing.assert_allclose(outputs["loss"], 0.1 * entropy + 0.9 * error, rtol=1e-5)
    np.testing.assert_array_equal(outputs["accuracy"], logits.argmax(1) == np.asarray(labels))
    np.testing.assert_allclose(outputs["mask_ratio"], np.asarray(mask).mean((1, 2, 3)), rtol=1e-6)


def test_masked_tokens_are_not_seen(tiny: Any):
    graphdef, params, (x, labels, mask), outputs, _ = tiny
    changed, _ = jitted(graphdef, params, x + 5 * mask, labels, mask, lambda_cls=0.1)
    np.testing.assert_allclose(changed["recon"], outputs["recon"], atol=1e-5)
    assert np.all(np.abs(changed["recon_loss"] - outputs["recon_loss"]) > 1)


def test_nothing_masked_costs_nothing(tiny: Any):
    graphdef, params, (x, labels, mask), _, _ = tiny
    outputs, grads = jitted(graphdef, params, x, labels, jnp.zeros_like(mask), lambda_cls=0.0)
    np.testing.assert_array_equal(outputs["recon_loss"], 0)
    assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(grads))


def test_a_last_stage_of_one_location_works():
    """As four stages on 8 x 8 tokens have it; a norm over so few values must not divide by zero, also backward."""
    graphdef, params = nnx.split(MAE(**TINY | {"layers": (1, 1)}, rngs=nnx.Rngs(0)))
    batch = jax.random.normal(jax.random.key(1), (2, 2, 2, 3)), jnp.arange(2), jnp.ones((2, 2, 2, 1))
    outputs, grads = jitted(graphdef, nnx.to_pure_dict(params), *batch, lambda_cls=0.1)
    assert outputs["recon"].shape == (2, 2, 2, 3)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((outputs, grads)))


def test_rematerialisation_changes_no_gradient(tiny: Any):
    _, params, batch, outputs, grads = tiny
    remat_outputs, remat_grads = jitted(graph(remat=True), params, *batch, lambda_cls=0.1)
    np.testing.assert_allclose(remat_outputs["loss"], outputs["loss"], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), remat_grads, grads)


def test_bf16_is_close_and_its_losses_and_gradients_are_float32(tiny: Any):
    _, params, batch, outputs, _ = tiny
    low, grads = jitted(graph(dtype="bfloat16"), params, *batch, lambda_cls=0.1)
    assert {v.dtype for v in (*low.values(), *jax.tree.leaves(grads))} == {jnp.dtype("float32")}
    difference = low["recon"] - outputs["recon"]
    assert 0 < np.sqrt(np.mean(difference**2)) < 0.05 * np.sqrt(np.mean(outputs["recon"] ** 2))
    np.testing.assert_allclose(low["loss"], outputs["loss"], rtol=0.05)


def test_maps_come_in_the_released_order_with_halving_sizes():
    mae = nnx.eval_shape(lambda: MAE(**TINY | {"layers": (1, 2, 1)}, rngs=nnx.Rngs(0)))
    graphdef, params = nnx.split(mae)
    orders = []

    def encode(params: Any, x: jax.Array) -> dict[str, jax.Array]:
        maps = nnx.merge(graphdef, params).encode(x)
        orders.append(list(maps))
        return maps

    maps = jax.eval_shape(encode, params, jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32))
    blocks = ["layer1_blk1", "layer2_blk1", "layer2_blk2", "layer3_blk1"]
    assert orders[0] == ["conv1", "layer1", "layer2", "layer3", *blocks]
    assert [maps[f"layer{s}"].shape for s in (1, 2, 3)] == [(2, 16 // d, 16 // d, 8 * d) for d in (1, 2, 4)]
    assert maps["conv1"].shape == (2, 16, 16, 8)


def test_blocks_keep_their_order_beyond_ten():
    """Parameters travel as sorted dicts, in which `blk10` comes before `blk2`."""
    stage = MAEStage(4, 4, 11, stride=1, dtype="float32", remat=False, rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(stage)
    merged = nnx.merge(graphdef, jax.tree.map(lambda x: x, nnx.to_pure_dict(state)))
    x = jax.random.normal(jax.random.key(0), (1, 2, 2, 4))
    assert list(merged(x)[1]) == [f"blk{k}" for k in range(1, 12)]
    np.testing.assert_array_equal(merged(x)[0], stage(x)[0])


def test_encoder_stands_alone(tiny: Any):
    """A frozen feature extractor needs the encoder's parameters and nothing else."""
    graphdef, params, (x, *_), _, _ = tiny
    encoder = nnx.graphdef(nnx.merge(graphdef, params).encoder)
    alone = jax.jit(lambda p, x: nnx.merge(encoder, p)(x))(params["encoder"], x)
    whole = jax.jit(lambda p, x: nnx.merge(graphdef, p).encode(x))(params, x)
    jax.tree.map(np.testing.assert_array_equal, alone, whole)


@pytest.mark.parametrize("num_classes", [0, None])
def test_without_classes_there_is_no_classifier(num_classes: int | None):
    model = MAE(**TINY | dict(num_classes=num_classes, layers=(1,)), rngs=nnx.Rngs(0))
    outputs = model(jnp.ones((1, 4, 4, 3)), jnp.zeros(1, int), jnp.ones((1, 4, 4, 1)))
    assert set(outputs) == {"recon_loss", "mask_ratio", "recon"}
    np.testing.assert_array_equal(mae_loss(outputs, 0.5), outputs["recon_loss"])


def test_upsampling_has_half_pixel_centres_and_clamped_edges():
    """On a ramp: inside, the value at output pixel i is (i + 1/2)/2 - 1/2; outside the outer centres, the edge's."""
    seen = []
    up = MAEUp(1, 1, 1, dtype=jnp.float32, rngs=nnx.Rngs(0))
    up.norm = lambda x: seen.append(x) or x
    up(jnp.arange(4.0)[None, None, :, None] * jnp.ones((1, 4, 1, 1)), jnp.zeros((1, 8, 8, 1)))
    expected = np.clip((np.arange(8) + 0.5) / 2 - 0.5, 0, 3)
    np.testing.assert_allclose(seen[0][0, :, :, 0], np.broadcast_to(expected, (8, 8)), atol=1e-6)


def test_masks_are_constant_on_patches_and_follow_the_ratio():
    mask = np.asarray(draw_mask(jax.random.key(0), 64, 16, 24, 2, 0.25, 0.75))
    assert mask.shape == (64, 16, 24, 1) and set(np.unique(mask)) == {0.0, 1.0}
    patches = mask.reshape(64, 8, 2, 12, 2)
    np.testing.assert_array_equal(patches, np.broadcast_to(patches[:, :, :1, :, :1], patches.shape))
    ratios = mask.mean((1, 2, 3))
    # Uniform ratios on [1/4, 3/4] spread by 0.144, and 96 patches of one ratio by about 0.05 more.
    assert abs(ratios.mean() - 0.5) < 0.08 and 0.1 < ratios.std() < 0.2


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_extreme_mask_ratios_are_exact(ratio: float):
    np.testing.assert_array_equal(draw_mask(jax.random.key(0), 4, 8, 8, 2, ratio, ratio), ratio)


def test_mask_patch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="patch=3: must divide the 8 x 8 tokens"):
        draw_mask(jax.random.key(0), 1, 8, 8, 3, 0.5, 0.5)
