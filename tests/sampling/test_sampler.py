"""Samples depend on their own seed, class and guidance scale, and on nothing else."""

import dataclasses
import json
import logging
import re
import shutil
import signal
import subprocess
import time
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from drifting.config.parse import parse
from drifting.config.schema import Config, ema_decay
from drifting.devices.block_function import BlockFunction
from drifting.errors import ConfigError
from drifting.runs.shared_work import Share
from drifting.sampling.files import write_images, write_npz
from drifting.sampling.generator import TrainedGenerator, params_sha256
from drifting.sampling.grid import write_grid
from drifting.sampling.images import GeneratedImages, to_uint8
from drifting.sampling.labels import (
    balanced_labels,
    class_labels,
    class_line,
    distinct_class_labels,
    titles,
    wanted_labels,
)
from drifting.sampling.sampler import Sampler
from drifting.scoring.image_sets import NpzImages, open_images
from tests.support.runs import command, finished_run, saved, tiny_config, tree


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory)


@pytest.fixture(scope="module")
def trained(run: Path) -> TrainedGenerator:
    return TrainedGenerator.from_run(run)


LABELS = np.asarray([3, 1, 4, 1, 5, 9, 2, 6, 5, 3], np.int32)


def test_batches_and_devices_do_not_matter(trained: TrainedGenerator):
    labels, seeds = np.tile(LABELS, 4), np.arange(5, 45)
    images = trained.sample(labels, seed=5, alpha=1.5, batch_size=7)
    assert images.shape == (40, 8, 8, 1) and images.dtype == np.float32 and np.isfinite(images).all()
    for batch_size, devices in ((1, None), (500, None), (1, jax.local_devices() * 3), (64, jax.local_devices() * 2)):
        other = Sampler(trained.generator, trained.space, batch_size, devices)(trained.params, labels, seeds, 1.5)
        np.testing.assert_array_equal(other, images)


def test_blocks_are_full_and_in_order():
    blocks = BlockFunction(lambda scale, x, y: {"sum": scale * (x + y[:, 0]), "rows": y}, 4, jax.local_devices() * 2, 3)
    x, y = np.arange(11, dtype=np.float32), np.ones((11, 2), np.float32)
    found = list(blocks(blocks.place(np.float32(2)), (x, y)))
    assert [len(block["rows"]) for block in found] == [4, 4, 3]
    np.testing.assert_array_equal(np.concatenate([block["sum"] for block in found]), 2 * (x + 1))
    assert list(blocks(blocks.place(np.float32(2)), (x[:0], y[:0]))) == []


def test_image_i_has_the_seed_of_the_first_plus_i(trained: TrainedGenerator):
    whole = trained.sample(np.full(10, 3), seed=20, alpha=1.0, batch_size=10)
    tail = trained.sample(np.full(4, 3), seed=26, alpha=1.0, batch_size=10)
    np.testing.assert_allclose(tail, whole[6:], rtol=0, atol=2e-6 * np.abs(whole).max())
    assert all(np.any(whole[i] != whole[j]) for i in range(10) for j in range(i))


def test_class_seed_and_scale_all_matter(trained: TrainedGenerator):
    def image(label: int, seed: int, alpha: float) -> np.ndarray:
        return trained.sample(np.asarray([label]), seed, alpha, batch_size=1)

    first = image(3, 0, 1.0)
    np.testing.assert_array_equal(image(3, 0, 1.0), first)
    for other in (image(4, 0, 1.0), image(3, 1, 1.0), image(3, 0, 2.0)):
        assert np.any(other != first)


def test_nothing_asked_for_is_nothing(trained: TrainedGenerator):
    sampler = Sampler(trained.generator, trained.space, 4)
    assert sampler(trained.params, np.zeros(0), np.zeros(0), 1.0).shape == (0, 8, 8, 1)


def test_balanced_labels():
    np.testing.assert_array_equal(balanced_labels(7, 3), [0, 1, 2, 0, 1, 2, 0])
    assert np.ptp(np.bincount(balanced_labels(1400, 10))) == 0


def test_the_average_that_is_asked_for_is_read(run: Path, trained: TrainedGenerator):
    step, arrays, _ = saved(run)
    assert (trained.step, trained.ema_decay) == (step, 0.9)
    slow = TrainedGenerator.from_run(run, 0.99)
    for decay, generator in (("0.9", trained), ("0.99", slow)):
        expected = arrays[f"['ema']['{decay}']['final']['kernel']"]
        np.testing.assert_array_equal(np.asarray(generator.params["final"]["kernel"]), expected)
    assert np.any(np.asarray(slow.params["final"]["kernel"]) != np.asarray(trained.params["final"]["kernel"]))


def test_which_average():
    config = tiny_config()
    assert ema_decay(config) == 0.9 and ema_decay(config, 0.99) == 0.99
    assert ema_decay(tiny_config(eval=dict(ema_decay=0.99))) == 0.99
    zero = parse({"train": {"ema_decays": (0.5, 0.0)}, "eval": {"ema_decay": 0.0}})
    assert isinstance(zero, Config) and ema_decay(zero) == 0.0
    with pytest.raises(ConfigError, match=r"^average=0\.5: the run does not keep it, use one of 0\.9, 0\.99$"):
        ema_decay(config, 0.5)


def test_no_data_is_needed(run: Path, tmp_path: Path):
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    text = (moved / "config.json").read_text()
    (moved / "config.json").write_text(text.replace('"name": "digits"', '"name": "imagefolder"'))
    first, second = (
        TrainedGenerator.from_run(folder).sample(LABELS, seed=5, alpha=1.0, batch_size=10) for folder in (moved, run)
    )
    np.testing.assert_array_equal(first, second)


def test_a_scale_outside_the_trained_range_is_warned_of(trained: TrainedGenerator, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, "drifting"):
        assert trained.alpha(None) == 1.0 and trained.alpha(4.0) == 4.0
        assert not caplog.records
        assert trained.alpha(4.5) == 4.5
    assert "alpha=4.5 lies outside the trained range [1, 4]" in caplog.text
    for alpha in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=r"^alpha="):
            trained.alpha(alpha)


def test_a_grid_of_classes(run: Path, tmp_path: Path):
    path = tmp_path / "new" / "grid.png"
    write_grid(TrainedGenerator.from_run(run), path, classes=["7", "0"], columns=3, seed=4)
    assert [f.name for f in path.parent.iterdir()] == ["grid.png"]
    tile = 64 + 2
    with Image.open(path) as image:
        rows = json.loads(image.text["Rows"])
        assert rows["names"] == ["7", "0"] and image.size == (rows["left"] + 3 * tile + 2, 2 * tile + 2)
        pixels = np.asarray(image).astype(np.int16)[:, rows["left"] :, 0]
    drawn = TrainedGenerator.from_run(run).sample(np.asarray([7, 7, 7, 0, 0, 0]), seed=4, alpha=1.0, batch_size=6)
    for i, sample in enumerate(drawn):
        top, left = i // 3 * tile + 2, i % 3 * tile + 2
        shown = pixels[top : top + 64 : 8, left : left + 64 : 8]
        assert np.abs(shown - np.rint((sample[..., 0].clip(-1, 1) + 1) * 127.5)).max() <= 1


@pytest.mark.parametrize("classes", ["x", "10", "-1", "1.0", 10, -1, 1.5, 1.0, True, None, np.int64(-3), 10**30])
def test_unknown_classes(trained: TrainedGenerator, tmp_path: Path, classes: Any):
    with pytest.raises(
        ConfigError, match=rf"^classes={re.escape(str(classes))}: use names or whole numbers from 0 to 9$"
    ):
        trained.sample([classes])
    with pytest.raises(ConfigError, match=r"^classes=.*: use names or whole numbers from 0 to 9$"):
        write_grid(trained, tmp_path / "x.png", classes=[classes])
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_sampled(run: Path, trained: TrainedGenerator, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"^path=.*x\.jpg: must end in \.png"):
        write_grid(trained, tmp_path / "x.jpg")
    with pytest.raises(ConfigError, match="give at least one class"):
        write_grid(trained, tmp_path / "x.png", classes=[])
    new = tmp_path / "new"
    new.mkdir()
    shutil.copy(run / "config.json", new)
    with pytest.raises(ConfigError, match="has no checkpoint yet; run `drifting train` first"):
        TrainedGenerator.from_run(new)
    with pytest.raises(ConfigError, match="holds no run"):
        TrainedGenerator.from_run(tmp_path)


# --- files of images --------------------------------------------------------------------------------------------------


def generated(trained: TrainedGenerator, count: int, batch_size: int = 64, **changes) -> GeneratedImages:
    labels = wanted_labels(trained.usage.class_names, count)
    return GeneratedImages(trained, labels, source="run", alpha=1.5, batch_size=batch_size, **changes)


@pytest.fixture(scope="module")
def whole(trained: TrainedGenerator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five thousand digits, drawn by one process that was left alone."""
    path = tmp_path_factory.mktemp("whole") / "digits.npz"
    assert write_images(generated(trained, 5000), path)
    return path


def test_the_npz_is_adms(whole: Path, trained: TrainedGenerator):
    assert sorted(file.name for file in whole.parent.iterdir()) == ["digits.json", "digits.npz"]
    with np.load(whole, allow_pickle=False) as arrays:
        assert arrays.files == ["arr_0", "arr_1"]
        images, labels = arrays["arr_0"], arrays["arr_1"]
    np.testing.assert_array_equal(labels, np.arange(5000) % 10)
    assert images.dtype == np.uint8 and images.shape == (5000, 8, 8, 1)
    drawn = trained.sample(labels[:48], seed=0, alpha=1.5, batch_size=64)
    np.testing.assert_array_equal(images[:48], ((drawn.clip(-1, 1) + 1) * 127.5).astype(np.uint8))
    # It is read without unpacking it.
    read = open_images(whole)
    assert len(read) == 5000 and read.shape == (8, 8, 1)
    np.testing.assert_array_equal(read.part(range(4990, 5000)), images[-10:])
    said = json.loads(whole.with_suffix(".json").read_text())
    facts = {"step": 120, "ema_decay": 0.9, "alpha": 1.5, "num": 5000, "seed": 0, "uint8": "truncate"}
    assert {name: said[name] for name in facts} == facts and said["labels"] == labels.tolist()


@pytest.mark.parametrize("batches", [(500,), (64, 500)], ids=["one process", "two processes"])
def test_processes_and_batches_do_not_matter(
    whole: Path, trained: TrainedGenerator, tmp_path: Path, batches: tuple[int, ...]
):
    done = [
        write_images(generated(trained, 5000, batch), tmp_path / "digits.npz", Share(index, len(batches)))
        for index, batch in enumerate(batches)
    ]
    assert done == [False] * (len(batches) - 1) + [True]  # the last one puts it together
    assert (tmp_path / "digits.npz").read_bytes() == whole.read_bytes()


def test_two_processes_of_the_operating_system(whole: Path, run: Path, tmp_path: Path):
    out = tmp_path / "digits.npz"
    sample = command("sample", f"--workdir={run}", f"--out={out}", "--num=5000", "--alpha=1.5", "--process_count=2")
    batches = [[f"--process_index={index}", f"--batch={batch}"] for index, batch in enumerate((64, 500))]
    started = [subprocess.Popen([*sample, *batch], stderr=subprocess.DEVNULL) for batch in batches]
    assert [process.wait(timeout=120) for process in started] == [0, 0]
    assert out.read_bytes() == whole.read_bytes()


@pytest.fixture(scope="module")
def longer(trained: TrainedGenerator, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Enough digits that a process is certainly killed before it has drawn them all."""
    path = tmp_path_factory.mktemp("longer") / "digits.npz"
    assert write_images(generated(trained, 20_000), path)
    return path.read_bytes()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_what_was_killed_goes_on(
    longer: bytes, run: Path, trained: TrainedGenerator, tmp_path: Path, how: signal.Signals
):
    out = tmp_path / "digits.npz"
    arguments = [f"--workdir={run}", f"--out={out}", "--num=20000", "--alpha=1.5"]
    process = subprocess.Popen(command("sample", *arguments), stderr=subprocess.DEVNULL)
    parts, deadline = tmp_path / "digits.npz.parts", time.monotonic() + 120
    while len(list(parts.glob("part-*"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(how)
    assert process.wait(timeout=60) == (-how if how == signal.SIGKILL else 0)
    assert 3 <= len(list(parts.glob("part-*"))) < 40 and not out.exists()
    assert write_images(generated(trained, 20_000), out)
    assert out.read_bytes() == longer


def test_resuming_draws_only_what_is_missing(
    whole: Path, trained: TrainedGenerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out, asked = tmp_path / "digits.npz", []
    part = GeneratedImages.part

    def failing(self: GeneratedImages, items: range, tick) -> np.ndarray:
        asked.append(items.start)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return part(self, items, tick)

    monkeypatch.setattr(GeneratedImages, "part", failing)
    with pytest.raises(KeyboardInterrupt):
        write_images(generated(trained, 5000), out)
    (tmp_path / "digits.npz.parts" / ".part-00003-of-00010.npy.0123.tmp").write_bytes(b"torn")
    assert write_images(generated(trained, 5000, batch_size=500), out)
    assert asked == [0, 512, 1024, 1536, *range(1536, 5000, 512)]
    assert out.read_bytes() == whole.read_bytes()
    assert write_images(generated(trained, 5000), out) and len(asked) == 11  # nothing is left to do
    assert sorted(file.name for file in tmp_path.iterdir()) == ["digits.json", "digits.npz"]
    with pytest.raises(ConfigError, match=r"^out=.*: is of something else \(alpha was 1\.5, is 2\.0\)"):
        labels = wanted_labels(trained.usage.class_names, 5000)
        write_images(GeneratedImages(trained, labels, source="run", alpha=2.0), out)


def retrained(trained: TrainedGenerator) -> TrainedGenerator:
    """Another run of the same name, at the same step."""
    return dataclasses.replace(trained, params=jax.tree.map(lambda leaf: leaf * 1.01, trained.params))


def test_images_of_another_run_are_not_taken_for_these(
    trained: TrainedGenerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out, other = tmp_path / "digits.npz", retrained(trained)
    assert write_images(generated(trained, 40), out)
    with pytest.raises(ConfigError, match=r"^out=.*: is of something else \(weights was '"):
        write_images(generated(other, 40), out)
    # Half a file is not continued with another's images.
    monkeypatch.setattr("drifting.sampling.files.IMAGES_A_PART", 16)
    assert not write_images(generated(trained, 40), tmp_path / "half.npz", Share(0, 2))
    with pytest.raises(ConfigError, match=r"is of something else \(weights was '"):
        write_images(generated(other, 40), tmp_path / "half.npz")
    # The same run by another name is the same.
    images = GeneratedImages(trained, wanted_labels(trained.usage.class_names, 40), source="elsewhere", alpha=1.5)
    assert write_images(images, out) and write_images(images, tmp_path / "half.npz", Share(1, 2))


def test_a_checksum_of_parameters():
    params = {"a": np.arange(6, dtype=np.float32), "b": {"c": jnp.zeros((2, 3), jnp.bfloat16)}}
    found = params_sha256(params)
    assert found == params_sha256({"b": params["b"], "a": jnp.arange(6, dtype=jnp.float32)}) and len(found) == 64
    for other in (
        params | {"a": params["a"].reshape(2, 3)},
        params | {"a": params["a"][::-1]},
        params | {"a": params["a"].astype(np.int32)},
        {"a": params["a"], "c": params["b"]},
    ):
        assert params_sha256(other) != found


def test_a_folder_of_pngs(whole: Path, trained: TrainedGenerator, tmp_path: Path):
    out = tmp_path / "digits"
    assert not write_images(generated(trained, 600), out, Share(1, 2))
    assert write_images(generated(trained, 600), out, Share(0, 2))
    assert len(list(out.glob("*.png"))) == 600 and json.loads((out / "metadata.json").read_text())["num"] == 600
    read = open_images(out)
    np.testing.assert_array_equal(read.part(range(600)), NpzImages(whole).part(range(600)))
    before = tree(tmp_path)
    assert write_images(generated(trained, 600), out) and tree(tmp_path) == before


def test_what_killed_processes_left_is_removed(trained: TrainedGenerator, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("drifting.sampling.files.IMAGES_A_PART", 16)
    out = tmp_path / "digits"
    assert not write_images(generated(trained, 40), out, Share(1, 2))
    for name in ("000001.png", "000033.png", "metadata.json"):
        (out / f".{name}.0123.tmp").write_bytes(b"torn")
    assert not write_images(generated(trained, 40), out, Share(1, 2))
    assert len(list(out.glob(".*"))) == 3  # another process may be writing them
    assert write_images(generated(trained, 40), out, Share(0, 2))
    assert not list(out.glob(".*"))
    # Killed between writing that it is done and removing the parts.
    before = tree(tmp_path)
    (tmp_path / "digits.parts").mkdir()
    assert write_images(generated(trained, 40), out) and tree(tmp_path) == before
    assert [file.name for file in tmp_path.iterdir()] == ["digits"]
    npz = tmp_path / "digits.npz"
    (tmp_path / ".digits.npz.0123.tmp").write_bytes(b"torn")
    assert write_images(generated(trained, 40), npz)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["digits", "digits.json", "digits.npz"]


def test_truncating_and_rounding():
    x = np.asarray([-2, -1, -0.999, 0, 0.999, 1, 2], np.float32).reshape(1, 7, 1, 1)
    np.testing.assert_array_equal(to_uint8(x, "truncate").ravel(), [0, 0, 0, 127, 254, 255, 255])
    np.testing.assert_array_equal(to_uint8(x, "round").ravel(), [0, 0, 0, 128, 255, 255, 255])
    for pixel in (np.nan, np.inf):
        with pytest.raises(ValueError, match=r"image 17 has a pixel that is not finite$"):
            to_uint8(np.asarray([0, pixel], np.float32).reshape(2, 1, 1, 1), "round", 16)


def test_a_diverged_generator_writes_nothing(trained: TrainedGenerator, tmp_path: Path):
    params = jax.tree.map(lambda leaf: leaf * np.nan, trained.params)
    with pytest.raises(ValueError, match=r"^run: image 16 has a pixel that is not finite: the generator has diverged"):
        generated(dataclasses.replace(trained, params=params), 40).part(range(16, 40))
    with pytest.raises(ValueError, match=r"^run: image 0 has"):
        write_images(generated(dataclasses.replace(trained, params=params), 40), tmp_path / "x.npz")
    with pytest.raises(ValueError, match=r"^/.*x\.png: the images to show have a pixel that is not finite"):
        write_grid(dataclasses.replace(trained, params=params), tmp_path / "x.png")
    assert not (tmp_path / "x.npz").exists()


def test_labels(trained: TrainedGenerator, tmp_path: Path):
    np.testing.assert_array_equal(wanted_labels(trained.usage.class_names, 5, ["7", "3"]), [7, 3, 7, 3, 7])
    text, array, wrong = tmp_path / "labels.txt", tmp_path / "labels.npy", tmp_path / "wrong.txt"
    text.write_text("3\n1\n4\n")
    np.save(array, np.asarray([3, 1, 4]))
    for file in (text, array):
        np.testing.assert_array_equal(wanted_labels(trained.usage.class_names, None, None, str(file)), [3, 1, 4])
        np.testing.assert_array_equal(wanted_labels(trained.usage.class_names, 2, None, str(file)), [3, 1])
    wrong.write_text("3\n10\n")
    for count, classes, file, words in [
        (4, None, text, r"holds 3 labels, num=4 asks for more"),
        (None, None, wrong, r"holds 10, labels lie in \[0, 9\]"),
        (1, ["1"], text, r"leave one of them out"),
        (1, None, tmp_path / "none", r"there is no such file$"),
        (None, None, None, r"^num: give the number of images"),
        (1, [], None, r"^classes=: give at least one class"),
        (1, [""], None, r"^classes=: give at least one class"),
        (4, ["1", "3", "1"], None, r"^classes=1,3,1: 1 and 1 are the same class, 1: give each once"),
    ]:
        with pytest.raises(ConfigError, match=words):
            wanted_labels(trained.usage.class_names, count, classes, None if file is None else str(file))


@pytest.mark.parametrize(
    ("given", "names", "words"),
    [
        ("Cats", ("cat", "dog"), r"\(did you mean 'cat'\?\); classes are 0 cat, 1 dog$"),
        ("DOG", ("cat", "Dog"), r"\(did you mean 'Dog'\?\); classes are 0 cat, 1 Dog$"),
        ("7", ("cat", "dog"), r"from 0 to 1; classes are 0 cat, 1 dog$"),
        ("12", tuple("0123456789"), "from 0 to 9$"),
        ("zzz", tuple(f"c{i}" for i in range(1000)), "; classes are 0 c0, .*, 19 c19 and 980 more$"),
    ],
)
def test_the_nearest_class_is_named(given: str, names: tuple[str, ...], words: str):
    with pytest.raises(ConfigError, match=f"^classes={given}: use names or whole numbers .*{words}"):
        class_labels([given], names)


def test_a_class_is_drawn_once_be_it_given_by_name_or_number():
    names = ["eight", "three", "7"]
    assert (
        distinct_class_labels(["three", "7", "0"], names) == [1, 2, 0] and distinct_class_labels(None, names)[-1] == 2
    )
    with pytest.raises(
        ConfigError, match=r"^classes=three,0,1: three and 1 are the same class, 1 three: give each once"
    ):
        distinct_class_labels(["three", "0", "1"], names)
    assert titles([2, 0, 1], [*names, "3"]) == ["2 7", "0 eight", "1 three"] and titles([3], [*names, "3"]) == ["3"]
    many = [f"c{i}" for i in range(1000)]
    assert class_line(range(1000), many).endswith(", 19 c19 and 980 more") and class_line([3, 1], many) == "3 c3, 1 c1"


def test_what_cannot_be_written(trained: TrainedGenerator, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"^uint8=floor: use one of truncate, round"):
        generated(trained, 1, uint8="floor")
    with pytest.raises(ConfigError, match=r"^seed=4294967295: with 2 images the last seed must lie below 2\^32"):
        generated(trained, 2, seed=2**32 - 1)
    (tmp_path / "mine.npz").write_bytes(b"")
    with pytest.raises(ConfigError, match="is there and not known to be these images"):
        write_images(generated(trained, 1), tmp_path / "mine.npz")
    for index, count in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(ConfigError, match=r"^(index|count)="):
            Share(index, count)


def test_files_that_hold_no_images(tmp_path: Path):
    np.savez(tmp_path / "floats.npz", arr_0=np.zeros((2, 4, 4, 3)))
    np.savez(tmp_path / "other.npz", mu=np.zeros(3))
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "empty").mkdir()
    for name in ("floats.npz", "other.npz", "text.npz", "empty", "absent", "absent.npz"):
        with pytest.raises(ValueError, match=name):
            open_images(tmp_path / name)
    np.savez_compressed(tmp_path / "packed.npz", arr_0=np.arange(12, dtype=np.uint8).reshape(3, 2, 2, 1))
    assert open_images(tmp_path / "packed.npz").part(range(1, 2)).ravel().tolist() == [4, 5, 6, 7]
    for size in ((2, 2), (3, 3)):
        Image.new("L", size).save(tmp_path / "empty" / f"{size[0]}.png")
    with pytest.raises(ValueError, match=r"3\.png: is \(3, 3, 1\), the images before it \(2, 2, 1\)"):
        open_images(tmp_path / "empty").part(range(2))


def test_an_npz_holds_no_time(tmp_path: Path):
    images = np.zeros((3, 2, 2, 1), np.uint8)
    write_npz(tmp_path / "a.npz", 3, (2, 2, 1), iter([images[:2], images[2:]]), np.arange(3))
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
