"""The experiments of the package, as the headers of their files tell them.

A header is the file's docstring. Its first line is the headline. Then come the commands; for each of the names in the
file's `VARIANTS` a row that is indented by four blanks, the name first and then what is published of it; and where
there are no such rows, a sentence that begins with `Published:`, `Measured:` or `Expected:`.
"""

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from drifting.cli.settings import loaded_file
from drifting.config.shipped import experiment_names

RESULT = re.compile(r"((?:Published|Measured|Expected)(?: [^.:]*)?): (.+?)(?:\.\s|\.$|\n\n)", re.DOTALL)


@dataclass(frozen=True)
class Experiment:
    """One file of `configs/`.

    Attributes:
        name: as `--config` takes it.
        headline: what it is.
        command: the command that it is for: `train`, `pretrain`, `sweep`, `study curl`, ..
        example: the whole first command line of the header.
        variants: the names behind the colon, and what is published of each; '': nothing is.
        result: what is published or was measured of the file as a whole; '': nothing is.
        has_tiny: whether `tiny` tries it out.
    """

    name: str
    headline: str
    command: str
    example: str
    variants: Mapping[str, str]
    result: str
    has_tiny: bool


def experiment(name: str) -> Experiment:
    """The experiment of that name, out of its file.

    Raises:
        ConfigError: there is no such file, or it fails.
    """
    with loaded_file(name) as module:
        text, variants = module.__doc__ or "", list(getattr(module, "VARIANTS", ()))
    example = re.search(r"^ {4}(drifting [^\n]+(?:\\\n[^\n]+)*)", text, re.MULTILINE)
    line = re.sub(r"\s*\\\n\s*", " ", example[1]) if example else ""
    found = re.match(r"drifting (study \w+|\w+)", line)
    result = RESULT.search(text)
    return Experiment(
        name=name,
        headline=text.split("\n", 1)[0].rstrip("."),
        command=found[1] if found else "",
        example=line,
        variants={variant: _row(text, variant) for variant in variants},
        result=" ".join(f"{result[1][0].lower()}{result[1][1:]}: {result[2]}".split()) if result else "",
        has_tiny="`tiny`" in text or "`:tiny`" in text,
    )


def _row(text: str, variant: str) -> str:
    """What the header's row of a variant says, without what follows a semicolon and where its weights lie."""
    row = re.search(rf"^ {{4}}{re.escape(variant)}(?: +|$)(.*)", text, re.MULTILINE)
    # A semicolon within brackets ends nothing.
    return " ".join(re.split(r";(?![^()]*\))| +weights ", row[1])[0].split()) if row else ""


def experiments() -> list[Experiment]:
    """All experiments of the package."""
    return [experiment(name) for name in experiment_names()]


NOTES = (
    "NAME:VARIANT picks a variant, the first is the default; NAME:tiny and NAME:VARIANT,tiny try one out in a minute,",
    "without data. Numbers behind a variant are published FID-50k, and what else the header of the file says of them.",
    "drifting config NAME prints its settings. A file of your own is named by its path.",
)


def experiments_table(found: Sequence[Experiment]) -> str:
    """The experiments below the commands they are for, each with its variants and what is published of them."""
    lines: list[str] = []
    for group in dict.fromkeys(one.command.split()[0] for one in found):
        lines.append(f"drifting {group}{' STUDY' if group == 'study' else ''} --config=NAME")
        for one in (one for one in found if one.command.split()[0] == group):
            lines += _wrapped(f"  {one.name:<20} ", one.headline)
            lines += [f"    {':' + name:<28} {text}".rstrip() for name, text in one.variants.items()]
            lines += _wrapped(" " * 23, one.result)
        lines.append("")
    return "\n".join([*lines, *NOTES])


def _wrapped(start: str, text: str) -> list[str]:
    return textwrap.wrap(text, 118, initial_indent=start, subsequent_indent=" " * len(start))
