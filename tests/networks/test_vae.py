"""The Stable Diffusion VAE: the reference library's numbers, slices, precision, memory, and files in every state."""

import json
import math
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from drifting.errors import InputError
from drifting.networks.autoencoder import Moments, decode_in_slices
from drifting.networks.network import structure
from drifting.networks.vae import AutoencoderKL
from drifting.runs.files import sha256
from drifting.weights.artifact import Artifact
from drifting.weights.diffusers_vae import diffusers_name, load_vae, vae_kwargs_from_diffusers
from tests.support.torch_tensors import to_torch

FIXTURE = Path(__file__).parents[1] / "fixtures" / "vae.npz"
"""Inputs and outputs of diffusers' network, written by parity/test_vae_parity.py."""

TINY: dict[str, Any] = {
    "_class_name": "AutoencoderKL", "_diffusers_version": "0.42.1", "act_fn": "silu", "block_out_channels": [8, 16],
    "down_block_types": ["DownEncoderBlock2D"] * 2, "in_channels": 3, "latent_channels": 4, "layers_per_block": 1,
    "norm_num_groups": 4, "out_channels": 3, "sample_size": 16, "up_block_types": ["UpDecoderBlock2D"] * 2,
}  # fmt: skip
"""`config.json` of the fixture's network, in the fields that the file of sd-vae-ft-mse has."""

STABLE_DIFFUSION: dict[str, Any] = TINY | {
    "block_out_channels": [128, 256, 512, 512], "down_block_types": ["DownEncoderBlock2D"] * 4, "layers_per_block": 2,
    "norm_num_groups": 32, "up_block_types": ["UpDecoderBlock2D"] * 4, "sample_size": 256,
}  # fmt: skip

ATTENTION: dict[str, Any] = TINY | {
    "down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"],
    "up_block_types": ["AttnUpDecoderBlock2D", "UpDecoderBlock2D"],
}
"""With attention at the lowest resolution, as the VAEs of MAR and LightningDiT have it."""

FORMER = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def draw(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Float32 weights by PyTorch name that make every layer matter; no library but NumPy is needed to draw them."""
    rng = np.random.RandomState(0)  # its stream is frozen for good
    tensors = {}
    for name in sorted(shapes):
        noise = rng.standard_normal(shapes[name])
        if name.endswith("bias"):
            value = 0.2 * noise
        elif len(shapes[name]) == 1:
            value = 1 + 0.3 * noise
        else:
            gain = 2 if ".to_q." in name or ".to_k." in name else 1  # attention that is not all but uniform
            value = gain * noise / math.sqrt(math.prod(shapes[name][1:]))
        tensors[name] = value.astype(np.float32)
    return tensors


def with_former_names(tensors: Mapping[str, np.ndarray], *, convolutions: bool) -> dict[str, np.ndarray]:
    """The attention's tensors as diffusers once named them, or with the 1x1 kernels that it converted from."""
    former = {}
    for name, tensor in tensors.items():
        for new, old in FORMER.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
        kernel = ".attentions." in name and tensor.ndim == 2 and convolutions
        former[name] = tensor[:, :, None, None] if kernel else tensor
    return former


LDM_NAMES = {
    "encoder.conv_in.weight": "encoder.conv_in.weight",
    "encoder.down_blocks.0.downsamplers.0.conv.bias": "encoder.down.0.downsample.conv.bias",
    "encoder.down_blocks.1.resnets.0.conv_shortcut.weight": "encoder.down.1.block.0.nin_shortcut.weight",
    "encoder.down_blocks.1.attentions.0.group_norm.weight": "encoder.down.1.attn.0.norm.weight",
    "encoder.mid_block.resnets.1.norm2.bias": "encoder.mid.block_2.norm2.bias",
    "encoder.mid_block.attentions.0.to_q.weight": "encoder.mid.attn_1.q.weight",
    "encoder.conv_norm_out.weight": "encoder.norm_out.weight",
    "quant_conv.weight": "quant_conv.weight",
    "decoder.up_blocks.0.attentions.1.to_out.0.bias": "decoder.up.1.attn.1.proj_out.bias",
    "decoder.up_blocks.0.upsamplers.0.conv.weight": "decoder.up.1.upsample.conv.weight",
    "decoder.up_blocks.1.resnets.1.conv1.weight": "decoder.up.0.block.1.conv1.weight",
    "decoder.conv_out.bias": "decoder.conv_out.bias",
}
"""Names of diffusers, and what latent diffusion's own code calls the same tensors."""


def with_ldm_names(tensors: Mapping[str, np.ndarray], levels: int = 2) -> dict[str, np.ndarray]:
    """The tensors as latent diffusion's own code keeps them: by its names, attention's kernels as 1x1 convolutions."""
    parts = {
        "down_blocks.": "down.", "mid_block.resnets.0.": "mid.block_1.", "mid_block.resnets.1.": "mid.block_2.",
        "mid_block.attentions.0.": "mid.attn_1.", "resnets.": "block.", "attentions.": "attn.", "group_norm.": "norm.",
        "to_q.": "q.", "to_k.": "k.", "to_v.": "v.", "to_out.0.": "proj_out.", "conv_shortcut.": "nin_shortcut.",
        "downsamplers.0.": "downsample.", "upsamplers.0.": "upsample.", "conv_norm_out.": "norm_out.",
    }  # fmt: skip
    found = {}
    for name, tensor in tensors.items():
        tensor = tensor[:, :, None, None] if ".attentions." in name and tensor.ndim == 2 else tensor
        name = re.sub(r"up_blocks\.(\d+)", lambda match: f"up.{levels - 1 - int(match[1])}", name)
        for theirs, ldm in parts.items():
            name = name.replace(theirs, ldm)
        found[name] = tensor
    return found


def write(folder: Path, tensors: Mapping[str, np.ndarray], config: Mapping[str, Any] = TINY) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(dict(tensors), folder / "diffusion_pytorch_model.safetensors")
    return folder


def graph(config: Mapping[str, Any] = TINY, **changes: Any) -> Any:
    kwargs = vae_kwargs_from_diffusers(config) | changes
    return nnx.graphdef(nnx.eval_shape(lambda: AutoencoderKL(**kwargs, rngs=nnx.Rngs(0))))


@partial(jax.jit, static_argnums=0)
def encode(graphdef: Any, params: Any, x: jax.Array, weights: jax.Array) -> tuple[Moments, jax.Array]:
    """Moments, and the gradient in x of their weighted sum."""

    def total(x: jax.Array) -> tuple[jax.Array, Moments]:
        moments = nnx.merge(graphdef, params).encode(x)
        return jnp.sum(jnp.concatenate(moments, axis=-1) * weights), moments

    gradient, moments = jax.grad(total, has_aux=True)(x)
    return moments, gradient


@partial(jax.jit, static_argnums=(0, 4))
def decode(
    graphdef: Any, params: Any, z: jax.Array, weights: jax.Array, size: int | None = None
) -> tuple[jax.Array, jax.Array]:
    """Images, decoded in slices if these have a size, and the gradient in z of their weighted sum."""

    def total(z: jax.Array) -> tuple[jax.Array, jax.Array]:
        vae = nnx.merge(graphdef, params)
        images = vae.decode(z) if size is None else decode_in_slices(vae, z, size)
        return jnp.sum(images * weights), images

    gradient, images = jax.grad(total, has_aux=True)(z)
    return images, gradient


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    with np.load(FIXTURE, allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def tensors(reference: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weights of the fixture's network by PyTorch name."""
    return draw({name: tuple(shape) for name, shape in json.loads(str(reference["shapes"])).items()})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, np.ndarray]) -> Path:
    return write(tmp_path_factory.mktemp("vae"), tensors)


@pytest.fixture(scope="module")
def artifact(folder: Path) -> Artifact:
    return load_vae(folder)


@pytest.fixture(scope="module")
def vae(artifact: Artifact) -> AutoencoderKL:
    return nnx.merge(graph(), artifact.params)


def assert_close(actual: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """Within `tolerance` of the largest expected value."""
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def assert_same(actual: Any, expected: Any) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


# --- the network ------------------------------------------------------------------------------------------------------


def test_encodes_as_diffusers(reference: dict[str, np.ndarray], artifact: Artifact):
    moments, gradient = encode(graph(), artifact.params, reference["x"], reference["moment_weights"])
    assert_close(moments.mean, reference["mean"])
    assert_close(moments.log_var, reference["log_var"])
    assert_close(gradient, reference["x_gradient"])


# Two slices of two samples need one more than the three there are.
@pytest.mark.parametrize(("remat", "size"), [(False, None), (True, 2), (False, 8)])
def test_decodes_as_diffusers_in_any_slices(
    reference: dict[str, np.ndarray], artifact: Artifact, remat: bool, size: int | None
):
    batch = reference["z"], reference["image_weights"]
    images, gradient = decode(graph(remat=remat), artifact.params, *batch, size)
    assert_close(images, reference["images"])
    assert_close(gradient, reference["z_gradient"])


def test_size_of_stable_diffusion():
    kwargs = vae_kwargs_from_diffusers(STABLE_DIFFUSION)
    vae = nnx.eval_shape(lambda: AutoencoderKL(**kwargs, rngs=nnx.Rngs(0)))
    # The published size of sd-vae-ft-mse.
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(vae))) == 83_653_863
    assert (vae.downsampling, vae.latent_channels, vae.scaling_factor) == (8, 4, 0.18215)
    x = jax.ShapeDtypeStruct((2, 64, 96, 3), jnp.float32)
    moments = nnx.eval_shape(lambda vae, x: vae.encode(x), vae, x)
    assert moments.mean.shape == moments.log_var.shape == (2, 8, 12, 4)
    images = nnx.eval_shape(lambda vae, z: vae.decode(z), vae, moments.mean)
    assert (images.shape, images.dtype) == (x.shape, jnp.float32)


def test_log_variance_is_clipped(reference: dict[str, np.ndarray], artifact: Artifact):
    bias = np.array([0, 0, 0, 0, 1e3, -1e3, 1e3, -1e3], np.float32)
    params = artifact.params | {"quant_conv": artifact.params["quant_conv"] | {"bias": bias}}
    (_, log_var), gradient = encode(graph(), params, reference["x"], reference["moment_weights"])
    np.testing.assert_array_equal(log_var, np.broadcast_to([20.0, -30.0, 20.0, -30.0], log_var.shape))
    assert np.isfinite(gradient).all()


def test_latents_have_the_moments_and_a_sample_its_own_key(vae: AutoencoderKL):
    mean, log_var = np.full((3, 32, 32, 4), 2, np.float32), np.full((3, 32, 32, 4), math.log(9), np.float32)
    keys = jax.random.split(jax.random.key(0), 3)
    latents = np.asarray(jax.jit(jax.vmap(vae.sample_latents))(Moments(mean, log_var), keys))
    z, error = latents / 0.18215, 3.0 / math.sqrt(latents.size)
    assert abs(z.mean() - 2.0) < 5 * error and abs(z.std() - 3.0) < 5 * error
    alone = jax.jit(vae.sample_latents)(Moments(mean[2], log_var[2]), keys[2])
    np.testing.assert_allclose(latents[2], alone, rtol=0, atol=1e-6)
    assert np.abs(latents[2] - latents[1]).mean() > 0.1


def test_recomputation_saves_memory(artifact: Artifact):
    z = jax.ShapeDtypeStruct((8, 16, 16, 4), jnp.float32)

    def kept(remat: bool, size: int | None) -> int:
        """Numbers that a backward pass to the latents keeps of the forward pass, some parameters among them."""
        vae = nnx.merge(graph(remat=remat), artifact.params)
        run = vae.decode if size is None else partial(decode_in_slices, vae, size=size)
        return sum(x.size for x in jax.tree.leaves(jax.eval_shape(lambda z: jax.vjp(run, z)[1], z)))

    assert kept(True, None) < kept(False, None) / 4
    # Slices keep no map at all.
    assert kept(True, 1) <= z.size + sum(x.size for x in jax.tree.leaves(artifact.params))


def test_bfloat16_computes_coarsely_and_returns_float32(reference: dict[str, np.ndarray], artifact: Artifact):
    half = nnx.merge(graph(dtype="bfloat16"), artifact.params)
    moments, images = jax.jit(lambda x, z: (half.encode(x), half.decode(z)))(reference["x"], reference["z"])
    pairs = zip((*moments, images), (reference[name] for name in ("mean", "log_var", "images")), strict=True)
    for ours, expected in pairs:
        assert ours.dtype == jnp.float32
        # A dozen layers, each rounded to 2^-9.
        assert 2**-10 < np.linalg.norm(ours - expected) / np.linalg.norm(expected) < 12 * 2**-9


@pytest.mark.parametrize(
    "scale",
    [
        {"scaling_factor": 0.3611, "shift_factor": 0.1159},
        {"scaling_factor": 0.5, "latents_mean": [-1.6, 1.9, -1.4, 2.5], "latents_std": [8.5, 5.9, 6.5, 5.2]},
    ],
)
def test_latents_are_shifted_and_scaled(artifact: Artifact, reference: dict[str, np.ndarray], scale: dict[str, Any]):
    """As the pipelines of FLUX and of Playground do it: images of latents are those of what was encoded."""
    kwargs = vae_kwargs_from_diffusers(TINY | scale)
    vae = nnx.merge(graph(TINY | scale), artifact.params)
    shift = np.float64(kwargs.get("latents_mean", kwargs.get("shift_factor")))
    factor = kwargs["scaling_factor"] / np.float64(kwargs.get("latents_std", 1))
    z = reference["z"].astype(np.float64)
    exact = Moments(jnp.asarray(reference["z"]), jnp.full(z.shape, -30.0))
    latents = np.asarray(vae.sample_latents(exact, jax.random.key(0)))
    assert_close(latents, (z - shift) * factor, 1e-6)
    plain = nnx.merge(graph(TINY | {"scaling_factor": 1.0}), artifact.params)
    assert_close(vae.decode(latents), plain.decode(reference["z"]))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda vae: vae.encode(jnp.zeros((1, 16, 15, 3))), "images of 16 x 15 pixels.* multiples of 2"),
        (lambda vae: decode_in_slices(vae, jnp.zeros((2, 4, 4, 4)), 0), "size=0: slices must"),
    ],
)
def test_wrong_calls_are_refused(vae: AutoencoderKL, call: Callable[[AutoencoderKL], Any], words: str):
    with pytest.raises(ValueError, match=words):
        call(vae)


# --- its files --------------------------------------------------------------------------------------------------------


def test_artifact_is_complete(folder: Path, artifact: Artifact, tensors: dict[str, np.ndarray]):
    assert artifact.kind == "vae"
    assert json.loads(json.dumps(artifact.model_config)) == artifact.model_config
    weights = folder / "diffusion_pytorch_model.safetensors"
    assert artifact.metadata == {"network": "vae", "sha256": sha256(weights), "source": str(folder)}
    assert_same(to_torch(artifact.params, diffusers_name), dict(sorted(tensors.items())))


@pytest.mark.parametrize("convolutions", [False, True])
def test_former_names_of_the_attention(
    tmp_path: Path, artifact: Artifact, tensors: dict[str, np.ndarray], convolutions: bool
):
    former = with_former_names(tensors, convolutions=convolutions)
    assert "encoder.mid_block.attentions.0.proj_attn.bias" in former
    assert_same(load_vae(write(tmp_path, former)).params, artifact.params)


@pytest.fixture(scope="module")
def attention_tensors() -> dict[str, np.ndarray]:
    """Weights of the network with attention at its lowest resolution."""
    kwargs = vae_kwargs_from_diffusers(ATTENTION)
    assert (kwargs["encoder_attention"], kwargs["decoder_attention"]) == ([False, True], [True, False])
    _, shapes = structure("vae", kwargs)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    return draw({name: tensor.shape for name, tensor in to_torch(zeros, diffusers_name).items()})


@pytest.mark.parametrize(
    "dressed",
    [
        lambda tensors: tensors,
        lambda tensors: tensors | {"loss.logvar": np.zeros(()), "foundation_model.norm.weight": np.ones(3)},
        lambda tensors: (
            {f"first_stage_model.{name}": tensor for name, tensor in tensors.items()}
            | {"model.diffusion_model.out.2.bias": np.ones(4)}
        ),
    ],
)
def test_names_of_latent_diffusion(
    tmp_path: Path, attention_tensors: dict[str, np.ndarray], dressed: Callable[[dict[str, Any]], dict[str, Any]]
):
    renamed = with_ldm_names(attention_tensors)
    for diffusers, ldm in LDM_NAMES.items():
        np.testing.assert_array_equal(np.squeeze(renamed[ldm]), np.squeeze(attention_tensors[diffusers]))
    found = load_vae(write(tmp_path, dressed(renamed), ATTENTION)).params
    assert_same(to_torch(found, diffusers_name), dict(sorted(attention_tensors.items())))


def test_the_networks_that_the_page_describes():
    page = (Path(__file__).parents[2] / "docs" / "weights.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```json\n(.*?)```", page, flags=re.DOTALL)
    mar = json.loads(block)
    va = mar | {"latent_channels": 32, "scaling_factor": 1.0}
    va["up_block_types"] = ["AttnUpDecoderBlock2D", *mar["up_block_types"][1:]]
    for config, up, channels in ((mar, 0, 16), (va, 3, 32)):
        _, shapes = structure("vae", vae_kwargs_from_diffusers(config))
        names = set(to_torch(jax.tree.map(lambda leaf: np.zeros((1,) * len(leaf.shape)), shapes), diffusers_name))
        assert {f"encoder.down_blocks.4.attentions.{k}.to_q.weight" for k in range(2)} <= names
        assert len({name for name in names if re.fullmatch(r"decoder\.up_blocks.*\.to_q\.weight", name)}) == up
        assert shapes["post_quant_conv"]["kernel"].shape[-1] == channels


def test_what_latent_diffusion_has_no_name_for_is_named(tmp_path: Path, attention_tensors: dict[str, np.ndarray]):
    renamed = with_ldm_names(attention_tensors)
    del renamed["decoder.up.1.attn.0.q.weight"]
    with pytest.raises(InputError, match=r"missing .*up_blocks\.0\.attentions\.0\.to_q\.weight"):
        load_vae(write(tmp_path, renamed, ATTENTION))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_weights_become_float32(tmp_path: Path, tensors: dict[str, np.ndarray], dtype: Any):
    rounded = {name: tensor.astype(dtype) for name, tensor in tensors.items()}
    ours = to_torch(load_vae(write(tmp_path, rounded)).params, diffusers_name)
    for name, tensor in rounded.items():
        assert ours[name].dtype == np.float32
        np.testing.assert_array_equal(ours[name], tensor.astype(np.float32))


def test_optional_parts_may_be_absent(tmp_path: Path, tensors: dict[str, np.ndarray]):
    absent = ("quant_conv.", "post_quant_conv.", ".attentions.0.")
    without = {name: tensor for name, tensor in tensors.items() if not any(part in name for part in absent)}
    switches = {"use_quant_conv": False, "use_post_quant_conv": False, "mid_block_add_attention": False}
    config = TINY | switches | {"scaling_factor": 1.5, "shift_factor": None, "force_upcast": True}
    artifact = load_vae(write(tmp_path, without, config))
    assert_same(to_torch(artifact.params, diffusers_name), dict(sorted(without.items())))
    assert artifact.model_config["scaling_factor"] == 1.5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"_class_name": "AutoencoderTiny"}, '_class_name is "AutoencoderTiny", expected "AutoencoderKL"'),
        ({"act_fn": "relu"}, 'act_fn is "relu", expected "silu"'),
        ({"down_block_types": ["DownBlock2D"] * 2}, "down_block_types is .*, expected .* AttnDownEncoderBlock2D"),
        ({"up_block_types": ["UpDecoderBlock2D"]}, "up_block_types is"),
        ({"latents_mean": [0.0] * 4}, "latents_std: goes with latents_mean"),
        ({"latents_std": [1.0] * 4}, r"latents_std=\[1.0, .*: goes with latents_mean"),
        ({"latents_mean": [0.0] * 3, "latents_std": [1.0] * 3}, r"latents_mean=.*: must be 4 numbers"),
        ({"latents_mean": [0.0] * 4, "latents_std": [1.0, 1.0, 1.0, 0.0]}, "latents_std=.*: must be positive"),
        ({"latents_mean": [0.0] * 4, "latents_std": 1.0}, "latents_std is 1.0, expected a list"),
        ({"latents_mean": [0.0, 0.0, 0.0, "x"]}, "latents_mean is .* expected finite numbers"),
        ({"latents_mean": [0.0] * 4, "latents_std": [1.0] * 4, "shift_factor": 0.1}, "shift_factor=0.1: is subtracted"),
        ({"shift_factor": "0.1"}, 'shift_factor is "0.1", expected finite numbers'),
        ({"scaling_factor": 0}, "scaling_factor is 0, expected a positive number"),
        ({"block_out_channels": [8, 10]}, r"block_channels=\[8, 10\]: must be multiples of norm_groups 4"),
        ({"block_out_channels": []}, r"block_out_channels is \[\], expected a list"),
        ({"layers_per_block": "1"}, 'layers_per_block is "1", expected a positive integer'),
        ({"latent_channels": None}, "latent_channels is null"),
        ({"use_quant_conv": 1}, "use_quant_conv is 1, expected true or false"),
        ({"scaling_factor": True}, "scaling_factor is true, expected a positive number"),
        ({"scaling_factor": float("inf")}, "scaling_factor is Infinity, expected a positive number"),
        ({"patch_size": 2}, "patch_size is 2, expected no such field"),
    ],
)
def test_other_networks_are_refused(tmp_path: Path, tensors: dict[str, np.ndarray], change: dict[str, Any], words: str):
    assert_refused(write(tmp_path, tensors, TINY | change), "config.json: " + words)


def edit(folder: Path, change: Callable[[dict[str, np.ndarray]], Any]) -> None:
    tensors = dict(load_file(folder / "diffusion_pytorch_model.safetensors"))
    change(tensors)
    write(folder, tensors)


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


WEIGHTS = "diffusion_pytorch_model.safetensors"

QUERY = "encoder.mid_block.attentions.0.to_q"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda d: (d / "config.json").unlink(), "no file .*config.json"),
        (lambda d: (d / WEIGHTS).unlink(), f"no file .*{WEIGHTS}"),
        (lambda d: (d / "config.json").write_text("{"), "config.json: not JSON"),
        (lambda d: (d / "config.json").write_bytes(b"\xff\xfe"), "config.json: not JSON"),
        (lambda d: (d / "config.json").write_text("[]"), "config.json: must be a JSON object"),
        (lambda d: (d / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\n"), "not a safetensors file"),
        (lambda d: cut(d / WEIGHTS, 0), "not a safetensors file"),
        (lambda d: cut(d / WEIGHTS, 100), "not a safetensors file"),
        (lambda d: cut(d / WEIGHTS, 50_000), "not a safetensors file"),
        (lambda d: edit(d, lambda t: t.pop("quant_conv.bias")), f"{WEIGHTS}: missing tensor quant_conv.bias"),
        (lambda d: edit(d, lambda t: t.update(extra=np.ones(1))), "unexpected tensor extra"),
        (
            lambda d: edit(d, lambda t: t.update({"quant_conv.bias": np.ones(4)})),
            r"quant_conv.bias float64\[4\]",
        ),
        (
            lambda d: edit(d, lambda t: t.update({f"{QUERY}.weight": np.ones((16, 8))})),
            r"to_q.weight float64\[16, 8\]",
        ),
        (lambda d: edit(d, lambda t: t.update({QUERY[:-4] + "query.bias": np.ones(16)})), f"two tensors for {QUERY}.b"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, tensors: dict[str, np.ndarray], damage: Any, words: str):
    damage(write(tmp_path, tensors))
    assert_refused(tmp_path, words)


def assert_refused(folder: Path, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        load_vae(folder)
    assert "\n" not in str(error.value)
