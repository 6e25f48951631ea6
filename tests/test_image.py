"""The container image: its steps name what there is, and run without an engine."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.runs import FULL, ROOT


def image_steps() -> list[tuple[str, str]]:
    """The steps of the Dockerfile, comments left out and continued lines joined."""
    text = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text())
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in text.splitlines()) if word.isupper()]


def test_the_image_is_made_of_what_there_is():
    steps = image_steps()
    tracked = set(
        subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    )
    sent = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [name for word, rest in steps if word == "COPY" for name in rest.split()[:-1]]
    assert sorted(copied) == sorted(sent)
    for name in copied:
        assert name in tracked or any(file.startswith(f"{name}/") for file in tracked), name
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {
        "pyproject.toml",
        project["project"]["readme"],
        *project["project"]["license-files"],
        "drifting",
        "configs",
    }
    assert needed <= set(copied)
    (install,) = [rest for word, rest in steps if word == "RUN" and "pip install" in rest]
    words = install.replace("'", "").split()
    assert words[words.index("-c") + 1] in copied
    extra = re.fullmatch(r"\.\[(\w+)\]", words[-1])
    assert extra is not None and extra[1] in project["project"]["optional-dependencies"]
    order = [word for word, _ in steps]
    assert order[0] == "FROM" and "USER" in order[order.index("RUN") :] and steps[-1] == ("ENTRYPOINT", '["drifting"]')
    assert [rest for word, rest in steps if word == "USER"] == ["drifting"] and "drifting" in project["project"][
        "scripts"
    ]


@pytest.mark.skipif(not FULL, reason="installs the project and its dependencies; set DRIFTING_FULL_TESTS=1")
def test_the_steps_of_the_image_run_in_an_empty_clone(tmp_path: Path):
    """Without an engine, and without the CUDA libraries: what is copied is copied, what is installed is installed."""
    clone, image = tmp_path / "clone", tmp_path / "image"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "python")], check=True)
    image.mkdir()
    environment = {**os.environ, "PATH": f"{tmp_path / 'python' / 'bin'}:{os.environ['PATH']}"}
    environment.pop("PYTHONPATH", None)
    for word, rest in image_steps():
        if word == "COPY":
            *sources, target = rest.split()
            for source in sources:
                into = image / target / (Path(source).name if target == "./" else "")
                subprocess.run(["cp", "-r", str(clone / source), str(into)], check=True)
        elif word == "RUN" and "pip install" in rest:
            subprocess.run(rest.replace(".[gpu]", "."), shell=True, cwd=image, env=environment, check=True)
    (tmp_path / "workspace").mkdir()
    for command, wanted in (("--version", "drifting "), ("configs", "imagenet_ablation")):
        done = subprocess.run(
            ["drifting", command],
            cwd=tmp_path / "workspace",
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert wanted in done.stdout
