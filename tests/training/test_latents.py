"""Encoding an image folder: records against the VAE itself, and the same ones whatever happens on the way."""

import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from drifting.assembly.spaces import sample_space
from drifting.cli.commands import main
from drifting.cli.settings import load_settings
from drifting.config.checks import check
from drifting.config.parse import parse
from drifting.config.schema import CacheBuild, to_dict
from drifting.data.batches import members_of
from drifting.data.latents.read import record_type
from drifting.data.latents.shards import shards_of
from drifting.data.sources.folder import imagefolder
from drifting.data.sources.latents import latents
from drifting.errors import CacheError, ConfigError
from drifting.method.space import SampleSpace
from drifting.runs.shared_work import Share
from drifting.training.latents import build_cache
from drifting.weights.references import network
from tests.support import runs
from tests.support.caches import BAD, IMAGES, LATENT, cache_settings, finished_cache, image_folder, records, small_vae
from tests.support.image_folder import make_image_folder
from tests.support.runs import FULL, ROOT, command

MANY, SHARD, KILLS, SECONDS = (20_000, 512, 10, 2.0) if FULL else (IMAGES, 64, 1, 0.0)

SHARDS = -(-MANY // SHARD)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image_folder(tmp_path_factory)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_cache(tmp_path_factory)


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A cache that may be damaged."""
    return Path(shutil.copytree(finished, tmp_path / "cache"))


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, without what tells how long a shard took."""
    found = runs.tree(folder)
    for name, content in found.items():
        if name.startswith("shard-") and name.endswith(".json"):
            found[name] = json.dumps({k: v for k, v in json.loads(content).items() if k != "seconds"}).encode()
    return found


def line_of(call: Any, kind: type[Exception] = ConfigError) -> str:
    with pytest.raises(kind) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


# --- what is written --------------------------------------------------------------------------------------------------


def test_the_records_are_the_moments_of_the_readable_images_in_order(finished: Path, folder: Path):
    source = imagefolder(folder, 16)
    manifest = json.loads((finished / "manifest.json").read_text())
    bad = [image["index"] for image in manifest["bad"]]
    table = records(finished)
    assert len(bad) == BAD and len(table) == manifest["images"] == IMAGES - BAD
    np.testing.assert_array_equal(table["index"], np.setdiff1d(np.arange(IMAGES), bad))
    np.testing.assert_array_equal(table["label"], source.labels[table["index"]])
    np.testing.assert_array_equal(np.load(finished / "labels.npy"), table["label"])
    vae = network("random://smoke", "vae", dtype="float32", remat=False)
    encode = jax.jit(nnx.merge(vae.graphdef, vae.params).encode)
    images = source.__getitems__(table["index"])[0]
    for view, pixels in enumerate((images, images[:, :, ::-1])):
        expected = np.concatenate(encode(jnp.asarray(pixels)), axis=-1)
        # Float16 has 11 significant bits.
        np.testing.assert_allclose(table["moments"][:, view], expected, rtol=2e-3, atol=1e-3)
    assert np.abs(table["moments"][:, 0] - table["moments"][:, 1]).max() > 0.1


def test_the_manifest_says_what_the_cache_is(finished: Path, folder: Path):
    manifest = json.loads((finished / "manifest.json").read_text())
    facts = manifest["facts"]
    assert (facts["data"], facts["samples"], facts["shape"], facts["crop"]) == (
        "imagefolder",
        IMAGES,
        [16, 16, 3],
        "ADM centre",
    )
    assert (facts["vae"], facts["vae_checksum"], facts["latent_shape"]) == (
        "random://smoke",
        "random://smoke",
        list(LATENT),
    )
    assert facts["classes"] == [f"class_{c:03}" for c in range(100)]
    files = sorted(path.name for path in finished.iterdir())
    shards = [shard["file"] for shard in manifest["shards"]]
    assert shards == [f"shard-{k:05}-of-00005.array_record" for k in range(5)]
    records_of = [name.replace(".array_record", ".json") for name in shards]
    assert files == sorted([*shards, *records_of, "config.json", "facts.json", "labels.npy", "manifest.json"])
    damaged = sorted(str(folder / f"class_{i % 100:03}" / f"{i:05}.jpg") for i in range(7, IMAGES, IMAGES // 5 + 1))
    begin = f"data.path={str(folder)!r}: cannot read the image "
    assert all(image["reason"].startswith(begin) for image in manifest["bad"])
    named = sorted(image["reason"].removeprefix(begin).split(": ")[0] for image in manifest["bad"])
    assert named == damaged


def test_without_mirror_images_a_record_is_half(finished: Path, folder: Path, tmp_path: Path):
    assert build_cache(cache_settings(folder, flip=False), tmp_path)
    found = tree(tmp_path)["shard-00000-of-00005.array_record"]
    whole = records(finished)
    assert whole["moments"][0, 0].tobytes() in found and whole["moments"][0, 1].tobytes() not in found


def test_a_class_of_damaged_images_leaves_an_empty_shard(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    source, workdir = tmp_path / "folder", tmp_path / "cache"
    make_image_folder(source, 200)
    for number in range(3, 100):
        shutil.rmtree(source / f"class_{number:03}")
    for path in (source / "class_001").iterdir():
        path.write_bytes(b"")
    assert build_cache(cache_settings(source, shard_size=2, batch_size=2, max_bad=0.5), workdir)
    manifest = json.loads((workdir / "manifest.json").read_text())
    assert [shard["records"] for shard in manifest["shards"]] == [2, 0, 2]
    assert "1 of 3 classes without an image that can be read, which training asks for: class_001" in caplog.text
    line = line_of(lambda: members_of(latents(workdir)), ValueError)
    assert line.startswith(f"1 of 3 classes of {workdir} have no image: class_001; leave them out") and "again" in line
    assert main(["cache", "--verify", f"--workdir={workdir}"]) == 0
    assert records(workdir)["index"].tolist() == [0, 1, 4, 5]
    moments, labels = latents(workdir).__getitems__([3, 0, 2])
    np.testing.assert_array_equal(moments, records(workdir)["moments"][[3, 0, 2], 0])
    assert labels.tolist() == [2, 0, 2]


# --- whatever happens on the way --------------------------------------------------------------------------------------


class Process:
    """`drifting cache` in a process of its own, in `workdir`."""

    def __init__(self, folder: Path, workdir: Path, *arguments: str, devices: int = 1) -> None:
        self.workdir, self._config = workdir, workdir.with_suffix(".py")
        settings = to_dict(cache_settings(folder, shard_size=SHARD))
        self._config.write_text(
            "from drifting.config import CacheBuild, parse, to_config_dict\n"
            f"def get_config():\n    return to_config_dict(parse({settings!r}, CacheBuild))\n"
        )
        given = command("cache", f"--config={self._config}", f"--workdir={workdir}", *arguments)
        xla = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
        self.process = subprocess.Popen(given, stderr=subprocess.PIPE, text=True, env=os.environ | {"XLA_FLAGS": xla})

    def wait_for(self, pattern: str, more_than: int = 0) -> None:
        while self.process.poll() is None and len(list(self.workdir.glob(pattern))) <= more_than:
            time.sleep(0.005)

    def end(self) -> tuple[int, str]:
        _, log = self.process.communicate(timeout=300)
        return self.process.returncode, log


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """A folder of `MANY` images, and the files of its cache made by one process."""
    base = tmp_path_factory.mktemp("many")
    folder = image_folder(tmp_path_factory)
    if FULL:
        folder = base / "folder"
        make_image_folder(folder, MANY)
    assert build_cache(cache_settings(folder, shard_size=SHARD), base / "one")
    return folder, tree(base / "one")


def test_two_processes_make_the_same_files(expected: Any, tmp_path: Path):
    """And with several devices, over which each spreads its batches."""
    folder, files = expected
    flags = [(f"--process_index={i}", "--process_count=2") for i in range(2)]
    processes = [Process(folder, tmp_path / "cache", *flags[i], devices=(2, 3)[i]) for i in range(2)]
    logs = []
    for process in processes:
        code, log = process.end()
        assert code == 0, log
        logs.append(log)
    assert tree(tmp_path / "cache") == files
    assert any("cache: done, " in log for log in logs)
    for number, log in enumerate(logs):
        assert f"cache: {(SHARDS + 1 - number) // 2} of {SHARDS} shards to make" in log
        assert ("cache.batch_size=32 is spread over 1 of the 3 devices" in log) == (number == 1)


def test_killed_at_random_it_ends_with_the_same_files(expected: Any, tmp_path: Path):
    folder, files = expected
    workdir, rng = tmp_path / "cache", np.random.default_rng(0)
    stopped = Process(folder, workdir)
    stopped.wait_for(".shard-*.tmp")
    stopped.process.send_signal(signal.SIGTERM)
    code, log = stopped.end()
    outcome = "error: cache: stopped, the same command goes on from there" if code else "cache: done, "
    assert code in (0, 1) and outcome in log, log
    assert not list(workdir.glob(".*"))
    hits = 0
    for number in range(KILLS):
        killed = Process(folder, workdir)
        if number % 2 or not FULL:  # rounds that get on, however slow the machine is
            killed.wait_for("shard-*.json", more_than=len(list(workdir.glob("shard-*.json"))))
        else:
            killed.wait_for(".shard-*.tmp")
        time.sleep(rng.uniform(0, SECONDS))
        killed.process.kill()
        hits += killed.end()[0] == -signal.SIGKILL
        for name, content in tree(workdir).items():  # nothing is ever there in part under its own name
            assert name.startswith(".") or files[name] == content
    code, log = Process(folder, workdir).end()
    assert code == 0 and "cache: done, " in log, log
    assert tree(workdir) == files
    assert hits > KILLS // 2
    assert f"cache: {SHARDS} of {SHARDS} shards to make" not in log  # it did go on


class Killed(BaseException):
    """Ends everything at once."""


def test_ended_before_any_file_appears_it_goes_on(
    finished: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Every rename is the one that does not happen once: of a shard, of its record, of the labels, of the manifest."""
    real, copied, whole = os.replace, tmp_path / "cache", tree(finished)
    shutil.copytree(finished, copied)
    for number in range(10):
        for name in ("manifest.json", "labels.npy", "shard-00000-of-00005.json", "shard-00000-of-00005.array_record"):
            (copied / name).unlink(missing_ok=True)
        calls = 0

        def rename(*arguments: Any, number: int = number) -> None:
            nonlocal calls
            calls += 1
            if calls > number:
                raise Killed
            real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", rename)
            try:
                build_cache(cache_settings(folder), copied)
                break
            except Killed:
                pass
        left = tree(copied)
        assert left.items() <= whole.items() and ("manifest.json" in left) is False
    assert number == 4 and tree(copied) == whole


def test_a_finished_cache_is_left_as_it_is(finished: Path, folder: Path, copy: Path, caplog: pytest.LogCaptureFixture):
    """And what is said of it is what all calls did together."""
    for number in range(5):
        path = copy / f"shard-{number:05}-of-00005.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"seconds": 100 + number}))
    caplog.set_level(logging.INFO, "drifting")
    assert build_cache(cache_settings(folder), copy)
    assert tree(copy) == tree(finished)
    said = f"cache: done, 595 images encoded in 8:30, of all processes and calls together, 5 left out; {copy} holds 1"
    assert said in caplog.text and " MB\n" in caplog.text


def test_a_damaged_shard_is_made_again(finished: Path, folder: Path, copy: Path):
    (copy / "shard-00002-of-00005.array_record").unlink()
    (copy / "shard-00000-of-00005.json").write_text("{")
    record = copy / "shard-00004-of-00005.json"
    record.write_text(json.dumps({k: v for k, v in json.loads(record.read_text()).items() if k != "bad"}))
    for name in ("shard-00003-of-00005.array_record", "shard-00002-of-00005.json", "labels.npy", "facts.json"):
        (copy / f".{name}.0.tmp").write_bytes(b"half")  # of a process that was killed
    assert build_cache(cache_settings(folder), copy)
    assert tree(copy) == tree(finished)


def test_images_that_were_mended_are_taken_in(
    folder: Path, copy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO, "drifting")
    mended = tmp_path / "folder"
    shutil.copytree(folder, mended)
    broken = mended / "class_028" / "00128.jpg"
    assert build_cache(cache_settings(mended), copy)  # nothing yet
    before = tree(copy)
    shutil.copy(mended / "class_028" / "00028.jpg", broken)
    assert build_cache(cache_settings(mended), copy)
    assert "cache: image 169 can be read now, shard-00001-of-00005.array_record is made again" in caplog.text
    changed = {name for name, content in tree(copy).items() if before[name] != content}
    assert changed == {"shard-00001-of-00005.array_record", "shard-00001-of-00005.json", "labels.npy", "manifest.json"}
    assert records(copy)["index"][168] == 169 and len(records(copy)) == IMAGES - BAD + 1


# --- what stops it ----------------------------------------------------------------------------------------------------


def test_too_many_bad_images_stop_it_and_it_goes_on_when_more_are_allowed(finished: Path, folder: Path, tmp_path: Path):
    line = line_of(lambda: build_cache(cache_settings(folder, max_bad=0.005), tmp_path / "cache"), CacheError)
    assert line.startswith(f"cache: 4 of {IMAGES} images cannot be read, more than cache.max_bad=0.005 allows, ")
    assert "class_" in line and "raise cache.max_bad" in line
    left = tree(tmp_path / "cache")
    assert "manifest.json" not in left and not [name for name in left if name.startswith(".")]
    assert any(name.endswith(".array_record") for name in left)
    assert build_cache(cache_settings(folder), tmp_path / "cache")
    assert tree(tmp_path / "cache") == tree(finished)  # config.json, too: it tells of the last call


def test_bad_images_of_all_processes_count(finished: Path, folder: Path, copy: Path):
    """While it makes its shards, a process knows of the bad images of finished ones alone."""
    (copy / "manifest.json").unlink()
    for max_bad in (4 / IMAGES, 0.0):
        line = line_of(lambda max_bad=max_bad: build_cache(cache_settings(folder, max_bad=max_bad), copy), CacheError)
        assert line.startswith(f"cache: 5 of {IMAGES} images cannot be read, more than cache.max_bad={max_bad:g} allow")
        assert not (copy / "manifest.json").exists()
    assert build_cache(cache_settings(folder), copy) and tree(copy) == tree(finished)
    line_of(lambda: build_cache(cache_settings(folder, max_bad=0.0), copy), CacheError)  # of a finished one, too


def test_another_cache_is_not_written_over(copy: Path, folder: Path, tmp_path: Path):
    other_vae = small_vae(tmp_path / "vae", seed=1)
    shutil.copytree(folder, tmp_path / "more")
    shutil.copy(tmp_path / "more" / "class_000" / "00000.jpg", tmp_path / "more" / "class_099" / "99999.jpg")
    exchanged = tmp_path / "exchanged"
    shutil.copytree(folder, exchanged)
    shutil.copy(exchanged / "class_000" / "00000.jpg", exchanged / "class_099" / "00599.jpg")
    before = tree(copy)
    cases = [
        (cache_settings(folder, shard_size=64), "holds a run with other settings (cache.shard_size was 128, is 64)"),
        (cache_settings(folder, flip=False), "holds a run with other settings (cache.flip was True, is False)"),
        (cache_settings(folder, {"image_size": 32}), "holds a run with other settings (data.image_size was 16, is 32)"),
        (cache_settings(folder, {"vae": str(other_vae)}), "holds a cache of something else (vae_checksum was 'random:"),
        (cache_settings(tmp_path / "more"), "holds a cache of something else (samples was 600, is 601; checksum was"),
        (cache_settings(exchanged), "holds a cache of something else (checksum was '"),
    ]
    for config, words in cases:
        line = line_of(lambda config=config: build_cache(config, copy))
        assert line.startswith(f"workdir={copy}: {words}")
    assert tree(copy) == before


def test_moments_that_are_not_finite_stop_it(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def moments(self: SampleSpace, params: Any, images: jax.Array) -> jax.Array:
        return jnp.full((images.shape[0], *LATENT[:2], 2 * LATENT[2]), 7e4).at[:3].set(0.0)

    monkeypatch.setattr(SampleSpace, "moments", moments)
    (tmp_path / "empty").mkdir()
    for workdir in (tmp_path / "new", tmp_path / "empty"):
        line = line_of(lambda workdir=workdir: build_cache(cache_settings(folder), workdir), CacheError)
        assert line.startswith("cache: moments of image 0 are not finite in float16")
    assert list(tmp_path.rglob("*")) == [tmp_path / "empty"]  # another VAE can be tried in the same folder


def test_a_full_disk_leaves_nothing_in_part(finished: Path, folder: Path, tmp_path: Path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        line = line_of(lambda: build_cache(cache_settings(folder), tmp_path), CacheError)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "a shard cannot be written (File too large); finished shards stay" in line
    assert not list(tmp_path.glob("*shard*"))
    assert build_cache(cache_settings(folder), tmp_path) and tree(tmp_path) == tree(finished)


def test_processes_that_there_are_not(folder: Path, tmp_path: Path):
    line = line_of(lambda: build_cache(cache_settings(folder), tmp_path, Share(2, 2)))
    assert line == "index=2: must be 0 or more and below the number of processes, 2"
    assert not list(tmp_path.iterdir())


def test_which_process_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    called: list[tuple[int, int]] = []
    monkeypatch.setattr(
        "drifting.training.latents.build_cache", lambda *given: called.append((given[2].index, given[2].count))
    )
    arguments = ["cache", f"--config={ROOT}/configs/data/imagenet.py", f"--workdir={tmp_path}"]
    for name in ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    assert main(arguments) == 0
    monkeypatch.setenv("SLURM_PROCID", "3")
    assert main(arguments) == 0  # in a batch script, not in a step
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    assert main(arguments) == 0
    assert main([*arguments, "--process_index=1", "--process_count=2"]) == 0
    assert called == [(0, 1), (0, 1), (3, 4), (1, 2)]
    assert main([*arguments, "--process_count=2"]) == 2 and len(called) == 4
    wanted = "drifting: error: --process_count=2: say which of them this one is, --process_index=I\n"
    assert capsys.readouterr().err == wanted


@pytest.mark.parametrize(("samples", "size", "sizes"), [(1, 4, [1]), (8, 4, [4, 4]), (9, 4, [4, 4, 1])])
def test_shards_cover_everything_once(samples: int, size: int, sizes: list[int]):
    shards = shards_of(Path("x"), samples, size)
    assert [len(shard.indices) for shard in shards] == sizes
    assert [i for shard in shards for i in shard.indices] == list(range(samples))


def test_imagenet_says_how_it_is_encoded():
    path = ROOT / "configs" / "data" / "imagenet.py"
    assert "drifting cache --config=configs/data/imagenet.py" in path.read_text()
    config = parse(load_settings(str(path)), CacheBuild)
    check(config)
    assert config.cache.flip and config.data.image_size == 256  # type: ignore[union-attr]
    assert record_type((32, 32, 4), flip=True).itemsize == 32_776 and len(shards_of(path, 1_281_167, 8192)) == 157


# --- verification -----------------------------------------------------------------------------------------------------


def verify(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, list[str]]:
    """Exit code, standard output, lines on standard error."""
    capsys.readouterr()
    code = main(["cache", "--verify", f"--workdir={folder}"])
    captured = capsys.readouterr()
    return code, captured.out, captured.err.splitlines()


def test_a_sound_cache(finished: Path, capsys: pytest.CaptureFixture[str]):
    expected = f"{finished}: 595 images in 5 shards, 5 left out, all as the checksums say; latents of random://smoke\n"
    assert verify(finished, capsys) == (0, expected, [])


def test_whatever_is_wrong_is_a_line(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    shard = copy / "shard-00001-of-00005.array_record"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 4
    shard.write_bytes(data)
    (copy / "shard-00003-of-00005.array_record").unlink()
    longer = copy / "shard-00004-of-00005.array_record"
    longer.write_bytes(longer.read_bytes() + b"more")
    labels = np.load(copy / "labels.npy")
    np.save(copy / "labels.npy", labels[::-1])
    code, out, lines = verify(copy, capsys)
    assert (code, out) == (1, "")
    words = ["00001-of-00005.array_record: is damaged, its SHA-256 is", "00003-of-00005.array_record: is missing; run"]
    words += ["00004-of-00005.array_record: has", "labels.npy: is damaged; remove it"]
    assert len(lines) == 4 and all(word in line for word, line in zip(words, lines, strict=True))
    assert all(line.startswith(f"drifting: error: {copy}/") for line in lines)


def test_folders_that_are_no_finished_cache(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    manifest = json.loads((copy / "manifest.json").read_text())
    other = manifest | {"facts": manifest["facts"] | {"vae_checksum": "0" * 64}}
    (copy / "manifest.json").write_text(json.dumps(other))
    cases = [(copy, f"of another cache (vae_checksum is '{'0' * 64}', here 'random://smoke')")]
    newer, torn, unfinished = (tmp_path / name for name in ("newer", "torn", "unfinished"))
    for path in (newer, torn, unfinished):
        shutil.copytree(copy, path)
    (newer / "manifest.json").write_text(json.dumps(manifest | {"version": 2}))
    (torn / "manifest.json").write_text("{")
    (unfinished / "manifest.json").unlink()
    cases += [
        (newer, "is 'drifting latents' version 2, not"),
        (torn, "cannot be read"),
        (unfinished, "is not finished"),
    ]
    for path, words in cases:
        code, out, lines = verify(path, capsys)
        assert (code, out, len(lines)) == (1, "", 1) and words in lines[0]
    told = [
        f"drifting: error: --workdir={tmp_path}: holds no cache of latents; give a folder that `drifting cache` wrote"
    ]
    assert verify(tmp_path, capsys) == (2, "", told)


def test_space_without_a_vae_has_no_moments():
    with pytest.raises(ValueError, match=r"^data\.vae=None"):
        sample_space(None, (8, 8, 3)).moments({}, jnp.zeros((1, 8, 8, 3)))
