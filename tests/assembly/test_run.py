"""A run, put together in one place: every kind of sample with every pool, and parts of one's own."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from drifting.assembly.pretraining import prepare_pretraining
from drifting.assembly.run import prepare
from drifting.config.schema import Config, PretrainConfig
from drifting.data.source import delivery
from drifting.sampling.grid import save_grid
from tests.support.caches import finished_cache
from tests.support.runs import tiny_config

POOLS: dict[str, dict[str, Any]] = {
    "banks": {},
    "none": {"bank": {"per_class": 0}},
    "all, on the device": {"data": {"resident": "device"}},
    "all, on the host": {"data": {"resident": "host"}},
}

SAMPLES: dict[str, dict[str, Any]] = {
    "pixels": {},
    "latents, encoded as they come": {"vae": "random://smoke"},
    "latents of a cache": {"name": "latents", "image_size": None, "channels": None, "classes": None},
}


def config_of(samples: str, pool: str, cache: Path) -> Config:
    sections: dict[str, Any] = {name: dict(section) for name, section in POOLS[pool].items()}
    data = dict(name="synthetic", image_size=16, channels=3, classes=4, flip=True) | SAMPLES[samples]
    if samples == "latents of a cache":
        data |= dict(path=str(cache), verify=False)
    sections["data"] = data | sections.get("data", {})
    sections["model"] = dict(name="mlp", num_heads=None, depth=2)
    return tiny_config(**sections)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("samples", SAMPLES)
def test_every_kind_of_sample_comes_out_of_every_pool(
    samples: str, pool: str, tmp_path_factory: pytest.TempPathFactory
):
    """Whatever a source delivers and wherever it is kept, a step trains on samples of the space's shape."""
    with prepare(config_of(samples, pool, finished_cache(tmp_path_factory))) as run:
        state = run.initial_state()
        before = jax.device_get(state.params)
        for batch in run.batches(1):
            state, metrics = run.step(state, batch)
        assert int(state.step) == 1 and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(metrics))
        assert (state.banks is None) == (pool != "banks")
        after = jax.device_get(state.params)
        assert any(np.any(a != b) for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True))
        assert run.parts.space.shape == ((16, 16, 3) if samples == "pixels" else (8, 8, 4))
        images = run.sample(state, labels=[0, 1, 2], seed=3)
        assert images.shape == (3, 16, 16, 3) and delivery(run.source).are_moments == ("cache" in samples)


def test_resident_images_are_encoded_once(tmp_path_factory: pytest.TempPathFactory):
    """What lies on the device are moments, of each image and of its mirror image, and they are those of the VAE."""
    name = "latents, encoded as they come"
    with prepare(config_of(name, "all, on the device", finished_cache(tmp_path_factory))) as run:
        held, space = next(run.feed)["samples"], run.parts.space
        records = held.record.unpack(held.words)
        assert records.shape == (len(run.source), 2, 8, 8, 8) and records.dtype == np.float16
        order = np.argsort(run.source.labels, kind="stable")[:3]
        images = np.stack([run.source[int(i)][0] for i in order])
        for view, seen in enumerate((images, images[:, :, ::-1])):
            expected = jax.jit(space.moments)(space.params, seen)
            np.testing.assert_allclose(records[:3, view], expected, rtol=2e-3, atol=2e-3)


def test_samples_need_not_be_squares(tmp_path: Path):
    """Images of 2:3 are trained on, cropped at random, drawn and laid out in a grid; an encoder reads them, too."""
    levels, file = np.random.default_rng(3).integers(0, 256, (40, 8, 12, 1), np.uint8), tmp_path / "wide.npz"
    np.savez(file, image=levels, label=np.arange(40) % 4)
    data = dict(name="array", path=str(file), random_crop=True)
    with prepare(tiny_config(data=data)) as run:
        state = run.initial_state()
        for batch in run.batches(1):
            state, metrics = run.step(state, batch)
        images = run.sample(state, labels=[0, 1, 2], seed=3)
    assert np.isfinite(metrics["loss"]) and images.shape == (3, 8, 12, 1) and state.params["pos_embed"].shape[0] == 6
    save_grid(images, tmp_path / "grid.png", columns=3, scale=1)
    assert Image.open(tmp_path / "grid.png").size == (3 * (12 + 2) + 2, 8 + 2 + 2)
    config = PretrainConfig.of(data=data, mae=dict(base_channels=4, layers=(1, 1)), train=dict(batch_size=8))
    with prepare_pretraining(config) as encoder:
        batch, before = next(encoder.feed), jax.eval_shape(encoder.empty)
        after, metrics = jax.eval_shape(encoder.compiled, before, batch, encoder.frozen, encoder.key)
    assert jax.tree.map(lambda leaf: leaf.shape, after) == jax.tree.map(lambda leaf: leaf.shape, before)
    assert metrics["recon_loss"].shape == ()
