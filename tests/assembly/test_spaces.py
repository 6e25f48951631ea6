"""Frozen networks by reference: latents in and out, encoders of samples and of images, gradients through all."""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from drifting.assembly import networks
from drifting.assembly.spaces import feature_encoder, sample_space
from drifting.config.schema import FeaturesConfig, MAEConfig
from drifting.data.source import to_float
from drifting.data.sources.digits import digits
from drifting.errors import ConfigError, HubError
from drifting.method.encoders import ENCODERS
from drifting.method.encoders.convnext import convnext_features
from drifting.method.encoders.mae import mae_features
from drifting.method.features import pixel_features
from drifting.method.space import VAE_SLICE
from drifting.networks.autoencoder import Moments
from drifting.networks.vae import AutoencoderKL
from drifting.weights.artifact import save_artifact
from drifting.weights.catalogue import KNOWN_PRESETS, RELEASED_FOLDERS
from drifting.weights.references import network
from tests.networks.test_dcae import SIZES

PIXELS = sample_space(None, (8, 8, 1))

Maps = dict[str, jax.Array]

FEW = dict(mean_patches=(), std_patches=(), every_k_block=0)


def smoke(encoders: tuple[str, ...] = ("mae", "convnext"), weights: str = "pixel_smoke", **mae: Any) -> FeaturesConfig:
    """Untrained encoders; `mae`: options of that one."""
    options = {"mae": {"weights": f"random://{weights}", **FEW, **mae}}
    return FeaturesConfig(encoders, options | {"convnext": {"weights": "random://smoke", "size": 32}})


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], Any]:
    """An encoder's folder, the constructor's arguments, and the autoencoder itself."""
    arguments = networks.mae_arguments(MAEConfig(base_channels=4, layers=(1, 1)), 1, 10)
    model = nnx.jit(lambda: networks.autoencoder(arguments, jax.random.key(3)))()
    folder = tmp_path_factory.mktemp("encoder") / "encoder"
    params = nnx.to_pure_dict(nnx.state(model))
    save_artifact(folder, kind="mae", model_config=arguments, params=params, step=1, ema_decay=0.9)
    return folder, arguments, model


# --- encoders ---------------------------------------------------------------------------------------------------------


def test_an_encoder_gives_the_features_of_what_was_saved(artifact: Any):
    folder, _, model = artifact
    images = digits().__getitems__(np.arange(3))[0]
    config = FeaturesConfig(options={"mae": dict(weights=str(folder), std=False, std_patches=(2,), every_k_block=1)})
    encoder = feature_encoder(config, PIXELS)
    expected = pixel_features(jnp.asarray(images))
    expected |= mae_features(model.encoder, jnp.asarray(images), std=False, std_patches=(2,), every_k_block=1)
    found = encoder.features(encoder.params, jnp.asarray(images))
    assert list(found) == list(expected) and "layer1_mean_4" in found and "layer1_std" not in found
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), found, expected)
    assert encoder.checksums == {"mae": json.loads((folder / "metadata.json").read_text())["sha256"]}


def test_no_encoder_is_the_samples_themselves():
    encoder = feature_encoder(FeaturesConfig(encoders=()), PIXELS)
    images = digits().__getitems__(np.arange(2))[0]
    found = encoder.features(encoder.params, jnp.asarray(images))
    np.testing.assert_array_equal(found["global"], images.reshape(2, 1, 64))
    assert (encoder.params, encoder.checksums) == ({}, {})


def test_an_encoder_that_cannot_be_used_is_one_line(artifact: Any, tmp_path: Path):
    folder, arguments, model = artifact
    damaged, other, empty = tmp_path / "damaged", tmp_path / "other", tmp_path / "empty"
    for path in (damaged, other):
        params = nnx.to_pure_dict(nnx.state(model))
        kind = "mae" if path is damaged else "generator"
        options = dict(model_config=arguments, params=params, step=1, ema_decay=None, network="dit")
        save_artifact(path, kind=kind, **options)  # type: ignore[arg-type]
    (damaged / "params.safetensors").write_bytes(b"nothing")
    empty.mkdir()
    cases = [
        (tmp_path / "nowhere", (8, 8, 1), "there is no such folder"),
        (empty, (8, 8, 1), "has none of metadata.json"),
        (damaged, (8, 8, 1), f"{damaged / 'params.safetensors'}: SHA-256"),
        (other, (8, 8, 1), "holds a 'generator', expected a 'mae'"),
        (folder, (8, 8, 3), "this encoder takes samples of [H, W, 1] with sides divisible by 1, these are 8x8x3"),
        ("random://nothing", (8, 8, 3), "there is no such preset, use one of latent_256, latent_640"),
        ("random://pixel_smoke", (9, 9, 3), "this encoder takes samples of [H, W, 3] with sides divisible by 2"),
    ]
    for path, shape, words in cases:
        with pytest.raises(ConfigError) as error:
            feature_encoder(FeaturesConfig(options={"mae": {"weights": str(path)}}), sample_space(None, shape))
        assert str(error.value).startswith(f"features.options.mae.weights={str(path)!r}: {words}")
        assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match=r"^features\.options\.convnext\.weights='random://smoke': .* 3 channels, "):
        feature_encoder(smoke(("convnext",)), PIXELS)


def maps_and_gradient(features: Callable[[jax.Array], Maps], energy: Callable[[Maps], jax.Array], x: jax.Array) -> Any:
    """The feature maps of `x`, and the gradient of their energy, out of one program."""

    def value(x: jax.Array) -> tuple[jax.Array, Maps]:
        maps = features(x)
        return energy(maps), maps

    gradient, maps = jax.jit(jax.grad(value, has_aux=True))(x)
    return maps, gradient


def test_two_encoders_of_images_together():
    """The pixel-space recipe: every map of both, the sample itself once, and a gradient that is the sum of theirs."""
    space = sample_space(None, (16, 16, 3))
    encoder = feature_encoder(smoke(), space)
    x = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3)), jnp.float32)
    mae, convnext = (network(f"random://{n}", k, dtype="float32", remat=False)
                     for n, k in (("pixel_smoke", "mae"), ("smoke", "convnext")))  # fmt: skip
    options = dict(mean_patches=(), std_patches=(), every_k_block=0)

    def expected(x: jax.Array) -> dict[str, jax.Array]:
        maps = pixel_features(x) | mae_features(nnx.merge(mae.graphdef, mae.params), x, **options)
        return maps | convnext_features(nnx.merge(convnext.graphdef, convnext.params), x, resolution=32)

    def energy(maps: dict[str, jax.Array]) -> jax.Array:
        return sum((jnp.sum(jnp.sin(f)) for f in maps.values()), jnp.zeros(()))

    found, gradient = maps_and_gradient(partial(encoder.features, encoder.params), energy, x)
    wanted, wanted_gradient = maps_and_gradient(expected, energy, x)
    assert list(found) == list(wanted) and len(found) == 1 + 1 + 9 + 13
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), found, wanted)
    np.testing.assert_allclose(gradient, wanted_gradient, rtol=0, atol=1e-4 * float(jnp.abs(wanted_gradient).max()))

    def of_each(x: jax.Array) -> list[jax.Array]:
        maps = encoder.features(encoder.params, x)
        return [energy({k: f for k, f in maps.items() if k.startswith(prefix)}) for prefix in ("layer", "convnext")]

    along = jax.jit(lambda x: jax.jvp(of_each, (x,), (wanted_gradient,))[1])(x)
    assert all(float(jnp.abs(slope)) > 0 for slope in along)  # both pull


def test_small_images_are_resized_for_the_encoder():
    """CIFAR-10's images of 32 pixels are seen at 256 by an encoder that was trained on that."""
    config = smoke(("mae",), size=16)
    encoder = feature_encoder(config, sample_space(None, (8, 8, 3)))
    small = jnp.float32(np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 3)))
    large = jax.image.resize(small, (2, 16, 16, 3), "bilinear")
    unresized = feature_encoder(smoke(("mae",)), sample_space(None, (16, 16, 3)))
    found = jax.jit(encoder.features)(encoder.params, small)
    expected = jax.jit(unresized.features)(unresized.params, large)
    assert found["global"].shape == (2, 1, 192)
    for name in set(found) - {"global"}:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-5)


# --- latents ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def latent() -> Any:
    return sample_space("random://smoke", (16, 16, 3))


def test_latents_of_images_and_back(latent: Any):
    assert (latent.shape, latent.image_shape) == ((8, 8, 4), (16, 16, 3))
    model: AutoencoderKL = nnx.merge(latent.vae.graphdef, latent.params["vae"])
    images = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (VAE_SLICE + 3, 16, 16, 3)), jnp.float32)

    @jax.jit
    def recorded(params: Any, x: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        records = latent.records(params, x)
        return latent.draw(params, records, key), records

    def encode(*arguments: Any) -> jax.Array:
        return recorded(*arguments)[0]

    samples, kept = recorded(latent.params, images, jax.random.key(1))
    exact = jax.jit(model.encode)(images)
    moments = Moments(*jnp.split(kept.astype(jnp.float32), 2, axis=-1))
    for name in ("mean", "log_var"):
        np.testing.assert_allclose(getattr(moments, name), getattr(exact, name), rtol=2**-10, atol=1e-5)
    noise = (samples / model.scaling_factor - moments.mean) / jnp.exp(0.5 * moments.log_var)
    assert abs(float(noise.mean())) < 0.1 and abs(float(noise.std()) - 1) < 0.1
    # An image's latents depend on its place in the batch and the key, not on how many others there are.
    np.testing.assert_allclose(encode(latent.params, images[:5], jax.random.key(1)), samples[:5], rtol=2e-3, atol=1e-3)
    assert float(jnp.abs(encode(latent.params, images, jax.random.key(2)) - samples).max()) > 0.01
    decoded = jax.jit(latent.decode)(latent.params, samples)
    expected = jax.jit(model.decode)(samples)
    np.testing.assert_allclose(decoded, expected, rtol=0, atol=1e-5 * float(jnp.abs(expected).max()))


def test_pixels_are_their_own_latents():
    x = jnp.ones((2, 8, 8, 1))
    assert PIXELS.records({}, x) is x and PIXELS.decode({}, x) is x
    np.testing.assert_array_equal(PIXELS.draw({}, x, jax.random.key(0)), x)
    levels = jnp.arange(256, dtype=jnp.uint8).reshape(1, 16, 16, 1)
    drawn = PIXELS.draw({}, levels, jax.random.key(0))
    np.testing.assert_allclose(drawn, to_float(np.asarray(levels)), rtol=0, atol=2**-23)  # a division, rounded
    assert (PIXELS.params, PIXELS.checksums) == ({}, {})


def test_a_generator_of_latents_is_scored_by_encoders_of_images(latent: Any):
    """Through the decoder, whose gradient must be the chain rule's."""
    encoder = feature_encoder(smoke(), latent)
    assert set(encoder.params) == {"mae", "convnext", "vae"}
    z = jnp.float32(np.random.default_rng(0).normal(size=(2, 8, 8, 4)))
    of_images = feature_encoder(smoke(), sample_space(None, (16, 16, 3)))

    def energy(maps: dict[str, jax.Array]) -> jax.Array:
        return sum((jnp.sum(jnp.sin(f)) for name, f in maps.items() if name != "global"), jnp.zeros(()))

    found, gradient = maps_and_gradient(partial(encoder.features, encoder.params), energy, z)
    assert found["global"].shape == (2, 1, 256)  # the recipe's: the sample, which is the latent
    images = jax.jit(latent.decode)(latent.params, z)
    expected, of_decoded = maps_and_gradient(partial(of_images.features, of_images.params), energy, images)
    for name in set(found) - {"global"}:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-3, atol=1e-4, err_msg=name)
    (chained,) = jax.jit(lambda z, g: jax.vjp(partial(latent.decode, latent.params), z)[1](g))(z, of_decoded)
    np.testing.assert_allclose(gradient, chained, rtol=0, atol=1e-3 * float(jnp.abs(chained).max()))


def test_an_encoder_of_latents_sees_latents(latent: Any):
    config = smoke(("mae",), "latent_smoke")
    encoder = feature_encoder(config, latent)
    z = jnp.float32(np.random.default_rng(0).normal(size=(2, 8, 8, 4)))
    found = network("random://latent_smoke", "mae", dtype="float32", remat=False)
    expected = mae_features(
        nnx.merge(found.graphdef, found.params), z, mean_patches=(), std_patches=(), every_k_block=0
    )
    maps = encoder.features(encoder.params, z)
    assert list(maps) == ["global", *expected]
    for name, value in expected.items():
        np.testing.assert_allclose(maps[name], value, rtol=1e-5, atol=1e-5)
    with pytest.raises(ConfigError, match=r"^features\.options\.mae\.size=16: this encoder takes latents"):
        feature_encoder(smoke(("mae",), "latent_smoke", size=16), latent)


def test_a_vae_that_does_not_fit_the_images():
    for shape in ((16, 16, 1), (15, 16, 3)):
        with pytest.raises(
            ConfigError, match=r"^data\.vae='random://smoke': it takes 3 channels and sides divisible by 2"
        ):
            sample_space("random://smoke", shape)
    with pytest.raises(ConfigError, match=r"^--vae='nowhere': there is no such folder"):
        sample_space("nowhere", (16, 16, 3), "--vae")


# --- shapes alone -----------------------------------------------------------------------------------------------------


def test_published_networks_need_no_download_for_their_shapes():
    released = {f"hf://Goodeat/drifting/{name}" for name in RELEASED_FOLDERS if name.startswith("mae")}
    assert released <= set(KNOWN_PRESETS)
    presets = {preset: (reference, kind) for reference, (kind, preset) in KNOWN_PRESETS.items()}
    for preset, (reference, kind) in presets.items():
        found = network(reference, kind, abstract=True, dtype="bfloat16", remat=True)
        leaves = jax.tree.leaves(found.params)
        assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves) and found.checksum == reference
        count = sum(leaf.size for leaf in leaves)
        published = {"sd": 83_653_863, "sdxl": 83_653_863, "latent_256": 340_216_832, "latent_640": 2_126_036_480}
        published |= {"sd3": 83_819_683, "flux": 83_819_683, **SIZES}
        published |= {"pixel_640": 2_127_119_360, "small": 22_056_192, "large": 304_367_616}
        assert count == published.get(preset, 87_692_800 if kind == "convnext" else 86_579_712)


@pytest.mark.parametrize(
    ("key", "find"),
    [
        ("data.vae", lambda reference: sample_space(reference, (16, 16, 3))),
        *(
            (
                f"features.options.{name}.weights",
                lambda reference, name=name: feature_encoder(
                    FeaturesConfig((name,), {name: {"weights": reference}}), PIXELS
                ),
            )
            for name in ENCODERS
        ),
    ],
)
def test_without_a_connection_the_setting_is_named(
    key: str, find: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match=rf"^{re.escape(key)}='hf://no/such': .*HF_HUB_OFFLINE forbids the network"):
        find("hf://no/such")
