"""Fails if a page of a built site would load something from a network: scripts, styles, fonts, pictures, frames.

    python -m scripts.site_requests site

Links that a person follows are no requests, nor is what a script may ask for only where a page has such a part.
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

ADDRESS = re.compile(r"\s*(?:https?:)?//", re.IGNORECASE)

NO_REQUEST = {"canonical", "alternate", "author", "edit", "license", "me", "next", "prev"}
"""Relations of `<link>` that only name another page."""

LOADED = {"src", "srcset", "poster", "data", "background"}
"""Attributes whose file a page loads, whatever the tag."""

STYLE_LOADS = re.compile(r"""(?:url\(|@import)\s*["']?((?:https?:)?//[^"')\s;]+)""", re.IGNORECASE)


class _Loads(HTMLParser):
    """Gathers the addresses that a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        values = [value for name, value in given.items() if name in LOADED]
        if tag == "link" and not set(given.get("rel", "").lower().split()) & NO_REQUEST:
            values.append(given.get("href", ""))
        if tag == "use":
            values += [given.get("href", ""), given.get("xlink:href", "")]
        for value in values:
            self.found += [part.strip() for part in value.split(",") if ADDRESS.match(part)]
        self.found += STYLE_LOADS.findall(given.get("style", ""))


def loads(text: str, suffix: str) -> list[str]:
    """The addresses of other machines that a page (`.html`), a style sheet (`.css`) or a picture (`.svg`) loads."""
    if suffix == ".css":
        return STYLE_LOADS.findall(text)
    parser = _Loads()
    parser.feed(text)
    return parser.found + [
        found
        for style in re.findall(r"<style[^>]*>(.*?)</style>", text, re.DOTALL)
        for found in STYLE_LOADS.findall(style)
    ]


def main(site: str) -> int:
    """Prints what a site loads from elsewhere; returns how a program ends, 0 if it is nothing."""
    pages = [path for path in sorted(Path(site).rglob("*")) if path.suffix in (".html", ".css", ".svg")]
    if not any(path.suffix == ".html" for path in pages):
        print(f"{site}: holds no pages", file=sys.stderr)
        return 1
    wrong = [
        f"{path}: loads {found}" for path in pages for found in loads(path.read_text(encoding="utf-8"), path.suffix)
    ]
    print("\n".join(wrong) or f"{site}: {len(pages)} files load nothing from a network", file=sys.stderr)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
