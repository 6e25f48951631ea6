"""ConvNeXt V2: the reference library's numbers, its parts by their formulas, precision, memory, and its files."""

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
from safetensors.numpy import save_file

from drifting.networks.convnext import PRESETS, ConvNeXtStage, ConvNeXtV2, ResponseNorm
from drifting.runs.files import sha256
from drifting.weights.transformers_convnext import convnext_from_torch, convnext_kwargs_from_transformers, load_convnext

FIXTURE = Path(__file__).parents[1] / "fixtures" / "convnext.npz"
"""Inputs and outputs of transformers' network, written by parity/test_convnext_parity.py."""

SMALL: dict[str, Any] = {
    "architectures": ["ConvNextV2Model"], "depths": [1, 1, 2, 1], "drop_path_rate": 0.0, "hidden_act": "gelu",
    "hidden_sizes": [8, 16, 24, 32], "image_size": 224, "initializer_range": 0.02, "layer_norm_eps": 1e-12,
    "model_type": "convnextv2", "num_channels": 3, "num_stages": 4, "patch_size": 4,
}  # fmt: skip
"""`config.json` of the fixture's network, in the fields that the published ones have."""


def draw(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Float32 weights by PyTorch name that make every layer matter; no library but NumPy is needed to draw them."""
    rng = np.random.RandomState(0)  # its stream is frozen for good
    tensors = {}
    for name in sorted(shapes):
        noise = rng.standard_normal(shapes[name])
        if ".grn." in name or name.endswith("bias"):
            value = 0.3 * noise
        elif len(shapes[name]) == 1:
            value = 1 + 0.3 * noise
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
    return draw(shapes_of(fixture))


def graph(config: Mapping[str, Any] = SMALL, **changes: Any) -> Any:
    kwargs = convnext_kwargs_from_transformers(config) | changes
    return nnx.graphdef(nnx.eval_shape(lambda: ConvNeXtV2(**kwargs, rngs=nnx.Rngs(0))))


@partial(jax.jit, static_argnums=0)
def outputs(graphdef: Any, params: Any, x: jax.Array) -> dict[str, jax.Array]:
    """The stages' maps, and `pooled`."""
    net = nnx.merge(graphdef, params)
    maps = net.stages(x)
    return maps | {"pooled": net.pooled(maps[f"stage{len(maps)}"])}


def write(folder: Path, tensors: Mapping[str, np.ndarray], config: Mapping[str, Any] = SMALL) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    save_file(dict(tensors), folder / "model.safetensors")
    return folder


def assert_same(actual: Any, expected: Any) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


# --- the network ------------------------------------------------------------------------------------------------------


def test_stages_and_pooled_output_are_the_reference_library_s(fixture: Any, tensors: Any):
    kwargs = convnext_kwargs_from_transformers(SMALL)
    computed = outputs(graph(), convnext_from_torch(tensors, **kwargs), fixture["x"])
    assert list(computed) == sorted(computed) and len(computed) == 5
    for name, value in computed.items():
        assert_close(value, fixture[name], 1e-4)  # the reference's response norm has no epsilon


def test_sizes_are_the_published_ones():
    """Millions of parameters with the classifier of a thousand classes: 3.7 and 89 (table 1 of the paper)."""
    for preset, millions in {"atto": 3.7, "base": 88.7}.items():
        kwargs = PRESETS[preset] | dict(dtype="float32", remat=False)
        net = nnx.eval_shape(lambda: ConvNeXtV2(**kwargs, rngs=nnx.Rngs(0)))  # noqa: B023
        count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(net)))
        assert round((count + 1000 * (kwargs["dims"][-1] + 1)) / 1e6, 1) == millions


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_response_norm_is_its_formula(scale: float):
    rng = np.random.default_rng(0)
    x, gain, bias = scale * rng.normal(size=(2, 3, 5, 4)), rng.normal(size=4), scale * rng.normal(size=4)
    norm = ResponseNorm(4)
    norm.gain[...], norm.bias[...] = (jnp.asarray(a, jnp.float32).reshape(1, 1, 1, 4) for a in (gain, bias))
    size = np.sqrt((x**2).sum((1, 2)) + 1e-6)
    response = (size / (size.mean(1, keepdims=True) + 1e-6))[:, None, None]
    assert_close(norm(jnp.asarray(x, jnp.float32)), gain * x * response + bias + x, 1e-6)


def test_response_norm_of_nothing_has_a_gradient():
    """Of a map that is zero, and of one in which a channel is."""
    norm = ResponseNorm(2)
    norm.gain[...] = jnp.ones((1, 1, 1, 2))
    for x in (jnp.zeros((1, 2, 2, 2)), jnp.ones((1, 2, 2, 2)).at[..., 0].set(0)):
        gradient = jax.grad(lambda x: norm(x).sum())(x)
        assert np.all(np.isfinite(gradient)) and np.all(gradient > 0)


def test_bf16_follows_float32(fixture: Any, tensors: Any):
    kwargs = convnext_kwargs_from_transformers(SMALL)
    computed = outputs(graph(dtype="bfloat16"), convnext_from_torch(tensors, **kwargs), fixture["x"])
    for name, value in computed.items():
        assert value.dtype == jnp.bfloat16
        assert_close(value.astype(jnp.float32), fixture[name], 0.05)


def test_remat_changes_no_gradient():
    x = jax.random.normal(jax.random.key(0), (2, 5, 5, 4))

    def gradient(remat: bool) -> jax.Array:
        stage = ConvNeXtStage(4, 4, 2, down=False, dtype="float32", remat=remat, rngs=nnx.Rngs(0))
        return jax.jit(jax.grad(lambda x: jnp.sum(stage(x) ** 2)))(x)

    plain = gradient(False)
    assert np.abs(plain).max() > 1
    assert_close(gradient(True), plain)


@pytest.mark.parametrize(("remat", "maps"), [(True, 1), (False, 5)])
def test_a_block_keeps_its_input_and_what_its_products_need(remat: bool, maps: int):
    """Without `remat` also the four times wider map between its products; what lies between them is made again."""
    x = jax.ShapeDtypeStruct((2, 64, 64, 4), jnp.float32)

    def kept(blocks: int) -> int:
        stage = ConvNeXtStage(4, 4, blocks, down=False, dtype="float32", remat=remat, rngs=nnx.Rngs(0))
        return sum(r.size for r in jax.tree.leaves(jax.eval_shape(lambda x: jax.vjp(stage, x)[1], x)))

    assert maps * x.size <= kept(3) - kept(2) < (maps + 0.1) * x.size


def test_dims_and_depths_must_be_of_the_same_stages():
    with pytest.raises(ValueError, match=r"depths=\[1\]: must have one number for each stage, as dims \[8, 16\]"):
        ConvNeXtV2(**PRESETS["smoke"] | dict(dims=(8, 16), depths=(1,)), dtype="float32", remat=False, rngs=nnx.Rngs(0))


# --- its files --------------------------------------------------------------------------------------------------------


def test_folder_of_the_classifier_gives_the_same_encoder(tmp_path: Path, tensors: Any):
    kwargs = convnext_kwargs_from_transformers(SMALL)
    expected = convnext_from_torch(tensors, **kwargs)
    plain = load_convnext(write(tmp_path, tensors))
    assert (plain.kind, plain.model_config) == ("convnext", kwargs)
    assert plain.metadata == {"sha256": sha256(tmp_path / "model.safetensors"), "source": str(tmp_path)}
    assert json.loads(json.dumps(kwargs)) == kwargs
    assert_same(plain.params, expected)
    head = {"classifier.weight": np.ones((5, 32), np.float32), "classifier.bias": np.ones(5, np.float32)}
    prefixed = {f"convnextv2.{name}": tensor for name, tensor in tensors.items()} | head
    assert_same(load_convnext(write(tmp_path, prefixed)).params, expected)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_becomes_float32(tmp_path: Path, tensors: Any, dtype: Any):
    half = {name: tensor.astype(dtype) for name, tensor in tensors.items()}
    rounded = {name: tensor.astype(np.float32) for name, tensor in half.items()}
    expected = convnext_from_torch(rounded, **convnext_kwargs_from_transformers(SMALL))
    assert_same(load_convnext(write(tmp_path, half)).params, expected)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "convnext"}, 'model_type is "convnext", expected "convnextv2"'),
        ({"model_type": None}, 'model_type is null, expected "convnextv2"'),
        ({"hidden_act": "relu"}, 'hidden_act is "relu", expected "gelu"'),
        ({"patch_size": 2}, "patch_size is 2, expected 4"),
        ({"hidden_sizes": None}, "hidden_sizes is null, expected a list of positive integers"),
        ({"depths": [3, 3, "9", 3]}, r'depths is \[3, 3, "9", 3\], expected a list of positive integers'),
        ({"depths": [3, 3]}, r"depths is \[3, 3\], expected as many numbers as hidden_sizes \[8, 16, 24, 32\]"),
        ({"num_channels": 0}, "num_channels is 0, expected a positive integer"),
        ({"layer_norm_eps": 0}, "layer_norm_eps is 0, expected a positive number"),
    ],
)
def test_other_networks_are_refused_in_one_line(tmp_path: Path, tensors: Any, change: dict[str, Any], words: str):
    write(tmp_path, tensors, {k: v for k, v in (SMALL | change).items() if v is not None})
    with pytest.raises(ValueError, match=f"config.json: {words}") as error:
        load_convnext(tmp_path)
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
        load_convnext(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (
            lambda t: t.pop("encoder.stages.2.layers.1.grn.weight"),
            r"missing tensor encoder.stages.2.layers.1.grn.weight",
        ),
        (lambda t: t.update(extra=np.ones(1, np.float32)), "unexpected tensor extra"),
        (lambda t: t.update({"layernorm.bias": np.ones(3, np.float32)}), r"layernorm.bias float32\[3\] instead of"),
    ],
)
def test_wrong_tensors_are_named_in_one_line(tmp_path: Path, tensors: Any, edit: Any, words: str):
    changed = dict(tensors)
    edit(changed)
    with pytest.raises(ValueError, match=f"model.safetensors: .*{words}") as error:
        load_convnext(write(tmp_path, changed))
    assert "\n" not in str(error.value)
