"""Paths as people type them: `~` for a home folder, and addresses where a path is asked for."""

import errno
import os
import re

from drifting.errors import ConfigError

HOME = re.compile(r"(?:\A|(?<=[:=]))~[\w.-]*(?=/|\Z)")
"""`~` or `~NAME` where a path begins: at the start of a text, or after `NAME:` or `--flag=`."""

ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")

STORES = ("gs", "s3")
"""The schemes of the object stores that are served."""


def expanded(text: str) -> str:
    """A text in which `~` where a path begins is the home folder: `~/runs`, `mae:~/runs/mae`, `--out=~/x.npz`.

    Raises:
        ConfigError: there is no such user.
    """
    return HOME.sub(_home, text, count=1)


def _home(found: re.Match[str]) -> str:
    home = os.path.expanduser(found[0])
    if home.startswith("~"):
        user = found[0][1:]
        reason = f"there is no user {user}" if user else "this user has no home folder"
        raise ConfigError(f"{found.string}: {reason}; give the whole path, or ./~ for a folder of that name")
    return home


def is_address(text: str) -> bool:
    """Whether a text is an address such as `gs://bucket/runs`, which no path is."""
    return ADDRESS.match(text) is not None


def impossible(path: str) -> str | None:
    """Why nothing can lie at a path, be it there or not, with a remedy; None: something can."""
    try:
        os.stat(path)
    except ValueError:
        return "has a NUL in it; give the path without"
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "its links lead in a circle; mend them, or give another path"
        if error.errno == errno.ENAMETOOLONG:
            return "is too long a name; give a shorter one"
    return None


def is_place(given: object) -> bool:
    """Whether something names a path or an address of a store, rather than an address of something else."""
    return not is_address(str(given)) or str(given).partition("://")[0] in STORES
