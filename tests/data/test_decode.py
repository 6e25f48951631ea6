"""The one decoder: every format and mode, the same pixels wherever images are read, and one kind of error."""

import logging
import os
import re
import stat
import struct
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drifting.data.decode import TURNS, decode, is_grey
from drifting.data.image_files import COMPANION_SUFFIXES, IMAGE_SUFFIXES, image_files
from drifting.data.library_warnings import pillow_warnings_in_one_line
from drifting.data.sources.folder import imagefolder
from drifting.errors import ArgumentError, InputError
from drifting.scoring.image_sets import FolderImages, SourceImages, open_images
from drifting.scoring.reference import read_reference
from tests.support.encoded_images import ORIENTATION, encoded, every_kind, exif, mutations, noise
from tests.support.runs import FULL

KINDS = every_kind()


def write(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(KINDS[name])
    return folder


def expected(name: str) -> np.ndarray:
    """The pixels by Pillow's own conversions, of a copy whose alpha is gone and whose 16 bits are 8."""
    colour, grey = Image.fromarray(noise(16, 16, 3)), Image.fromarray(noise(16, 16, seed=1))
    deep = Image.fromarray(noise(16, 16, seed=3))
    mode = name.split(".")[0]
    image = deep if "16" in mode else grey.convert("1") if mode == "grey_1" else grey if "grey" in mode else colour
    if "palette" in mode or mode in ("clear", "frames"):
        image = image.quantize(16) if "grey" not in mode else image
    if "cmyk" in mode:
        image = image.convert("CMYK")
    turned = {"grey.jpeg": 2, "grey_16.png": 1} | dict.fromkeys(("rgb.png", "rgb.jpg", "rgb.webp"), -1)
    quarters = turned.get(name, -1 if name.startswith("rgb_") else 0)
    return np.rot90(np.asarray(image.convert("RGB")), quarters)


@pytest.mark.parametrize("name", KINDS)
def test_pixels_are_those_that_were_saved(name: str) -> None:
    found = decode(name, KINDS[name], 3).astype(int)
    tolerance = 8 if name.endswith(("jpg", "jpeg")) else 0
    assert found.shape == (16, 16, 3) and np.abs(found - expected(name)).mean() <= tolerance


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_file_has_the_same_pixels_wherever_it_is_read(tmp_path: Path, name: str, channels: int) -> None:
    """In training, in statistics of a data set, and among images that are scored; alone, and with others."""
    folder = write(tmp_path / "c", name)
    assert is_grey(name, KINDS[name]) == name.startswith("grey")
    if channels == 3:
        write(folder, "rgb.bmp")
    elif not name.startswith("grey"):
        assert open_images(folder).shape[2] == 3
        return
    order = [os.path.basename(file) for file in image_files(folder)]
    source, read = imagefolder(tmp_path, 16, channels=channels), FolderImages(folder)
    scored = read.part(range(len(read)))
    np.testing.assert_array_equal(SourceImages(source, {}).part(range(len(source))), scored)
    np.testing.assert_array_equal(scored[order.index(name)].squeeze(), decode(name, KINDS[name], channels))


def test_every_suffix_has_a_kind() -> None:
    assert {os.path.splitext(name)[1] for name in KINDS} | {".jfif", ".jpe", ".pnm"} == IMAGE_SUFFIXES


@pytest.mark.parametrize("turn", [0, 1, *TURNS, 9])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_turns_are_pillows(turn: int, kind: str) -> None:
    from PIL import ImageOps

    tag, image = Image.Exif(), Image.fromarray(noise(5, 7, 3))
    tag[ORIENTATION] = turn
    image.getexif()[ORIENTATION] = turn
    data = encoded(image, kind, exif=tag, **({"lossless": True} if kind == "WEBP" else {}))
    np.testing.assert_array_equal(decode("x", data, 3), np.asarray(ImageOps.exif_transpose(image)))


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::Warning:PIL")
def test_only_one_kind_of_error_leaves_the_decoder() -> None:
    read = 0
    for name, data in mutations(20_000 if FULL else 4_000):
        try:
            pixels = decode(name, data, 3)
            assert pixels.ndim == 3 and pixels.dtype == np.uint8
            is_grey(name, data)
            read += 1
        except InputError as error:
            assert name in str(error) and "\n" not in str(error)
    assert read > 500  # some damage does not matter


def with_broken_tag(kind: int) -> bytes:
    """A JPEG whose EXIF says to turn it, and gives a resolution of a wrong type."""
    data = encoded(Image.fromarray(noise(32, 32, 3)), "JPEG")
    entries = struct.pack("<HHIHH", ORIENTATION, 3, 1, 6, 0) + struct.pack("<HHI4s", 282, kind, 2, b"\xff\xff\xff\x7f")
    body = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + struct.pack("<I", 0)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", range(14))
def test_broken_exif_does_not_cost_the_image(kind: int) -> None:
    upright = decode("x", encoded(Image.fromarray(noise(32, 32, 3)), "JPEG"), 3)
    np.testing.assert_array_equal(decode("x", with_broken_tag(kind), 3), np.rot90(upright, k=-1))


@pytest.mark.parametrize(
    ("raised", "remedy"),
    [
        (error, "repair or remove it")
        for error in (
            struct.error("bad"), AttributeError("bad"), TypeError("bad"), KeyError("bad"), EOFError(),
            SyntaxError("bad"), ZeroDivisionError("bad"), OverflowError("bad"), NotImplementedError(),
            IndexError("bad"), RecursionError("bad"),
            AssertionError(), ValueError("bad\nworse"), OSError("bad"), RuntimeError("bad"),
            Image.DecompressionBombError("bad"), SystemError("bad"), UnicodeDecodeError("utf-8", b"", 0, 1, "bad"),
        )
    ]
    + [(MemoryError(), "free some memory"), (PermissionError(13, "Permission denied"), "make it readable")],
)  # fmt: skip
@pytest.mark.parametrize("where", ["open", "load"])
def test_whatever_pillow_raises_names_the_image(
    monkeypatch: pytest.MonkeyPatch, raised: Exception, remedy: str, where: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(Image if where == "open" else Image.Image, where, fail)
    if where == "load":
        monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    with pytest.raises(InputError, match=rf"^cannot read the image a/b\.png: [^\n]+; {remedy}$"):
        decode("a/b.png", KINDS["rgb.png"], 3)


def test_bombs_are_no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match=r"^cannot read the image bomb: Decompress.*; repair or remove it$"):
        decode("bomb", KINDS["rgb.png"], 3)


def test_warnings_become_one_line(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    """From all threads, with their number; those of others stay as they are."""
    big = encoded(Image.fromarray(noise(16, 16, 3)), "PNG")
    pixels = Image.MAX_IMAGE_PIXELS
    with pytest.warns(UserWarning, match="mine"), pillow_warnings_in_one_line(), ThreadPoolExecutor(4) as pool:
        Image.MAX_IMAGE_PIXELS = 200
        try:
            list(pool.map(lambda _: decode("x", big, 3), range(12)))
        finally:
            Image.MAX_IMAGE_PIXELS = pixels
        logging.getLogger("PIL.TiffImagePlugin").error("odd")
        warnings.warn("mine", stacklevel=1)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("images: Pillow warned 13 times while it read them, first: Image size (256 pixels) exceeds")
    assert capfd.readouterr() == ("", "")
    with pillow_warnings_in_one_line():
        decode("x", big, 3)
        decode("x", KINDS["clear.png"], 3)
    assert len(caplog.records) == 1


def damaged_tiff(compression: str) -> bytes:
    """A compressed TIFF file with bytes in its middle overwritten."""
    image = Image.fromarray(noise(64, 64, 3))
    content = bytearray(
        encoded(image.convert("1") if compression == "group4" else image, "TIFF", compression=compression)
    )
    content[200:260] = b"\xff" * 60
    return bytes(content)


DAMAGED_TIFFS = {name: damaged_tiff(name) for name in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "group4")}
"""Those of which libtiff says something, where it can be read still and where not."""


def tried(content: Path | bytes) -> None:
    with suppress(InputError):
        decode("x", content, 3)


@pytest.mark.parametrize("compression", DAMAGED_TIFFS)
def test_what_libtiff_writes_past_python_is_gathered(
    compression: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """It writes to file descriptor 2, of files and of bytes, in all threads, while others write there, too."""
    file = tmp_path / "x.tif"
    file.write_bytes(DAMAGED_TIFFS[compression])
    with pillow_warnings_in_one_line(), ThreadPoolExecutor(4) as pool:
        for _ in pool.map(tried, [file, DAMAGED_TIFFS[compression]] * 8):
            os.write(2, b".")
    (line,) = [record.getMessage() for record in caplog.records]
    found = re.fullmatch(r"images: Pillow warned (\d+) times while it read them, first: libtiff: ([^%]+)", line)
    assert found and int(found[1]) >= 16 and int(found[1]) % 16 == 0
    assert capfd.readouterr() == ("", "." * 16)


SILENT = """
import sys
from pathlib import Path
from drifting.data.decode import decode
from drifting.data.library_warnings import no_pillow_warnings
no_pillow_warnings()
for path in map(Path, sys.argv[1:]):
    try:
        decode("x", path, 3)
    except ValueError as error:
        print(error)
"""


def test_libtiff_is_silent_in_worker_processes(tmp_path: Path) -> None:
    for name, content in DAMAGED_TIFFS.items():
        (tmp_path / f"{name}.tif").write_bytes(content)
    paths = sorted(map(str, tmp_path.iterdir()))
    done = subprocess.run(
        [sys.executable, "-c", SILENT, *paths], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr == "" and "decoder error" in done.stdout


# --- folders ----------------------------------------------------------------------------------------------------------


def test_links_to_folders_are_followed_without_going_round(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "set" / "a", "rgb.png")
    write(tmp_path / "elsewhere" / "deep", "rgb.bmp", "grey.png")
    (tmp_path / "set" / "a" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "b").symlink_to(tmp_path / "elsewhere" / "deep")
    (tmp_path / "set" / "a" / "single.png").symlink_to(tmp_path / "elsewhere" / "deep" / "grey.png")
    source = imagefolder(tmp_path / "set", 8)
    assert source.class_names == ("a", "b") and source.labels.tolist() == [0, 0, 0, 0, 1, 1]
    assert not caplog.records
    (tmp_path / "elsewhere" / "deep" / "up").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "a" / "self").symlink_to(".")
    assert len(imagefolder(tmp_path / "set", 8)) == 6  # what is seen twice on one path is not
    assert len(caplog.records) == 3
    assert all("leads back to a folder above it and is left out" in r.getMessage() for r in caplog.records)


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "link to a pipe"])
def test_what_is_no_regular_file_is_left_out_unopened(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    odd = write(tmp_path / "set" / "c", "rgb.png") / "odd.png"
    if kind == "pipe":
        os.mkfifo(odd)
    elif kind == "socket":
        os.mknod(odd, stat.S_IFSOCK | 0o600)
    else:
        if kind != "device":
            os.mkfifo(tmp_path / "pipe")
        odd.symlink_to("/dev/zero" if kind == "device" else tmp_path / "pipe")
    assert len(imagefolder(tmp_path / "set", 8)) == len(FolderImages(tmp_path / "set" / "c")) == 1
    assert [r.getMessage() for r in caplog.records] == [f"data: {odd} is no regular file and is left out"] * 2
    if kind == "pipe":
        with pytest.raises(InputError, match=r"odd\.png: is no regular file"):
            open_images(odd)
        with pytest.raises(ArgumentError, match=r"odd\.png.*is no regular file: give an \.npz"):
            read_reference(odd)


def test_files_that_are_not_read_are_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in "ab":
        write(tmp_path / name, "rgb.png")
        (tmp_path / name / "deep").mkdir()
        for companion in ("Thumbs.db", "desktop.ini", ".DS_Store", ".x.heic", *(f"x{s}" for s in COMPANION_SUFFIXES)):
            (tmp_path / name / companion).touch()
    assert len(imagefolder(tmp_path, 8)) == 2 and not caplog.records
    for name in ("a/x.heic", "b/deep/y.HEIC", "b/x.svg"):
        (tmp_path / name).touch()
    assert len(imagefolder(tmp_path, 8)) == len(FolderImages(tmp_path)) == 2
    said = "data: 3 files left out, of kinds that are not read (.heic 2, .svg 1)"
    assert [r.getMessage() for r in caplog.records] == [said] * 2
    caplog.clear()
    for number in range(9):
        (tmp_path / "a" / f"x.{number}").touch()
    (tmp_path / "a" / "bare").touch()
    image_files(tmp_path)
    (record,) = caplog.records
    assert "data: 13 files" in record.getMessage() and record.getMessage().endswith(", ..)")


def test_an_archivers_folder_is_no_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "set" / "c", "rgb.png")
    write(tmp_path / "set" / "c" / "__MACOSX", "grey.png")
    (tmp_path / "set" / "__MACOSX" / "c").mkdir(parents=True)
    (tmp_path / "set" / "__MACOSX" / "c" / "._rgb.png").touch()
    source = imagefolder(tmp_path / "set", 8)
    assert source.class_names == ("c",) and len(source) == len(FolderImages(tmp_path / "set")) == 1
    assert not caplog.records


def test_a_link_to_nothing_is_named_where_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(InputError, match=r"gone\.png: .*No such file.*; it is a link to nothing, or was removed"):
        imagefolder(tmp_path, 8)[0]


def test_what_is_no_picture_is_said_once(tmp_path: Path) -> None:
    """A link in a circle, nothing at all, and something else, in a file and as bytes."""
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    with pytest.raises(InputError, match=r"symbolic links.*; it is a link to nothing, or was removed"):
        decode("loop.png", tmp_path / "loop.png", 3)
    for content, words in ((b"", "it is empty"), (b"text", "it is no image of a format that Pillow knows")):
        (tmp_path / "file.png").write_bytes(content)
        for data in (content, tmp_path / "file.png"):
            with pytest.raises(InputError, match=rf"^cannot read the image name: {words}; repair or remove it$"):
                decode("name", data, 3)


def test_scored_folders_hold_every_format_at_any_depth(tmp_path: Path) -> None:
    for number, name in enumerate(sorted(KINDS)):
        write(tmp_path / str(number % 3), name)
    found = open_images(tmp_path)
    assert len(found) == len(KINDS) and found.shape == (16, 16, 3)
    assert found.part(range(len(found))).shape == (len(KINDS), 16, 16, 3)
    assert len(found.facts["sha256"]) == 64


def test_names_that_are_no_text_are_read(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")
    Path(path).write_bytes(KINDS["grey.png"])
    found = open_images(tmp_path)
    assert found.shape == (16, 16, 1) and len(found.facts["sha256"]) == 64


def test_exif_of_the_support_has_a_sub_ifd() -> None:
    assert 0x829A in exif().get_ifd(0x8769)
