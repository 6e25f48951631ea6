"""Features in which images are scored: what they are, and which images they are of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from drifting.errors import ConfigError, HubError
from drifting.networks.mae import MAE
from drifting.scoring import image_features
from drifting.scoring.image_features import inception, known_widths, score_encoder
from drifting.weights.artifact import save_artifact

PIXELS = np.random.default_rng(0).integers(0, 256, (70, 8, 8, 1), dtype=np.uint8)


def test_pixels_are_what_sources_deliver():
    found = score_encoder("pixels", (8, 8, 1))(PIXELS)
    assert known_widths("pixels", (8, 8, 1)) == {"features": 64} and known_widths("mae:x", (8, 8, 1)) == {}
    assert found.keys() == {"features"} and found["features"].dtype == np.float32
    np.testing.assert_allclose(found["features"], PIXELS.reshape(70, 64) / 127.5 - 1, rtol=0, atol=2e-7)


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch):
    whole = score_encoder("pixels", (8, 8, 1))
    monkeypatch.setattr(image_features, "ENCODER_BLOCK_IMAGES", 8)
    np.testing.assert_array_equal(score_encoder("pixels", (8, 8, 1))(PIXELS)["features"], whole(PIXELS)["features"])


@pytest.mark.parametrize("classes", [0, 3])
def test_a_masked_autoencoder_gives_the_mean_of_its_last_stage_and_what_its_classifier_says(tmp_path, classes: int):
    config = dict(in_channels=1, base_channels=4, layers=[1, 1], patch_size=2, input_patch_size=1)
    model = MAE(num_classes=classes, dtype=jnp.float32, remat=False, rngs=nnx.Rngs(1), **config | {"layers": (1, 1)})
    params = jax.device_get(nnx.to_pure_dict(nnx.state(model)))
    config |= {"num_classes": classes, "dtype": "float32", "remat": False}
    save_artifact(tmp_path / "mae", kind="mae", model_config=config, params=params, step=0, ema_decay=None)
    encoder = score_encoder(f"mae:{tmp_path / 'mae'}", (8, 8, 1))
    assert len(encoder.checksum) == 64
    stages = nnx.jit(lambda encoder, x: encoder(x))(model.encoder, jnp.asarray(PIXELS[:40] / np.float32(127.5) - 1))
    expected = stages["layer2"].mean(axis=(1, 2))
    found = encoder(PIXELS[:40])
    np.testing.assert_allclose(found["features"], expected, rtol=1e-5, atol=1e-6)
    assert ("class_logits" in found) == ("class_logits" in encoder.widths) == bool(classes)
    if classes:
        logits = model(jnp.asarray(PIXELS[:40] / np.float32(127.5) - 1), jnp.zeros(40, int), jnp.zeros((40, 8, 8, 1)))
        np.testing.assert_allclose(found["class_logits"], logits["logits"], rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match=r"takes 1 channel and sides divisible by 1, the images are 8x8x3"):
        score_encoder(f"mae:{tmp_path / 'mae'}", (8, 8, 3))


def test_the_inception_gives_pool_spatial_and_unbiased_logits(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(image_features, "ENCODER_BLOCK_IMAGES", 2)
    encoder = score_encoder("inception:random", (8, 8, 1))
    encoder.placed[0]["fc"]["bias"] = jnp.linspace(-1, 1, 1008)
    found = encoder(PIXELS[:2])
    assert {name: array.shape for name, array in found.items()} == {
        "features": (2, 2048),
        "spatial": (2, 17 * 17 * 7),
        "logits": (2, 1008),
    }
    widths = {name: array.shape[1] for name, array in found.items()}
    assert encoder.widths == widths == known_widths("inception:random", (8, 8, 1))
    kernel = np.asarray(encoder.placed[0]["fc"]["kernel"])
    np.testing.assert_allclose(found["logits"], found["features"] @ kernel, rtol=1e-3, atol=1e-4)
    assert np.ptp(found["features"], axis=0).max() > 1e-3  # the two images are told apart


def test_a_missing_download_says_how_to_give_the_file(monkeypatch: pytest.MonkeyPatch):
    def fetch(*_: object) -> None:
        raise HubError("https://x: no connection: run the same command again")

    monkeypatch.setattr(inception, "load_weights", fetch)
    with pytest.raises(HubError, match=r"again, or give its file as the encoder inception:WEIGHTS$"):
        score_encoder("inception", (8, 8, 3))
    with pytest.raises(HubError, match=r"again$"):
        score_encoder("inception:hf://me/net", (8, 8, 3))


@pytest.mark.parametrize(
    ("given", "shape", "words"),
    [
        ("pixel", (8, 8, 1), r"^encoder=pixel: use one of inception, pixels, mae, dinov2 \(did you mean 'pixels'\?\)"),
        ("pixels:x", (8, 8, 1), r"^encoder=pixels:x: pixels have no weights"),
        ("mae", (8, 8, 1), r"^encoder=mae: give a folder"),
        ("mae:absent", (8, 8, 1), r"^encoder=mae:absent: "),
        ("inception:absent.pth", (8, 8, 3), r"^encoder=inception:absent\.pth: there is no such file"),
        ("inception:random", (8, 8, 4), r"takes images of 1 or 3 channels, these have 4"),
    ],
)
def test_what_is_no_encoder(given: str, shape: tuple[int, int, int], words: str):
    with pytest.raises(ConfigError, match=words):
        score_encoder(given, shape)
