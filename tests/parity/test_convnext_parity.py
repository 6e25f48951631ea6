"""ConvNeXt V2 against transformers' ConvNextV2Model: its files read, its stages and the features of them met.

With DRIFTING_WRITE_FIXTURES=1 the small network's numbers are written to tests/fixtures/convnext.npz first.
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

from drifting.method.encoders.convnext import convnext_features
from drifting.networks.convnext import PRESETS
from drifting.weights.transformers_convnext import load_convnext
from tests.networks import test_convnext as ours

torch = pytest.importorskip("torch")

try:
    import torchvision  # noqa: F401
except (ImportError, RuntimeError):
    # Absent, or built for another torch: transformers does without, if it is told before it looks.
    sys.modules["torchvision"] = None  # type: ignore[assignment]

transformers = pytest.importorskip("transformers")


def sizes(preset: str) -> dict[str, list[int]]:
    return {"hidden_sizes": list(PRESETS[preset]["dims"]), "depths": list(PRESETS[preset]["depths"])}


def make_network(kind: str = "ConvNextV2Model", **config: Any) -> Any:
    """The network of transformers with drawn weights."""
    network = getattr(transformers, kind)(transformers.ConvNextV2Config(**config))
    tensors = ours.draw({name: tuple(tensor.shape) for name, tensor in network.state_dict().items()})
    network.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in tensors.items()})
    return network.eval()


def outputs(network: Any, x: Any) -> dict[str, Any]:
    """Stages channels first, and the pooled output, of a batch `[B, C, H, W]`."""
    maps: dict[str, Any] = {}
    for k, stage in enumerate(network.encoder.stages, start=1):
        stage.register_forward_hook(lambda _, __, output, name=f"stage{k}": maps.update({name: output}))
    pooled = network(x).pooler_output
    return maps | {"pooled": pooled}


def channels_first(x: np.ndarray) -> Any:
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def channels_last(x: Any) -> np.ndarray:
    x = x.detach().numpy()
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if x.ndim == 4 else x


def images(*shape: int) -> np.ndarray:
    return np.random.RandomState(1).standard_normal(shape).astype(np.float32)


def test_fixture_is_what_transformers_computes():
    network, x = make_network(**sizes("smoke")), np.round(8 * images(2, 64, 76, 3)) / 8  # a small file
    shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    arrays = {name: channels_last(value) for name, value in outputs(network, channels_first(x)).items()}
    arrays |= {"x": x, "shapes": np.array(json.dumps(shapes))}
    if os.environ.get("DRIFTING_WRITE_FIXTURES") == "1":
        ours.FIXTURE.parent.mkdir(exist_ok=True)
        np.savez_compressed(ours.FIXTURE, **arrays)
    fixture = ours.load_fixture()
    assert set(fixture) == set(arrays)
    assert json.loads(str(fixture["shapes"])) == shapes
    for name in set(arrays) - {"shapes"}:
        ours.assert_close(arrays[name], fixture[name])


def report(name: str, actual: Any, expected: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    """Compares within 1e-4 of the largest value, and prints how close it was."""
    error = np.abs(np.asarray(actual) - expected).max() / np.abs(expected).max()
    with capsys.disabled():
        print(f"\n{name}: largest error {error:.1e} of the largest value, standard deviation {expected.std():.2g}")
    assert np.std(expected) > 0.1, "outputs this dull compare nothing"
    ours.assert_close(actual, expected, 1e-4)


@pytest.mark.parametrize(
    ("preset", "kind"), [("atto", "ConvNextV2Model"), ("base", "ConvNextV2ForImageClassification")]
)
def test_stages_of_the_published_sizes(preset: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    network = make_network(kind, **sizes(preset))
    network.save_pretrained(tmp_path)
    x = images(2 if preset == "atto" else 1, 224, 224, 3)
    with torch.no_grad():
        expected = outputs(getattr(network, "convnextv2", network), channels_first(x))
    artifact = load_convnext(tmp_path)
    graphdef = ours.graph(json.loads((tmp_path / "config.json").read_text()))
    for name, value in ours.outputs(graphdef, artifact.params, x).items():
        report(f"{preset}, {name}", value, channels_last(expected[name]), capsys)


def features(network: Any, x: Any, size: int) -> dict[str, Any]:
    """The features, by their definition, of images `[B, 3, H, W]` in [-1, 1]."""
    mean, std = (torch.tensor(c).reshape(3, 1, 1) for c in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    y = ((x + 1) / 2 - mean) / std
    y = torch.nn.functional.interpolate(y, (size, size), mode="bilinear", antialias=True)
    stages = outputs(network, y)
    result = {"convnext_pooled": stages.pop("pooled")[:, None]}
    for name, y in stages.items():
        y = (y - y.mean(1, keepdim=True)) / (y.std(1, correction=0, keepdim=True) + 1e-3)
        tokens = y.flatten(2).transpose(1, 2)
        if name != "stage1":
            result[f"convnext_{name}"] = tokens
        result[f"convnext_{name}_mean"] = tokens.mean(1, keepdim=True)
        result[f"convnext_{name}_std"] = (tokens.var(1, correction=0, keepdim=True) + 1e-6).sqrt()
    return result | {"convnext_pooled_std": result["convnext_stage4_std"]}


@pytest.mark.parametrize("side", [32, 96])
def test_features_and_their_gradient(side: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Of images that are made larger and smaller."""
    network = make_network(**sizes("smoke"))
    network.save_pretrained(tmp_path)
    x = channels_first(images(2, side, side, 3)).requires_grad_()
    expected = features(network, x, 64)
    weights = {name: images(*expected[name].shape) for name in expected}
    sum(torch.sum(expected[name] * torch.from_numpy(weights[name])) for name in expected).backward()
    graphdef, params = ours.graph(), load_convnext(tmp_path).params

    @jax.jit
    def evaluate(x: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        def total(x: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
            computed = convnext_features(nnx.merge(graphdef, params), x, 64)
            return sum(jnp.sum(computed[name] * weights[name]) for name in computed), computed

        return jax.grad(total, has_aux=True)(x)

    gradient, computed = evaluate(jnp.asarray(channels_last(x)))
    assert set(computed) == set(expected)
    for name, value in computed.items():
        ours.assert_close(value, expected[name].detach().numpy(), 1e-4)
    report(f"features of {side} x {side}, gradient", gradient, channels_last(x.grad), capsys)
