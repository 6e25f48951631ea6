"""Random resized crops: which part of an image they take, and that it depends on the seed and the position alone."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drifting.data.batches import ClassBalanced, Pipeline
from drifting.data.crop import centre_crop, random_box, random_crop, random_crops
from drifting.data.source import ArraySource, OneClass, to_float
from drifting.data.sources.folder import imagefolder


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_boxes_have_uniform_areas_and_log_uniform_ratios_where_all_fit() -> None:
    """In a square every draw of an area below 3/4 fits, so that there the draws show unchanged."""
    boxes = np.array([random_box(3000, 3000, (7, seed)) for seed in range(6000)])
    left, top, right, bottom = boxes.T
    assert boxes.min() >= 0 and boxes.max() <= 3000
    areas, ratios = (right - left) * (bottom - top) / 3000**2, (right - left) / (bottom - top)
    assert areas.min() > 0.199 and ratios.min() > 0.7495 and ratios.max() < 1.334
    small = areas < 0.74
    # Quantiles of the uniform distribution, to within five standard errors of an empirical distribution function.
    error = 5 * 0.5 / np.sqrt(small.sum())
    for values, low, high in (
        (areas[small], 0.2, 0.74),
        (np.log(ratios[small]), np.log(3 / 4), np.log(4 / 3)),
        ((left / np.maximum(3000 - (right - left), 1))[small], 0.0, 1.0),
        ((top / np.maximum(3000 - (bottom - top), 1))[small], 0.0, 1.0),
    ):
        steps = np.linspace(0, 1, 11)
        share = np.array([(values <= low + (high - low) * q).mean() for q in steps])
        np.testing.assert_allclose(share, steps, atol=error)


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (1000, 10, (493, 0, 506, 10)),  # 13 wide: 10 * 4/3
        (10, 1000, (0, 493, 10, 506)),  # 13 high: 10 / (3/4)
        (1, 1, (0, 0, 1, 1)),
    ],
)
def test_of_an_image_too_long_for_any_part_it_is_the_centre(width: int, height: int, expected: tuple) -> None:
    assert {random_box(width, height, seed) for seed in range(20)} == {expected}


def test_a_crop_is_the_part_alone_resized_with_antialiasing() -> None:
    """Exact for a part of one colour in an image of another, and against Pillow's own floats for noise."""
    pixels = noise(90, 70, 3)
    for seed in range(5):
        left, top, right, bottom = random_box(70, 90, seed)
        framed = np.full((90, 70, 3), 255, np.uint8)
        framed[top:bottom, left:right] = (10, 100, 200)
        np.testing.assert_array_equal(random_crop(framed, 16, 16, seed), np.broadcast_to((10, 100, 200), (16, 16, 3)))
        part = pixels[top:bottom, left:right].astype(np.float64)
        reference = bicubic(bicubic(part, 16).swapaxes(0, 1), 16).swapaxes(0, 1)
        # 8-bit rounding of each of two passes, with weights of 22 bits: 0.5 + 0.5 * (sum of |weights| < 1.5).
        np.testing.assert_allclose(random_crop(pixels, 16, 16, seed), np.clip(reference, 0, 255), atol=1.3)
    assert random_crop(pixels[..., 0], 24, 24, 3).shape == (24, 24)


def bicubic(x: np.ndarray, size: int) -> np.ndarray:
    """The first axis resized by Keys' cubic (a = -1/2), its support stretched by the reduction, in float64."""
    scale = len(x) / size
    stretch = max(scale, 1.0)
    distance = np.abs((np.arange(len(x)) + 0.5)[None] - (np.arange(size)[:, None] + 0.5) * scale) / stretch
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0.0))
    return np.tensordot(weights / weights.sum(axis=1, keepdims=True), x, axes=1)


def test_floats_are_cropped_as_bytes_are() -> None:
    images = noise(4, 24, 24, 3)
    smooth = np.stack([np.asarray(Image.fromarray(x).resize((6, 6)).resize((24, 24))) for x in images])
    found = random_crops(to_float(smooth), range(4))
    expected = np.stack([random_crop(x, 24, 24, seed) for seed, x in enumerate(smooth)])
    np.testing.assert_allclose(found, to_float(expected), atol=1.3 / 127.5)
    assert random_crops(to_float(noise(3, 8, 12, 5)), range(3)).shape == (3, 8, 12, 5)
    checks = np.indices((16, 16)).sum(axis=0) % 2 * 2.0 - 1
    assert np.abs(random_crops(checks[None, ..., None].astype(np.float32), [1])).max() <= 1


# --- through the pipeline ---------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for k in range(12):
        file = tmp_path / f"class{k % 3}" / f"{k}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(noise(20 + k, 33 - k, 3, seed=k)).save(file)
    return tmp_path


def stream(pipeline: Pipeline | ClassBalanced, count: int) -> np.ndarray:
    images = []
    for batch in pipeline:
        images += list(batch["image"])
        if len(images) >= count:
            break
    pipeline.close()
    return np.stack(images[:count])


def test_a_crop_depends_on_the_position_and_neither_on_batches_threads_nor_processes(folder: Path) -> None:
    source = imagefolder(folder, 8)
    options = dict(seed=3, random_crop=True)
    whole = stream(Pipeline(source, 4, **options), 24)
    for batch_size, prefetch in ((12, 0), (5, 4), (1, 1)):
        np.testing.assert_array_equal(stream(Pipeline(source, batch_size, prefetch=prefetch, **options), 24), whole)
    parts = [Pipeline(source, 6, process_index=p, process_count=3, **options) for p in range(3)]
    rows = [next(part)["image"] for _, part in itertools.product(range(4), parts)]
    np.testing.assert_array_equal(np.concatenate(rows), whole)
    assert not np.array_equal(stream(Pipeline(source, 4, seed=4, random_crop=True), 24), whole)


def test_folders_are_cropped_before_resizing_and_anew_in_each_epoch(folder: Path) -> None:
    source = imagefolder(folder, 8)
    pipeline = Pipeline(source, 12, seed=0, shuffle=False, random_crop=True)
    first, second = next(pipeline)["image"], next(pipeline)["image"]
    assert all(not np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    # One colour in the part taken, another elsewhere: had the image been resized first, both would show.
    for size, seed in ((30, 5), (61, 6)):
        box = random_box(size, 2 * size, seed)
        pixels = np.zeros((2 * size, size, 3), np.uint8)
        pixels[box[1] : box[3], box[0] : box[2]] = 255
        Image.fromarray(pixels).save(folder / "class0" / "0.png")
        images, labels = imagefolder(folder, 8).read([0], np.array([False]), [seed])
        np.testing.assert_array_equal(images, np.full((1, 8, 8, 3), 255))
        assert labels.tolist() == [0]


@pytest.mark.parametrize("kind", ["folder", "array", "one class"])
def test_flip_and_crop_together_are_the_mirrored_crops(folder: Path, kind: str) -> None:
    source = imagefolder(folder, 8)
    if kind == "array":
        source = ArraySource(noise(12, 8, 8, 3), np.arange(12) % 3, ("a", "b", "c"))
    if kind == "one class":
        source = OneClass(source)
    plain, cropped, both = (
        next(Pipeline(source, 12, seed=1, flip=f, random_crop=c))
        for f, c in ((True, False), (False, True), (True, True))
    )
    upright = next(Pipeline(source, 12, seed=1))
    mirrored = [not np.array_equal(a, b) for a, b in zip(plain["image"], upright["image"], strict=True)]
    assert 0 < sum(mirrored) < 12
    expected = np.where(np.array(mirrored)[:, None, None, None], cropped["image"][:, :, ::-1], cropped["image"])
    np.testing.assert_array_equal(both["image"], expected)
    assert np.array_equal(both["label"], upright["label"]) and both["image"].dtype == np.uint8


def test_class_balanced_batches_crop_too(folder: Path) -> None:
    batches = [ClassBalanced(imagefolder(folder, 8), 3, 4, seed=0, random_crop=c, prefetch=0) for c in (False, True)]
    plain, cropped = map(next, batches)
    np.testing.assert_array_equal(plain["label"], cropped["label"])
    assert all(not np.array_equal(a, b) for a, b in zip(plain["image"], cropped["image"], strict=True))


@pytest.mark.parametrize(("height", "width"), [(24, 36), (36, 24), (10, 41)])
def test_rectangles_are_cut_without_squeezing(height: int, width: int) -> None:
    """The central part, whole where the image has its shape; random parts are squeezed no more than a square's are."""
    pixels = noise(2 * height, 2 * width, 3) // 4 * 4  # means of four need no rounding
    halved = pixels.reshape(height, 2, width, 2, 3).mean(axis=(1, 3))
    np.testing.assert_array_equal(centre_crop(pixels, height, width), halved)
    wider = np.pad(pixels, ((0, 0), (20, 20), (0, 0)))
    np.testing.assert_array_equal(centre_crop(wider, height, width), halved)
    for seed in range(20):
        left, top, right, bottom = random_box(1000, 1000, seed, width / height)
        squeezed = (right - left) / (bottom - top) * height / width
        assert 0.74 < squeezed < 1.35 and 0 <= left < right <= 1000 and 0 <= top < bottom <= 1000
        assert random_crop(pixels, height, width, seed).shape == (height, width, 3)
