"""DINOv2 against transformers' Dinov2Model: its files read, its tokens, their gradient and the features of them met.

With DRIFTING_WRITE_FIXTURES=1 the small network's numbers are written to tests/fixtures/dinov2.npz first.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from drifting.method.encoders.dinov2 import dinov2_features, dinov2_pooled
from drifting.networks.dinov2 import PRESETS
from drifting.weights.transformers_dinov2 import load_dinov2
from tests.networks import test_dinov2 as ours

torch = pytest.importorskip("torch")
try:
    import torchvision  # noqa: F401
except (ImportError, RuntimeError):
    # Absent, or built for another torch: transformers does without, if it is told before it looks.
    sys.modules["torchvision"] = None  # type: ignore[assignment]
transformers = pytest.importorskip("transformers")


def sizes(preset: str) -> dict[str, int]:
    names = {"hidden_size": "hidden_size", "depth": "num_hidden_layers", "num_heads": "num_attention_heads"}
    return {theirs: PRESETS[preset][name] for name, theirs in (names | {"image_size": "image_size"}).items()}


def make_network(folder: Path, kind: str = "Dinov2Model", **config: Any) -> Any:
    """The network of transformers, read from files in `folder` with drawn weights.

    Its tensors have other names in memory than in its files, which are those of the published networks.
    """
    kind = getattr(transformers, kind)
    kind(transformers.Dinov2Config(**config)).save_pretrained(folder)
    file = folder / "model.safetensors"
    tensors = ours.draw({name: tensor.shape for name, tensor in load_file(file).items()})
    save_file(tensors, file, metadata={"format": "pt"})
    network = kind.from_pretrained(folder).eval()
    return network.requires_grad_(False)


def outputs(network: Any, x: Any, layers: tuple[int, ...]) -> dict[str, Any]:
    """Patch tokens, channels last, and the class token of a batch `[B, C, H, W]`."""
    states: dict[int, Any] = {}
    hooks = [
        layer.register_forward_hook(lambda _, __, output, k=k: states.update({k: output}))
        for k, layer in enumerate(network.encoder.layer, start=1)
    ]
    last = network(x)
    for hook in hooks:
        hook.remove()
    size = (x.shape[0], x.shape[2] // 14, x.shape[3] // 14, -1)
    maps = {f"block{k}": network.layernorm(states[k])[:, 1:].reshape(size) for k in layers}
    return maps | {"class_token": last.pooler_output}


def gradient(network: Any, x: Any, layers: tuple[int, ...]) -> Any:
    """Of the mean of all outputs times `ours.weights`, in the image."""
    x = x.clone().requires_grad_()
    computed = outputs(network, x, layers).values()
    sum(torch.mean(value * torch.from_numpy(ours.weights(tuple(value.shape)))) for value in computed).backward()
    return x.grad


def channels_first(x: np.ndarray) -> Any:
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def channels_last(x: Any) -> np.ndarray:
    return np.ascontiguousarray(x.detach().numpy().transpose(0, 2, 3, 1))


def images(*shape: int) -> np.ndarray:
    return np.random.RandomState(1).standard_normal(shape).astype(np.float32)


def test_fixture_is_what_transformers_computes(tmp_path: Path):
    network = make_network(tmp_path, **sizes("smoke"))
    shapes = {name: list(tensor.shape) for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    arrays = {"shapes": np.array(json.dumps(shapes))}
    for size, x in {"native": images(2, 42, 42, 3), "wide": images(2, 28, 70, 3)}.items():
        x = np.round(8 * x) / 8  # a small file
        computed = outputs(network, channels_first(x), (1, 2))
        arrays |= {f"{size}/{name}": value.detach().numpy() for name, value in computed.items()} | {f"{size}/x": x}
    arrays["wide/gradient"] = channels_last(gradient(network, channels_first(arrays["wide/x"]), (1, 2)))
    if os.environ.get("DRIFTING_WRITE_FIXTURES") == "1":
        ours.FIXTURE.parent.mkdir(exist_ok=True)
        np.savez_compressed(ours.FIXTURE, **arrays)
    fixture = ours.load_fixture()
    assert set(fixture) == set(arrays)
    assert json.loads(str(fixture["shapes"])) == shapes
    for name in set(arrays) - {"shapes"}:
        ours.assert_close(arrays[name], fixture[name])


def report(name: str, actual: Any, expected: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    """Compares within 1e-5 of the largest value, and prints how close it was."""
    error = np.abs(np.asarray(actual) - expected).max() / np.abs(expected).max()
    with capsys.disabled():
        print(f"\n{name}: largest error {error:.1e} of the largest value, standard deviation {expected.std():.2g}")
    assert np.std(expected) > 0.02 * np.abs(expected).max(), "outputs this dull compare nothing"
    ours.assert_close(actual, expected)


@pytest.mark.parametrize(
    ("preset", "kind", "height", "width"),
    [
        ("small", "Dinov2Model", 224, 224),
        ("small", "Dinov2Model", 518, 518),
        ("small", "Dinov2ForImageClassification", 168, 308),
        ("base", "Dinov2Model", 224, 224),
    ],
)
def test_tokens_and_gradient_of_the_published_sizes(
    preset: str, kind: str, height: int, width: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """PyTorch rounds where it takes positions from, which weighs most at sides such as 308: 22 of 37 positions."""
    network = make_network(tmp_path, kind, **sizes(preset))
    network = getattr(network, "dinov2", network)
    x, layers = images(1, height, width, 3), (3, 6, 9, 12)
    expected = outputs(network, channels_first(x), layers)
    artifact = load_dinov2(tmp_path)
    assert artifact.model_config == PRESETS[preset] | dict(dtype="float32", remat=False)
    graphdef = ours.graph(json.loads((tmp_path / "config.json").read_text()), remat=True)
    where = f"{preset}, {height} x {width}"
    for name, value in ours.outputs(graphdef, layers, artifact.params, x).items():
        report(f"{where}, {name}", value, expected[name].numpy(), capsys)
    computed = ours.loss_and_gradient(graphdef, layers, artifact.params, x)[1]
    report(f"{where}, gradient", computed, channels_last(gradient(network, channels_first(x), layers)), capsys)


def standardised(x: Any) -> Any:
    mean, std = (torch.tensor(c).reshape(3, 1, 1) for c in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return ((x + 1) / 2 - mean) / std


def features(network: Any, x: Any, size: int) -> dict[str, Any]:
    """The features, by their definition, of images `[B, 3, H, W]` in [-1, 1]."""
    y = torch.nn.functional.interpolate(standardised(x), (size, size), mode="bilinear", antialias=True)
    maps = outputs(network, y, (1, 2))
    result = {"dinov2_cls": maps.pop("class_token")[:, None]}
    for name, y in maps.items():
        tokens = y.flatten(1, 2)
        result[f"dinov2_{name}"] = tokens
        result[f"dinov2_{name}_mean"] = tokens.mean(1, keepdim=True)
        result[f"dinov2_{name}_std"] = (tokens.var(1, correction=0, keepdim=True) + 1e-6).sqrt()
    return result


@pytest.mark.parametrize("side", [32, 96])
def test_features_and_their_gradient(side: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Of images that are made larger and smaller."""
    network = make_network(tmp_path, **sizes("smoke"))
    x = channels_first(images(2, side, side, 3)).requires_grad_()
    expected = features(network, x, 56)
    weights = {name: images(*expected[name].shape) for name in expected}
    sum(torch.sum(expected[name] * torch.from_numpy(weights[name])) for name in expected).backward()
    graphdef, params = ours.graph(), load_dinov2(tmp_path).params

    @jax.jit
    def evaluate(x: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        def total(x: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
            computed = dinov2_features(nnx.merge(graphdef, params), x, resolution=56)
            return sum(jnp.sum(computed[name] * weights[name]) for name in computed), computed

        return jax.grad(total, has_aux=True)(x)

    computed_gradient, computed = evaluate(jnp.asarray(channels_last(x)))
    assert set(computed) == set(expected)
    for name, value in computed.items():
        ours.assert_close(value, expected[name].detach().numpy())
    report(f"features of {side} x {side}, gradient", computed_gradient, channels_last(x.grad), capsys)


@pytest.mark.parametrize("side", [32, 96])
def test_pooled_feature(side: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """PyTorch's antialiased bicubic resizing is that of Pillow, in float32."""
    network = make_network(tmp_path, **sizes("smoke"))
    x = np.tanh(images(8, side, side, 3))
    y = torch.nn.functional.interpolate(channels_first(x), (56, 56), mode="bicubic", antialias=True).clip(-1, 1)
    expected = network(standardised(y)).pooler_output.numpy()
    graphdef = ours.graph()
    computed = jax.jit(lambda p, x: dinov2_pooled(nnx.merge(graphdef, p), x, 56))(load_dinov2(tmp_path).params, x)
    report(f"pooled feature of {side} x {side}", computed, expected, capsys)
