"""From settings to objects: generators, encoders, data."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from drifting.assembly import networks, recipe
from drifting.config.parse import parse
from drifting.config.schema import Config, DataConfig, MAEConfig, ModelConfig, OptimizerConfig
from drifting.data import fingerprint, sources
from drifting.data.source import ArraySource
from drifting.errors import ConfigError
from drifting.method.kernels import KERNELS
from drifting.method.objective import Objective

ROOT = Path(__file__).resolve().parents[2]

SHAPE = (8, 8, 1)

# --- generators -------------------------------------------------------------------------------------------------------


def count(model: ModelConfig, shape: tuple[int, int, int], classes: int) -> int:
    _, init = networks.generator(model, shape, classes, seed=0)
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(init)))


@pytest.mark.parametrize(
    ("name", "preset", "patch", "shape"),
    [
        ("latent_sota_B.yaml", "B", 2, (32, 32, 4)),
        ("latent_sota_L.yaml", "L", 2, (32, 32, 4)),
        ("pixel_sota_B.yaml", "B", 16, (256, 256, 3)),
        ("pixel_sota_L.yaml", "L", 16, (256, 256, 3)),
    ],
)
def test_presets_and_defaults_are_the_released_generators(golden: Path, name: str, preset: str, patch: int, shape: Any):
    expected = json.loads((golden / "counts.json").read_text())["generator"][name]["total"]
    assert count(ModelConfig(preset=preset, patch_size=patch), shape, 1000) == expected


def test_defaults_are_the_released_encoder(golden: Path):
    expected = json.loads((golden / "counts.json").read_text())["mae"]["latent_ablation_256.yaml"]["total"]
    arguments = networks.mae_arguments(MAEConfig(lambda_cls=0.1), 4, 1000)
    params = nnx.state(nnx.eval_shape(lambda: networks.autoencoder(arguments, jax.random.key(0))))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected


def test_a_generator_draws_samples_of_the_shape_of_the_data():
    dit = ModelConfig(hidden_size=16, depth=1, num_heads=2, patch_size=4, register_tokens=1, style_tokens=2)
    mlp = ModelConfig(name="mlp", hidden_size=8, depth=2, noise_dim=5)
    for model, noise_shapes in ((dit, {"image": (3, 8, 8, 1), "style": (3, 2)}), (mlp, {"image": (3, 5)})):
        generator, init = networks.generator(model, SHAPE, 10, seed=1)
        params = jax.eval_shape(init)
        keys = jax.random.split(jax.random.key(0), 3)
        noise = jax.eval_shape(generator.sample_noise, params, keys)
        assert {name: value.shape for name, value in noise.items()} == noise_shapes
        out = jax.eval_shape(generator, params, noise, jnp.zeros(3, jnp.int32), jnp.ones(3))
        assert out.shape == (3, *SHAPE) and out.dtype == jnp.float32


def test_the_seed_draws_the_parameters():
    model = ModelConfig(name="mlp", hidden_size=8, depth=2)
    one, again, other = (networks.generator(model, SHAPE, 10, seed)[1]() for seed in (1, 1, 2))
    same = jax.tree.map(lambda a, b: bool(jnp.all(a == b)), one, again)
    assert all(jax.tree.leaves(same))
    assert not np.array_equal(one["first"]["kernel"], other["first"]["kernel"])


def test_dtypes_are_given_by_name():
    model = ModelConfig(name="mlp", hidden_size=8, depth=2, dtype="bfloat16")
    generator, init = networks.generator(model, SHAPE, 10, seed=1)
    text = str(jax.make_jaxpr(lambda p, n: generator(p, n, jnp.zeros(2, jnp.int32), jnp.ones(2)))(
        jax.eval_shape(init), {"image": jnp.zeros((2, 32))}
    ))  # fmt: skip
    assert "bf16" in text
    assert {leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(init))} == {jnp.dtype("float32")}


# --- the rest ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (DataConfig(path="x"), "data.path='x': source 'digits' takes no path: set data.path=None"),
        (DataConfig(name="array"), "data.path=None: source 'array' needs data.path: give it"),
        (DataConfig(name="array", path="no.npz"), "data.path='no.npz': image cannot be read as an array"),
        (DataConfig(name="imagefolder", path="no", image_size=8), "data.path='no' is not a folder"),
    ],
)
def test_data_that_cannot_be_had_is_one_line(data: DataConfig, message: str):
    with pytest.raises(ConfigError) as error:
        sources.source(data)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_facts_tell_data_apart():
    train, heldout = sources.source(DataConfig()), sources.source(DataConfig(), split="heldout")
    facts = fingerprint.data_facts(train)
    assert facts == json.loads(json.dumps(facts))
    assert len(facts.pop("checksum")) == 64
    assert facts == {"data": "digits", "samples": 1400, "shape": [8, 8, 1], "classes": list("0123456789")}
    assert fingerprint.data_facts(heldout) != fingerprint.data_facts(train)


def test_facts_notice_data_exchanged_under_the_same_name():
    images, labels = sources.source(DataConfig()).__getitems__(range(100))
    names = tuple("0123456789")
    exchanged = [(images[:, ::-1], labels), (images[::-1], labels[::-1]), (images, (labels + 1) % 10)]
    checksums = {fingerprint.data_facts(ArraySource(*data, names))["checksum"] for data in exchanged}
    assert len(checksums | {fingerprint.data_facts(ArraySource(images, labels, names))["checksum"]}) == 4


def test_objective_and_optimizer_take_their_settings():
    config = parse({"loss": dict(objective="drift", kernel="laplace", normalise_field=False, feature_scale="none")})
    assert isinstance(config, Config)
    found = recipe.objective_of(config.loss)
    assert found == Objective("drift", KERNELS["laplace"], normalise_field=False, feature_scale="none")
    settings = OptimizerConfig(learning_rate=0.5, warmup_steps=10, decay="cosine", clip_norm=3.0, no_op_steps=5)
    optimizer = recipe.optimizer_of(settings, steps=25)
    rates = [float(optimizer.learning_rate(step)) for step in (0, 5, 10, 15, 20, 25)]
    np.testing.assert_allclose(rates, [0, 1e-6, 0.25, 0.5, 0.25, 5e-7], rtol=1e-4, atol=1e-7)
    assert optimizer.clip_norm == 3.0
