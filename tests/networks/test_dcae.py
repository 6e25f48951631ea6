"""The deep compression autoencoder: the reference library's numbers, published ones, configurations of any kind."""

import json
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

from drifting.networks.autoencoder import LOG_VAR_RANGE, Autoencoder, Moments
from drifting.networks.dcae import PRESETS
from drifting.networks.dcae_blocks import Stage
from drifting.networks.network import structure
from drifting.weights.artifact import flatten
from drifting.weights.diffusers_dcae import dcae_kwargs_from_diffusers, dcae_naming, load_dcae
from tests.networks.test_vae import assert_close, assert_same, draw
from tests.support.torch_tensors import to_torch

FIXTURE = Path(__file__).parents[1] / "fixtures" / "dcae.npz"
"""Inputs and outputs of diffusers' networks, written by parity/test_dcae_parity.py."""


def configuration(
    name: str, channels: list[int], encoder: list[int], decoder: list[int], **more: Any
) -> dict[str, Any]:
    """`config.json` of a network whose last stages have attention, with three stages or half of them before."""
    stages, low = len(channels), min(3, len(channels) - 1)
    types = ["ResBlock"] * low + ["EfficientViTBlock"] * (stages - low)
    shuffled = encoder[0] == 0
    scales: list[list[int]] = [[] if shuffled or kind == "ResBlock" else [5] for kind in types]
    config: dict[str, Any] = {"_class_name": "AutoencoderDC", "_name_or_path": name, "in_channels": 3}
    for part, layers in {"encoder": encoder, "decoder": decoder}.items():
        config |= {f"{part}_block_types": types, f"{part}_block_out_channels": channels}
        config |= {f"{part}_layers_per_block": layers, f"{part}_qkv_multiscales": scales}
    config |= {"downsample_block_type": "pixel_unshuffle" if shuffled else "conv", "attention_head_dim": 32}
    config |= {"upsample_block_type": "pixel_shuffle" if shuffled else "interpolate", "decoder_norm_types": "rms_norm"}
    config |= {"decoder_act_fns": "silu", "decoder_conv_act_fn": "relu", "encoder_out_shortcut": True}
    if shuffled:
        config["decoder_norm_types"] = ["batch_norm"] * low + ["rms_norm"] * (stages - low)
        config["decoder_act_fns"] = ["relu"] * low + ["silu"] * (stages - low)
    return config | {"decoder_in_shortcut": True, "scaling_factor": 0.41407} | more


WIDTHS = [128, 256, 512, 512, 1024, 1024]

PUBLISHED = {
    "dc_f32c32_sana": configuration("f32c32-sana", WIDTHS, [2, 2, 2, 3, 3, 3], [3] * 6, latent_channels=32),
    "dc_f32c32": configuration(
        "f32c32", WIDTHS, [0, 4, 8, 2, 2, 2], [0, 5, 10, 2, 2, 2], latent_channels=32, scaling_factor=0.3189
    ),
    "dc_f64c128": configuration(
        "f64c128",
        [*WIDTHS, 2048],
        [0, 4, 8, 2, 2, 2, 2],
        [0, 5, 10, 2, 2, 2, 2],
        latent_channels=128,
        scaling_factor=0.2889,
    ),
}
"""The configurations that diffusers converts the published weights with, by our presets."""

SIZES = {"dc_f32c32_sana": 312_250_275, "dc_f32c32": 323_369_260, "dc_f64c128": 676_908_940}
"""Parameters, of diffusers' networks; means and variances of batch norms are counted."""

TINY = {
    "shuffled": configuration("tiny", [8, 8, 16], [0, 1, 1], [0, 2, 1], latent_channels=4, attention_head_dim=8),
    "strided": configuration("tiny", [8, 16, 16], [1, 1, 2], [2, 1, 1], latent_channels=4, attention_head_dim=4),
}


def sides_of(config: Mapping[str, Any]) -> int:
    """An image's side over its latent's."""
    return 2 ** (len(config["encoder_block_out_channels"]) - 1)


def weights(shapes: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Drawn weights by PyTorch name, of which variances are positive."""
    found = draw({name: tuple(shape) for name, shape in shapes.items() if "num_batches" not in name})
    return {name: np.abs(tensor) + 0.1 if "running_var" in name else tensor for name, tensor in found.items()}


def torch_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of our network's parameters by diffusers' names, with PyTorch's axes."""
    kwargs = dcae_kwargs_from_diffusers(config)
    axes, naming, found = {4: (3, 2, 0, 1), 2: (1, 0)}, dcae_naming(kwargs), {}
    for name, leaf in flatten(structure("dcae", kwargs)[1]).items():
        order = axes.get(len(leaf.shape), range(len(leaf.shape)))
        found[naming(name)] = tuple(leaf.shape[axis] for axis in order)
    return found


def write(folder: Path, tensors: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    counters = {"decoder.norm.num_batches_tracked": np.zeros((), np.int64)}
    save_file(dict(tensors) | counters, folder / "diffusion_pytorch_model.safetensors")
    return folder


@partial(jax.jit, static_argnums=0)
def encode(graphdef: Any, params: Any, x: jax.Array, weights: jax.Array) -> tuple[Moments, jax.Array]:
    """Moments, and the gradient in x of the weighted sum of means."""

    def total(x: jax.Array) -> tuple[jax.Array, Moments]:
        moments = nnx.merge(graphdef, params).encode(x)
        return jnp.sum(moments.mean * weights), moments

    gradient, moments = jax.grad(total, has_aux=True)(x)
    return moments, gradient


@partial(jax.jit, static_argnums=0)
def decode(graphdef: Any, params: Any, z: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Images, and the gradient in z of their weighted sum."""

    def total(z: jax.Array) -> tuple[jax.Array, jax.Array]:
        images = nnx.merge(graphdef, params).decode(z)
        return jnp.sum(images * weights), images

    gradient, images = jax.grad(total, has_aux=True)(z)
    return images, gradient


@pytest.mark.parametrize("name", TINY)
def test_computes_what_diffusers_computes(name: str, tmp_path: Path):
    with np.load(FIXTURE, allow_pickle=False) as file:
        reference = {key.removeprefix(f"{name}/"): file[key] for key in file if key.startswith(f"{name}/")}
    folder = write(tmp_path / "vae", weights(torch_shapes(TINY[name])), TINY[name])
    artifact = load_dcae(folder)
    graphdef, _ = structure(artifact.network, artifact.model_config | {"remat": name == "shuffled"})
    moments, x_gradient = encode(graphdef, artifact.params, reference["x"], reference["latent_weights"])
    images, z_gradient = decode(graphdef, artifact.params, reference["z"], reference["image_weights"])
    assert_close(moments.mean, reference["latents"])
    assert_close(x_gradient, reference["x_gradient"])
    assert_close(images, reference["images"])
    assert_close(z_gradient, reference["z_gradient"])
    assert (moments.log_var == LOG_VAR_RANGE[0]).all()


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_are_the_published_networks(name: str):
    arguments = PRESETS[name] | dict(dtype="float32", remat=False)
    published = dcae_kwargs_from_diffusers(PUBLISHED[name])
    for part in ("encoder", "decoder"):
        assert [Stage(**stage) for stage in arguments[part]] == [Stage(**stage) for stage in published[part]]
    assert arguments | {"encoder": None, "decoder": None} == published | {"encoder": None, "decoder": None}


def test_an_image_has_one_latent_of_its_shape():
    graphdef, shapes = structure("dcae", PRESETS["dc_smoke"] | dict(dtype="bfloat16", remat=True))
    x = jax.ShapeDtypeStruct((2, 8, 12, 3), jnp.float32)
    moments = jax.eval_shape(lambda params, x: nnx.merge(graphdef, params).encode(x), shapes, x)
    assert moments.mean.shape == moments.log_var.shape == (2, 2, 3, 4)
    images = jax.eval_shape(lambda params, z: nnx.merge(graphdef, params).decode(z), shapes, moments.mean)
    assert (images.shape, images.dtype) == (x.shape, jnp.float32)
    vae: Autoencoder = nnx.merge(graphdef, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes))
    mean = np.random.RandomState(0).standard_normal((4, 3)).astype(np.float32)
    latents = vae.sample_latents(Moments(mean, np.full_like(mean, LOG_VAR_RANGE[0])), jax.random.key(0))
    np.testing.assert_allclose(latents, mean, rtol=0, atol=2e-6)


def test_what_is_written_is_what_is_read(tmp_path: Path):
    tensors = weights(torch_shapes(TINY["strided"]))
    artifact = load_dcae(write(tmp_path / "vae", tensors, TINY["strided"]))
    assert (artifact.kind, artifact.network) == ("vae", "dcae")
    assert json.loads(json.dumps(artifact.model_config)) == artifact.model_config
    found = to_torch(artifact.params, dcae_naming(artifact.model_config))
    assert_same(dict(sorted(found.items())), dict(sorted(tensors.items())))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"latent_channels": 0}, "latent_channels is 0, expected a positive integer"),
        ({"encoder_block_out_channels": []}, r"encoder_block_out_channels is \[\], expected a list"),
        ({"encoder_layers_per_block": [1, 1]}, r"encoder_layers_per_block is \[1, 1\], expected a list of 3"),
        ({"decoder_layers_per_block": [0, 1.5, 1]}, r"decoder_layers_per_block is .* numbers of blocks"),
        ({"decoder_layers_per_block": [1, 0, 1]}, "decoder=3 stages: .* only the first may have no blocks"),
        ({"encoder_block_types": ["ResBlock", "UNet", "ResBlock"]}, 'encoder_block_types is "UNet", expected one of'),
        ({"encoder_qkv_multiscales": [[], [], [4]]}, "encoder_qkv_multiscales is .* odd numbers"),
        ({"encoder_qkv_multiscales": [[], [], 5]}, "encoder_qkv_multiscales is .* odd numbers"),
        ({"decoder_norm_types": "layer_norm"}, 'decoder_norm_types is "layer_norm", expected one of'),
        ({"decoder_norm_types": "batch_norm"}, "decoder_norm_types is .* where there is attention"),
        ({"decoder_act_fns": ["gelu", "silu", "silu"]}, 'decoder_act_fns is "gelu", expected one of'),
        ({"decoder_conv_act_fn": "silu"}, 'decoder_conv_act_fn is "silu", expected "relu"'),
        ({"upsample_block_type": "bilinear"}, 'upsample_block_type is "bilinear", expected one of'),
        ({"decoder_in_shortcut": False}, "decoder_in_shortcut is false, expected true"),
        ({"encoder_out_shortcut": 1}, "encoder_out_shortcut is 1, expected true or false"),
        ({"encoder_block_out_channels": [8, 16, 128]}, "encoder=.*a stage of 16 cannot be followed by one of 128"),
        ({"attention_head_dim": 64}, "encoder=.*: attention needs 64 or more"),
        ({"latent_channels": 5}, "encoder=.*: must end with a multiple of 5"),
        ({"patch_size": 2}, "patch_size is 2, expected no such field"),
    ],
)
def test_other_networks_are_refused(tmp_path: Path, change: dict[str, Any], words: str):
    folder = write(tmp_path / "vae", {}, TINY["strided"] | change)
    with pytest.raises(ValueError, match="config.json: " + words) as error:
        load_dcae(folder)
    assert "\n" not in str(error.value)
