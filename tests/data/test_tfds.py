"""Data sets prepared by TFDS, read where TensorFlow is not installed: a tiny one, prepared here."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from drifting.data.crop import centre_crop, random_crop
from drifting.data.latents import write
from drifting.data.source import to_float
from drifting.data.sources import make_source
from drifting.data.sources.classic import cifar10, fashion_mnist, mnist
from drifting.data.sources.tfds import TfdsSplit, tfds, tfds_images
from tests.support.tfds_builders.shapes_dataset_builder import CLASSES, SIZES, Builder, pixels


def prepare(folder: Path) -> Path:
    Builder(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("tfds"))


@pytest.fixture
def data(prepared: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return shutil.copytree(prepared / "shapes" / "1.0.0", tmp_path / "shapes" / "1.0.0")


def same(found: np.ndarray, expected: np.ndarray) -> bool:
    return np.array_equal(found, to_float(expected))


@pytest.mark.parametrize(("split", "theirs"), [("train", "train"), ("heldout", "validation")])
def test_images_and_labels_of_a_prepared_data_set(prepared: Path, split: str, theirs: str) -> None:
    source = tfds(prepared, 8, split)
    assert importlib.util.find_spec("tensorflow") is None  # or this test would show nothing of reading without it
    assert len(source) == SIZES[theirs] and source.class_names == CLASSES and source.shape == (8, 8, 3)
    images, labels = source.__getitems__(np.arange(len(source)))
    np.testing.assert_array_equal(labels, source.labels)
    originals = [pixels(theirs, index) for index in range(SIZES[theirs])]
    order = [[same(image, centre_crop(x, 8, 8)) for x in originals].index(True) for image in images]  # TFDS shuffles
    assert sorted(order) == list(range(SIZES[theirs])) and labels.tolist() == [index % 3 for index in order]
    backwards, _ = source.__getitems__(np.arange(len(source))[::-1])
    np.testing.assert_array_equal(backwards, images[::-1])
    seeds = [(3, k) for k in range(len(source))]
    cropped, _ = source.read(range(len(source)), np.arange(len(source)) % 2 == 0, seeds)
    for row, index in enumerate(order):
        expected = random_crop(originals[index], 8, 8, seeds[row])
        assert same(to_float(cropped[row]), expected[:, ::-1] if row % 2 == 0 else expected)


def test_grey_and_any_folder_above_the_version(prepared: Path) -> None:
    images, _ = make_source("tfds", path=prepared / "shapes", image_size=6, channels=1).__getitems__([4, 4])
    colours, _ = tfds(prepared / "shapes" / "1.0.0", 6).__getitems__([4, 4])
    assert images.shape == (2, 6, 6, 1)
    np.testing.assert_allclose(images[..., 0], colours @ np.array([0.299, 0.587, 0.114]), atol=4 / 127.5)


def test_labels_are_read_once_and_again_for_other_data(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = tfds(data, 8).labels
    (file,) = data.glob("labels-train-10-*.npy")
    assert np.load(file).tolist() == expected.tolist() and not list(data.glob(".*"))
    np.save(file, (expected + 1) % 3)
    assert tfds(data, 8).labels.tolist() == ((expected + 1) % 3).tolist()  # read from the file
    file.write_bytes(file.read_bytes()[:40])
    assert tfds(data, 8).labels.tolist() == expected.tolist()  # a torn file is made anew
    info = json.loads((data / "dataset_info.json").read_text())
    for split in info["splits"]:
        split["numBytes"] = str(int(split["numBytes"]) + 1)
    (data / "dataset_info.json").write_text(json.dumps(info))
    np.save(file, (expected + 1) % 3)
    assert tfds(data, 8).labels.tolist() == expected.tolist()

    def refuse(*_: object) -> None:
        raise PermissionError("read-only")

    for file in data.glob("labels-*.npy"):
        file.unlink()
    monkeypatch.setattr(np, "save", refuse)
    assert tfds(data, 8).labels.tolist() == expected.tolist() and not list(data.glob("*.npy"))


def edit(data: Path, name: str, change: object) -> None:
    content = json.loads((data / name).read_text())
    change(content)  # type: ignore[operator]
    (data / name).write_text(json.dumps(content))


def test_another_format_says_what_to_run(data: Path) -> None:
    edit(data, "dataset_info.json", lambda info: info.update(fileFormat="tfrecord"))
    for file in data.glob("*array_record*"):
        file.rename(file.with_name(file.name.replace("array_record", "tfrecord")))
    with pytest.raises(ValueError, match="where TensorFlow is installed, run `tfds convert_format") as error:
        tfds(data, 8)
    command = f"`tfds convert_format --dataset_version_dir={data} --out_file_format=array_record`"
    line = f"path={str(data)!r}: is prepared as tfrecord, which has no index; where TensorFlow is installed, run"
    assert str(error.value) == f"{line} {command}"


def test_what_cannot_be_read_is_one_line(data: Path, tmp_path: Path) -> None:
    def refused(message: str, path: Path = data, split: str = "train", **options: int) -> None:
        with pytest.raises(ValueError, match=message) as error:
            tfds(path, **{"image_size": 8, "split": split} | options)  # type: ignore[arg-type]
        assert "\n" not in str(error.value)

    refused("image_size=0 must be positive", image_size=0)
    refused("channels=2 must be 1", channels=2)
    refused("split='test' is unknown", split="test")
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "missing"):
        refused(r"is no folder of a prepared TFDS data set .*give DATA_DIR/NAME", path)
    shutil.copytree(data, data.with_name("1.0.1"))
    refused(r"holds 2 data sets: give one, such as .*1\.0\.1", data.parent)
    edit(data, "dataset_info.json", lambda info: info.update(splits=[s for s in info["splits"] if s["name"] == "test"]))
    refused("has the splits test, and none of train, which split='train' needs")
    refused("split 'test' has images without labels", split="heldout")
    edit(data, "features.json", lambda features: features["featuresDict"]["features"].pop("label"))
    refused("has the features .*, 0 of which are a ClassLabel: choose a data set with one label", split="heldout")
    (data / "features.json").write_text("{")
    refused("TFDS cannot read it")


def test_damaged_images_are_named(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tfds(data, 8)
    monkeypatch.setattr(TfdsSplit, "__call__", lambda self, indices: ((b"torn", 0) for _ in indices))
    with pytest.raises(ValueError, match=r"cannot read the image 3 of split 'train' in .*1\.0\.0: .*repair or remove"):
        source.__getitems__([3])


def test_classic_data_sets_are_read_whole(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.tfds_builders.shapes_dataset_builder.pixels", square)
    prepare(tmp_path)
    for read in (mnist, fashion_mnist, cifar10):
        (tmp_path / "shapes").rename(tmp_path / read.__name__)
        grey = read is not cifar10
        if grey:
            with pytest.raises(ValueError, match=r"image 0 is \(32, 32\), not \(28, 28\)"):
                read(tmp_path)
            images, labels = tfds_images(tmp_path / read.__name__, "train", (32, 32, 1))
        else:
            source = read(tmp_path, "heldout")
            assert source.labels.tolist() == [0, 1] and source.class_names[1] == "automobile"
            images, labels = tfds_images(tmp_path / read.__name__, "train", (32, 32, 3))
        assert images.shape == (10, 32, 32, 1 if grey else 3) and images.dtype == np.uint8
        order = images[:, 0, 0, 0].tolist()
        assert sorted(order) == list(range(10)) and labels.tolist() == [index % 3 for index in order]
        (tmp_path / read.__name__).rename(tmp_path / "shapes")


def square(split: str, index: int) -> np.ndarray:
    return np.full((32, 32, 3), index, np.uint8)


def test_damaged_files_are_one_line_and_spare_their_neighbours(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    (file,) = data.glob("shapes-train*")
    whole, expected = file.read_bytes(), tfds(data, 8)
    starts = [at for at in range(len(whole)) if whole.startswith(b"\x89PNG", at)]
    for labels in data.glob("labels-*"):
        labels.unlink()
    flipped = bytearray(whole)
    flipped[starts[4] + 20] ^= 4
    file.write_bytes(flipped)
    source = tfds(data, 8)
    assert "data: 1 of 10 records cannot be read, the last: " in caplog.text
    assert not list(data.glob("labels-*"))  # they would outlive the damage
    others = [index for index in range(10) if index != 4]
    for found, wanted in zip(source.__getitems__(others), expected.__getitems__(others), strict=True):
        np.testing.assert_array_equal(found, wanted)
    found = list(TfdsSplit(data, "train").attempts(range(10)))
    assert [isinstance(one, ValueError) for one in found] == [index == 4 for index in range(10)]
    assert isinstance(write.read_or_error(source, 4), ValueError)  # which is how a cache skips and counts it
    lines = []
    for content in (whole[:1000], None):
        file.unlink() if content is None else file.write_bytes(content)
        with pytest.raises(ValueError, match="copy or prepare the data set again") as error:
            tfds(data, 8)
        lines.append(str(error.value))
    assert not any("\n" in line for line in lines)
    assert lines[0].startswith(f"cannot read the record 9 of split 'train' in {data}: ArrayRecord file should be")
    assert lines[1].startswith(f"{file}: is missing; ")
