"""The documents: what they show is parsed or run, what they name is there, and pages of the code say what it says."""

import ast
import functools
import pkgutil
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import drifting
from drifting.assembly.names import check_settings
from drifting.cli.commands import COMMANDS, main
from drifting.cli.overrides import value_of
from drifting.cli.settings import SweepRequest, load_function, parse_flags
from drifting.config.meanings import COMMAND_SETTINGS
from drifting.config.parse import annotation
from drifting.config.schema import Config, PretrainConfig
from drifting.errors import ConfigError
from drifting.experiments.grid import Sweep
from drifting.studies import STUDIES
from scripts import reference_pages, site_requests
from tests.support.documents import (
    anchors,
    blocks,
    command_lines,
    documents,
    files_of,
    is_complete,
    links,
    mistakes,
    notebooks,
    spans,
    text_of,
    words_of,
)
from tests.support.runs import ROOT

DOCS = ROOT / "docs"

SHELL = [*documents(), *notebooks(), *sorted((ROOT / "configs").rglob("*.py")), ROOT / "Dockerfile"]
SHELL += [path for path in sorted((ROOT / "scripts").iterdir()) if path.is_file()]
"""Where command lines are shown: documents, and the headers of experiments and of scripts."""


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


# --- made from the code -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", reference_pages.PAGES)
def test_pages_made_from_the_code_say_what_it_says(name: str):
    page = (DOCS / name).read_text(encoding="utf-8")
    assert page == reference_pages.PAGES[name](), "they differ, run: python -m scripts.reference_pages"


@pytest.fixture
def kernels() -> Iterator[None]:
    """Kernels that an example adds are gone afterwards."""
    before = dict(drifting.KERNELS)
    yield
    drifting.KERNELS.clear()
    drifting.KERNELS.update(before)


# --- command lines ----------------------------------------------------------------------------------------------------


def shown_in(path: Path) -> list[list[str]]:
    """The command lines of a document; of a script's or experiment's header those that are indented or behind a #."""
    text = text_of(path)
    if path.suffix == ".md" or path.suffix == ".ipynb":
        return list(command_lines(text))
    header = (ast.get_docstring(ast.parse(text)) or "") if path.suffix == ".py" else comments(text)
    lines = re.sub(r"\s*\\\n\s*", " ", header).splitlines()
    return list(command_lines("```\n" + "\n".join(line[4:] for line in lines if line.startswith("    ")) + "\n```\n"))


def comments(text: str) -> str:
    """The comments of a shell script; commands in them are indented by three blanks."""
    return "\n".join(re.sub(r"^#\s{3}", "    ", line) for line in text.splitlines() if re.match(r"#[^!]", line))


def check_command(words: list[str]) -> None:
    """Parses a command line as the program would, and looks up what it names, without running it."""
    program, *arguments = words
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert all(a in targets or "=" in a for a in arguments), f"make has {targets}"
    elif program == "python":
        module = arguments[1]
        if module.startswith("scripts."):
            assert (ROOT / f"{module.replace('.', '/')}.py").is_file()
    else:
        check_drifting(arguments)


def check_drifting(arguments: list[str]) -> None:
    name = " ".join(arguments[:2]) if " ".join(arguments[:2]) in COMMANDS else arguments[0] if arguments else ""
    rest = arguments[len(name.split()) :]
    if name in ("", "--version", "--help", "-h"):
        return
    if name not in COMMANDS:
        group = any(known.startswith(f"{name} ") for known in COMMANDS)
        assert group and not [a for a in rest if not a.startswith("-")], f"there is no command {' '.join(arguments)!r}"
        return
    given = [argument for argument in rest if argument not in ("-h", "--help", "...")]
    if not given and name not in ("configs", "help"):
        return  # it is spoken of
    command = COMMANDS[name]
    if command.settings and not command.has_defaults and not any(re.match("-?-?config(=|$)|[^-]", a) for a in given):
        only = command.without_config and any(a.startswith(f"--{command.without_config}") for a in given)
        given = given if only else ["--config=digits" if name != "cache" else "--config=data/imagenet", *given]
    values = parse_flags(name, command, given)
    settings = values.config if "config" in values else None
    if isinstance(settings, Config | PretrainConfig):
        check_settings(settings)
    elif isinstance(settings, SweepRequest):
        assert isinstance(load_function(settings.file, "get_sweep"), Sweep)


@pytest.mark.parametrize("path", SHELL, ids=name_of)
@pytest.mark.usefixtures("kernels")
def test_command_lines_are_such_as_the_program_takes(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Commands, flags, settings, experiments and their variants; files that a document shows are where it runs them."""
    shows_files = DOCS / "your-data.md" if path.name == "index.md" else path
    for name, text in files_of(text_of(shows_files)).items():
        (tmp_path / name).write_text(text)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    wrong = []
    for words in shown_in(path):
        try:
            check_command(words)
        except (ConfigError, AssertionError) as error:
            wrong.append(f"{' '.join(words)}: {error}")
    assert not wrong, "\n".join(wrong)


def test_mistakes_that_are_shown_get_the_answer_that_is_shown(capsys: pytest.CaptureFixture[str]):
    shown = [mistake for path in documents() for mistake in mistakes(text_of(path))]
    assert shown
    for words, message in shown:
        assert main(words[1:]) == 2
        assert capsys.readouterr().err == f"{message}\n"


def test_there_are_command_lines_to_look_at():
    found = [" ".join(words) for path in SHELL for words in shown_in(path)]
    assert len(found) > 150
    for command in COMMANDS:
        assert any(line.startswith(f"drifting {command}") for line in found), f"no document shows {command}"
    for wanted in ("python -m scripts.reference_pages", "make docs", "drifting train --config=imagenet_ablation"):
        assert any(line.startswith(wanted) for line in found), wanted


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("drifting sweep --config=f.py [--list] [--index=K]", "drifting sweep --config=f.py --list --index=1"),
        ("TPU=a ZONE=b scripts/tpu_pod.sh train --config=f", "drifting train --config=f"),
        ("sbatch --nodes=1 scripts/slurm.sbatch train --config=f", "drifting train --config=f"),
        ("srun --ntasks=8 drifting cache --config=f", "drifting cache --config=f"),
        ("docker run --gpus=all --volume=$PWD:/w drifting train --config=f", "drifting train --config=f"),
        (".venv/bin/python -m scripts.bench", "python -m scripts.bench"),
        ("do CUDA_VISIBLE_DEVICES=$i drifting cache --process_index=$i", "drifting cache --process_index=1"),
        ("  config.json     every setting; a run's", None),
        ("pip install -e .", None),
    ],
)  # fmt: skip
def test_command_lines_are_found(line: str, words: str | None):
    assert [" ".join(found) for found in words_of(line)] == ([] if words is None else [words])


@pytest.mark.parametrize(
    "line",
    [
        "drifting trian --config=digits --workdir=x",
        "drifting train --config=digits --workdri=x",
        "drifting train --config=digit --workdir=x",
        "drifting train --config=digits:nope --workdir=x",
        "drifting train --config=digits --workdir=x --config.loss.kernle=laplace",
        "drifting train --config=digits --workdir=x --config.loss.kernel=laplce",
        "drifting sweep --config=sweeps/kernel_width:nope --workdir=x",
        "drifting study crul --out=x",
        "make dcos",
        "python -m scripts.nothing",
    ],
)
def test_wrong_command_lines_are_found(line: str):
    with pytest.raises((ConfigError, AssertionError)):
        check_command(line.split())


# --- settings, files, links -------------------------------------------------------------------------------------------

KINDS = [*COMMAND_SETTINGS.values(), *(study.settings for study in STUDIES.values())]

SECTIONS = {section for kind in KINDS for section in kind.__dataclass_fields__}


def wrong_setting(span: str) -> str | None:
    """What is wrong with a code span such as `loss.widths` or `data.resident=device`; None: nothing, or it is none."""
    match = re.fullmatch(r"(?:--config\.)?([a-z_]+)\.([a-z_.]+)(?:=(.+))?", span)
    if match is None or match[1] not in SECTIONS or match[2] in ("py", "md"):
        return None
    path, value, found = f"{match[1]}.{match[2]}", match[3], []
    for kind in KINDS:
        try:
            hint = annotation(kind, path, value)
            if value is None or re.search(r"\b[A-Z]+\b", value):  # a word that stands for some value
                return None
            return value_of(path, value, hint) and None
        except ConfigError as error:
            found.append(str(error))
    return None if any("a section; set its keys" in error for error in found) else found[0]


@pytest.mark.parametrize("path", [*documents(), *notebooks()], ids=name_of)
def test_settings_and_files_that_are_named_are_there(path: Path):
    text = text_of(path)
    wrong = [f"`{span}`: {error}" for span in spans(text) if (error := wrong_setting(span))]
    files = [span for span in spans(text) if re.fullmatch(r"(drifting|tests|scripts|configs|docs)/[\w/.]+\.\w+", span)]
    wrong += [
        f"`{file}`: there is no such file"
        for file in files
        if not (ROOT / file).is_file() and file != "configs/NAME.py"
    ]
    wrong += [f"`{name}`: {error}" for name in map(python_name, spans(text)) if name and (error := unresolved(name))]
    assert not wrong, "\n".join(wrong)


def python_name(span: str) -> str | None:
    """The dotted name of a code span such as `drifting.load("runs/demo")` or `drifting.method.loss`, if it is one."""
    match = re.match(r"drifting(\.[A-Za-z]\w*)+(?=\(|$)", span)
    return match[0] if match else None


def unresolved(name: str) -> str | None:
    """What is wrong with the dotted name of a module, a function or a class; None: nothing."""
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError) as error:
        return str(error)
    return None


def test_wrong_settings_are_found():
    assert wrong_setting("loss.widhts") and wrong_setting("train.steps=many") and wrong_setting("--config.data.nme=x")
    for right in (
        "loss.widths",
        "train.micro_batch=N",
        "data.resident=device",
        "config.json",
        "features.options.mae.weights",
    ):
        assert wrong_setting(right) is None
    assert unresolved("drifting.method.lss") and unresolved("drifting.lod") and not unresolved("drifting.load")


@functools.cache
def anchors_of(path: Path) -> set[str]:
    return anchors(text_of(path))


def broken_links(path: Path, text: str) -> list[str]:
    """Links of a document to files, folders or headings that are not there, or that the site does not have."""
    wrong = []
    for link in links(text):
        if re.match(r"https?://", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        if not target.exists() or ROOT not in target.parents:
            wrong.append(f"{link}: there is no such file")
        elif path.parent == DOCS and DOCS not in target.parents:
            wrong.append(f"{link}: lies outside of docs/, so that the site does not have it: name it without a link")
        elif anchor and anchor not in anchors_of(target):
            wrong.append(f"{link}: it has no such heading")
    return wrong


@pytest.mark.parametrize("path", [*documents(), *notebooks()], ids=name_of)
def test_links_lead_somewhere(path: Path):
    assert not broken_links(path, text_of(path))


def test_broken_links_are_found():
    wrong = ["[a](nothing.md)", "[a](runs.md#nothing)", "[a](../README.md)", "![a](nothing.png)", "[a](#nothing)"]
    right = ["[a](runs.md#to-resume)", "![a](digits.png)", "[a](#install)", "[a](https://jax.dev)", "`[a](b)`"]
    assert [len(broken_links(DOCS / "index.md", text)) for text in wrong + right] == [1] * 5 + [0] * 5


def test_the_site_leads_to_every_page_and_the_readme_to_most():
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    listed = re.findall(r"[\w-]+\.md", str(nav))
    assert sorted(listed) == sorted(path.name for path in DOCS.glob("*.md")), "a page has its line in mkdocs.yml, nav"
    assert {Path(link).name for link in links(text_of(ROOT / "README.md"))} >= set(listed)


# --- Python -----------------------------------------------------------------------------------------------------------

PYTHON = {code: path for path in documents() for code in blocks(text_of(path), "python") if path.name != "api.md"}
"""Each block of Python, and a document that shows it."""


@pytest.mark.parametrize("code", PYTHON, ids=[f"{path.name}-{i}" for i, path in enumerate(PYTHON.values())])
@pytest.mark.usefixtures("unchecked", "kernels")
def test_python_is_what_it_seems(code: str):
    """All compiles, and imports what there is; what is complete runs. `test_api.py` runs the others of python.md."""
    tree = compile(code, str(PYTHON[code]), "exec", ast.PyCF_ONLY_AST)
    if not is_complete(code):
        tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    exec(compile(tree, str(PYTHON[code]), "exec"), {"__name__": "shown"})


def test_the_readme_shows_no_python_that_is_not_run():
    """What needs a run stands in python.md as well, line by line."""
    elsewhere = text_of(DOCS / "python.md")
    for code in blocks(text_of(ROOT / "README.md"), "python"):
        assert is_complete(code) or all(line in elsewhere for line in code.splitlines())


def test_complete_code_is_told_from_what_needs_more():
    assert is_complete("import jax\n\n\ndef f(x):\n    y = x\n    return jax, y, len(y)")
    assert not is_complete("import jax\n\njax.grad(f)") and not is_complete('import drifting\ndrifting.load("x")')


# --- what is added where, and the site -------------------------------------------------------------------------------


def test_what_can_be_added_has_its_entry_where_it_says():
    rows = re.findall(
        r"^\| .+? \| .*?\]\((drifting/[\w/.]+)\).*? \| `([A-Z_]+)` \|$", text_of(ROOT / "CONTRIBUTING.md"), re.M
    )
    assert len(rows) >= 11
    for file, entry in rows:
        assert re.search(rf"\b{entry}\b", (ROOT / file).read_text()), f"{file} has no {entry}"


def test_the_pages_are_built_with_what_is_pinned_and_ask_nobody_for_fonts():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {re.split(r"[><=]", name)[0] for name in project["optional-dependencies"]["docs"]}
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    makefile = (ROOT / "Makefile").read_text()
    assert wanted <= pinned and all(f" -c constraints.txt {name}\n" in makefile for name in wanted)
    site: dict[str, Any] = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert site["theme"]["font"] is False and site["plugins"] == ["search"] and "extra_javascript" not in site
    assert "mkdocs build --strict" in makefile and "make docs" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize(
    ("text", "suffix", "found"),
    [
        ('<script src="https://cdn.example/x.js"></script>', ".html", 1),
        ('<link rel="stylesheet" href="//fonts.example/css">', ".html", 1),
        ('<link rel="preconnect" href="https://fonts.example">', ".html", 1),
        ('<img src="http://x.example/a.png"><img srcset="a.png 1x, https://x.example/b.png 2x">', ".html", 2),
        ('<iframe src="https://x.example"></iframe><video poster="https://x.example/a.png"></video>', ".html", 2),
        ('<p style="background: url(https://x.example/a.png)">', ".html", 1),
        ('<style>@import "https://x.example/a.css"</style>', ".html", 1),
        ("@font-face {src: url('https://x.example/a.woff2')}", ".css", 1),
        ('<a href="https://x.example">x</a><link rel="canonical" href="https://x.example">', ".html", 0),
        ('<script src="assets/x.js"></script><img src="a.png"><pre>src="https://x.example"</pre>', ".html", 0),
        ("a {background: url('data:image/svg+xml,<svg xmlns=\"http://www.w3.org/2000/svg\"/>')}", ".css", 0),
    ],
)  # fmt: skip
def test_what_a_page_would_load_from_elsewhere_is_found(text: str, suffix: str, found: int, tmp_path: Path):
    assert len(site_requests.loads(text, suffix)) == found
    (tmp_path / "index.html").write_text("<html></html>")
    (tmp_path / f"page{suffix}").write_text(text)
    assert site_requests.main(str(tmp_path)) == bool(found)
