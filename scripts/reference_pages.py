"""Writes the pages of docs/ that say what the code says: commands, settings and the Python API.

python -m scripts.reference_pages
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import drifting
from drifting.assembly.run import Run
from drifting.cli.commands import COMMANDS
from drifting.cli.explanations import settings_page
from drifting.cli.help import flag_rows, sentence, usage
from drifting.cli.lookup import all_sections
from drifting.sampling.generator import TrainedGenerator

DOCS = Path(__file__).resolve().parent.parent / "docs"

NAMES = (
    "drift_loss", "drift_field", "Kernel", "KERNELS", "FIELDS", "LOSSES",
    "Config", "prepare", "train", "ArraySource", "load", "score",
)  # fmt: skip
"""The public names, in the order in which they are explained."""

DICTS = {
    "KERNELS": "Kernels by name. What is added here is known to losses, fields, settings and the command line.",
    "FIELDS": "Drift fields by name, the directions in which samples are moved.",
    "LOSSES": "Losses by name that are potentials of their fields, each a link function of densities.",
}

METHODS: dict[str, tuple[type, tuple[str, ...]]] = {
    "Config": (drifting.Config, ("of",)),
    "prepare": (Run, ("initial_state", "batches", "step", "sample", "close")),
    "load": (TrainedGenerator, ("sample",)),
}
"""Methods to know of a class, or of what a function returns."""


# --- the command line -------------------------------------------------------------------------------------------------


def commands_page() -> str:
    """Every command: how it is called, what it does, its flags."""
    rows = [
        f"| [`drifting {name}`](#drifting-{name.replace(' ', '-')}) | {c.summary} |" for name, c in COMMANDS.items()
    ]
    parts = [
        "# Commands\n\nWhat `drifting COMMAND --help` says. Every command with `--config` takes the settings of the "
        "experiment, too,\nwhich [are on a page of their own](settings.md). A folder that is there goes on where it "
        "was stopped. Exit codes: 0 done,\n1 failed, 2 could not work as it was given, 130 after Ctrl-C.",
        "\n".join(["| command | what it does |", "|---|---|", *rows]),
    ]
    for name, command in COMMANDS.items():
        flags = [f"| `{flag}` | {_cell(text)} |" for flag, text in flag_rows(command)]
        how = usage(name, command).removeprefix("usage: ")
        table = "\n".join(["| flag | meaning |", "|---|---|", *flags])
        parts.append(f"## drifting {name}\n\n{sentence(command)}.\n\n```text\n{how}\n```\n\n{table}")
    return "\n\n".join(parts) + "\n"


def _cell(text: str) -> str:
    return re.sub(r"([|*<\[])", r"\\\1", text)


# --- Python -----------------------------------------------------------------------------------------------------------


def api_page() -> str:
    """The public names: signatures and docstrings."""
    parts = [
        "# Python API\n\nThe names of `import drifting`, as their docstrings have them. How they are used: "
        "[In Python](python.md)."
    ]
    for name in NAMES:
        value = getattr(drifting, name)
        parts.append(f"## {name}")
        parts += _dict_parts(name, value) if isinstance(value, dict) else _parts(name, value)
        owner, methods = METHODS.get(name, (object, ()))
        for method in methods:
            shown = f"{owner.__name__}.{method}"
            parts += [f"### {shown}", *_parts(shown, getattr(owner, method))]
    return "\n\n".join(parts) + "\n"


def _dict_parts(name: str, entries: Mapping[str, Any]) -> Iterator[str]:
    yield DICTS[name]
    rows = []
    for key, entry in entries.items():
        function: Callable[..., Any] = entry.log_profile if isinstance(entry, drifting.Kernel) else entry
        first = (inspect.getdoc(function) or "").split("\n\n")[0]
        rows.append(f"| `{key}` | {' '.join(first.split()).replace('|', chr(92) + '|')} |")
    yield "\n".join(["| key | what it is |", "|---|---|", *rows])


def _parts(name: str, value: Any) -> Iterator[str]:
    yield f"```python\n{signature(name, value)}\n```"
    yield from docstring(inspect.getdoc(value) or "")


def signature(name: str, value: Any) -> str:
    """The signature as the source has it, an argument a line where it is long."""
    source = textwrap.dedent(inspect.getsource(value))
    node = ast.parse(source).body[0]
    if isinstance(node, ast.ClassDef):
        init = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
        if init is None:  # a dataclass
            fields = [_text(source, n) for n in node.body if isinstance(n, ast.AnnAssign)]
            return _call(name, [_without_meaning(field) for field in fields], "")
        node = init
    assert isinstance(node, ast.FunctionDef)
    returned = "" if node.returns is None or node.name == "__init__" else f" -> {_text(source, node.returns)}"
    return _call(name, list(_arguments(source, node.args)), returned)


def _arguments(source: str, given: ast.arguments) -> Iterator[str]:
    """The arguments of a function as they are written, without the first of a method."""
    plain = given.posonlyargs + given.args
    defaults = [None] * (len(plain) - len(given.defaults)) + list(given.defaults)
    for argument, default in zip(plain, defaults, strict=True):
        if argument.arg not in ("self", "cls"):
            yield _text(source, argument) + (f" = {_text(source, default)}" if default is not None else "")
    if given.kwonlyargs:
        yield "*" if given.vararg is None else f"*{_text(source, given.vararg)}"
    for argument, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        yield _text(source, argument) + (f" = {_text(source, default)}" if default is not None else "")
    if given.kwarg is not None:
        yield f"**{_text(source, given.kwarg)}"


def _text(source: str, node: ast.AST) -> str:
    """What is written there, on one line."""
    return " ".join((ast.get_source_segment(source, node) or "").split())


def _without_meaning(field: str) -> str:
    """A field of a dataclass as an argument; a section of settings has its defaults by itself."""
    return re.sub(r" = field\(default_factory=(\w+)\)", r" = \1()", field)


def _call(name: str, arguments: list[str], returned: str) -> str:
    line = f"{name}({', '.join(arguments)}){returned}"
    if len(line) <= 100:
        return line
    return "\n".join([f"{name}(", *(f"    {argument}," for argument in arguments), f"){returned}"])


def docstring(text: str) -> Iterator[str]:
    """A docstring's paragraphs; `Args:` and the like become lists."""
    for part in text.split("\n\n"):
        title, _, body = part.partition("\n")
        if not re.fullmatch(r"(Args|Attributes|Raises|Returns|Yields):", title):
            yield part
        elif title in ("Returns:", "Yields:"):
            yield f"**{title[:-1]}** {textwrap.dedent(body)}"
        else:
            items = re.split(r"\n(?=\S)", textwrap.dedent(body))
            lines = [f"- {_item(' '.join(item.split()))}" for item in items]
            yield "\n".join([f"**{'Arguments' if title == 'Args:' else title[:-1]}**", "", *lines])


def _item(text: str) -> str:
    names, colon, meaning = text.partition(": ")
    return f"`{names}`{colon}{meaning}"


# --- all of them ------------------------------------------------------------------------------------------------------


def settings() -> str:
    """What `drifting help --markdown` prints."""
    return settings_page(all_sections()) + "\n"


PAGES = {"commands.md": commands_page, "settings.md": settings, "api.md": api_page}
"""What makes each page, by its file in docs/."""


def main() -> None:
    """Writes the pages."""
    for name, make in PAGES.items():
        (DOCS / name).write_text(make(), encoding="utf-8")
        print(f"docs/{name}")


if __name__ == "__main__":
    main()
