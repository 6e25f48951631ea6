"""Lists that people write, one entry a line, on whatever system."""

import codecs
from collections.abc import Callable
from pathlib import Path

from drifting.errors import InputError


def read_lines(path: Path) -> list[str]:
    """The lines of a text file without blanks around them; empty ones are left out.

    It may come from Windows: line ends are of any kind, and a mark at its beginning says whether it is UTF-16.

    Raises:
        InputError: it cannot be read, or is no text in UTF-8 or UTF-16.
    """
    return decoded_lines(path, path.read_bytes)


def decoded_lines(name: object, read: Callable[[], bytes]) -> list[str]:
    """The same of the content that `read` returns, a file's in an archive for example; `name` begins the error."""
    try:
        content = read()
        marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = content.decode("utf-16" if marked else "utf-8-sig")
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error})") from error
    except ValueError as error:
        remedy = "save it as that: of Western European text `iconv -f latin1 -t utf-8 OLD > NEW` makes it"
        raise InputError(f"{name}: cannot be read as text in UTF-8 ({error}); {remedy}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]
