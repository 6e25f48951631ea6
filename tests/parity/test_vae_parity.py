"""The VAE against diffusers' AutoencoderKL: its files read, its moments, images and gradients met.

With DRIFTING_WRITE_FIXTURES=1 the tiny network's numbers are written to tests/fixtures/vae.npz first.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from drifting.weights.diffusers_vae import load_vae
from tests.networks import test_vae as ours

torch = pytest.importorskip("torch")

try:
    import torchvision  # noqa: F401
except (ImportError, RuntimeError):
    # Absent, or built for another torch: diffusers does without, if it is told before it looks.
    sys.modules["torchvision"] = None  # type: ignore[assignment]

diffusers = pytest.importorskip("diffusers")

SWITCHED_OFF = {"use_quant_conv": False, "use_post_quant_conv": False, "mid_block_add_attention": False}

CONFIGS = {
    "tiny": ours.TINY,
    "tiny without options": ours.TINY | SWITCHED_OFF | {"block_out_channels": [8, 16], "layers_per_block": 2},
    "stable diffusion": ours.STABLE_DIFFUSION,
}


def make_network(config: dict[str, Any]) -> Any:
    """The network of diffusers with drawn weights."""
    network = diffusers.AutoencoderKL(**{key: value for key, value in config.items() if not key.startswith("_")})
    tensors = ours.draw({name: tuple(tensor.shape) for name, tensor in network.state_dict().items()})
    network.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in tensors.items()})
    return network.eval()


@pytest.fixture(scope="module", params=CONFIGS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, Path]:
    """Name, diffusers' network, and the folder that it wrote."""
    network, folder = make_network(CONFIGS[request.param]), tmp_path_factory.mktemp("vae")
    network.save_pretrained(folder)
    return request.param, network, folder


def channels_first(x: np.ndarray) -> Any:
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def channels_last(x: Any) -> np.ndarray:
    return np.ascontiguousarray(x.detach().numpy().transpose(0, 2, 3, 1))


def inputs(side: int, downsampling: int) -> dict[str, np.ndarray]:
    """Images, scaled latents, and weights of the outputs whose sum is differentiated; three samples each."""
    rng, small = np.random.RandomState(1), side // downsampling
    return {
        "x": rng.uniform(-1, 1, (3, side, side, 3)).astype(np.float32),
        "z": rng.standard_normal((3, small, small, 4)).astype(np.float32),
        "moment_weights": rng.standard_normal((3, small, small, 8)).astype(np.float32),
        "image_weights": rng.standard_normal((3, side, side, 3)).astype(np.float32),
    }


def outputs(network: Any, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What diffusers computes of a batch of `inputs`, channels last."""
    with torch.no_grad():
        posterior = network.encode(channels_first(batch["x"])).latent_dist
        images = network.decode(channels_first(batch["z"]) / network.config.scaling_factor).sample
    arrays = {"mean": posterior.mean, "log_var": posterior.logvar, "images": images}
    return {name: channels_last(array) for name, array in arrays.items()}


def gradients(network: Any, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Gradients of the weighted sums of moments and images."""
    x, z = channels_first(batch["x"]).requires_grad_(), channels_first(batch["z"]).requires_grad_()
    posterior = network.encode(x).latent_dist
    moments = torch.cat([posterior.mean, posterior.logvar], dim=1)
    images = network.decode(z / network.config.scaling_factor).sample
    torch.sum(moments * channels_first(batch["moment_weights"])).backward()
    torch.sum(images * channels_first(batch["image_weights"])).backward()
    return {"x_gradient": channels_last(x.grad), "z_gradient": channels_last(z.grad)}


def test_fixture_is_what_diffusers_computes():
    network, batch = make_network(ours.TINY), inputs(16, 2)
    shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    arrays = batch | outputs(network, batch) | gradients(network, batch) | {"shapes": np.array(json.dumps(shapes))}
    if os.environ.get("DRIFTING_WRITE_FIXTURES") == "1":
        ours.FIXTURE.parent.mkdir(exist_ok=True)
        np.savez_compressed(ours.FIXTURE, **arrays)
    with np.load(ours.FIXTURE, allow_pickle=False) as fixture:
        assert set(fixture) == set(arrays)
        assert json.loads(str(fixture["shapes"])) == shapes
        for name in set(arrays) - {"shapes"}:
            ours.assert_close(arrays[name], fixture[name])


def report(name: str, actual: Any, expected: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    """Compares within 1e-4 of the largest value, and prints how close it was."""
    error = np.abs(actual - expected).max() / np.abs(expected).max()
    with capsys.disabled():
        print(f"\n{name}: largest error {error:.1e} of the largest value, standard deviation {expected.std():.2g}")
    assert np.std(expected) > 0.1, "outputs this dull compare nothing"
    ours.assert_close(actual, expected, 1e-4)


def test_moments_images_and_gradients(case: tuple[str, Any, Path], capsys: pytest.CaptureFixture[str]):
    name, network, folder = case
    artifact, graphdef = load_vae(folder), ours.graph(CONFIGS[name])
    batch = inputs(64 if name == "stable diffusion" else 16, 2 ** (len(network.config.block_out_channels) - 1))
    expected = outputs(network, batch) | gradients(network, batch)
    moments, x_gradient = ours.encode(graphdef, artifact.params, batch["x"], batch["moment_weights"])
    images, z_gradient = ours.decode(graphdef, artifact.params, batch["z"], batch["image_weights"])
    computed = moments._asdict() | {"images": images, "x_gradient": x_gradient, "z_gradient": z_gradient}
    for quantity, values in computed.items():
        report(f"{name}, {quantity}", values, expected[quantity], capsys)


def test_former_names_of_the_attention(tmp_path: Path):
    network = make_network(ours.TINY)
    network.save_pretrained(tmp_path)
    present = load_vae(tmp_path)
    tensors = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    former = ours.with_former_names(tensors, convolutions=False)
    save_file(former, tmp_path / "diffusion_pytorch_model.safetensors")
    # They are former names to diffusers too: it reads them as the same network.
    again = diffusers.AutoencoderKL.from_pretrained(tmp_path)
    for name, tensor in again.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), tensors[name])
    ours.assert_same(load_vae(tmp_path).params, present.params)
