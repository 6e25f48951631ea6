"""Arrays as they are found: what is no `.npz` is named, and layouts that are almost surely others ask, everywhere."""

import io
import logging
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from drifting.data.npz import open_member
from drifting.data.source import ArraySource
from drifting.data.sources.array import array
from drifting.errors import InputError
from drifting.sampling.labels import wanted_labels
from drifting.scoring.image_sets import NpzImages
from drifting.scoring.reference import read_reference
from tests.support.encoded_images import damage, noise

LABELS = np.arange(8) % 2


def read_array(path: Path) -> object:
    return array(path)


DOORS: dict[str, Callable[[Path], object]] = {"array": read_array, "images": NpzImages, "reference": read_reference}
"""Everything that reads images or statistics out of an `.npz`."""


def everything(images: np.ndarray) -> dict[str, np.ndarray]:
    """What any of the doors looks for, with images of its kind."""
    return {"image": images, "label": LABELS, "arr_0": images, "mu": np.zeros(3), "sigma": np.eye(3)}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("edm.pkl", b"\x80\x04\x95 statistics", "a pickle"),
        ("old.pkl", b"(dp0\n", "a pickle"),
        ("renamed.npz", b"\x80\x02}q\x00.", "a pickle"),
        ("page.npz", b"<!DOCTYPE html>", "a web page.*: get it again"),
        ("hdf.npz", b"\x89HDF\r\n\x1a\n", "HDF5: save its arrays by numpy.savez"),
        ("bare.npz", b"\x93NUMPY\x01\x00", "one array"),
        ("empty.npz", b"", "it is empty: get it again"),
        ("text.npz", b"hello", "not a zip file: get it again, or save its arrays by numpy.savez"),
    ],
)
def test_what_is_no_npz_is_named(tmp_path: Path, door: str, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}: .*{words}") as error:
        DOORS[door](tmp_path / name)
    assert "\n" not in str(error.value) and "allow_pickle" not in str(error.value)


@pytest.mark.parametrize("door", DOORS)
def test_files_of_pytorch_are_never_unpickled(tmp_path: Path, door: str) -> None:
    with zipfile.ZipFile(tmp_path / "cached.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00.")
    with pytest.raises(ValueError, match=r"cached\.pt: .*a file of PyTorch, a pickle .*: where it is trusted, save"):
        DOORS[door](tmp_path / "cached.pt")


def test_members_with_objects_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.array([{}], object))
    with pytest.raises(InputError, match="it holds pickled objects"):
        open_member(tmp_path / "x.npz", "a")


@pytest.mark.parametrize("packed", [False, True])
def test_damage_is_one_kind_of_error(tmp_path: Path, packed: bool) -> None:
    stream = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(stream, **everything(noise(8, 4, 4, 3)))
    rng, path = np.random.default_rng(packed), tmp_path / "x.npz"
    for _ in range(150):
        data = bytearray(stream.getvalue())
        for _ in range(int(rng.integers(1, 4))):
            damage(data, int(rng.integers(len(data))), rng)
        path.write_bytes(data)
        for read in DOORS.values():
            try:
                read(path)
            except ValueError as error:
                assert "x.npz" in str(error) and "\n" not in str(error)


# --- layouts and ranges -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("door", ["array", "images", "python"])
@pytest.mark.parametrize(
    ("images", "refused", "words"),
    [
        (noise(8, 3, 16, 16), True, r"looks like \[N, C, H, W\]: give \[N, H, W, C\]"),
        (noise(8, 1, 28, 28), True, r"looks like \[N, C, H, W\]"),
        (noise(8, 4, 32, 32), True, r"looks like \[N, C, H, W\]"),
        (noise(8, 32, 3, 32), True, r"looks like \[H, W, C, N\]"),
        (noise(8, 8, 8, 5), False, "has 5 channels"),
        (noise(8, 8, 8, 2), False, "has 2 channels"),
        (noise(8, 8, 8, 4), False, "has 4 channels"),
        (noise(8, 8, 8, 3) // 128, False, "uint8 and has no value above 1"),
        (noise(8, 8, 8, 3), False, None),
        (noise(8, 8, 8, 1), False, None),
    ],
)
def test_layouts_that_are_almost_surely_others_ask(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, door: str, images: np.ndarray, refused: bool, words: str | None
) -> None:
    np.savez(tmp_path / "x.npz", **everything(images))

    def read() -> object:
        return ArraySource(images, LABELS) if door == "python" else DOORS[door](tmp_path / "x.npz")

    with caplog.at_level(logging.WARNING, "drifting"):
        if refused:
            with pytest.raises(InputError, match=str(words)):
                read()
            return
        read()
    found = [record.getMessage() for record in caplog.records]
    assert len(found) == (words is not None) and all(str(words) in line for line in found)
    assert all(line.startswith("images" if door == "python" else str(tmp_path / "x.npz")) for line in found)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_from_0_to_1_ask(tmp_path: Path, caplog: pytest.LogCaptureFixture, dtype: type) -> None:
    unit = (noise(8, 4, 4, 3) / 255).astype(dtype)
    np.savez(tmp_path / "x.npz", **everything(unit))
    array(tmp_path / "x.npz")
    (line,) = [record.getMessage() for record in caplog.records]
    assert "does it go from 0 to 1? Floats go from -1 (black) to 1 (white): give 2 * images - 1, or uint8" in line
    np.savez(tmp_path / "x.npz", **everything(2 * unit - 1))
    array(tmp_path / "x.npz")
    assert len(caplog.records) == 1
    with pytest.raises(InputError, match=r"arr_0 must be uint8 .*has float.*; of floats in \[-1, 1\]: \(127\.5 \* "):
        NpzImages(tmp_path / "x.npz")
    for images, recipe in ((unit, r"in \[0, 1\]: \(255 \* x\)"), (255 * unit, r"levels: x\.astype")):
        np.savez(tmp_path / "x.npz", **everything(images))
        with pytest.raises(InputError, match=rf"arr_0 must be uint8 .*; of .*{recipe}"):
            NpzImages(tmp_path / "x.npz")
    np.savez(tmp_path / "x.npz", **everything(unit[:0]))
    with pytest.raises(InputError, match=r"arr_0 has the shape \[0, 4, 4, 3\], no image: give some"):
        NpzImages(tmp_path / "x.npz")


# --- lists from Windows -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\n\n", " \r\n\r\n"])
def test_labels_to_draw_come_from_any_system(tmp_path: Path, encoding: str, end: str) -> None:
    (tmp_path / "labels.txt").write_bytes(end.join(["2", "0", "1", ""]).encode(encoding))
    assert wanted_labels("abc", None, labels=str(tmp_path / "labels.txt")).tolist() == [2, 0, 1]
