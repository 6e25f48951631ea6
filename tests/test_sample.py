"""Samples depend on their own seed, class and guidance scale, and on nothing else."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drifting.config import Config, ConfigError, parse
from drifting.sample import Sampler, balanced_labels, draw, write_samples
from drifting.trained import TrainedGenerator, ema_decay
from tests.runs import finished_run, saved, tiny_config


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory)


@pytest.fixture(scope="module")
def trained(run: Path) -> TrainedGenerator:
    return TrainedGenerator.from_run(run)


LABELS = np.asarray([3, 1, 4, 1, 5, 9, 2, 6, 5, 3], np.int32)


@pytest.mark.parametrize("batch_size", [1, 3, 10])
def test_batches_do_not_matter(trained: TrainedGenerator, batch_size: int):
    images = draw(trained, LABELS, seed=5, alpha=1.5, batch_size=7)
    assert images.shape == (10, 8, 8, 1) and images.dtype == np.float32 and np.isfinite(images).all()
    other = draw(trained, LABELS, seed=5, alpha=1.5, batch_size=batch_size)
    # Sums of another batch size may be taken in another order: not more than their rounding.
    np.testing.assert_allclose(other, images, rtol=0, atol=2e-6 * np.abs(images).max())


def test_image_i_has_the_seed_of_the_first_plus_i(trained: TrainedGenerator):
    whole = draw(trained, np.full(10, 3), seed=20, alpha=1.0, batch_size=10)
    tail = draw(trained, np.full(4, 3), seed=26, alpha=1.0, batch_size=10)
    np.testing.assert_allclose(tail, whole[6:], rtol=0, atol=2e-6 * np.abs(whole).max())
    assert all(np.any(whole[i] != whole[j]) for i in range(10) for j in range(i))


def test_class_seed_and_scale_all_matter(trained: TrainedGenerator):
    def image(label: int, seed: int, alpha: float) -> np.ndarray:
        return draw(trained, np.asarray([label]), seed, alpha, batch_size=1)

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
    with pytest.raises(ConfigError, match=r"^--ema=0\.5: the run does not keep it, use one of 0\.9, 0\.99$"):
        ema_decay(config, 0.5)


def test_no_data_is_needed(run: Path, tmp_path: Path):
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    text = (moved / "config.json").read_text()
    (moved / "config.json").write_text(text.replace('"name": "digits"', '"name": "imagefolder"'))
    first, second = (
        draw(TrainedGenerator.from_run(folder), LABELS, seed=5, alpha=1.0, batch_size=10) for folder in (moved, run)
    )
    np.testing.assert_array_equal(first, second)


def test_a_scale_outside_the_trained_range_is_warned_of(trained: TrainedGenerator, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, "drifting"):
        assert trained.alpha(None) == 1.0 and trained.alpha(4.0) == 4.0
        assert not caplog.records
        assert trained.alpha(4.5) == 4.5
    assert "alpha=4.5 lies outside the trained range [1, 4]" in caplog.text
    for alpha in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=r"^--alpha="):
            trained.alpha(alpha)


def test_a_grid_of_classes(run: Path, tmp_path: Path):
    path = tmp_path / "new" / "grid.png"
    write_samples(TrainedGenerator.from_run(run), path, classes=["7", "0"], columns=3, seed=4)
    assert [f.name for f in path.parent.iterdir()] == ["grid.png"]
    tile = 64 + 2
    with Image.open(path) as image:
        assert image.size == (3 * tile + 2, 2 * tile + 2)
        pixels = np.asarray(image).astype(np.int16)
    drawn = draw(TrainedGenerator.from_run(run), np.asarray([7, 7, 7, 0, 0, 0]), seed=4, alpha=1.0, batch_size=6)
    for i, sample in enumerate(drawn):
        top, left = i // 3 * tile + 2, i % 3 * tile + 2
        shown = pixels[top : top + 64 : 8, left : left + 64 : 8]
        assert np.abs(shown - np.rint((sample[..., 0].clip(-1, 1) + 1) * 127.5)).max() <= 1


@pytest.mark.parametrize("classes", ["x", "10", "-1", "", "1.0"])
def test_unknown_classes(trained: TrainedGenerator, tmp_path: Path, classes: str):
    with pytest.raises(ConfigError, match=r"^--classes=.*: use names or numbers from 0 to 9, separated by commas"):
        write_samples(trained, tmp_path / "x.png", classes=[classes])
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_sampled(run: Path, trained: TrainedGenerator, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"^--out='.*x\.jpg': must end in \.png"):
        write_samples(trained, tmp_path / "x.jpg")
    with pytest.raises(ConfigError, match="give at least one class"):
        write_samples(trained, tmp_path / "x.png", classes=[])
    new = tmp_path / "new"
    new.mkdir()
    shutil.copy(run / "config.json", new)
    with pytest.raises(ConfigError, match="has no checkpoint yet; run `drifting train` first"):
        TrainedGenerator.from_run(new)
    with pytest.raises(ConfigError, match="holds no run"):
        TrainedGenerator.from_run(tmp_path)
