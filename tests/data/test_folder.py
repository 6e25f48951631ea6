"""Folders of images: what is found in them, how images of every kind are decoded, and how they are refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drifting.data.crop import centre_crop
from drifting.data.imagenet_names import readable
from drifting.data.source import to_float
from drifting.data.sources.folder import imagefolder
from drifting.errors import InputError
from drifting.scoring.image_sets import FolderImages


def save(file: Path, pixels: np.ndarray, **options) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file, **options)
    return file


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_folder(root: Path) -> Path:
    """Two classes, train and val, of images of various sizes and modes."""
    save(root / "train" / "cat" / "b.png", noise(9, 13, 3))
    save(root / "train" / "cat" / "a.png", noise(8, 8))
    save(root / "train" / "ant" / "deep" / "c.JPEG", noise(31, 20, 3), format="jpeg")
    save(root / "train" / "ant" / "a.png", noise(8, 10, 4))
    (root / "train" / "ant" / "notes.txt").write_text("not an image")
    (root / "train" / "ant" / "._a.png").write_text("not an image")
    (root / "train" / ".cache").mkdir()
    save(root / "val" / "cat" / "v.png", noise(40, 17, 3))
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "images")


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


def test_held_out_classes_are_looked_at_before_a_training(folder: Path) -> None:
    """Beside classes that are trained on, or without any of these."""
    save(folder / "val" / "dog" / "d.png", noise(8, 8))
    for _ in range(2):
        for split in ("heldout", "train"):
            with pytest.raises(ValueError, match=r"val/dog is a class that .*train lacks"):
                imagefolder(folder, 8, split)
        if (folder / "val" / "cat").exists():
            (folder / "val" / "cat").rename(folder / "cat")
    imagefolder(folder / "train", 8)


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
    (folder / "val" / "dog").rename(folder / "dog")
    (folder / "train" / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no images"):
        imagefolder(folder, 8)
    save(tmp_path / "odd" / "val" / "cat" / "v.png", noise(8, 8))
    with pytest.raises(ValueError, match="val/ but no train/"):
        imagefolder(tmp_path / "odd", 8)
    for bad in ({"image_size": 0}, {"image_size": 8, "channels": 2}, {"image_size": 8, "split": "x"}):
        with pytest.raises(ValueError, match=f"{list(bad)[-1]}="):
            imagefolder(folder, **bad)


# --- the crop of the published preprocessing --------------------------------------------------------------------------


def published_crop(pixels: np.ndarray, size: int) -> np.ndarray:
    """ADM's rule, on top of a resize written from Pillow's definition of it: bytes in, bytes out, bit by bit.

    Halve by a box filter while the shorter side is at least twice `size`; resize bicubically so that the shorter side
    is `size` and the longer one is rounded to the nearest; cut the centre out, half of what is over rounded down.
    """
    height, width = pixels.shape[:2]
    while min(height, width) >= 2 * size:
        height, width = height // 2, width // 2
        pixels = resized(pixels, height, width, box, 0.5)
    scale = size / min(height, width)
    pixels = resized(pixels, round(height * scale), round(width * scale), keys_cubic, 2.0)
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return pixels[top : top + size, left : left + size]


def resized(pixels: np.ndarray, height: int, width: int, kernel, support: float) -> np.ndarray:
    rows = resized_axis(pixels.swapaxes(0, 1), width, kernel, support).swapaxes(0, 1)  # Pillow begins with the rows
    return resized_axis(rows, height, kernel, support)


def resized_axis(x: np.ndarray, size: int, kernel, support: float) -> np.ndarray:
    """The first axis by weights in fixed point of 22 bits, rounded to bytes."""
    if len(x) == size:
        return x
    scale = len(x) / size
    stretch = max(scale, 1.0)
    out = np.empty((size, *x.shape[1:]), np.uint8)
    for k in range(size):
        centre = (k + 0.5) * scale
        first = max(int(centre - support * stretch + 0.5), 0)
        last = min(int(centre + support * stretch + 0.5), len(x))
        weights = [kernel((i - centre + 0.5) / stretch) for i in range(first, last)]
        total = sum(weights)
        fixed = np.array([np.floor(w / total * 2**22 + 0.5) for w in weights], np.int64)
        out[k] = np.clip((np.tensordot(fixed, x[first:last].astype(np.int64), axes=1) + 2**21) >> 22, 0, 255)
    return out


def box(x: float) -> float:
    return 1.0 if -0.5 < x <= 0.5 else 0.0


def keys_cubic(x: float) -> float:
    x = abs(x)
    if x < 1:
        return (1.5 * x - 2.5) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * -0.5 if x < 2 else 0.0


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((16, 16, 3), 16),  # nothing to do
        ((17, 33, 3), 16),  # reduced a little, odd sides
        ((31, 47), 16),  # grey, just short of a halving
        ((32, 41, 3), 16),  # one halving
        ((133, 95, 3), 16),  # two halvings, odd sides on the way
        ((65, 301), 16),  # two, long and grey
        ((11, 7, 3), 16),  # enlarged
        ((5, 29), 16),
        ((500, 375, 3), 64),  # a photograph
        ((257, 256, 3), 64),
    ],
)
def test_centre_crop_is_the_published_one_bit_by_bit(shape: tuple[int, ...], size: int) -> None:
    for seed in range(2):
        pixels = noise(*shape, seed=seed)
        found = centre_crop(pixels, size, size)
        assert found.shape == (size, size, *shape[2:]) and found.dtype == np.uint8
        np.testing.assert_array_equal(found, published_crop(pixels, size))


def test_strips_are_no_pictures(tmp_path: Path) -> None:
    """Their squares would be cut out of gigabytes."""
    (tmp_path / "c").mkdir()
    for name, length in (("a", 100), ("b", 101)):
        Image.fromarray(noise(2, length, 3)).save(tmp_path / "c" / f"{name}.png")
    source = imagefolder(tmp_path, 8)
    assert source[0][0].shape == (8, 8, 3)
    with pytest.raises(ValueError, match=r"b\.png: it is a strip of 101x2 pixels; repair or remove it"):
        source[1]


def test_centre_crop_halves_by_box_and_keeps_the_centre() -> None:
    pixels = noise(32, 64, 3) // 16 * 16  # multiples of 16, whose means over 4x4 need no rounding on the way
    means = pixels.reshape(8, 4, 16, 4, 3).mean(axis=(1, 3))
    np.testing.assert_array_equal(centre_crop(pixels, 8, 8), means[:, 4:12])
    ramp = np.broadcast_to(np.linspace(0, 255, 60, dtype=np.uint8), (20, 60))
    small = centre_crop(ramp, 10, 10).astype(float)
    assert abs(small.mean() - 127.5) < 2 and np.all(np.diff(small[5]) > 0)
    constant = centre_crop(np.full((37, 23), 77, np.uint8), 9, 9)
    np.testing.assert_array_equal(constant, np.full((9, 9), 77))


# --- ImageNet, and folders that are not what they seem ----------------------------------------------------------------

WORDNET = {"n01440764": "tench", "n01818515": "macaw", "n02012849": "crane (bird)", "n03710637": "maillot"}


def test_folders_of_wordnet_ids_are_in_imagenets_order_and_get_names(tmp_path: Path) -> None:
    for name in sorted(WORDNET, reverse=True):
        save(tmp_path / "train" / name / f"{name}_1.JPEG", noise(9, 9, 3), format="jpeg")
    source = imagefolder(tmp_path, 8)
    assert source.class_names == tuple(WORDNET.values()) and source.labels.tolist() == [0, 1, 2, 3]
    assert readable(("n01440764", "n00000000")) == ("n01440764", "n00000000")  # not all of them ImageNet's
    assert readable(("macaw", "n01440764")) == ("macaw", "n01440764") and readable(()) == ()


def test_names_of_all_of_imagenet_are_unique_and_can_be_listed() -> None:
    from importlib.resources import files

    ids = files("tensorflow_datasets").joinpath("datasets/imagenet2012/labels.txt").read_text().split()
    names = readable(tuple(ids))
    assert ids == sorted(ids) and len(set(names)) == 1000 and not any("," in name for name in names)
    published = {0: "tench", 1: "goldfish", 88: "macaw", 207: "golden retriever", 281: "tabby", 999: "toilet tissue"}
    assert {index: names[index] for index in published} == published
    assert names[638:640] == ("maillot", "maillot tank suit")


@pytest.mark.parametrize(
    ("given", "named"),
    [("", "set"), ("set", None), ("set/train", None), ("outer", "outer/set"), ("shelf", "shelf/b/set"), ("deep", None)],
)
def test_a_folder_above_the_right_one_is_noticed(tmp_path: Path, given: str, named: str | None) -> None:
    for base in ("set", "outer/set", "shelf/b/set"):
        (tmp_path / base).mkdir(parents=True)
        for name in ("ant", "cat"):
            save(tmp_path / base / ("train" if base != "shelf/b/set" else ".") / name / "0.png", noise(8, 8, 3))
    (tmp_path / "shelf" / "a").mkdir()
    save(tmp_path / "deep" / "cat" / "0.png", noise(8, 8, 3))  # one class that is not nested is enough
    save(tmp_path / "deep" / "ant" / "small" / "0.png", noise(8, 8, 3))
    if named is None:
        assert imagefolder(tmp_path / given, 8).class_names == ("ant", "cat")
        return
    if not given:
        for other in ("outer", "shelf", "deep"):
            (tmp_path / other).rename(tmp_path / f".{other}")
    with pytest.raises(ValueError, match="its class folders hold folders and no images; give ") as error:
        imagefolder(tmp_path / given, 8)
    assert f"give {str(tmp_path / named)!r} instead" in str(error.value) and "\n" not in str(error.value)


def test_a_class_that_leads_to_a_folder_above_is_no_class_of_images(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """However far above: it would hold the images of the others."""
    (tmp_path / "data" / "train" / "a").mkdir(parents=True)
    save(tmp_path / "data" / "train" / "a" / "1.png", noise(8, 8))
    for above in ("..", "../..", str(tmp_path / "data" / "train")):
        link = tmp_path / "data" / "train" / "b"
        link.symlink_to(above)
        with pytest.raises(InputError, match=r"train/b holds no images"):
            imagefolder(tmp_path / "data", 8)
        assert "train/b leads back to a folder above it and is left out" in caplog.text
        link.unlink()


@pytest.mark.parametrize("to", ["nowhere.png", "it.png"], ids=["nothing", "itself"])
def test_a_link_that_leads_nowhere_is_named_by_every_reader(tmp_path: Path, to: str) -> None:
    """It is a fault of the one file, not of its folder; what to do is the same whoever reads it."""
    (tmp_path / "c").mkdir()
    Image.fromarray(noise(8, 8, 3)).save(tmp_path / "c" / "a.png")
    link = tmp_path / "c" / "it.png"
    link.symlink_to(tmp_path / "c" / to)
    source = imagefolder(tmp_path, 8)
    with pytest.raises(
        InputError, match=rf"cannot read the image {link}: .*; (it is a link to nothing|make it readable)"
    ):
        source.__getitems__([0, 1])
    with pytest.raises(InputError, match=rf"cannot read the image {link}: it is a link to nothing"):
        _ = FolderImages(tmp_path).facts
