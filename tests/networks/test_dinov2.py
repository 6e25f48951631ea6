"""DINOv2: the reference library's numbers, its gradient, precision, memory, its files, and the features of it."""

import json
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from safetensors.numpy import save_file

from drifting.assembly.spaces import sample_space
from drifting.method.encoders import ENCODERS
from drifting.method.encoders.dinov2 import DINOv2Options, dinov2_features, dinov2_pooled, evenly_spaced
from drifting.networks.dinov2 import PRESETS, DINOv2, bicubic_weights
from drifting.runs.files import sha256
from drifting.weights.references import network
from drifting.weights.transformers_dinov2 import dinov2_from_torch, dinov2_kwargs_from_transformers, load_dinov2

FIXTURE = Path(__file__).parents[1] / "fixtures" / "dinov2.npz"
"""Inputs, outputs and a gradient of transformers' network, written by parity/test_dinov2_parity.py."""
SMALL: dict[str, Any] = {
    "architectures": ["Dinov2Model"], "attention_probs_dropout_prob": 0.0, "drop_path_rate": 0.0, "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0, "hidden_size": 16, "image_size": 42, "initializer_range": 0.02, "layer_norm_eps": 1e-6,
    "layerscale_value": 1.0, "mlp_ratio": 4, "model_type": "dinov2", "num_attention_heads": 2, "num_channels": 3,
    "num_hidden_layers": 2, "patch_size": 14, "qkv_bias": True, "use_swiglu_ffn": False,
}  # fmt: skip
"""`config.json` of the fixture's network, in the fields that the published ones have."""
MASK = "embeddings.mask_token"


def draw(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Float32 weights by PyTorch name that make every layer matter; no library but NumPy is needed to draw them."""
    rng = np.random.RandomState(0)  # its stream is frozen for good
    tensors = {}
    for name in sorted(shapes):
        noise = rng.standard_normal(shapes[name])
        if name.endswith("bias"):
            value = 0.3 * noise
        elif len(shapes[name]) == 1:
            value = 1 + 0.3 * noise
        elif len(shapes[name]) == 3 or name.endswith(MASK):  # the class token and the positions
            value = noise
        else:
            value = noise / math.sqrt(math.prod(shapes[name][1:]))
        tensors[name] = value.astype(np.float32)
    return tensors


def assert_close(actual: Any, expected: np.ndarray, tolerance: float = 1e-5) -> None:
    """Within `tolerance` of the largest value."""
    assert np.shape(actual) == np.shape(expected)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def load_fixture() -> dict[str, np.ndarray]:
    with np.load(FIXTURE, allow_pickle=False) as file:
        return dict(file)


def shapes_of(fixture: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(shape) for name, shape in json.loads(str(fixture["shapes"])).items()}


@pytest.fixture(scope="module")
def fixture() -> dict[str, np.ndarray]:
    return load_fixture()


@pytest.fixture(scope="module")
def tensors(fixture: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """As in the library's file."""
    return draw(shapes_of(fixture))


@pytest.fixture(scope="module")
def params(tensors: dict[str, np.ndarray]) -> Any:
    return dinov2_from_torch(without_mask(tensors), **dinov2_kwargs_from_transformers(SMALL))


def without_mask(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: tensor for name, tensor in tensors.items() if name != MASK}


def graph(config: Mapping[str, Any] = SMALL, **changes: Any) -> Any:
    kwargs = dinov2_kwargs_from_transformers(config) | changes
    return nnx.graphdef(nnx.eval_shape(lambda: DINOv2(**kwargs, rngs=nnx.Rngs(0))))


def every_output(graphdef: Any, layers: tuple[int, ...], params: Any, x: jax.Array) -> dict[str, jax.Array]:
    """The asked blocks' tokens, and `class_token`."""
    maps, class_token = nnx.merge(graphdef, params).tokens(x, layers)
    return maps | {"class_token": class_token}


outputs = jax.jit(every_output, static_argnums=(0, 1))


def weights(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.RandomState(2).standard_normal(shape).astype(np.float32)


@partial(jax.jit, static_argnums=(0, 1))
def loss_and_gradient(graphdef: Any, layers: tuple[int, ...], params: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of the mean of all outputs times `weights`, in the image."""

    def total(x: jax.Array) -> jax.Array:
        computed = every_output(graphdef, layers, params, x).values()
        return sum((jnp.mean(value * weights(value.shape)) for value in computed), jnp.zeros(()))

    return jax.value_and_grad(total)(x)


def write(folder: Path, tensors: Mapping[str, np.ndarray], config: Mapping[str, Any] = SMALL) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    save_file(dict(tensors), folder / "model.safetensors")
    return folder


def assert_same(actual: Any, expected: Any) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


# --- the network ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["native", "wide"])
def test_tokens_are_the_reference_library_s(size: str, fixture: Any, params: Any):
    """At the size of the table of positions; and at one that has fewer rows of patches, and more columns."""
    computed = outputs(graph(), (1, 2), params, fixture[f"{size}/x"])
    assert set(computed) == {"block1", "block2", "class_token"}
    for name, value in computed.items():
        assert_close(value, fixture[f"{size}/{name}"])


def test_call_gives_the_last_block_and_the_class_token(fixture: Any, params: Any):
    graphdef = graph()
    patches, class_token = jax.jit(lambda p, x: nnx.merge(graphdef, p)(x))(params, fixture["native/x"])
    assert_close(patches, fixture["native/block2"])
    assert_close(class_token, fixture["native/class_token"])


def test_gradient_is_the_reference_library_s_and_that_of_differences(fixture: Any, params: Any):
    x = fixture["wide/x"]
    evaluate = partial(loss_and_gradient, graph(), (1, 2), params)
    gradient = evaluate(x)[1]
    assert_close(gradient, fixture["wide/gradient"])
    direction = np.sign(gradient)
    step = 3e-3
    slope = (evaluate(x + step * direction)[0] - evaluate(x - step * direction)[0]) / (2 * step)
    np.testing.assert_allclose(slope, np.sum(gradient * direction), rtol=0.01)


def test_remat_changes_no_gradient(fixture: Any, params: Any):
    evaluate = partial(loss_and_gradient, graph(remat=True), (1, 2), params)
    assert_close(evaluate(fixture["wide/x"])[1], fixture["wide/gradient"])


def test_a_block_keeps_its_input_and_what_its_products_need(params: Any):
    """Without `remat` also queries, keys and values, attention's output, and the map between the MLP's products."""
    images = [jax.ShapeDtypeStruct((n, 42, 42, 3), jnp.float32) for n in (1, 2)]
    block = (1 + 3 * 3) * SMALL["hidden_size"]

    def kept(remat: bool) -> int:
        """Numbers of one image."""
        run = partial(every_output, graph(remat=remat), (2,), params)
        one, two = (jax.eval_shape(lambda x: jax.vjp(run, x)[1], x) for x in images)
        return sum(r.size for r in jax.tree.leaves(two)) - sum(r.size for r in jax.tree.leaves(one))

    assert kept(False) - kept(True) == 2 * (3 + 1 + 4) * block
    assert 2 * block < kept(True) < 4 * block


def test_bf16_follows_float32(fixture: Any, params: Any):
    computed = outputs(graph(dtype="bfloat16"), (1, 2), params, fixture["wide/x"])
    for name, value in computed.items():
        assert value.dtype == jnp.bfloat16
        assert_close(value.astype(jnp.float32), fixture[f"wide/{name}"], 0.05)


def test_sizes_are_the_published_ones():
    """Parameters of transformers' networks, which have a token of `hidden_size` for masked patches as well."""
    for preset, count in {"small": 22_056_576, "base": 86_580_480, "large": 304_368_640}.items():
        kwargs = PRESETS[preset] | dict(dtype="float32", remat=False)
        net = nnx.eval_shape(lambda: DINOv2(**kwargs, rngs=nnx.Rngs(0)))  # noqa: B023
        assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(net))) + kwargs["hidden_size"] == count


@pytest.mark.parametrize("depth, layers", [(6, (2, 4, 6)), (6, (4,)), (6, (3, 1)), (6, ())])
def test_any_blocks_may_be_asked_for(depth: int, layers: tuple[int, ...]):
    """In any order; the blocks are one compiled block, whichever are asked for."""
    kwargs = PRESETS["smoke"] | dict(depth=depth, dtype="float32", remat=False)
    net = nnx.eval_shape(lambda: DINOv2(**kwargs, rngs=nnx.Rngs(0)))
    graphdef, params = nnx.split(net)
    x = jax.ShapeDtypeStruct((3, 28, 70, 3), jnp.float32)
    jaxpr, shapes = jax.make_jaxpr(partial(every_output, graphdef, layers), return_shape=True)(params, x)
    assert str(jaxpr).count("erfc") == 1
    assert {name: leaf.shape for name, leaf in shapes.items()} == (
        {f"block{k}": (3, 2, 5, 16) for k in layers} | {"class_token": (3, 16)}
    )


def test_asked_blocks_are_those_of_that_number(fixture: Any, params: Any):
    """Of a network of four blocks, of which the first two are the fixture's."""
    deeper = params | {"blocks": jax.tree.map(lambda leaf: np.concatenate([leaf, leaf[::-1]]), params["blocks"])}
    every_second, each = (
        outputs(graph(depth=4), layers, deeper, fixture["native/x"]) for layers in ((4, 2), (2, 3, 4))
    )
    for computed in (every_second, each):
        assert_close(computed["block2"], fixture["native/block2"])
    for name in ("block4", "class_token"):
        assert_close(every_second[name], np.asarray(each[name]))
    assert np.abs(each["block3"] - each["block4"]).max() > 0.1


def test_bicubic_weights_by_hand():
    """Half way between two numbers they are -3/32, 19/32, 19/32, -3/32; beyond the border lies its number once more."""
    expected = np.array([[16, 19, -3, 0], [0, -3, 19, 16]]) / 32
    np.testing.assert_allclose(bicubic_weights(4, 2), expected, atol=1e-7)
    np.testing.assert_array_equal(bicubic_weights(5, 5), np.eye(5))
    for old, new in ((37, 16), (3, 5), (1, 4)):
        np.testing.assert_allclose(bicubic_weights(old, new).sum(1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "layers", "words"),
    [
        ((1, 28, 30, 3), (1,), "image of 28 x 30 pixels: its sides must be multiples of 14"),
        ((1, 0, 28, 3), (1,), "image of 0 x 28 pixels: its sides must be multiples of 14"),
        ((1, 28, 28, 1), (1,), "image of 1 channel: the network takes 3"),
        ((1, 28, 28, 3), (0, 2), r"layers=\[0, 2\]: must be numbers of blocks, from 1 to 2"),
        ((1, 28, 28, 3), (3,), r"layers=\[3\]: must be numbers of blocks, from 1 to 2"),
    ],
)
def test_wrong_inputs_are_refused_in_one_line(shape: tuple[int, ...], layers: tuple[int, ...], words: str, params: Any):
    with pytest.raises(ValueError, match=words) as error:
        jax.eval_shape(partial(every_output, graph(), layers), params, jax.ShapeDtypeStruct(shape, jnp.float32))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(num_heads=3), "num_heads=3: must divide hidden_size 16"),
        (dict(image_size=50), "patch_size=14: must divide image_size 50"),
    ],
)
def test_sizes_that_do_not_divide_are_refused(change: dict[str, int], words: str):
    with pytest.raises(ValueError, match=words):
        DINOv2(**PRESETS["smoke"] | change, dtype="float32", remat=False, rngs=nnx.Rngs(0))


# --- its files --------------------------------------------------------------------------------------------------------


def test_folder_of_the_classifier_gives_the_same_encoder(tmp_path: Path, tensors: Any, params: Any):
    kwargs = dinov2_kwargs_from_transformers(SMALL)
    plain = load_dinov2(write(tmp_path, tensors))
    assert (plain.kind, plain.model_config) == ("dinov2", kwargs)
    assert plain.metadata == {"sha256": sha256(tmp_path / "model.safetensors"), "source": str(tmp_path)}
    assert json.loads(json.dumps(kwargs)) == kwargs == PRESETS["smoke"] | dict(dtype="float32", remat=False)
    assert_same(plain.params, params)
    head = {"classifier.weight": np.ones((5, 32), np.float32), "classifier.bias": np.ones(5, np.float32)}
    prefixed = {f"dinov2.{name}": tensor for name, tensor in tensors.items()} | head
    assert_same(load_dinov2(write(tmp_path, prefixed)).params, params)
    assert_same(load_dinov2(write(tmp_path, without_mask(tensors))).params, params)


def test_defaults_of_the_library_may_be_absent():
    config = {"model_type": "dinov2", "hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6}
    expected = PRESETS["small"] | dict(image_size=224, dtype="float32", remat=False)
    assert dinov2_kwargs_from_transformers(config) == expected


def test_network_without_query_biases(tmp_path: Path, tensors: Any):
    names = tuple(f"attention.{name}.bias" for name in ("query", "key", "value"))
    kept = {name: tensor for name, tensor in tensors.items() if not name.endswith(names)}
    artifact = load_dinov2(write(tmp_path, kept, SMALL | {"qkv_bias": False}))
    assert list(artifact.params["blocks"]["query"]) == ["kernel"]
    assert artifact.params["blocks"]["query"]["kernel"].shape == (2, 16, 16)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_becomes_float32(tmp_path: Path, tensors: Any, dtype: Any):
    half = {name: tensor.astype(dtype) for name, tensor in tensors.items()}
    rounded = {name: tensor.astype(np.float32) for name, tensor in half.items()}
    expected = dinov2_from_torch(without_mask(rounded), **dinov2_kwargs_from_transformers(SMALL))
    assert_same(load_dinov2(write(tmp_path, half)).params, expected)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "dinov2_with_registers"}, 'model_type is "dinov2_with_registers", expected "dinov2"'),
        ({"model_type": None}, 'model_type is null, expected "dinov2"'),
        ({"hidden_act": "relu"}, 'hidden_act is "relu", expected "gelu"'),
        ({"use_swiglu_ffn": True}, "use_swiglu_ffn is true, expected false"),
        ({"hidden_size": None}, "hidden_size is null, expected a positive integer"),
        ({"num_hidden_layers": True}, "num_hidden_layers is true, expected a positive integer"),
        ({"num_attention_heads": 3}, "num_attention_heads is 3, expected a divisor of hidden_size 16"),
        ({"image_size": [42, 42]}, r"image_size is \[42, 42\], expected a positive integer"),
        ({"image_size": 50}, "image_size is 50, expected a multiple of patch_size 14"),
        ({"mlp_ratio": "4"}, 'mlp_ratio is "4", expected a positive number'),
        ({"qkv_bias": 1}, "qkv_bias is 1, expected true or false"),
        ({"num_channels": 0}, "num_channels is 0, expected a positive integer"),
        ({"layer_norm_eps": 0}, "layer_norm_eps is 0, expected a positive number"),
    ],
)
def test_other_networks_are_refused_in_one_line(tmp_path: Path, tensors: Any, change: dict[str, Any], words: str):
    write(tmp_path, tensors, {k: v for k, v in (SMALL | change).items() if v is not None})
    with pytest.raises(ValueError, match=f"config.json: {words}") as error:
        load_dinov2(tmp_path)
    assert "\n" not in str(error.value)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda d: (d / "config.json").unlink(), "no file .*config.json"),
        (lambda d: (d / "config.json").write_text("{"), "config.json: not JSON"),
        (lambda d: (d / "config.json").write_text("[]"), "config.json: not the configuration of a network"),
        (lambda d: (d / "model.safetensors").unlink(), "no file .*model.safetensors"),
        (lambda d: truncate(d / "model.safetensors"), "model.safetensors: not a safetensors file"),
    ],
)
def test_damaged_folders_are_refused_in_one_line(tmp_path: Path, tensors: Any, damage: Any, words: str):
    damage(write(tmp_path, tensors))
    with pytest.raises(ValueError, match=words) as error:
        load_dinov2(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (
            lambda t: t.pop("encoder.layer.1.layer_scale2.lambda1"),
            r"missing tensor encoder.layer.1.layer_scale2.lambda1",
        ),
        (lambda t: t.update(extra=np.ones(1, np.float32)), "unexpected tensor extra"),
        (lambda t: t.update({"layernorm.bias": np.ones(3, np.float32)}), r"layernorm.bias float32\[3\] instead of"),
    ],
)
def test_wrong_tensors_are_named_in_one_line(tmp_path: Path, tensors: Any, edit: Any, words: str):
    changed = dict(tensors)
    edit(changed)
    with pytest.raises(ValueError, match=f"model.safetensors: .*{words}") as error:
        load_dinov2(write(tmp_path, changed))
    assert "\n" not in str(error.value)


# --- features ---------------------------------------------------------------------------------------------------------


def standardised(x: np.ndarray) -> np.ndarray:
    """Images in [-1, 1], as the network takes them."""
    y = ((x.astype(np.float64) + 1) / 2 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    return y.astype(np.float32)


def test_features_are_their_definition(params: Any):
    graphdef = graph()
    x = 1.5 * np.random.default_rng(1).normal(size=(2, 56, 56, 3)).astype(np.float32)
    options = dict(resolution=56, mean_patches=(2,), std_patches=(4,))
    features = jax.jit(lambda p, x: dinov2_features(nnx.merge(graphdef, p), x, **options))(params, x)
    maps = outputs(graphdef, (1, 2), params, standardised(x))
    expected = {"dinov2_cls": np.asarray(maps.pop("class_token"))[:, None]}
    for name, value in maps.items():
        y = np.asarray(value, np.float64)
        expected[f"dinov2_{name}"] = y.reshape(2, 16, 16)
        expected[f"dinov2_{name}_mean"] = y.mean((1, 2))[:, None]
        expected[f"dinov2_{name}_std"] = np.sqrt(y.var((1, 2)) + 1e-6)[:, None]
        expected[f"dinov2_{name}_mean_2"] = y.reshape(2, 2, 2, 2, 2, 16).mean((2, 4)).reshape(2, 4, 16)
        expected[f"dinov2_{name}_std_4"] = expected[f"dinov2_{name}_std"]
    assert set(features) == set(expected)
    for name, value in expected.items():
        assert_close(features[name], value)


def test_features_of_the_published_size():
    """Names, positions, channels and dtypes, by shape evaluation."""
    kwargs = PRESETS["base"] | dict(dtype="bfloat16", remat=True)
    graphdef, params = nnx.split(nnx.eval_shape(lambda: DINOv2(**kwargs, rngs=nnx.Rngs(0))))
    x = jax.ShapeDtypeStruct((3, 256, 256, 3), jnp.float32)
    features = jax.eval_shape(lambda p, x: dinov2_features(nnx.merge(graphdef, p), x), params, x)
    positions = {"": 16 * 16, "_mean": 1, "_std": 1}
    expected = {f"dinov2_block{k}{kind}": (3, n, 768) for k in (3, 6, 9, 12) for kind, n in positions.items()}
    assert {name: value.shape for name, value in features.items()} == expected | {"dinov2_cls": (3, 1, 768)}
    dtypes = {name: value.dtype.name for name, value in features.items()}
    assert dtypes == {name: "float32" if name.endswith("std") else "bfloat16" for name in features}
    coarse = dict(layers=(12,), locations=False, mean=False, std=False, mean_patches=(4,))
    features = jax.eval_shape(lambda p, x: dinov2_features(nnx.merge(graphdef, p), x, **coarse), params, x)
    assert {k: v.shape[1] for k, v in features.items()} == {"dinov2_block12_mean_4": 16, "dinov2_cls": 1}


def test_blocks_of_the_features_are_evenly_spaced():
    depths = {12: (3, 6, 9, 12), 24: (6, 12, 18, 24), 10: (3, 5, 8, 10), 2: (1, 2), 1: (1,)}
    assert {depth: evenly_spaced(depth) for depth in depths} == depths


def test_features_of_a_constant_image_have_finite_gradients(params: Any):
    """Enlarged, and beyond the images' range."""
    graphdef = graph()

    def total(x: jax.Array) -> jax.Array:
        features = dinov2_features(nnx.merge(graphdef, params), x, resolution=28)
        return sum((jnp.sum(value * weights(value.shape)) for value in features.values()), jnp.zeros(()))

    gradient = jax.jit(jax.grad(total))(jnp.full((1, 8, 8, 3), 3.0))
    assert np.all(np.isfinite(gradient)) and np.all(np.any(gradient != 0, axis=-1))


def test_pooled_feature_resizes_as_pillow_does_without_rounding(params: Any):
    graphdef = graph()
    pixels = np.random.default_rng(3).integers(0, 256, (2, 64, 48, 3)).astype(np.float32)
    pixels[:, 20:40] = 255  # so that the resized image oversteps white

    def resize(channel: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(channel).resize((42, 42), Image.Resampling.BICUBIC))

    resized = np.stack([np.stack([resize(image[..., c]) for c in range(3)], axis=-1) for image in pixels])
    assert resized.max() > 260
    expected = outputs(graphdef, (1, 2), params, standardised(resized.clip(0, 255) / 127.5 - 1))["class_token"]
    pooled = jax.jit(lambda p, x: dinov2_pooled(nnx.merge(graphdef, p), x, 42))(params, pixels / 127.5 - 1)
    assert_close(pooled, np.asarray(expected))


def test_encoder_reads_images_as_its_options_say():
    found, space = network("random://smoke", "dinov2", dtype="float32", remat=False), sample_space(None, (28, 28, 3))
    x = jax.random.uniform(jax.random.key(0), (2, 28, 28, 3), minval=-1)
    options = DINOv2Options("random://smoke", size=56, layers=(2,), std=False, mean_patches=(2,))
    encoder = ENCODERS["dinov2"].make(options, found, space)
    expected = dinov2_features(
        nnx.merge(found.graphdef, found.params), x, resolution=56, layers=(2,), std=False, mean_patches=(2,)
    )
    computed = encoder.features(found.params, x)
    assert encoder.of_images and list(computed) == list(expected) and "dinov2_block2_mean_2" in computed
    for name, value in expected.items():
        assert_close(computed[name], np.asarray(value))
    for change, words in (
        (dict(size=50), "size=50: must be a multiple of the patch's side 14"),
        (dict(layers=(3,)), r"layers=\(3,\): must be numbers of blocks, from 1 to 2"),
    ):
        with pytest.raises(ValueError, match=words):
            ENCODERS["dinov2"].make(DINOv2Options("random://smoke", **change), found, space)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="takes 3 channels, the images have 1"):
        ENCODERS["dinov2"].make(DINOv2Options("random://smoke"), found, sample_space(None, (28, 28, 1)))
