"""Data sources: what they deliver, on files made here, and how they refuse bad input."""

from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
from sklearn.datasets import load_digits

from drifting.config.parse import parse
from drifting.config.schema import Config, DataConfig
from drifting.config.sections import inner_type
from drifting.config.variants import tiny, train_config
from drifting.data.source import delivery, read_records, to_float
from drifting.data.sources import SOURCES, check_data_settings, make_source, option_kinds
from drifting.data.sources.array import array
from drifting.data.sources.digits import DIGITS_HELDOUT, digits
from drifting.errors import ConfigError
from tests.data.test_classic import write_grey, write_photographs
from tests.data.test_folder import noise, write_folder
from tests.data.test_tfds import prepare
from tests.support.picture_sets import form_of, source_param


@pytest.fixture
def npz(tmp_path: Path):
    def write(**arrays) -> Path:
        path = tmp_path / "data.npz"
        np.savez(path, **arrays)
        return path

    return write


# Latents are no images in [-1, 1]: test_latents.py has their tests.
@pytest.fixture(params=[source_param(name) for name in sorted(SOURCES.keys() - {"latents"})])
def source(request: pytest.FixtureRequest, npz, tmp_path: Path):
    write_grey(tmp_path, packed=True)
    write_photographs(tmp_path)
    arguments = {
        "mnist": {"path": tmp_path},
        "fashion_mnist": {"path": tmp_path},
        "cifar10": {"path": tmp_path},
        "synthetic": {"image_size": 6, "image_width": 9, "classes": 3},
        "digits": {},
        "array": {"path": npz(image=noise(6, 5, 7, 3), label=np.arange(6) % 3)},
        "imagefolder": {"path": write_folder, "image_size": 8},
        "tfds": {"path": prepare, "image_size": 8},
    }
    if request.param in arguments:
        given = arguments[request.param]
    else:
        given = {"path": form_of(request.param), "image_size": 8}
    if callable(write := given.get("path")):  # writing takes a while: only what this source reads
        given["path"] = write(tmp_path / request.param)
    return make_source(request.param, **given)


def test_every_source_keeps_the_protocol(source) -> None:
    n = len(source)
    images, labels = source.__getitems__(np.arange(n)[::-1])
    assert images.shape == (n, *source.shape) and images.dtype == np.float32
    assert labels.shape == (n,) and labels.dtype == np.int32
    assert images.min() >= -1 and images.max() <= 1 and images.std() > 0.1
    assert set(labels.tolist()) == set(range(source.num_classes)) and len(source.class_names) == source.num_classes
    np.testing.assert_array_equal(labels[::-1], source.labels)
    for i in (0, n - 1):
        image, label = source[i]
        np.testing.assert_array_equal(image, images[n - 1 - i])
        assert image.dtype == np.float32 and label == labels[n - 1 - i] and type(label) is int
    kept, _ = read_records(source, np.arange(2), np.zeros(2, bool), None)
    assert (kept.shape[1:], str(kept.dtype)) == (delivery(source).shape, delivery(source).dtype)
    empty, none = source.__getitems__([])
    assert empty.shape == (0, *source.shape) and none.shape == (0,)


def test_uint8_spans_minus_one_to_one_and_floats_are_kept() -> None:
    np.testing.assert_array_equal(to_float(np.array([0, 255], np.uint8)), np.array([-1, 1], np.float32))
    levels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(np.rint((to_float(levels) + 1) * 127.5), levels)
    np.testing.assert_array_equal(to_float(np.array([-0.25, 0.75])), np.array([-0.25, 0.75], np.float32))


def test_digits_are_split_into_disjoint_stratified_parts_that_cover_all() -> None:
    train, heldout = digits("train"), digits("heldout")
    assert (len(train), len(heldout)) == (1797 - DIGITS_HELDOUT, DIGITS_HELDOUT) == (1400, 397)
    share = np.bincount(heldout.labels) / np.bincount(load_digits().target)
    np.testing.assert_allclose(share, 397 / 1797, atol=1 / 170)
    both = [s.__getitems__(range(len(s))) for s in (train, heldout)]
    images = np.concatenate([b[0] for b in both]).reshape(1797, 64)
    rows = np.column_stack([images, np.concatenate([b[1] for b in both])])
    expected = np.column_stack([load_digits().data / 8 - 1, load_digits().target])
    np.testing.assert_array_equal(rows[np.lexsort(rows.T)], expected[np.lexsort(expected.T)])
    np.testing.assert_array_equal(digits("train").labels, train.labels)


def test_array_reads_splits_greys_and_floats(npz) -> None:
    image, held = noise(4, 5, 6), np.linspace(-1, 1, 2 * 30).reshape(2, 5, 6)
    path = npz(image=image, label=[0, 1, 2, 1], image_heldout=held, label_heldout=[2, 2])
    train, heldout = array(path), array(path, "heldout")
    assert train.shape == heldout.shape == (5, 6, 1) and train.num_classes == heldout.num_classes == 3
    np.testing.assert_array_equal(train[1][0][..., 0], to_float(image[1]))
    np.testing.assert_array_equal(heldout[1][0][..., 0], held[1].astype(np.float32))
    assert [heldout[i][1] for i in range(2)] == [2, 2]


IMAGES, LABELS = noise(4, 3, 3, 1), np.array([0, 1, 0, 1])

WRONG_HELDOUT = [
    ({"image_heldout": IMAGES[:1], "label_heldout": [2]}, "label_heldout has class 2, which no training image has"),
    ({"image_heldout": noise(2, 4, 3, 1), "label_heldout": [0, 1]}, r"image_heldout has images of shape \(4, 3, 1\)"),
    ({"image_heldout": noise(2, 3, 3, 3), "label_heldout": [0, 1]}, r"and image of shape \(3, 3, 1\): make them alike"),
    ({"image_heldout": IMAGES[:2], "label_heldout": [0]}, "split='heldout' has 2 images but 1 label"),
    ({"image_heldout": IMAGES[:2]}, "no key 'label_heldout', which split='heldout' needs"),
    ({"label_heldout": [0, 1]}, "no key 'image_heldout'"),
    ({"image_heldout": IMAGES[:2], "label_heldout": [0, -1]}, "label_heldout has the value -1"),
    ({"image_heldout": IMAGES[:2].astype(np.float32), "label_heldout": [0, 1]}, "image_heldout is float .* rescale"),
]
"""Held-out arrays that cannot be used beside the training ones; whoever opens either is told."""


@pytest.mark.parametrize(
    ("arrays", "split", "message"),
    [
        ({"image": IMAGES}, "train", "no key 'label'"),
        ({"label": LABELS}, "train", "no key 'image'"),
        ({"image": IMAGES, "label": LABELS}, "heldout", "no key 'image_heldout'"),
        ({"image": IMAGES, "label": LABELS[:3]}, "train", "4 images but 3 labels"),
        ({"image": IMAGES[0, 0], "label": LABELS}, "train", r"shape \(3, 1\)"),
        ({"image": IMAGES.astype(np.int64), "label": LABELS}, "train", "dtype int64"),
        ({"image": IMAGES.astype(np.float32), "label": LABELS}, "train", "rescale to"),
        ({"image": np.full((4, 3, 3, 1), np.nan), "label": LABELS}, "train", "NaN or infinite values, in 4 of 4"),
        ({"image": np.full((4, 3, 3), np.inf), "label": LABELS}, "train", "holds NaN"),
        ({"image": IMAGES, "label": LABELS.astype(float)}, "train", "one integer per image"),
        ({"image": IMAGES, "label": LABELS - 1}, "train", "value -1"),
        ({"image": IMAGES, "label": LABELS * 2}, "train", "without gaps"),
        ({"image": IMAGES[:0], "label": LABELS[:0]}, "train", ": image is empty .*: give at least one image"),
        ({"image": IMAGES, "label": np.array([0, "a"], object)}, "train", "cannot be read"),
        *[
            ({"image": IMAGES, "label": LABELS} | held, split, message)
            for split in ("train", "heldout")
            for held, message in WRONG_HELDOUT
        ],
        ({"image": IMAGES, "label": LABELS}, "test", "split='test' is unknown: use one of train, heldout"),
    ],
)
def test_array_refuses_in_one_line(npz, arrays: dict, split: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        array(npz(**arrays), split)
    assert "\n" not in str(error.value)


def test_array_refuses_what_is_no_npz(tmp_path: Path) -> None:
    for name, content in {"text.npz": b"hello", "zip.npz": b"PK\x03\x04 torn", "empty.npz": b""}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match="cannot be read"):
            array(tmp_path / name)
    np.save(tmp_path / "bare.npy", IMAGES)
    for path in (tmp_path / "bare.npy", tmp_path / "missing.npz"):
        with pytest.raises(ValueError, match="cannot be read"):
            array(path)


def test_make_source_explains_its_arguments(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    assert len(make_source("digits", split="heldout")) == DIGITS_HELDOUT
    assert make_source("imagefolder", path=folder, image_size=4, channels=1).shape == (4, 4, 1)
    assert make_source("imagefolder", path=folder, image_size=4, image_width=6).shape == (4, 6, 3)
    with pytest.raises(ValueError, match="name='minst' is unknown: use one of digits, array, imagefolder, mnist"):
        make_source("minst")
    with pytest.raises(ValueError, match="'array' needs path"):
        make_source("array")
    with pytest.raises(ValueError, match="'imagefolder' needs image_size"):
        make_source("imagefolder", path=folder)
    with pytest.raises(ValueError, match="image_size=32: source 'digits' takes no image_size"):
        make_source("digits", image_size=32)


OPTIONS = [
    pytest.param(name, option, hint, id=f"{name}.{option}")
    for name, kind in option_kinds().items()
    for option, hint in get_type_hints(kind).items()
]


@pytest.mark.parametrize(("name", "option", "hint"), OPTIONS)
def test_options_are_of_the_source_that_is_read(name: str, option: str, hint: Any):
    """Those of another one would never be read; those by which nothing changes are no matter."""
    value: Any = {str: "x", int: 2, float: 0.5, bool: True}[inner_type(hint)]
    for other in SOURCES.keys() - {name}:
        paths = dict.fromkeys(("path", "image_size", "classes"))
        data = DataConfig(name=other, options={name: {option: value}}, **paths)
        told = rf"^data\.options\.{name}\.{option}={value!r}: data\.name is {other!r}, .*: set data\.name={name!r}"
        with pytest.raises(ConfigError, match=told):
            check_data_settings(data)
    check_data_settings(DataConfig(name="digits", options={name: {option: None}}))


def test_the_variant_tiny_has_no_options_of_the_data_that_it_replaces():
    config = train_config()
    config.data.update(name="parquet", path="x", image_size=8)
    config.data.options = {"parquet": {"image": "img"}}
    found = parse(tiny(config).to_dict(), Config)
    assert found.data.name == "synthetic"
    check_data_settings(found.data)
