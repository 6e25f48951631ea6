"""Data sources: what they deliver, on files made here, and how they refuse bad input."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from drifting.data.folder import centre_crop, imagefolder
from drifting.data.source import to_float
from drifting.data.sources import DIGITS_HELDOUT, SOURCES, array, digits, make_source
from tests.test_classic import write_grey, write_photographs


def save(file: Path, pixels: np.ndarray, **options) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file, **options)
    return file


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def npz(tmp_path: Path):
    def write(**arrays) -> Path:
        path = tmp_path / "data.npz"
        np.savez(path, **arrays)
        return path

    return write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes, train and val, of images of various sizes and modes."""
    root = tmp_path / "images"
    save(root / "train" / "cat" / "b.png", noise(9, 13, 3))
    save(root / "train" / "cat" / "a.png", noise(8, 8))
    save(root / "train" / "ant" / "deep" / "c.JPEG", noise(31, 20, 3), format="jpeg")
    save(root / "train" / "ant" / "a.png", noise(8, 10, 4))
    (root / "train" / "ant" / "notes.txt").write_text("not an image")
    (root / "train" / "ant" / "._a.png").write_text("not an image")
    (root / "train" / ".cache").mkdir()
    save(root / "val" / "cat" / "v.png", noise(40, 17, 3))
    return root


@pytest.fixture(params=sorted(SOURCES))
def source(request: pytest.FixtureRequest, npz, folder: Path, tmp_path: Path):
    write_grey(tmp_path, packed=True)
    write_photographs(tmp_path)
    arguments = {
        "mnist": {"path": tmp_path},
        "fashion_mnist": {"path": tmp_path},
        "cifar10": {"path": tmp_path},
        "synthetic": {"image_size": 6, "classes": 3},
        "digits": {},
        "array": {"path": npz(image=noise(6, 5, 7, 3), label=np.arange(6) % 3)},
        "imagefolder": {"path": folder, "image_size": 8},
    }
    return make_source(request.param, **arguments[request.param])


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
        ({"image": np.full((4, 3, 3, 1), np.nan), "label": LABELS}, "train", "rescale to"),
        ({"image": IMAGES, "label": LABELS.astype(float)}, "train", "one integer per image"),
        ({"image": IMAGES, "label": LABELS - 1}, "train", "value -1"),
        ({"image": IMAGES, "label": LABELS * 2}, "train", "without gaps"),
        ({"image": IMAGES[:0], "label": LABELS[:0]}, "train", "one integer per image"),
        ({"image": IMAGES, "label": np.array([0, "a"], object)}, "train", "cannot be read"),
        (
            {"image": IMAGES, "label": LABELS, "image_heldout": IMAGES[:1], "label_heldout": [2]},
            "heldout",
            "class 2, which no training image has",
        ),
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


def test_imagefolder_numbers_sorted_classes_and_finds_nested_files(folder: Path) -> None:
    train = imagefolder(folder, 8)
    assert train.class_names == ("ant", "cat") and train.shape == (8, 8, 3)
    np.testing.assert_array_equal(train.labels, [0, 0, 1, 1])
    heldout = imagefolder(folder, 8, "heldout")
    assert heldout.class_names == ("ant", "cat") and len(heldout) == 1 and heldout[0][1] == 1
    flat = imagefolder(folder / "train", 8)
    np.testing.assert_array_equal(flat[3][0], train[3][0])


def test_imagefolder_pixels_and_modes(tmp_path: Path) -> None:
    rgb, grey, rgba = noise(8, 8, 3), noise(8, 8), noise(8, 8, 4)
    save(tmp_path / "c" / "0.png", rgb)
    save(tmp_path / "c" / "1.png", grey)
    save(tmp_path / "c" / "2.png", rgba)
    save(tmp_path / "c" / "3.png", grey.astype(np.uint16) * 257)  # 16-bit levels
    Image.fromarray(rgb).convert("CMYK").save(tmp_path / "c" / "4.tif")
    Image.fromarray(grey).convert("P").save(tmp_path / "c" / "5.gif")
    images, _ = imagefolder(tmp_path, 8).__getitems__(range(6))
    np.testing.assert_array_equal(images[0], to_float(rgb))
    for i in (1, 3, 5):
        np.testing.assert_array_equal(images[i], to_float(np.repeat(grey[..., None], 3, axis=2)))
    np.testing.assert_array_equal(images[2], to_float(rgba[..., :3]))
    np.testing.assert_allclose(images[4], to_float(rgb), atol=1e-6)
    greys, _ = imagefolder(tmp_path, 8, channels=1).__getitems__(range(6))
    assert greys.shape == (6, 8, 8, 1)
    np.testing.assert_array_equal(greys[1, ..., 0], to_float(grey))
    luma = rgb @ np.array([0.299, 0.587, 0.114])  # ITU-R 601
    np.testing.assert_allclose(greys[0, ..., 0], luma / 127.5 - 1, atol=1.5 / 127.5)


def test_imagefolder_turns_images_as_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held a quarter turn: show it turned clockwise
    pixels = noise(8, 8, 3)
    save(tmp_path / "c" / "a.png", pixels, exif=exif)
    np.testing.assert_array_equal(imagefolder(tmp_path, 8)[0][0], to_float(np.rot90(pixels, k=-1)))


@pytest.mark.parametrize("shape", [(8, 8), (9, 17, 3), (17, 9, 3), (33, 16), (5, 7, 3), (101, 64, 3)])
def test_centre_crop_shapes(shape: tuple[int, ...]) -> None:
    assert centre_crop(noise(*shape), 8).shape == (8, 8, *shape[2:])


def test_centre_crop_halves_by_box_and_keeps_the_centre() -> None:
    pixels = noise(32, 64, 3) // 16 * 16  # multiples of 16, whose means over 4x4 need no rounding on the way
    means = pixels.reshape(8, 4, 16, 4, 3).mean(axis=(1, 3))
    np.testing.assert_array_equal(centre_crop(pixels, 8), means[:, 4:12])
    ramp = np.broadcast_to(np.linspace(0, 255, 60, dtype=np.uint8), (20, 60))
    small = centre_crop(ramp, 10).astype(float)
    assert abs(small.mean() - 127.5) < 2 and np.all(np.diff(small[5]) > 0)
    constant = centre_crop(np.full((37, 23), 77, np.uint8), 9)
    np.testing.assert_array_equal(constant, np.full((9, 9), 77))


@pytest.mark.parametrize("content", [b"", b"not an image", "torn"])
def test_imagefolder_names_the_damaged_file(tmp_path: Path, content: bytes | str) -> None:
    good = save(tmp_path / "c" / "good.png", noise(64, 64, 3))
    bad = tmp_path / "c" / "bad.png"
    bad.write_bytes(good.read_bytes()[:2000] if isinstance(content, str) else content)
    source = imagefolder(tmp_path, 8)
    with pytest.raises(ValueError, match=r"cannot read the image .*bad\.png"):
        source.__getitems__([0, 1])
    assert source[1][0].shape == (8, 8, 3)


def test_imagefolder_refuses_32_bit_images(tmp_path: Path) -> None:
    save(tmp_path / "c" / "a.tif", np.ones((8, 8), np.float32))
    with pytest.raises(ValueError, match=r"a\.tif.*8 or 16 bits"):
        imagefolder(tmp_path, 8)[0]


def test_imagefolder_refuses_bad_folders(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a folder"):
        imagefolder(tmp_path / "missing", 8)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no class folders"):
        imagefolder(tmp_path / "empty", 8)
    with pytest.raises(ValueError, match="no held-out images"):
        imagefolder(folder / "train", 8, "heldout")
    save(folder / "val" / "dog" / "d.png", noise(8, 8))
    with pytest.raises(ValueError, match=r"dog is a class that .*train lacks"):
        imagefolder(folder, 8, "heldout")
    (folder / "train" / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no images"):
        imagefolder(folder, 8)
    save(tmp_path / "odd" / "val" / "cat" / "v.png", noise(8, 8))
    with pytest.raises(ValueError, match="val/ but no train/"):
        imagefolder(tmp_path / "odd", 8)
    for bad in ({"image_size": 0}, {"image_size": 8, "channels": 2}, {"image_size": 8, "split": "x"}):
        with pytest.raises(ValueError, match=f"{list(bad)[-1]}="):
            imagefolder(folder, **bad)


def test_make_source_explains_its_arguments(folder: Path) -> None:
    assert len(make_source("digits", split="heldout")) == DIGITS_HELDOUT
    assert make_source("imagefolder", path=folder, image_size=4, channels=1).shape == (4, 4, 1)
    with pytest.raises(ValueError, match="name='minst' is unknown: use one of digits, array, imagefolder, mnist"):
        make_source("minst")
    with pytest.raises(ValueError, match="'array' needs path"):
        make_source("array")
    with pytest.raises(ValueError, match="'imagefolder' needs image_size"):
        make_source("imagefolder", path=folder)
    with pytest.raises(ValueError, match="'digits' takes no image_size"):
        make_source("digits", image_size=32)
