"""The project's documents, and what stands in them: blocks of code, command lines, links, headings."""

import ast
import builtins
import json
import re
import shlex
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from tests.support.runs import ROOT


def documents() -> list[Path]:
    """README.md and its neighbours, and the pages of docs/."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def notebooks() -> list[Path]:
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


def text_of(path: Path) -> str:
    """A document's Markdown; of a notebook that of its text cells."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
    return "\n\n".join("".join(cell["source"]) for cell in cells)


def blocks(text: str, *languages: str) -> list[str]:
    """The fenced blocks of these languages; "": those without one."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [body for language, body in found if language in languages]


def prose(text: str) -> str:
    """A document without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


# --- Python -----------------------------------------------------------------------------------------------------------


def is_complete(code: str) -> bool:
    """Whether a block runs by itself: it imports or makes all names that it uses, and no run or weights have to be."""
    nodes = list(ast.walk(ast.parse(code)))
    names = [node for node in nodes if isinstance(node, ast.Name)]
    made = {node.id for node in names if not isinstance(node.ctx, ast.Load)} | set(dir(builtins))
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            made.add(node.name)
        elif isinstance(node, ast.arg):
            made.add(node.arg)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            made |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    return {node.id for node in names} <= made and "drifting.load(" not in code


def files_of(text: str) -> dict[str, str]:
    """The files that a document shows: Python blocks whose first line is a comment with their name."""
    named = [(re.match(r"# ([\w/]+\.py)\n", code), code) for code in blocks(text, "python")]
    return {match[1]: code for match, code in named if match is not None}


# --- command lines ----------------------------------------------------------------------------------------------------

STANDS_FOR = {
    "study NAME": "study curl",
    "config NAME": "config digits",
    "config NAME:VARIANT": "config digits",
    "SECTION.KEY": "loss.widths",
    "SECTION": "loss",
    "COMMAND": "train",
    "=FILE": "=digits",
}
"""Words in capitals that stand for any such name, and one of them."""

MISTAKE = re.compile(r"^\$ (drifting .*)\n(drifting: error: .*)$", re.MULTILINE)
"""A command line and what the program answers."""

LAUNCHERS = ("scripts/slurm.sbatch", "scripts/tpu_pod.sh")


def command_lines(text: str) -> Iterator[list[str]]:
    """The words of each command line of `drifting`, `make` and `python -m X` in blocks and in code spans.

    Other programs around one are left out: what sets variables, `srun`, a launcher, `docker run .. drifting`.
    """
    shown = [line for block in blocks(text, "", "console") for line in joined(block)]
    shown += re.findall(r"^ {4}(.+)$", prose(text), re.MULTILINE)
    shown += [span for span in re.findall(r"`([^`\n]+)`", prose(text)) if is_a_command(span)]
    for line in shown:
        for part in re.split(r"\s(?:&&|\||&)(?:\s|$)|;\s", without_comment(line)):
            yield from words_of(part)


def joined(block: str) -> list[str]:
    """The lines of a block that are meant to work, those that a backslash ends together with the next."""
    return re.sub(r"\s*\\\n\s*", " ", MISTAKE.sub("", block)).splitlines()


def mistakes(text: str) -> list[tuple[list[str], str]]:
    """The words of each command line that a document shows as a mistake, and the message that it shows of it."""
    found = MISTAKE.findall("".join(blocks(text, "", "console")))
    return [(words, message) for line, message in found for words in words_of(line)]


def without_comment(line: str) -> str:
    """A line without its prompt, what follows `#`, and where its output goes."""
    return re.sub(r"\s(#|>)(\s.*|$)", "", line.removeprefix("$ "))


def is_a_command(span: str) -> bool:
    return re.match(r"(drifting|make|python -m scripts\.\w+)( |$)", span) is not None and "…" not in span


def words_of(line: str) -> Iterator[list[str]]:
    """The words of a line that is a command of ours, if it is one."""
    for placeholder, one in STANDS_FOR.items():
        line = re.sub(rf"(?<![A-Z.]){re.escape(placeholder)}(?![\w.])", one, line)
    line = re.sub(r"\[(--[^\]\s]+)\]", r"\1", line)  # what may be left out
    line = re.sub(r"(--\w+)=(?:[A-Z]|\$\w+)(?=\s|$)", r"\1=1", line)  # --index=K, --index=$i
    try:
        words = shlex.split(line)
    except ValueError:  # a tree of files, a log line
        return
    launched = next((i for i, word in enumerate(words) if word in LAUNCHERS), None)
    if launched is not None:
        words = ["drifting", *words[launched + 1 :]]
    while words and (re.fullmatch(r"[A-Z_]+=\S*", words[0]) or words[0] in ("srun", "docker", "run", "do")):
        flags = words.pop(0) in ("srun", "run")
        while flags and words and words[0].startswith("-"):
            words.pop(0)
    if words and words[0].rpartition("/")[2] in ("drifting", "make"):
        yield [words[0].rpartition("/")[2], *words[1:]]
    elif len(words) > 2 and re.fullmatch(r"(\S*/)?python", words[0]) and words[1] == "-m":
        yield ["python", *words[1:]]


# --- settings, files, links -------------------------------------------------------------------------------------------


def spans(text: str) -> list[str]:
    """What stands between backticks in a document's prose."""
    return re.findall(r"`([^`\n]+)`", prose(text))


def links(text: str) -> list[str]:
    """The targets of a document's links and pictures."""
    return re.findall(r"\]\(<?([^)\s>]+)>?\)", re.sub(r"`[^`\n]*`", "", prose(text)))


def anchors(text: str) -> set[str]:
    """What `#..` may follow a page's address, as hosts of repositories make it of headings, and Python-Markdown."""
    found = set()
    for heading in re.findall(r"^#+ +(.+?)#* *$", prose(text), re.MULTILINE):
        plain = re.sub(r"[^\w\s-]", "", heading.lower()).strip()
        ours = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
        found |= {plain.replace(" ", "-")} & {re.sub(r"[-\s]+", "-", ours)}  # both make the same of it
    return found
