"""The FID Inception network: the reference library's numbers, the old resize, precision, and its files."""

import json
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from drifting.networks.inception import BatchNorm, Inception, InceptionOutputs, Mixed, resize
from drifting.runs.files import sha256
from drifting.weights.artifact import Artifact, save_artifact
from drifting.weights.catalogue import INCEPTION_SHA256
from drifting.weights.fid_inception import load_inception

FIXTURES = Path(__file__).parents[1] / "fixtures"

FIXTURE = FIXTURES / "inception.npz"
"""Inputs and outputs of torch-fidelity's network, written by parity/test_inception_parity.py."""


def draw(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Weights by PyTorch name under which images stay apart; no library but NumPy is needed to draw them."""
    rng = np.random.RandomState(0)  # its stream is frozen for good
    tensors = {}
    for name in sorted(shapes):
        if name.endswith("num_batches_tracked"):
            tensors[name] = np.array(7)
            continue
        noise = rng.standard_normal(shapes[name])
        if name.endswith("running_var"):
            value = np.exp(0.3 * noise)
        elif name.endswith((".bias", "running_mean")):
            value = 0.05 * noise
        elif len(shapes[name]) == 1:
            value = 1 + 0.2 * noise
        else:
            value = noise * math.sqrt(2 / math.prod(shapes[name][1:]))
        tensors[name] = value.astype(np.float32)
    return tensors


def assert_close(actual: Any, expected: np.ndarray, tolerance: float = 1e-5) -> None:
    """Within `tolerance` of the largest value."""
    assert np.shape(actual) == np.shape(expected)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def load_fixture() -> dict[str, np.ndarray]:
    with np.load(FIXTURE, allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def fixture() -> dict[str, np.ndarray]:
    return load_fixture()


@pytest.fixture(scope="module")
def weights(fixture: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the fixture's weights."""
    shapes = {name: tuple(shape) for name, shape in json.loads(str(fixture["shapes"])).items()}
    path = tmp_path_factory.mktemp("inception") / "inception.safetensors"
    save_file(draw(shapes), path)
    return path


@pytest.fixture(scope="module")
def artifact(weights: Path) -> Artifact:
    return load_inception(weights, sha256(weights))


def graph(dtype: str = "float32") -> Any:
    return nnx.graphdef(nnx.eval_shape(lambda: Inception(dtype=dtype, rngs=nnx.Rngs(0))))


@partial(jax.jit, static_argnums=0)
def outputs(graphdef: Any, params: Any, images: jax.Array) -> InceptionOutputs:
    return nnx.merge(graphdef, params)(images)


# --- the network ------------------------------------------------------------------------------------------------------


def test_outputs_are_the_reference_library_s(fixture: Any, artifact: Artifact):
    assert fixture["images"].dtype == np.uint8
    computed = outputs(graph(), artifact.params, fixture["images"])
    for name, value in computed._asdict().items():
        assert value.dtype == jnp.float32
        assert_close(value, fixture[name])


def test_floats_are_taken_as_they_are(fixture: Any, artifact: Artifact):
    image = fixture["images"][0].astype(np.float32)
    whole, between = outputs(graph(), artifact.params, np.stack([image, image + 0.4])).pool
    assert_close(whole, fixture["pool"][0])
    assert np.abs(between - whole).max() > 1e-3


def test_bf16_follows_float32(fixture: Any, artifact: Artifact):
    computed = outputs(graph("bfloat16"), artifact.params, fixture["images"])
    for name, value in computed._asdict().items():
        assert value.dtype == jnp.float32
        assert_close(value, fixture[name], 0.05)


def test_float32_is_computed_in_full_precision():
    """Every product asks for it: devices that may would use fewer bits."""
    graphdef, params = nnx.split(nnx.eval_shape(lambda: Inception(dtype="float32", rngs=nnx.Rngs(0))))
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.uint8)
    jaxpr = jax.make_jaxpr(lambda params, x: nnx.merge(graphdef, params)(x))(params, images)
    found = [eqn.params["precision"] for eqn in jaxpr.eqns if "precision" in eqn.params]
    assert len(found) == 2 + 94 + 1  # the resize, the convolutions, the classifier
    highest = jax.lax.Precision.HIGHEST
    assert all(precision in (highest, (highest, highest)) for precision in found)


def test_batch_norm_is_its_formula():
    norm, rng = BatchNorm(5), np.random.default_rng(0)
    x, gain, bias, mean = rng.normal(size=(3, 5)), *rng.normal(size=(3, 5))
    variance = np.array([0, 1e-3, 0.1, 1, 10])
    norm.gain[...], norm.bias[...], norm.mean[...], norm.variance[...] = (
        jnp.asarray(a, jnp.float32) for a in (gain, bias, mean, variance)
    )
    expected = (x - mean) / np.sqrt(variance + 1e-3) * gain + bias
    np.testing.assert_allclose(norm(jnp.asarray(x, jnp.float32)), expected, rtol=1e-5, atol=1e-5)


def test_poolings():
    x = np.random.default_rng(0).normal(size=(2, 5, 5, 3)).astype(np.float32) - 5  # so that zeros would be seen
    around = [(slice(max(i - 1, 0), i + 2), slice(max(j - 1, 0), j + 2)) for i in range(5) for j in range(5)]
    inner = [(slice(i, i + 3), slice(j, j + 3)) for i in (0, 2) for j in (0, 2)]
    expected = {"mean": (np.mean, around, 5), "max": (np.max, around, 5), "halve": (np.max, inner, 2)}
    for pooling, (reduce, windows, side) in expected.items():
        block = Mixed(3, (), pooling, dtype="float32", rngs=nnx.Rngs(0))
        pooled = np.stack([reduce(x[:, i, j].astype(np.float64), axis=(1, 2)) for i, j in windows], axis=1)
        np.testing.assert_allclose(block(jnp.asarray(x)), pooled.reshape(2, side, side, 3), rtol=1e-6)


@pytest.mark.parametrize("size", [(32, 48), (256, 256), (299, 26), (512, 1)])
def test_resize_is_its_formula(size: tuple[int, int]):
    x = np.random.default_rng(0).integers(0, 256, (2, *size, 3)).astype(np.uint8)
    y = x.astype(np.float64)
    for axis, side in ((1, size[0]), (2, size[1])):
        position = np.arange(299) * side / 299
        low = np.floor(position).astype(int)
        part = (position - low).reshape([-1 if k == axis else 1 for k in range(4)])
        y = np.take(y, low, axis) * (1 - part) + np.take(y, np.minimum(low + 1, side - 1), axis) * part
    computed = resize(jnp.asarray(x))
    assert computed.dtype == jnp.float32
    np.testing.assert_allclose(computed, y, rtol=0, atol=1e-4 * 255)


def test_resize_leaves_the_network_s_resolution_alone():
    x = np.random.default_rng(0).integers(0, 256, (1, 299, 299, 3)).astype(np.uint8)
    np.testing.assert_array_equal(resize(jnp.asarray(x)), x)


@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (32, 32, 3)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...], artifact: Artifact):
    with pytest.raises(ValueError, match=r"images of shape \(.*\): must be \[B, H, W, 3\]"):
        nnx.merge(graph(), artifact.params)(jnp.zeros(shape))


# --- its files --------------------------------------------------------------------------------------------------------


def test_artifact_of_a_file(weights: Path, artifact: Artifact):
    checksum = sha256(weights)
    assert (artifact.kind, artifact.model_config) == ("inception", {"dtype": "float32"})
    assert artifact.metadata == {"sha256": checksum, "source_sha256": checksum, "source": str(weights)}
    nnx.eval_shape(lambda: Inception(**artifact.model_config, rngs=nnx.Rngs(0)))


def test_published_checksum_is_the_one_in_the_name():
    assert INCEPTION_SHA256.startswith("6726825d") and len(INCEPTION_SHA256) == 64


def test_other_weights_are_refused_in_one_line(weights: Path):
    with pytest.raises(ValueError, match=f"SHA-256 {sha256(weights)}, expected 6726825d") as error:
        load_inception(weights)
    assert "\n" not in str(error.value)


def test_our_own_artifact_says_which_weights_it_has(tmp_path: Path, weights: Path, artifact: Artifact):
    source = artifact.metadata["source_sha256"]
    folder = tmp_path / "inception"
    options: dict[str, Any] = dict(kind="inception", model_config=artifact.model_config, params=artifact.params)
    save_artifact(folder, **options, step=0, ema_decay=None, extra={"source_sha256": source})
    again = load_inception(folder, source)
    jax.tree.map(np.testing.assert_array_equal, again.params, artifact.params)
    with pytest.raises(ValueError, match=f"SHA-256 {source}, expected 6726825d"):
        load_inception(folder)
    save_artifact(folder, **options, step=0, ema_decay=None)
    with pytest.raises(ValueError, match="SHA-256 None"):
        load_inception(folder, source)


def test_folder_with_one_file_of_weights(tmp_path: Path):
    save_file({"a": np.ones(1)}, tmp_path / "x.safetensors")
    (tmp_path / "README.md").write_text("")
    checksum = sha256(tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"x\.safetensors: missing tensor .*; unexpected tensor a"):
        load_inception(tmp_path, checksum)
    (tmp_path / "y.pth").write_text("")
    with pytest.raises(ValueError, match=r"expected one \.pth or \.safetensors file, found 2"):
        load_inception(tmp_path, checksum)


def test_torch_files_are_read(tmp_path: Path):
    """As far as to say which of the tensors are missing."""
    path = FIXTURES / "state_zip.pth"
    with pytest.raises(ValueError, match=r"state_zip\.pth: missing tensor Conv2d_1a_3x3\.bn\.bias.*unexpected tensor"):
        load_inception(path, sha256(path))


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        (b"", "x.pth", "x.pth: not a readable PyTorch state dict"),
        (b"", "x.safetensors", "x.safetensors: not a safetensors file"),
        (b"", "x.npz", "expected one .pth or .safetensors file, found 0"),
        (None, "x.pth", "expected one .pth or .safetensors file, found 0"),
    ],
)
def test_damaged_files_are_refused_in_one_line(tmp_path: Path, content: bytes | None, name: str, words: str):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=words) as error:
        load_inception(path, "" if content is None else sha256(path))
    assert "\n" not in str(error.value)
