"""Features against golden activations and against NumPy."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from drifting.method.encoders.convnext import convnext_features
from drifting.method.encoders.mae import mae_features, norm_x
from drifting.method.features import multi_scale_statistics, pixel_features
from drifting.networks.convnext import PRESETS, ConvNeXtV2
from drifting.networks.mae import MAE, MAEEncoder
from drifting.weights.released_names import mae_from_released, mae_kwargs_from_released
from tests.conftest import OPTIMISED
from tests.support.golden_files import group, load, mae_params_a, mae_params_b, meta

ALL = dict(mean=True, std=True, mean_patches=(2, 4), std_patches=(2, 4))


def encoder_graph(**kwargs: Any) -> Any:
    return nnx.graphdef(nnx.eval_shape(lambda: MAE(**kwargs, rngs=nnx.Rngs(0))).encoder)


@pytest.fixture(scope="module", params=["a", "b"])
def reference(request: pytest.FixtureRequest, golden: Path) -> tuple[dict[str, np.ndarray], Any, Any]:
    """A golden activation file, the graph definition of its encoder and the encoder's parameters."""
    z = load(golden / f"mae_activations_{request.param}.npz")
    kwargs = mae_kwargs_from_released(meta(z)["config"])
    released = mae_params_a(golden) if request.param == "a" else mae_params_b(golden)
    return z, encoder_graph(**kwargs), mae_from_released(released, **kwargs)["encoder"]


def test_golden_activations_and_their_gradient(reference: Any):
    z, graphdef, params = reference

    # An activation lies so near the kink of a ReLU that another order of additions puts it on the other side.
    def loss(x: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        features = mae_features(nnx.merge(graphdef, params), x)
        return sum((jnp.mean(v**2) for v in features.values()), jnp.zeros(())), features

    (value, features), dx = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=OPTIMISED)(z["x"])
    expected = group(z, "act")
    assert set(features) == set(expected)
    for name, act in expected.items():
        assert features[name].shape == act.shape, name
        np.testing.assert_allclose(features[name], act, rtol=0, atol=1e-5 * np.abs(act).max(), err_msg=name)
    np.testing.assert_allclose(value, z["L"], rtol=1e-6)
    np.testing.assert_allclose(dx, z["dL_dx"], rtol=0, atol=1e-5 * np.abs(z["dL_dx"]).max())


@pytest.mark.parametrize(
    ("case", "options"),
    [
        ("every_k_block=1", dict(every_k_block=1)),
        ("every_k_block=2", {}),
        ("every_k_block=inf", dict(every_k_block=0)),
        ("no_std_no_mean_patch4", dict(mean=False, std=False, mean_patches=(4,), std_patches=())),
    ],
)
def test_golden_names_shapes_and_order(reference: Any, case: str, options: dict[str, Any]):
    z, graphdef, params = reference
    ours: list[Any] = []

    def record(x: jax.Array) -> None:
        features = mae_features(nnx.merge(graphdef, params), x, **options)
        ours.extend([name, list(v.shape)] for name, v in features.items())

    jax.eval_shape(record, z["x"])
    assert ours == meta(z, "names_json")[case]


def test_features_of_the_published_ablation(golden: Path):
    """Names, positions, channels and dtypes at full size, by shape evaluation."""
    kwargs = dict(num_classes=1000, in_channels=4, base_channels=256, layers=(3, 4, 6, 3), patch_size=2)
    model = nnx.eval_shape(lambda: MAE(**kwargs, input_patch_size=1, dtype="bfloat16", remat=False, rngs=nnx.Rngs(0)))
    graphdef, params = nnx.split(model.encoder)
    x = jax.ShapeDtypeStruct((1, 32, 32, 4), jnp.float32)
    features = jax.eval_shape(lambda p, x: pixel_features(x) | mae_features(nnx.merge(graphdef, p), x), params, x)
    ours = {name: dict(name=name, F=v.shape[1], D=v.shape[2], dtype=v.dtype.name) for name, v in features.items()}
    expected = json.loads((golden / "counts.json").read_text())["latent_ablation_features"]
    assert ours == {row["name"]: row for row in expected["activations"]}
    assert sum(v.size for v in features.values()) == expected["scalars_per_sample"]


@pytest.mark.parametrize("height", [4, 8])
def test_statistics_are_their_formulas(height: int):
    x = np.random.default_rng(0).normal(size=(2, height, 8, 3)).astype(np.float32) * 2 + 1
    features = multi_scale_statistics({"map": jnp.asarray(x)}, **ALL)
    y = x.astype(np.float64)
    expected = {"map": y.reshape(2, -1, 3), "map_mean": y.mean((1, 2))[:, None]}
    expected["map_std"] = np.sqrt(y.var((1, 2)) + 1e-6)[:, None]
    for s in (2, 4):
        # Patch by patch, rows of patches first: the order of the positions is part of the definition.
        corners = [(i, j) for i in range(0, height, s) for j in range(0, 8, s)]
        patches = np.stack([y[:, i : i + s, j : j + s].reshape(2, -1, 3) for i, j in corners], axis=1)
        expected[f"map_mean_{s}"] = patches.mean(2)
        expected[f"map_std_{s}"] = np.sqrt(patches.var(2) + 1e-6)
    assert set(features) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(features[name], value, rtol=1e-5, atol=1e-5, err_msg=name)


def test_patches_that_do_not_divide_give_no_feature():
    maps = {"odd": jnp.ones((1, 6, 4, 1)), "one": jnp.ones((1, 1, 1, 1))}
    features = multi_scale_statistics(maps, **ALL)
    assert list(features) == ["odd", "odd_mean", "odd_std", "odd_mean_2", "odd_std_2", "one", "one_mean", "one_std"]


def test_kinds_are_chosen_one_by_one():
    off: dict[str, Any] = dict(locations=False, mean=False, std=False, mean_patches=(), std_patches=())
    chosen = {
        "map": dict(locations=True),
        "map_mean": dict(mean=True),
        "map_std": dict(std=True),
        "map_mean_2": dict(mean_patches=(2,)),
        "map_std_4": dict(std_patches=(4,)),
    }
    for name, option in chosen.items():
        assert list(multi_scale_statistics({"map": jnp.ones((1, 4, 4, 1))}, **off | option)) == [name]


def test_spread_of_a_constant_map_is_the_root_of_epsilon_and_has_no_gradient():
    def total(x: jax.Array) -> jax.Array:
        return multi_scale_statistics({"map": x}, **ALL)["map_std"].sum()

    value, gradient = jax.value_and_grad(total)(jnp.full((1, 4, 4, 2), 3.0))
    np.testing.assert_allclose(value, 2e-3, rtol=1e-6)
    np.testing.assert_array_equal(gradient, 0)


def test_spread_is_accurate_far_from_zero():
    """The mean square minus the square of the mean would lose every digit here."""
    x = 1000 + 1e-2 * np.random.default_rng(0).normal(size=(1, 8, 8, 3)).astype(np.float32)
    expected = np.sqrt(x.astype(np.float64).var((1, 2)) + 1e-6)
    for name, value in multi_scale_statistics({"map": jnp.asarray(x)}, **ALL).items():
        if name == "map_std":
            np.testing.assert_allclose(value[:, 0], expected, rtol=1e-3)


def test_bf16_maps_give_bf16_means_and_float32_spreads():
    features = multi_scale_statistics({"map": jnp.ones((1, 4, 4, 2), jnp.bfloat16)}, **ALL)
    assert {k: v.dtype.name for k, v in features.items()} == {
        k: "float32" if "std" in k else "bfloat16" for k in features
    }


def test_norm_x_is_the_root_mean_square_of_each_channel():
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32)
    expected = np.sqrt((x.astype(np.float64) ** 2).mean((1, 2)) + 1e-6)[:, None]
    np.testing.assert_allclose(norm_x(jnp.asarray(x)), expected, rtol=1e-6)


@pytest.mark.parametrize("shape", [(2, 4, 4, 3), (2, 7)])
def test_pixel_features_are_the_sample(shape: tuple[int, ...]):
    x = jnp.arange(np.prod(shape), dtype=jnp.bfloat16).reshape(shape)
    features = pixel_features(x)
    assert list(features) == ["global"] and features["global"].dtype == jnp.float32
    np.testing.assert_array_equal(features["global"], x.astype(jnp.float32).reshape(2, 1, -1))


def test_negative_every_k_block_is_refused():
    encoder = MAEEncoder(
        in_channels=3, base_channels=4, layers=(1,), input_patch_size=1, dtype="float32", remat=False, rngs=nnx.Rngs(0)
    )
    with pytest.raises(ValueError, match="every_k_block -1"):
        mae_features(encoder, jnp.ones((1, 4, 4, 3)), every_k_block=-1)


class OneStage(ConvNeXtV2):
    """Stands in for a network: its only map is the image's first channel, four times."""

    def __init__(self) -> None:
        """There are no parameters."""

    def stages(self, x: jax.Array) -> dict[str, jax.Array]:
        return {"stage1": jnp.repeat(x[..., :1], 4, axis=-1)}

    def pooled(self, last: jax.Array) -> jax.Array:
        return jnp.mean(last, axis=(1, 2))


def random_convnext() -> ConvNeXtV2:
    """The smallest preset, every parameter drawn: some are zero by default."""
    kwargs = PRESETS["smoke"] | dict(dtype="float32", remat=False)
    graphdef, shapes = nnx.split(nnx.eval_shape(lambda: ConvNeXtV2(**kwargs, rngs=nnx.Rngs(0))))
    rng = np.random.default_rng(0)
    shapes = nnx.to_pure_dict(shapes)
    return nnx.merge(
        graphdef, jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape, scale=0.3), s.dtype), shapes)
    )


def test_convnext_features_are_their_definition():
    net = random_convnext()
    x = 1.5 * np.random.default_rng(1).normal(size=(2, 64, 64, 3)).astype(np.float32)
    features = jax.jit(lambda x: convnext_features(net, x, 64))(x)
    y = ((x.astype(np.float64) + 1) / 2 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    maps = jax.jit(net.stages)(jnp.asarray(y, jnp.float32))
    expected = {}
    for name, stage in maps.items():
        y = np.asarray(stage, np.float64)
        y = (y - y.mean(-1, keepdims=True)) / (y.std(-1, keepdims=True) + 1e-3)
        if name != "stage1":
            expected[f"convnext_{name}"] = y.reshape(2, -1, y.shape[-1])
        expected[f"convnext_{name}_mean"] = y.mean((1, 2))[:, None]
        expected[f"convnext_{name}_std"] = np.sqrt(y.var((1, 2)) + 1e-6)[:, None]
    expected["convnext_pooled"] = np.asarray(net.pooled(maps["stage4"]))[:, None]
    expected["convnext_pooled_std"] = expected["convnext_stage4_std"]  # the recipe counts it twice
    assert set(features) == set(expected)
    for name, value in expected.items():
        assert features[name].shape == value.shape, name
        np.testing.assert_allclose(features[name], value, rtol=0, atol=1e-5 * np.abs(value).max(), err_msg=name)


def test_convnext_features_of_the_released_recipe():
    """Names, positions, channels and dtypes at full size, by shape evaluation."""
    kwargs = PRESETS["base"] | dict(dtype="bfloat16", remat=False)
    graphdef, params = nnx.split(nnx.eval_shape(lambda: ConvNeXtV2(**kwargs, rngs=nnx.Rngs(0))))
    x = jax.ShapeDtypeStruct((3, 256, 256, 3), jnp.float32)
    features = jax.eval_shape(lambda p, x: convnext_features(nnx.merge(graphdef, p), x), params, x)
    sizes = {"stage1": (0, 128), "stage2": (28**2, 256), "stage3": (14**2, 512), "stage4": (7**2, 1024)}
    expected = {f"convnext_{name}": (3, *size) for name, size in sizes.items() if size[0]}
    expected |= {f"convnext_{name}_{kind}": (3, 1, size[1]) for name, size in sizes.items() for kind in ("mean", "std")}
    expected |= {"convnext_pooled": (3, 1, 1024), "convnext_pooled_std": (3, 1, 1024)}
    assert {name: value.shape for name, value in features.items()} == expected
    dtypes = {name: value.dtype.name for name, value in features.items()}
    assert dtypes == {name: "float32" if name.endswith("std") else "bfloat16" for name in features}


def test_convnext_features_have_gradients_everywhere():
    """Where a position is the same in all channels, where the map is constant, and beyond the images' range."""
    net: Any = OneStage()

    def total(x: jax.Array) -> jax.Array:
        return sum((jnp.sum(value) for value in convnext_features(net, x, 8).values()), jnp.zeros(()))

    gradient = jax.grad(total)(jnp.full((1, 8, 8, 3), 3.0))
    np.testing.assert_allclose(gradient[..., 0], 4 / 64 / 2 / 0.229, rtol=1e-5)
