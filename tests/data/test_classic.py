"""MNIST, Fashion-MNIST and CIFAR-10 from files in their original formats, made here, and what is wrong with others."""

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drifting.data.source import OneClass
from drifting.data.sources import make_source
from drifting.data.sources.classic import cifar10, fashion_mnist, mnist
from drifting.data.sources.synthetic import SYNTHETIC_PER_CLASS, synthetic


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_grey(folder: Path, *, packed: bool, count: int = 30) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Random images and labels of both splits in the four files."""
    rng, splits = np.random.default_rng(0), {}
    for split, prefix in (("train", "train"), ("heldout", "t10k")):
        images, labels = rng.integers(0, 256, (count, 28, 28), np.uint8), rng.permutation(count).astype(np.uint8) % 10
        splits[split] = images, labels
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            data, name = idx(array), f"{prefix}-{kind}-ubyte"
            (folder / (name + ".gz" if packed else name)).write_bytes(gzip.compress(data) if packed else data)
    return splits


def write_photographs(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Random images and labels in CIFAR-10's six binary files, ten for training and two held out."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (12, 32, 32, 3), np.uint8), rng.permutation(12).astype(np.uint8) % 10
    labels[:10] = rng.permutation(10)
    records = [bytes([label]) + image.transpose(2, 0, 1).tobytes() for image, label in zip(images, labels, strict=True)]
    for k in range(5):
        (folder / f"data_batch_{k + 1}.bin").write_bytes(b"".join(records[2 * k : 2 * k + 2]))
    (folder / "test_batch.bin").write_bytes(b"".join(records[10:]))
    return images, labels


@pytest.mark.parametrize("read", [mnist, fashion_mnist])
@pytest.mark.parametrize("packed", [False, True])
def test_grey_images_of_the_original_files(tmp_path: Path, read: Any, packed: bool):
    for split, (images, labels) in write_grey(tmp_path, packed=packed).items():
        source = read(tmp_path, split)
        found, found_labels = source.__getitems__(np.arange(30))
        np.testing.assert_allclose(found[..., 0], images / 127.5 - 1, atol=1e-6)
        np.testing.assert_array_equal(found_labels, labels)
        assert source.shape == (28, 28, 1) and source.num_classes == 10 and source.name == read.__name__
    assert mnist(tmp_path).class_names[3] == "3" and fashion_mnist(tmp_path).class_names[9] == "ankle boot"


@pytest.mark.parametrize("below", ["", "cifar-10-batches-bin"])
def test_photographs_of_the_binary_files(tmp_path: Path, below: str):
    (tmp_path / below).mkdir(exist_ok=True)
    images, labels = write_photographs(tmp_path / below)
    for split, rows in (("train", slice(0, 10)), ("heldout", slice(10, 12))):
        found, found_labels = cifar10(tmp_path, split).__getitems__(np.arange(len(labels[rows])))
        np.testing.assert_allclose(found, images[rows] / 127.5 - 1, atol=1e-6)
        np.testing.assert_array_equal(found_labels, labels[rows])
    assert cifar10(tmp_path).class_names[6] == "frog"


def test_what_is_not_there_or_damaged(tmp_path: Path):
    with pytest.raises(ValueError, match=r"has neither train-images-idx3-ubyte and .* nor a TFDS folder mnist/"):
        mnist(tmp_path)
    with pytest.raises(ValueError, match=r"has neither data_batch_1\.bin, \.\. nor a TFDS folder cifar10/"):
        cifar10(tmp_path)
    with pytest.raises(ValueError, match=r"has neither test_batch\.bin nor a TFDS folder cifar10/"):
        cifar10(tmp_path, "heldout")
    with pytest.raises(ValueError, match=r"nowhere': there is no such folder$"):
        mnist(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="split='test' is unknown"):
        mnist(tmp_path, "test")
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(ValueError, match="holds the Python version of CIFAR-10, a pickle: get the binary version"):
        cifar10(tmp_path)
    write_grey(tmp_path, packed=False)
    images, labels = tmp_path / "train-images-idx3-ubyte", tmp_path / "train-labels-idx1-ubyte"
    whole = images.read_bytes()
    for damaged, message in (
        (whole[:-1], "is cut short"),
        (whole[:7], "is damaged"),
        (b"\1" + whole[1:], "is no IDX file of 3 axes"),
        (labels.read_bytes(), "is no IDX file of 3 axes|is damaged"),
        (idx(np.zeros((29, 28, 28), np.uint8)), "do not belong together: 29 images, 30 labels"),
    ):
        images.write_bytes(damaged)
        with pytest.raises(ValueError, match=message) as error:
            mnist(tmp_path)
        assert "\n" not in str(error.value) and str(images) in str(error.value)
    images.write_bytes(whole)
    labels.write_bytes(idx(np.full(30, 10, np.uint8)))
    with pytest.raises(ValueError, match="do not belong together"):
        mnist(tmp_path)
    images.unlink()
    images.with_name(images.name + ".gz").write_bytes(gzip.compress(whole)[:-9])
    with pytest.raises(ValueError, match="is damaged"):
        mnist(tmp_path)
    for k in range(5):
        (tmp_path / f"data_batch_{k + 1}.bin").write_bytes(bytes(3072))
    with pytest.raises(ValueError, match=r"data_batch_1\.bin is no file of CIFAR-10's binary version, or is cut short"):
        cifar10(tmp_path)


# --- made up, and without labels --------------------------------------------------------------------------------------


def test_synthetic_images_depend_on_their_index_alone():
    source = synthetic(12, channels=2, classes=3)
    assert source.shape == (12, 12, 2) and len(source) == 3 * SYNTHETIC_PER_CLASS
    images, labels = source.__getitems__([5, 0, 5, 8])
    np.testing.assert_array_equal(images[0], images[2])
    np.testing.assert_array_equal(images[1], synthetic(12, channels=2, classes=3)[0][0])
    assert labels.tolist() == [2, 0, 2, 2] and images.dtype == np.float32 and np.abs(images).max() <= 1
    assert not np.array_equal(images[0], images[3])  # one class, other noise
    heldout = synthetic(12, "heldout", channels=2, classes=3)
    assert not np.array_equal(heldout[5][0], images[0])
    # The classes can be told apart: images of one are nearer to one another than to those of another.
    many = source.__getitems__(np.arange(60))[0].reshape(20, 3, -1)
    assert (
        np.linalg.norm(many[:10, 0] - many[10:, 0], axis=-1).mean()
        < np.linalg.norm(many[:10, 0] - many[10:, 1], axis=-1).mean()
    )
    np.testing.assert_array_equal(source[-1][0], source[len(source) - 1][0])
    with pytest.raises(IndexError):
        source[len(source)]
    for options, message in (
        ({"image_size": 0}, "image_size=0 must be positive"),
        ({"classes": 0}, "classes=0 must be"),
    ):
        with pytest.raises(ValueError, match=message):
            synthetic(**{"image_size": 4} | options)


def test_a_source_without_its_labels():
    source = OneClass(make_source("digits"))
    images, labels = source.__getitems__([3, 4])
    np.testing.assert_array_equal(images, make_source("digits").__getitems__([3, 4])[0])
    assert labels.tolist() == [0, 0] and source[3][1] == 0 and len(source) == 1400 and (source.labels == 0).all()
    assert (source.num_classes, source.class_names, source.name, source.shape) == (1, ("all",), "digits", (8, 8, 1))
