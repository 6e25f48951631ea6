"""The deep compression autoencoder against diffusers' AutoencoderDC: files read, latents, images and gradients met.

With DRIFTING_WRITE_FIXTURES=1 the tiny networks' numbers are written to tests/fixtures/dcae.npz first.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drifting.networks.network import structure
from drifting.weights.diffusers_dcae import load_dcae
from tests.networks import test_dcae as ours
from tests.parity.test_vae_parity import channels_first, channels_last, diffusers, torch

REDUCED = {
    name: config
    | {f"{part}_block_out_channels": [width // 8 for width in config["encoder_block_out_channels"]] for part in PARTS}
    | {"latent_channels": config["latent_channels"] // 8, "attention_head_dim": 8}
    for PARTS in [("encoder", "decoder")]
    for name, config in ours.PUBLISHED.items()
}
"""The published networks with an eighth of their channels."""


def network_of(config: dict[str, Any]) -> Any:
    return diffusers.AutoencoderDC(**{key: value for key, value in config.items() if not key.startswith("_")}).eval()


def drawn_network(config: dict[str, Any]) -> Any:
    """The network of diffusers with drawn weights."""
    network = network_of(config)
    tensors = ours.weights({name: tuple(tensor.shape) for name, tensor in network.state_dict().items()})
    network.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in tensors.items()}, strict=False)
    return network


def batch_of(config: dict[str, Any], side: int, rows: int) -> dict[str, np.ndarray]:
    """Images and scaled latents of `rows` x (`rows` + 1) latents, and weights of the outputs' sums."""
    rng = np.random.RandomState(1)
    image, latent = (2, rows * side, (rows + 1) * side, 3), (2, rows, rows + 1, config["latent_channels"])
    return {
        "x": rng.uniform(-1, 1, image).astype(np.float32),
        "z": rng.standard_normal(latent).astype(np.float32),
        "latent_weights": rng.standard_normal(latent).astype(np.float32),
        "image_weights": rng.standard_normal(image).astype(np.float32),
    }


def outputs(network: Any, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What diffusers computes of a batch, channels last, with the gradients of the weighted sums."""
    x, z = channels_first(batch["x"]).requires_grad_(), channels_first(batch["z"]).requires_grad_()
    latents = network.encode(x).latent
    images = network.decode(z / network.config.scaling_factor).sample
    torch.sum(latents * channels_first(batch["latent_weights"])).backward()
    torch.sum(images * channels_first(batch["image_weights"])).backward()
    arrays = {"latents": latents, "images": images, "x_gradient": x.grad, "z_gradient": z.grad}
    return {name: channels_last(array) for name, array in arrays.items()}


def test_fixture_is_what_diffusers_computes():
    arrays = {}
    for name, config in ours.TINY.items():
        batch = batch_of(config, ours.sides_of(config), 3)
        arrays |= {f"{name}/{key}": value for key, value in (batch | outputs(drawn_network(config), batch)).items()}
    if os.environ.get("DRIFTING_WRITE_FIXTURES") == "1":
        np.savez_compressed(ours.FIXTURE, **arrays)
    with np.load(ours.FIXTURE, allow_pickle=False) as fixture:
        assert set(fixture) == set(arrays)
        for name, array in arrays.items():
            ours.assert_close(array, fixture[name])


@pytest.mark.parametrize("name", REDUCED)
@pytest.mark.parametrize("rows", [1, 3])  # fewer positions than features of a head, and more
def test_latents_images_and_gradients(name: str, rows: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = REDUCED[name]
    network = drawn_network(config)
    network.save_pretrained(tmp_path)
    artifact = load_dcae(tmp_path)
    graphdef, _ = structure(artifact.network, artifact.model_config)
    batch = batch_of(config, ours.sides_of(config), rows)
    coarse = outputs(network, batch)
    expected = outputs(network.double(), {key: value.astype(np.float64) for key, value in batch.items()})
    moments, x_gradient = ours.encode(graphdef, artifact.params, batch["x"], batch["latent_weights"])
    images, z_gradient = ours.decode(graphdef, artifact.params, batch["z"], batch["image_weights"])
    computed = {"latents": moments.mean, "images": images, "x_gradient": x_gradient, "z_gradient": z_gradient}
    for quantity, values in computed.items():
        # A ReLU's gradient jumps where rounding changes a sign, in PyTorch's float32 as in ours.
        tolerance = 1e-2 if "gradient" in quantity else 1e-5
        largest = np.abs(expected[quantity]).max()
        error, own = (np.abs(found - expected[quantity]).max() / largest for found in (values, coarse[quantity]))
        with capsys.disabled():
            print(f"\n{name}, {rows} rows, {quantity}: error {error:.1e} of the largest value, PyTorch's {own:.1e}")
        assert np.std(expected[quantity]) > 0.1, "outputs this dull compare nothing"
        assert error < tolerance


@pytest.mark.parametrize("name", ours.PUBLISHED)
def test_published_sizes_have_the_tensors_of_diffusers(name: str):
    with torch.device("meta"):
        theirs = network_of(ours.PUBLISHED[name]).state_dict()
    shapes = {key: tuple(tensor.shape) for key, tensor in theirs.items() if "num_batches" not in key}
    assert ours.torch_shapes(ours.PUBLISHED[name]) == shapes
    assert sum(tensor.numel() for key, tensor in theirs.items() if key in shapes) == ours.SIZES[name]
