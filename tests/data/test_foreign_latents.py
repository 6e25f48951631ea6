"""Latents that other code has written: read as what they are, taken over into a cache, trained on, and refused."""

import copy
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from drifting.assembly.spaces import source_space
from drifting.cli.commands import main
from drifting.data.sources import make_source
from drifting.errors import ConfigError, InputError
from tests.support.foreign_latents import (
    CLASSES,
    COUNT,
    FOREIGN,
    SD,
    Encoded,
    edm2,
    encoded,
    fast_dit,
    lightning_dit,
    mar,
    npy,
    released,
    repa,
    torch_save,
)
from tests.support.picture_sets import zip_of
from tests.support.runs import TINY, metrics

FOUND = encoded()

ROWS = np.array([59, 0, 31, 2])


def expected(found: Encoded, drawn: bool, mirror: bool) -> np.ndarray:
    """Mean and log-variance as a cache has them; of what is drawn already the mean is all."""
    mean = (found.mirrored if mirror else found.mean)[ROWS]
    log_var = np.full_like(mean, -30) if drawn else 2 * np.log(found.deviation[ROWS])
    return np.concatenate([mean, log_var], axis=-1)


@pytest.mark.parametrize("name", FOREIGN)
def test_moments_are_what_was_encoded(name: str, tmp_path: Path) -> None:
    write, drawn, mirrored = FOREIGN[name]
    found = encoded(side=16)
    source = make_source("latents", path=write(tmp_path, found), image_size=32)
    assert len(source) == COUNT and source.shape == (32, 32, 3) and source.delivers.shape == (16, 16, 8)
    assert source.class_names == (CLASSES if name in ("released", "mar", "moments_in_pt") else ("0", "1"))
    assert source.delivers.mirrored == mirrored and source.delivers.are_moments
    np.testing.assert_array_equal(source.labels, found.labels)
    for mirror in (False, True)[: 1 + mirrored]:
        for one in (source, copy.deepcopy(source)):
            moments, labels = one.read(ROWS, np.full(len(ROWS), mirror), None)
            assert moments.dtype == np.float16
            np.testing.assert_allclose(moments, expected(found, drawn, mirror), rtol=1e-3, atol=1e-3)
            np.testing.assert_array_equal(labels, found.labels[ROWS])


def test_no_axis_is_mistaken_for_that_of_channels(tmp_path: Path) -> None:
    """Where a format and a shape leave it open, a person is asked; what the person says is then what is read."""
    found = encoded(spread=1.0, channels=32, side=32)
    found = Encoded(*(array[:2] for array in (found.mean, found.deviation, found.mirrored, found.labels)))
    path = released(tmp_path / "cubes", found, 1.0)
    with pytest.raises(
        InputError, match=r"shape \(32, 32, 32\) .* data\.options\.latents\.channels_first=True or False"
    ):
        make_source("latents", path=path)
    for channels_first in (False, True):
        options = {"channels": 32, "scale": 1.0, "channels_first": channels_first}
        source = make_source("latents", path=path, options=options)
        mean = np.moveaxis(found.mean, 1, -1) if channels_first else found.mean
        np.testing.assert_allclose(source.read([1], np.array([False]), None)[0][..., :32], mean[1:], atol=1e-2)
    kl16 = encoded(spread=1.0, channels=16, side=32)
    kl16 = Encoded(*(array[:2] for array in (kl16.mean, kl16.deviation, kl16.mirrored, kl16.labels)))
    source = make_source("latents", path=mar(tmp_path / "mar", kl16), image_size=512)
    assert not source.are_drawn and source.sample_shape == (32, 32, 16) and source.scale == 1
    np.testing.assert_allclose(source.read([1], np.array([False]), None)[0][..., :16], kl16.mean[1:], atol=1e-2)


def test_labels_of_a_file_each_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, read = fast_dit(tmp_path / "theirs", FOUND), []
    load = np.load
    monkeypatch.setattr(np, "load", lambda file, **kinds: read.append(str(file)) or load(file, **kinds))

    def labels_read() -> int:
        read.clear()
        source = make_source("latents", path=path, image_size=16)
        np.testing.assert_array_equal(source.labels[:-1], FOUND.labels[:-1])
        return sum(Path(file).parent.name == "imagenet256_labels" for file in read)

    assert labels_read() == COUNT and labels_read() == 0
    np.save(path / "imagenet256_labels" / f"{COUNT - 1}.npy", np.array([0, 0])[:1])
    assert labels_read() == COUNT and labels_read() == 0


def convert(folder: Path, *options: str) -> int:
    given = [f"--config.data.{option}" for option in ("vae=random://smoke", "image_size=16", *options)]
    return main(["cache", f"--from={folder}", f"--workdir={folder.parent / 'cache'}", *given])


@pytest.mark.parametrize("name", ["released", "repa"])
def test_a_cache_is_made_of_them(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write, drawn, mirrored = FOREIGN[name]
    folder, cache = write(tmp_path / "theirs", FOUND), tmp_path / "cache"
    assert convert(folder) == 0
    what = (
        "drawn latents of 8x8x4, multiplied by 0.18215"
        if drawn
        else "means and variances of latents of 8x8x4, not scaled"
    )
    assert f"data: {folder} holds {what}" in capsys.readouterr().err
    ours, theirs = make_source("latents", path=cache), make_source("latents", path=folder, image_size=16)
    assert ours.flip == mirrored and ours.vae == "random://smoke"
    assert (ours.class_names, ours.shape) == (theirs.class_names, theirs.shape)
    for mirror in (False, True)[: 1 + mirrored]:
        both = [one.read(ROWS, np.full(len(ROWS), mirror), None)[0] for one in (ours, theirs)]
        np.testing.assert_array_equal(*both)
    np.testing.assert_array_equal(ours.labels, theirs.labels)
    assert main(["cache", "--verify", f"--workdir={cache}"]) == 0 and convert(folder) == 0
    capsys.readouterr()
    assert convert(cache) == 2
    assert "is a cache already" in capsys.readouterr().err


def test_they_are_trained_on_as_they_are(tmp_path: Path) -> None:
    run, folder = tmp_path / "run", fast_dit(tmp_path / "theirs", FOUND)
    data = ["name=latents", f"path={folder}", "vae=random://smoke", "image_size=16"]
    model = ["model.name=mlp", "model.num_heads=None", "model.depth=2", "loss.labels=2"]
    steps = ["train.steps=3", "train.log_every=1", "train.sample_every=0"]
    settings = [f"--config.{key}" for key in (*(f"data.{key}" for key in data), *model, *steps)]
    assert main(["train", f"--config={TINY}", f"--workdir={run}", *settings]) == 0
    assert np.isfinite(metrics(run)[-1]["loss"])


def test_the_deviation_is_a_warning_where_a_person_says_the_scale(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert(fast_dit(tmp_path / "theirs", FOUND), "options.latents.scale=1") == 0
    assert "is data.options.latents.scale=1 right?" in capsys.readouterr().err


def test_statistics_beside_latents_normalise_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Their own, or those that a cache measures; other files have none."""
    folder = lightning_dit(tmp_path / "theirs", encoded(3.0))
    source = make_source("latents", path=folder, image_size=16)
    space = source_space("random://smoke", source, normalise=True)
    assert space.vae is not None and space.vae.arguments["latents_std"] == source.delivers.measured["std"]
    np.testing.assert_allclose(source.delivers.measured["std"], 3, rtol=0.05)
    assert convert(lightning_dit(tmp_path / "flat", encoded(1.0))) == 0
    assert "set data.normalise_latents=True" in capsys.readouterr().err
    measured = make_source("latents", path=tmp_path / "cache").delivers.measured
    np.testing.assert_allclose(measured["std"], 1, rtol=0.05)
    with pytest.raises(ConfigError, match="holds latents that nobody has measured: make a cache of them"):
        source_space("random://smoke", make_source("latents", path=repa(tmp_path / "r", FOUND)), normalise=True)


def damaged(write: Callable[[Path, Encoded], Path], name: str, content: bytes | None) -> Callable[[Path], Path]:
    """A format in which the first file of a name has another content, or None of its own: half of it."""

    def both(root: Path) -> Path:
        path = sorted(write(root, FOUND).rglob(name))[0]
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2] if content is None else content)
        return root

    return both


def without(write: Callable[[Path, Encoded], Path], name: str) -> Callable[[Path], Path]:
    def both(root: Path) -> Path:
        found = sorted(write(root, FOUND).rglob(name))[0]
        shutil.rmtree(found) if found.is_dir() else found.unlink()
        return root

    return both


def features_alone(root: Path) -> Path:
    return fast_dit(root, FOUND) / "imagenet256_features"


def cut_short(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-9000])
    return path


def other_key(root: Path) -> Path:
    torch_save(root / "ant" / "0.pt", {"latents": FOUND.mean[0]})
    return root


def with_mean_alone(root: Path) -> Path:
    (root / "ant").mkdir(parents=True)
    np.savez(root / "ant" / "0.npz", moments=np.zeros((3, 8, 8)), moments_flip=np.zeros((3, 8, 8)))
    return root


def objects(root: Path) -> Path:
    np.savez(mar(root, FOUND) / "ant" / "00000.JPEG.npz", moments=np.array([{}], object))
    return root


def flat_rows(root: Path) -> Path:
    rows = {name: np.zeros((2, 256), np.float32) for name in ("latents", "latents_flip")}
    root.mkdir()
    save_file(rows | {"labels": np.zeros(2, np.int64)}, root / "a.safetensors")
    return root


def empty_folder(root: Path) -> Path:
    root.mkdir()
    return root


def half_labels(root: Path) -> Path:
    rows = {name: np.zeros((2, 4, 8, 8), np.float32) for name in ("latents", "latents_flip")}
    root.mkdir()
    save_file(rows | {"labels": np.array([1.0, 0.5])}, root / "a.safetensors")
    return root


def statistics_of(deviation: list[float]) -> Callable[[Path], Path]:
    def write(root: Path) -> Path:
        shape = (1, 4, 1, 1)
        torch_save(
            lightning_dit(root, FOUND) / "latents_stats.pt",
            {"mean": np.zeros(shape), "std": np.reshape(deviation, shape)},
        )
        return root

    return write


ODD = encoded(channels=6)

WRONG: dict[str, tuple[Callable[[Path], Path], list[str], str]] = {
    # scaled otherwise than their writer does
    "scaled already": (
        lambda root: lightning_dit(root, FOUND, scale=SD),
        [],
        "deviate 0.182 times as much as the statistics",
    ),
    "moments scaled already": (
        lambda root: repa(root, encoded(1.0)),
        [],
        r"scale=None: latents in .* deviate by 0\.18",
    ),
    "not scaled": (lambda root: fast_dit(root, FOUND, 1.0), [], r"deviate by 5\.\d+ once random://smoke"),
    "not scaled, .pt": (lambda root: released(root, FOUND, 1.0), [], r"deviate by 5\.\d+ once random://smoke"),
    "no scale": (
        lambda root: fast_dit(root, FOUND),
        ["options.latents.scale=-1"],
        "scale=-1.0: give a positive number",
    ),
    # of another VAE
    "other channels": (
        lambda root: lightning_dit(root, encoded(1.0, 16)),
        [],
        "its latents of images of 16x16 are 8x8x4, those in .* 8x8x16",
    ),
    "other size": (
        lambda root: repa(root, FOUND),
        ["image_size=32"],
        "its latents of images of 32x32 are 16x16x4, those in .* 8x8x4",
    ),
    "which": (lambda root: fast_dit(root, ODD), [], "are its 6 channels latents, or means and variances"),
    "neither": (lambda root: fast_dit(root, ODD), ["options.latents.channels=4"], "channels=4: .* has 6, neither"),
    "no VAE": (lambda root: lightning_dit(root, FOUND), ["vae=None"], "data.vae=None: .* does not say of which VAE"),
    "no pairs": (with_mean_alone, [], "has 3 channels, no pairs of mean and variance"),
    "channels of moments": (
        lambda root: mar(root, FOUND),
        ["options.latents.channels=8"],
        "channels=8: .* has 8, not twice that",
    ),
    # damaged
    "npz cut short": (damaged(mar, "00000.JPEG.npz", None), [], r"00000\.JPEG\.npz: cannot be read as an \.npz"),
    "npz of objects": (objects, [], r"00000\.JPEG\.npz: cannot be read as an \.npz"),
    "no pictures but rows": (flat_rows, [], r"latents 0 have shape \(256,\), not \[C, h, w\] or"),
    "no deviation": (statistics_of([0.0] * 4), [], r"latents_stats\.pt: holds .* deviations that are not above 0"),
    "deviation of nan": (statistics_of([np.nan] * 4), [], r"latents_stats\.pt: holds .* not finite"),
    "pt cut short": (damaged(released, "00000.pt", None), [], r"00000\.pt: not a readable PyTorch"),
    "pt of another key": (other_key, [], "has no moments, but latents"),
    "npy cut short": (damaged(repa, "*00000000.npy", None), [], "00000000.npy: cannot be read as an array"),
    "a pickle": (damaged(fast_dit, "*features/0.npy", npy(np.array([{}], object))), [], "cannot be read as an array"),
    "another shape": (
        damaged(fast_dit, "*features/0.npy", npy(np.zeros((2, 4, 8, 8)))),
        [],
        r"shape \(2, 4, 8, 8\), not \[1, C, h, w\]",
    ),
    "a size of its own": (
        damaged(repa, "*00000059.npy", npy(np.zeros((8, 4, 4)))),
        [],
        r"latents 59 have shape \(8, 4, 4\), and the first",
    ),
    "nan": (damaged(repa, "*00000059.npy", npy(np.full((8, 8, 8), np.nan))), [], "latents 59 hold NaN"),
    "below 0": (damaged(repa, "*00000059.npy", npy(np.full((8, 8, 8), -1.0))), [], "deviations below 0"),
    "safetensors cut short": (
        damaged(lightning_dit, "*001.safetensors", None),
        [],
        r"001\.safetensors: cannot be read",
    ),
    "statistics damaged": (damaged(lightning_dit, "*.pt", b"x"), [], r"latents_stats\.pt: not a readable"),
    # something is missing
    "no labels": (without(fast_dit, "*_labels"), [], "has imagenet256_features, and no imagenet256_labels, "),
    "features alone": (features_alone, [], "holds features alone: give .*, which must have imagenet256_labels"),
    "no dataset.json": (
        without(repa, "dataset.json"),
        [],
        r"has \.npy files, and no .*vae-sd/dataset\.json, their labels",
    ),
    "no label": (without(fast_dit, "*labels/7.npy"), [], r"labels/7\.npy: is missing"),
    "no file": (without(repa, "*00000007.npy"), [], r"00000007\.npy: is in dataset\.json, and not there"),
    "no labels of json": (
        damaged(repa, "dataset.json", b'{"labels": [["a.npy", 1]]}'),
        [],
        r"00000000\.npy: has no label",
    ),
    "json cut short": (damaged(repa, "dataset.json", None), [], "holds no labels as EDM writes them"),
    "half a label": (
        damaged(repa, "dataset.json", b'{"labels": [["a.npy", 1], ["b.npy", 0.5]]}'),
        [],
        r"dataset\.json: 'b\.npy': its label is 0\.5",
    ),
    "no label in json": (
        damaged(repa, "dataset.json", b'{"labels": [["a.npy", null], ["b.npy", 1]]}'),
        [],
        r"dataset\.json: 'a\.npy': has no label",
    ),
    "half a label in a shard": (half_labels, [], r"label 1: its label is 0\.5"),
    "two labels": (damaged(fast_dit, "*labels/7.npy", npy(np.zeros(2, int))), [], "holds no single label"),
    "a zip cut short": (lambda root: cut_short(edm2(root, FOUND)), [], r"is no zip archive .*: copy it again"),
    "a zip of something else": (
        lambda root: zip_of(root / "x.zip", {"a.npy": b""}),
        [],
        "no archive of latents as EDM2",
    ),
    "nothing": (lambda root: root, [], "there is no such folder"),
    "no latents": (empty_folder, [], "holds no cache of latents, nor another form"),
    "random crops": (lambda root: repa(root, FOUND), ["random_crop=True"], "data.random_crop"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_told_in_one_line(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write, options, message = WRONG[case]
    given = write(tmp_path / "theirs")
    assert convert(given, *options) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(lines) == 1 and re.search(message, lines[0]), lines
    assert (
        re.match(r"drifting: error: (data\.(?!path)[\w.]+|--from)=", lines[0]) and not (given.parent / "cache").exists()
    )


def test_options_of_files_are_none_of_a_cache(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no files of other code, of which options\.latents are"):
        make_source("latents", path=tmp_path, options={"scale": 2.0})
