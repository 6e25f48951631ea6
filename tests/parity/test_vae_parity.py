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

from drifting.networks.network import structure
from drifting.networks.vae import PRESETS
from drifting.weights.artifact import flatten
from drifting.weights.diffusers_vae import diffusers_name, load_vae, vae_kwargs_from_diffusers
from drifting.weights.ldm_names import with_diffusers_names
from drifting.weights.load import load_weights
from tests.networks import test_vae as ours
from tests.support.torch_tensors import to_torch

torch = pytest.importorskip("torch")

try:
    import torchvision  # noqa: F401
except (ImportError, RuntimeError):
    # Absent, or built for another torch: diffusers does without, if it is told before it looks.
    sys.modules["torchvision"] = None  # type: ignore[assignment]

diffusers = pytest.importorskip("diffusers")

SWITCHED_OFF = {"use_quant_conv": False, "use_post_quant_conv": False, "mid_block_add_attention": False}

SIXTEEN = {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}

CONFIGS = {
    "tiny": ours.TINY,
    "tiny without options": ours.TINY | SWITCHED_OFF | {"block_out_channels": [8, 16], "layers_per_block": 2},
    "tiny with 16 channels": ours.TINY | SIXTEEN | {"scaling_factor": 0.3611, "shift_factor": 0.1159},
    "tiny with means and deviations": ours.TINY
    | {"latents_mean": [-1.6, 1.9, -1.4, 2.5], "latents_std": [8.5, 5.9, 6.5, 5.2], "scaling_factor": 0.5},
    "tiny with attention": ours.ATTENTION,
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


def unscaled(network: Any, latents: Any) -> Any:
    """Latents as the pipelines of diffusers give them to the decoder."""
    config = network.config
    if config.latents_mean is not None:
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (config.latents_mean, config.latents_std))
        return latents * std / config.scaling_factor + mean
    return latents / config.scaling_factor + (config.shift_factor or 0.0)


def inputs(side: int, downsampling: int, channels: int = 4) -> dict[str, np.ndarray]:
    """Images, scaled latents, and weights of the outputs whose sum is differentiated; three samples each."""
    rng, small = np.random.RandomState(1), side // downsampling
    return {
        "x": rng.uniform(-1, 1, (3, side, side, 3)).astype(np.float32),
        "z": rng.standard_normal((3, small, small, channels)).astype(np.float32),
        "moment_weights": rng.standard_normal((3, small, small, 2 * channels)).astype(np.float32),
        "image_weights": rng.standard_normal((3, side, side, 3)).astype(np.float32),
    }


def outputs(network: Any, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What diffusers computes of a batch of `inputs`, channels last."""
    with torch.no_grad():
        posterior = network.encode(channels_first(batch["x"])).latent_dist
        images = network.decode(unscaled(network, channels_first(batch["z"]))).sample
    arrays = {"mean": posterior.mean, "log_var": posterior.logvar, "images": images}
    return {name: channels_last(array) for name, array in arrays.items()}


def gradients(network: Any, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Gradients of the weighted sums of moments and images."""
    x, z = channels_first(batch["x"]).requires_grad_(), channels_first(batch["z"]).requires_grad_()
    posterior = network.encode(x).latent_dist
    moments = torch.cat([posterior.mean, posterior.logvar], dim=1)
    images = network.decode(unscaled(network, z)).sample
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
    side, factor = 64 if name == "stable diffusion" else 16, 2 ** (len(network.config.block_out_channels) - 1)
    batch = inputs(side, factor, network.config.latent_channels)
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


PUBLISHED = {
    "sd": ours.STABLE_DIFFUSION,
    "sdxl": ours.STABLE_DIFFUSION | {"scaling_factor": 0.13025, "sample_size": 1024},
    "sd3": ours.STABLE_DIFFUSION | SIXTEEN | {"scaling_factor": 1.5305, "shift_factor": 0.0609},
    "flux": ours.STABLE_DIFFUSION | SIXTEEN | {"scaling_factor": 0.3611, "shift_factor": 0.1159},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_are_the_published_networks(name: str):
    """Their constructor takes the tensors of diffusers, all of them and no others."""
    arguments = vae_kwargs_from_diffusers(PUBLISHED[name])
    preset = PRESETS[name] | {"dtype": "float32", "remat": False}
    assert preset | {"block_channels": list(preset["block_channels"])} == arguments
    with torch.device("meta"):
        theirs = diffusers.AutoencoderKL(
            **{key: value for key, value in PUBLISHED[name].items() if not key.startswith("_")}
        ).state_dict()
    shapes = flatten(structure("vae", arguments)[1])
    found = {diffusers_name(name): (name, leaf.shape) for name, leaf in shapes.items()}
    assert found.keys() == theirs.keys()
    for key, (name, shape) in found.items():
        axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(len(shape), range(len(shape)))
        order = axes if name.endswith("kernel") else range(len(shape))
        assert tuple(theirs[key].shape) == tuple(shape[axis] for axis in order)


@pytest.mark.parametrize("file", ["safetensors", "bin"])
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_files_that_diffusers_writes(tmp_path: Path, file: str, variant: str | None):
    network = make_network(ours.TINY)
    network = network.half() if variant else network
    network.save_pretrained(tmp_path / "vae", variant=variant, safe_serialization=file == "safetensors")
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    found = to_torch(load_weights(str(tmp_path), "vae").params, diffusers_name)
    for name, tensor in network.state_dict().items():
        np.testing.assert_array_equal(found[name], tensor.float().numpy())


def test_names_of_latent_diffusion_are_turned_as_diffusers_turns_them():
    """Those of attention in the levels diffusers leaves as they are."""
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    network = make_network(ours.TINY)
    tensors = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    renamed = {name: torch.from_numpy(tensor) for name, tensor in ours.with_ldm_names(tensors).items()}
    turned = convert_ldm_vae_checkpoint(renamed, network.config)
    assert set(turned) == set(with_diffusers_names({name: tensor.numpy() for name, tensor in renamed.items()}))
    assert set(turned) == set(tensors)
