"""Reading a cache of latents: every record by its index, mirrored by choice, and drawn from as from the images."""

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drifting.assembly import spaces
from drifting.assembly.run import prepare
from drifting.assembly.spaces import sample_space, source_space
from drifting.cli.commands import main
from drifting.config.checks import check
from drifting.config.parse import parse
from drifting.config.schema import Config, DataConfig, PretrainConfig
from drifting.data import sources
from drifting.data.batches import ClassBalanced, Pipeline
from drifting.data.latents.read import LatentSource, record_type
from drifting.data.source import delivery
from drifting.data.sources.folder import imagefolder
from drifting.data.sources.latents import latents
from drifting.errors import ConfigError
from drifting.networks.autoencoder import scale_of
from drifting.networks.vae import PRESETS
from drifting.sampling.generator import TrainedGenerator, Usage
from drifting.training.latents import build_cache
from tests.support.caches import BAD, IMAGES, LATENT, cache_settings, finished_cache, image_folder, records, small_vae
from tests.support.runs import ROOT

COUNT = IMAGES - BAD

VAE = "random://smoke"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_cache(tmp_path_factory)


@pytest.fixture(scope="module")
def source(cache: Path) -> LatentSource:
    return latents(cache)


@pytest.fixture
def copy(cache: Path, tmp_path: Path) -> Path:
    """A cache that may be damaged."""
    return Path(shutil.copytree(cache, tmp_path / "cache"))


@pytest.fixture(scope="module")
def unmirrored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of few images, without mirror images."""
    folder = tmp_path_factory.mktemp("unmirrored")
    data = {"name": "synthetic", "path": None, "classes": 2}
    assert build_cache(cache_settings(folder, data, flip=False), folder / "cache")
    return folder / "cache"


# --- reading ----------------------------------------------------------------------------------------------------------


def test_a_record_is_fixed_in_size_and_little_endian():
    kind = record_type((32, 32, 4), flip=True)
    assert kind.itemsize == 4 + 4 + 2 * 32 * 32 * 8 * 2 and record_type((32, 32, 4), flip=False).itemsize == 8 + 16384
    one = np.zeros((), kind)
    one["index"], one["label"] = 258, -2
    assert one.tobytes()[:8] == bytes([2, 1, 0, 0, 254, 255, 255, 255])


def test_any_indices_in_any_order(cache: Path, source: LatentSource):
    table = records(cache)
    assert len(source) == COUNT and source.labels.tolist() == table["label"].tolist()
    rng = np.random.default_rng(0)
    for size in (0, 1, 7, 300):
        indices, mirrored = rng.integers(0, COUNT, size), rng.random(size) < 0.5
        moments, labels = source.read(indices, mirrored, None)
        assert moments.dtype == np.float16 and labels.dtype == np.int32 and moments.shape == (size, 8, 8, 8)
        np.testing.assert_array_equal(moments, table["moments"][indices, mirrored.astype(int)])
        np.testing.assert_array_equal(labels, table["label"][indices])
    moments, labels = source.__getitems__(range(COUNT))
    np.testing.assert_array_equal(moments, table["moments"][:, 0])
    for index in (0, 130, -1):
        moments, label = source[index]
        np.testing.assert_array_equal(moments, table["moments"][index, 0])
        assert label == table["label"][index]
    for index in (COUNT, -COUNT - 1):
        with pytest.raises(IndexError):
            source[index]
    for indices in ([0, COUNT], [-1]):
        with pytest.raises(IndexError, match=f"an index lies outside of the {COUNT} samples"):
            source.__getitems__(indices)


def test_what_is_known_without_reading(cache: Path, source: LatentSource):
    assert (source.shape, source.sample_shape, source.num_classes) == ((16, 16, 3), LATENT, 100)
    assert (source.vae, source.vae_checksum, source.flip, source.path) == (VAE, VAE, True, cache)
    assert source.class_names[3] == "class_003"


def test_threads_read_the_same(cache: Path):
    fresh, table = latents(cache), records(cache)
    orders = [np.random.default_rng(seed).permutation(COUNT)[:200] for seed in range(16)]
    with ThreadPoolExecutor(8) as pool:
        for order, (moments, _) in zip(orders, pool.map(fresh.__getitems__, orders), strict=True):
            np.testing.assert_array_equal(moments, table["moments"][order, 0])


def test_pipelines_mirror_by_choosing_the_moments(cache: Path, source: LatentSource):
    table = records(cache)["moments"]
    for make in (
        lambda flip: Pipeline(source, 64, 0, flip=flip),
        lambda flip: ClassBalanced(source, 16, 4, 0, flip=flip),
    ):
        for flip in (False, True):
            batches = make(flip)
            indices, batch = batches.indices(0), next(batches)
            assert batch["image"].dtype == np.float16
            views = np.stack([(table[indices, v] == batch["image"]).all(axis=(1, 2, 3)) for v in (0, 1)])
            assert views.any(axis=0).all()  # each row is its image, or that mirrored
            assert (views.all(axis=0) < views[0]).any() and (~views[0]).any() == flip
            batches.close()


def test_without_labels_all_are_of_one_class(cache: Path, source: LatentSource):
    found = sources.source(DataConfig(name="latents", path=str(cache), unconditional=True))
    assert delivery(found).are_moments and (found.num_classes, found.class_names) == (1, ("all",))
    moments, labels = found.__getitems__([3, 200])
    np.testing.assert_array_equal(moments, source.__getitems__([3, 200])[0])
    assert labels.tolist() == [0, 0] and not found.labels.any() and source.labels.any()


# --- latents of them --------------------------------------------------------------------------------------------------


def test_latents_are_drawn_as_from_the_images(cache: Path, source: LatentSource, tmp_path_factory: Any):
    """The same key gives the same latents, but for the rounding of the moments to float16."""
    space, of_images = source_space(None, source), sample_space(VAE, (16, 16, 3))
    assert (space.shape, space.image_shape, space.checksums) == (LATENT, (16, 16, 3), {"vae": VAE})
    indices = np.arange(0, COUNT, 31)
    images = imagefolder(image_folder(tmp_path_factory), 16).__getitems__(records(cache)["index"][indices])[0]
    key = jax.random.key(5)
    moments = jnp.asarray(source.__getitems__(indices)[0])
    assert space.records({}, moments) is moments
    kept = jax.jit(of_images.records)(of_images.params, jnp.asarray(images))
    assert (kept.shape[1:], kept.dtype) == (space.record.shape, space.record.dtype) == (moments.shape[1:], jnp.float16)
    np.testing.assert_allclose(kept, moments, rtol=2e-3, atol=1e-3)
    draw = jax.jit(space.draw)
    found, expected = draw(space.params, moments, key), draw(of_images.params, kept, key)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-3)
    other = draw(space.params, moments, jax.random.key(6))
    assert float(jnp.abs(other - found).max()) > 0.05
    np.testing.assert_array_equal(
        jax.jit(space.decode)(space.params, found), jax.jit(of_images.decode)(of_images.params, found)
    )


def test_the_vae_must_be_the_one_that_encoded(source: LatentSource, cache: Path, tmp_path: Path):
    other = small_vae(tmp_path / "vae", seed=1)
    with pytest.raises(ConfigError) as error:
        source_space(str(other), source)
    start = f"data.vae={str(other)!r}: its checksum is "
    assert str(error.value).startswith(start) and f"but {cache} holds latents of another VAE, {VAE!r}" in str(
        error.value
    )
    assert source_space(VAE, source).encoded and not source_space(VAE, imagefolder_like()).encoded
    words = r"^data\.vae='random://flux': the latents' channels have been measured, .* must be 16"
    with pytest.raises(ConfigError, match=words) as error:
        source_space("random://flux", source, normalise=True)
    assert "\n" not in str(error.value)


# --- latents of measured channels -------------------------------------------------------------------------------------


def test_each_channel_is_measured(cache: Path, source: LatentSource):
    mean, log_var = np.split(records(cache)["moments"].astype(np.float64), 2, axis=-1)
    measured = delivery(source).measured
    assert measured is not None
    np.testing.assert_allclose(measured["mean"], mean.mean(axis=(0, 1, 2, 3)), rtol=1e-6)
    variance = mean.var(axis=(0, 1, 2, 3)) + np.exp(log_var).mean(axis=(0, 1, 2, 3))
    np.testing.assert_allclose(np.square(measured["std"]), variance, rtol=1e-6)


def test_normalised_latents_have_mean_0_and_variance_1_and_are_decoded_as_they_were(source: LatentSource):
    plain, space = source_space(None, source), source_space(None, source, normalise=True)
    moments, key = jnp.asarray(source.__getitems__(np.arange(COUNT))[0]), jax.random.key(5)
    latents = space.draw(space.params, moments, key)
    np.testing.assert_allclose(latents.mean(axis=(0, 1, 2)), 0, atol=0.05)
    np.testing.assert_allclose(latents.std(axis=(0, 1, 2)), 1, atol=0.05)
    as_before = plain.draw(plain.params, moments, key)
    assert float(jnp.abs(latents - as_before).max()) > 0.1
    images = [one.decode(one.params, found[:4]) for one, found in ((space, latents), (plain, as_before))]
    np.testing.assert_allclose(*images, rtol=0, atol=1e-4)


def test_samples_of_a_run_are_decoded_as_it_normalised_them(cache: Path, source: LatentSource):
    changes = dict(name="latents", path=str(cache), normalise_latents=True)
    config = Config.of(data=changes, features=dict(encoders=()), model=dict(hidden_size=8, depth=1, num_heads=1))
    run = prepare(config)
    usage = Usage.of_run(run.config, json.loads(json.dumps(run.identity)))
    decoding = sample_space(usage.vae, (16, 16, 3), scale=usage.latents)
    assert decoding.vae is not None and run.parts.space.vae is not None
    assert scale_of(decoding.vae.arguments) == scale_of(run.parts.space.vae.arguments) == run.identity["latents"]
    assert usage.latents is not None and usage.latents["latents_mean"] == delivery(source).measured["mean"]
    plain = prepare(replace(config, data=replace(config.data, normalise_latents=False)))
    assert "latents" not in plain.identity and Usage.of_run(plain.config, plain.identity).latents is None


def test_a_cache_from_before_latents_were_measured_is_measured_by_the_same_command(
    copy: Path, source: LatentSource, tmp_path_factory: pytest.TempPathFactory
):
    for path in (copy / "manifest.json", *copy.glob("shard-*.json")):
        content = json.loads(path.read_text())
        del content["latents"]
        path.write_text(json.dumps(content))
    facts = json.loads((copy / "facts.json").read_text())
    del facts["vae_scale"]
    (copy / "facts.json").write_text(json.dumps(facts))
    (copy / "manifest.json").write_text(json.dumps(json.loads((copy / "manifest.json").read_text()) | {"facts": facts}))
    older = latents(copy)
    assert source_space(None, older).encoded
    with pytest.raises(ConfigError, match=r"^data\.normalise_latents=True: .* run its `drifting cache` command again"):
        source_space(None, older, normalise=True)
    assert build_cache(cache_settings(image_folder(tmp_path_factory)), copy)
    assert delivery(latents(copy)).measured == delivery(source).measured


def test_only_latents_of_a_cache_are_normalised(cache: Path):
    with pytest.raises(ConfigError, match=r"^data\.normalise_latents=True: latents that are encoded in training"):
        check(Config.of(data=dict(name="synthetic", vae=VAE, normalise_latents=True)))
    with pytest.raises(ConfigError, match=r"^data\.normalise_latents=True: no cache delivers these latents"):
        source_space(VAE, imagefolder_like(), normalise=True)


def test_the_vae_must_scale_latents_as_the_one_that_encoded(source: LatentSource):
    scale = {**scale_of(PRESETS["smoke"]), "shift_factor": 0.1159}
    source.delivers = replace(source.delivers, vae_scale=scale)
    try:
        words = r"^data\.vae='random://smoke': scales latents by shift_factor 0\.0 and not 0\.1159 as when .* was made"
        with pytest.raises(ConfigError, match=words):
            source_space(None, source)
        assert source_space(None, source, normalise=True).encoded
    finally:
        source.delivers = replace(source.delivers, vae_scale=scale_of(PRESETS["smoke"]))


def imagefolder_like() -> Any:
    return sources.source(DataConfig(name="synthetic", image_size=16, classes=2))


def test_settings_name_the_vae(source: LatentSource):
    config = spaces.named_vae(Config(), source)
    assert config.data.vae == VAE and spaces.named_vae(config, source) is config
    assert spaces.named_vae(PretrainConfig(data=DataConfig(vae="mine")), source).data.vae == "mine"
    assert spaces.named_vae(Config(), imagefolder_like()) == Config()


# --- what training refuses --------------------------------------------------------------------------------------------


def refused(path: Path, **data: Any) -> str:
    with pytest.raises(ConfigError) as error:
        sources.source(DataConfig(name="latents", path=str(path), **data))
    assert "\n" not in str(error.value)
    return str(error.value).removeprefix(f"data.path={str(path)!r}: ")


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def test_a_damaged_cache_is_refused(copy: Path):
    shard = copy / "shard-00001-of-00005.array_record"
    damage(shard)
    assert refused(copy).startswith(f"{shard}: is damaged, its SHA-256 is ")
    assert isinstance(sources.source(DataConfig(name="latents", path=str(copy), verify=False)), LatentSource)
    damage(copy / "shard-00002-of-00005.array_record")
    assert refused(copy).endswith("command again (and 1 more problem)")
    for path in copy.glob("shard-0000[12]*.array_record"):
        path.unlink()
    expected = f"{shard}: is missing; run the `drifting cache` command again (and 1 more problem)"
    assert refused(copy, verify=False) == expected
    (copy / "manifest.json").unlink()
    assert refused(copy) == "the cache is not finished; run its `drifting cache` command again"


def test_damage_that_appears_later_names_the_shard(copy: Path):
    source = latents(copy)
    for path in sorted(copy.glob("*.array_record"))[1:3]:
        path.write_bytes(b"\0" * path.stat().st_size)
    source.__getitems__([0])
    with pytest.raises(
        ValueError, match=r"shard-00001-of-00005\.array_record: cannot be read .*verification by `drifting cache`"
    ):
        source.__getitems__([0, 200])


def test_what_a_cache_cannot_give(cache: Path, unmirrored: Path, source: LatentSource):
    assert "has no mirror images (cache.flip=False): set data.flip=False" in refused(unmirrored, flip=True)
    found = sources.source(DataConfig(name="latents", path=str(unmirrored)))
    with pytest.raises(ValueError, match="made without mirror images"):
        found.read([0, 1], np.array([False, True]), None)  # type: ignore[attr-defined]
    assert found.read([0, 1], np.zeros(2, bool), None)[0].shape == (2, *LATENT[:2], 8)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="cannot be cropped"):
        source.read([0], np.zeros(1, bool), [0])
    with pytest.raises(ConfigError, match="has no held-out images"):
        sources.source(DataConfig(name="latents", path=str(cache)), split="heldout")
    for key, given, known in (("image_size", 32, 16), ("channels", 1, 3), ("classes", 4, 100)):
        line = f"data.{key}={given}: the images that {cache} was made from have {known}; leave it None"
        assert refused(cache, **{key: given}) == line
    same = DataConfig(name="latents", path=str(cache), image_size=16, channels=3, classes=100)
    assert len(sources.source(same)) == COUNT  # what the settings of the images say besides


# --- the whole path ---------------------------------------------------------------------------------------------------


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Any]:
    """Runs a command of a tiny experiment in a folder of its own."""

    def run(command: str, config: str, workdir: str, **settings: Any) -> int:
        given = [f"--config.{key.replace('__', '.')}={value}" for key, value in settings.items()]
        return main([command, f"--config={ROOT / 'configs' / config}:tiny", f"--workdir={tmp_path / workdir}", *given])

    yield run


def test_from_a_folder_of_images_to_samples(
    commands: Any, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
):
    """Through the command line alone: cache, encoder, generator, samples."""
    folder = {"data__name": "imagefolder", "data__path": image_folder(tmp_path_factory), "data__channels": None}
    settings = folder | {"data__classes": None, "cache__max_bad": 0.01}
    assert commands("cache", "data/imagenet.py", "cache", **settings) == 0
    data = {"data__name": "latents", "data__path": tmp_path / "cache", "data__classes": None, "data__flip": True}
    data |= {"data__normalise_latents": True}
    assert commands("pretrain", "mae_latent_256.py", "encoder", **data, data__random_crop=False) == 0
    encoder = tmp_path / "encoder" / "encoder"
    assert commands("train", "imagenet_latent_b.py", "generator", **data, features__mae=encoder) == 0
    assert commands("train", "imagenet_latent_b.py", "generator", **data, features__mae=encoder) == 0  # goes on: done
    log = capsys.readouterr().err
    assert "data: latents, 595 samples of 16x16x3, 100 classes" in log and f"of {VAE}" in log
    trained = TrainedGenerator.from_run(tmp_path / "generator")
    assert trained.usage.latents is not None and trained.usage.latents["latents_std"] is not None
    assert trained.usage.vae == VAE and trained.space.shape == LATENT and len(trained.usage.class_names) == 100
    assert main(["sample", f"--workdir={tmp_path / 'generator'}", "--classes=class_003,7", "--columns=2"]) == 0
    assert (tmp_path / "generator" / "samples.png").is_file()
    assert len(list((tmp_path / "encoder" / "samples").glob("*.png"))) == 1


def test_latents_are_not_cropped_at_random():
    with pytest.raises(ConfigError, match=r"^data\.random_crop=True: .*: set data\.random_crop=False"):
        check(parse({"data": {"name": "latents", "path": "x", "random_crop": True}}, PretrainConfig))
