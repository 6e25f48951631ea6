"""From settings to objects: generators, encoders, data; and every file in `configs/` describes something that works."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from drifting import build
from drifting.cli import load_settings
from drifting.config import (
    Config,
    ConfigError,
    DataConfig,
    FeaturesConfig,
    MAEConfig,
    ModelConfig,
    OptimizerConfig,
    PretrainConfig,
    command_of,
    parse,
)
from drifting.data.sources import ArraySource, digits
from drifting.features import mae_features
from drifting.hub import save_artifact
from drifting.kernels import KERNELS
from drifting.losses import Objective
from drifting.pretrain import pretrain_step
from drifting.state import create
from drifting.step import Parts, train_step
from drifting.train import empty_banks, make_pipeline
from drifting.validate import check, check_sizes

ROOT = Path(__file__).resolve().parent.parent
SHAPE = (8, 8, 1)


# --- configuration files ----------------------------------------------------------------------------------------------


def config_files(command: str) -> list[Path]:
    files = sorted((ROOT / "configs").rglob("*.py"))
    return [path for path in files if path.stem != "__init__" and command_of(load_settings(str(path))) == command]


def test_there_are_configurations():
    assert config_files("train") and config_files("pretrain")


@pytest.mark.parametrize("path", config_files("train"), ids=lambda path: path.stem)
def test_a_configuration_of_a_generator_describes_a_step(path: Path):
    config = parse(load_settings(str(path)))
    assert isinstance(config, Config)
    check(config)
    if config.data.name != "digits":
        return  # the data is not embedded
    source = build.source(config.data)
    check_sizes(config, source.shape, source.num_classes)
    # The encoder's artifact is not there: the samples themselves stand in for its features.
    encoder = build.feature_encoder(FeaturesConfig(encoder="none"), source.shape)
    generator, init = build.generator(config.model, source.shape, source.num_classes, config.train.seed)
    optimizer = build.optimizer(config.optimizer, config.train.steps)
    parts = Parts(config, generator, encoder.features, build.objective(config), optimizer, source.num_classes)

    def first() -> Any:
        return create(
            init(), optimizer, ema_decays=config.train.ema_decays, banks=empty_banks(config, source),
            neighbour_scale=jnp.zeros(source.num_classes) if config.loss.feature_scale == "neighbour" else None,
        )  # fmt: skip

    state = jax.eval_shape(first)
    batch = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, next(make_pipeline(config, source))))
    widths = jax.ShapeDtypeStruct((len(config.loss.widths),), jnp.float32)
    after, metrics = jax.eval_shape(partial(train_step, parts), state, batch, {}, widths, jax.random.key(0))
    assert jax.tree.map(lambda a: (a.shape, a.dtype), after) == jax.tree.map(lambda a: (a.shape, a.dtype), state)
    assert metrics["loss"].shape == ()


@pytest.mark.parametrize("path", config_files("pretrain"), ids=lambda path: path.stem)
def test_a_configuration_of_an_encoder_describes_a_step(path: Path):
    config = parse(load_settings(str(path)), PretrainConfig)
    assert isinstance(config, PretrainConfig)
    check(config)
    if config.data.name != "digits":
        return
    source = build.source(config.data)
    check_sizes(config, source.shape, source.num_classes)
    arguments = build.mae_arguments(config.mae, source.shape[2], source.num_classes)
    optimizer = build.optimizer(config.optimizer, config.train.steps)
    graphdef, params = nnx.split(nnx.eval_shape(lambda: build.autoencoder(arguments, jax.random.key(0))))
    state = jax.eval_shape(partial(create, optimizer=optimizer, ema_decays=(0.9,)), nnx.to_pure_dict(params))
    images = jax.ShapeDtypeStruct((4, *source.shape), jnp.float32)
    batch = {"image": images, "label": jax.ShapeDtypeStruct((4,), jnp.int32)}
    step = partial(pretrain_step, graphdef, optimizer, config)
    after, _ = jax.eval_shape(step, state, batch, jax.random.key(0))
    assert jax.tree.map(lambda a: a.shape, after) == jax.tree.map(lambda a: a.shape, state)


@pytest.mark.parametrize("path", config_files("train") + config_files("pretrain"), ids=lambda path: path.stem)
def test_a_configuration_says_how_it_is_run(path: Path):
    text, name = path.read_text(), str(path.relative_to(ROOT))
    command = command_of(load_settings(str(path)))
    assert f"drifting {command} --config={name} --workdir=" in text
    assert 15 <= len(text.splitlines()) <= 70


# --- generators -------------------------------------------------------------------------------------------------------


def count(model: ModelConfig, shape: tuple[int, int, int], classes: int) -> int:
    _, init = build.generator(model, shape, classes, seed=0)
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
    arguments = build.mae_arguments(MAEConfig(lambda_cls=0.1), 4, 1000)
    params = nnx.state(nnx.eval_shape(lambda: build.autoencoder(arguments, jax.random.key(0))))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected


def test_a_generator_draws_samples_of_the_shape_of_the_data():
    dit = ModelConfig(hidden_size=16, depth=1, num_heads=2, patch_size=4, register_tokens=1, style_tokens=2)
    mlp = ModelConfig(name="mlp", hidden_size=8, depth=2, noise_dim=5)
    for model, noise_shapes in ((dit, {"image": (3, 8, 8, 1), "style": (3, 2)}), (mlp, {"image": (3, 5)})):
        generator, init = build.generator(model, SHAPE, 10, seed=1)
        params = jax.eval_shape(init)
        keys = jax.random.split(jax.random.key(0), 3)
        noise = jax.eval_shape(generator.sample_noise, params, keys)
        assert {name: value.shape for name, value in noise.items()} == noise_shapes
        out = jax.eval_shape(generator, params, noise, jnp.zeros(3, jnp.int32), jnp.ones(3))
        assert out.shape == (3, *SHAPE) and out.dtype == jnp.float32


def test_the_seed_draws_the_parameters():
    model = ModelConfig(name="mlp", hidden_size=8, depth=2)
    one, again, other = (build.generator(model, SHAPE, 10, seed)[1]() for seed in (1, 1, 2))
    same = jax.tree.map(lambda a, b: bool(jnp.all(a == b)), one, again)
    assert all(jax.tree.leaves(same))
    assert not np.array_equal(one["first"]["kernel"], other["first"]["kernel"])


def test_dtypes_are_given_by_name():
    model = ModelConfig(name="mlp", hidden_size=8, depth=2, dtype="bfloat16")
    generator, init = build.generator(model, SHAPE, 10, seed=1)
    text = str(jax.make_jaxpr(lambda p, n: generator(p, n, jnp.zeros(2, jnp.int32), jnp.ones(2)))(
        jax.eval_shape(init), {"image": jnp.zeros((2, 32))}
    ))  # fmt: skip
    assert "bf16" in text
    assert {leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(init))} == {jnp.dtype("float32")}


# --- feature encoders -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], Any]:
    """An encoder's folder, the constructor's arguments, and the autoencoder itself."""
    arguments = build.mae_arguments(MAEConfig(base_channels=4, layers=(1, 1)), 1, 10)
    model = build.autoencoder(arguments, jax.random.key(3))
    folder = tmp_path_factory.mktemp("encoder") / "encoder"
    params = nnx.to_pure_dict(nnx.state(model))
    save_artifact(folder, kind="mae", model_config=arguments, params=params, step=1, ema_decay=0.9)
    return folder, arguments, model


def test_an_encoder_gives_the_features_of_what_was_saved(artifact: Any):
    folder, _, model = artifact
    images = digits().__getitems__(np.arange(3))[0]
    config = FeaturesConfig(path=str(folder), std=False, std_patches=(2,), every_k_block=1)
    encoder = build.feature_encoder(config, SHAPE)
    expected = mae_features(model.encoder, jnp.asarray(images), std=False, std_patches=(2,), every_k_block=1)
    found = encoder.features(encoder.params, images)
    assert list(found) == list(expected) and "layer1_mean_4" in found and "layer1_std" not in found
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), found, expected)
    assert encoder.checksum == json.loads((folder / "metadata.json").read_text())["sha256"]


def test_no_encoder_is_the_samples_themselves():
    encoder = build.feature_encoder(FeaturesConfig(encoder="none"), SHAPE)
    images = digits().__getitems__(np.arange(2))[0]
    found = encoder.features(encoder.params, jnp.asarray(images))
    np.testing.assert_array_equal(found["global"], images.reshape(2, 1, 64))
    assert (encoder.params, encoder.checksum) == ({}, "")


def test_an_encoder_that_cannot_be_used_is_one_line(artifact: Any, tmp_path: Path):
    folder, arguments, model = artifact
    damaged, other, empty = tmp_path / "damaged", tmp_path / "other", tmp_path / "empty"
    for path in (damaged, other):
        params = nnx.to_pure_dict(nnx.state(model))
        kind = "mae" if path is damaged else "generator"
        save_artifact(path, kind=kind, model_config=arguments, params=params, step=1, ema_decay=None)
    (damaged / "params.safetensors").write_bytes(b"nothing")
    empty.mkdir()
    cases = [
        (tmp_path / "nowhere", SHAPE, "there is no such folder; run `drifting pretrain` first"),
        (empty, SHAPE, "holds no usable encoder (no file"),
        (damaged, SHAPE, "holds no usable encoder ("),
        (other, SHAPE, "holds no usable encoder ("),
        (folder, (8, 8, 3), "this encoder takes 1 channels and sides divisible by 1, the samples are 8x8x3"),
    ]
    for path, shape, words in cases:
        with pytest.raises(ConfigError) as error:
            build.feature_encoder(FeaturesConfig(path=str(path)), shape)
        assert str(error.value).startswith(f"features.path={str(path)!r}: {words}") and "\n" not in str(error.value)


# --- the rest ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (DataConfig(path="x"), "data.name='digits': source 'digits' takes no path (got 'x'): leave it None"),
        (DataConfig(name="array"), "data.name='array': source 'array' needs path: give it"),
        (DataConfig(name="array", path="no.npz"), "data.name='array': path='no.npz' cannot be read as an .npz file"),
        (DataConfig(name="imagefolder", path="no", image_size=8), "data.name='imagefolder': path='no' is not a folder"),
    ],
)
def test_data_that_cannot_be_had_is_one_line(data: DataConfig, message: str):
    with pytest.raises(ConfigError) as error:
        build.source(data)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_facts_tell_data_apart():
    train, heldout = build.source(DataConfig()), build.source(DataConfig(), split="heldout")
    facts = build.data_facts(train)
    assert facts == json.loads(json.dumps(facts))
    assert len(facts.pop("checksum")) == 64
    assert facts == {"data": "digits", "samples": 1400, "shape": [8, 8, 1], "classes": list("0123456789")}
    assert build.data_facts(heldout) != build.data_facts(train)


def test_facts_notice_data_exchanged_under_the_same_name():
    images, labels = build.source(DataConfig()).__getitems__(range(100))
    names = tuple("0123456789")
    exchanged = [(images[:, ::-1], labels), (images[::-1], labels[::-1]), (images, (labels + 1) % 10)]
    checksums = {build.data_facts(ArraySource("array", *data, names))["checksum"] for data in exchanged}
    assert len(checksums | {build.data_facts(ArraySource("array", images, labels, names))["checksum"]}) == 4


def test_objective_and_optimizer_take_their_settings():
    config = parse({"loss": dict(objective="drift", kernel="laplace", normalise_field=False, feature_scale="none")})
    assert isinstance(config, Config)
    found = build.objective(config)
    assert found == Objective("drift", KERNELS["laplace"], normalise_field=False, feature_scale="none")
    settings = OptimizerConfig(learning_rate=0.5, warmup_steps=10, decay="cosine", clip_norm=3.0, no_op_steps=5)
    optimizer = build.optimizer(settings, steps=25)
    rates = [float(optimizer.learning_rate(step)) for step in (0, 5, 10, 15, 20, 25)]
    np.testing.assert_allclose(rates, [0, 1e-6, 0.25, 0.5, 0.25, 5e-7], rtol=1e-4, atol=1e-7)
    assert optimizer.clip_norm == 3.0
