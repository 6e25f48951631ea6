"""The wheel: it builds, it is the package and its experiments, and these are found wherever it is installed."""

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import drifting
from drifting.config.shipped import experiment_names
from tests.support.runs import FULL, ROOT

BUILDERS = ("build", "hatchling")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made by `python -m build`: of a source distribution, so that this holds all that the wheel needs."""
    if not FULL and any(importlib.util.find_spec(name) is None for name in BUILDERS):
        pytest.skip(f"{', '.join(BUILDERS)} are not installed: pip install -e '.[dev]'")
    out = tmp_path_factory.mktemp("dist")
    isolation = [] if FULL else ["--no-isolation"]
    command = [sys.executable, "-m", "build", *isolation, f"--outdir={out}", str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (source,), (found,) = out.glob("*.tar.gz"), out.glob("*.whl")
    assert source.stat().st_size < 2**23
    return found


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What installing it puts into an environment."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def installed(site: Path, cwd: Path, *arguments: str) -> str:
    """What a command of the installed package prints, in a folder that has nothing of the clone."""
    command = [sys.executable, "-P", "-m", "drifting.cli", *arguments]
    environment = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_wheel_holds_the_package_and_its_experiments_alone(site: Path):
    found = {
        str(path.relative_to(site)) for path in site.rglob("*") if path.is_file() and ".dist-info" not in str(path)
    }
    tracked = subprocess.run(
        ["git", "ls-files", "drifting", "configs"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    wanted = {f"drifting/{path}" if path.startswith("configs/") else path for path in tracked}
    assert found == wanted
    (metadata,) = site.glob("*.dist-info/METADATA")
    assert "\nLicense-Expression: Apache-2.0\n" in metadata.read_text()


def test_experiments_are_found_where_the_wheel_is_installed(site: Path, tmp_path: Path):
    listed = json.loads(installed(site, tmp_path, "configs", "--json"))
    assert [one["name"] for one in listed] == experiment_names()
    printed = installed(site, tmp_path, "config", "digits:tiny", "--config.train.steps=3")
    assert "    config.train.steps = 3 " in printed
    sweep = installed(site, tmp_path, "sweep", "--config=sweeps/kernel_width", "--workdir=x", "--list")
    assert len(sweep.splitlines()) == 17 and not list(tmp_path.iterdir())


def test_an_editable_install_is_found_from_the_folder_above_the_clone(tmp_path: Path):
    """A clone named `drifting` is a namespace package to whoever stands above it, and must not hide the package.

    A regular package on `sys.path` wins over that, wherever it comes; one that an import hook finds does not.
    """
    for needed in ("hatchling", "editables"):
        pytest.importorskip(needed)
    (tmp_path / "drifting").symlink_to(ROOT)
    build = "import sys; from hatchling.build import build_editable; print(build_editable(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    with zipfile.ZipFile(tmp_path / done.stdout.split()[-1]) as archive:
        archive.extractall(tmp_path / "site")
    code = f"import site; site.addsitedir({str(tmp_path / 'site')!r}); import drifting; print(drifting.__version__)"
    imported = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (imported.returncode, imported.stdout.strip()) == (0, drifting.__version__), imported.stderr
