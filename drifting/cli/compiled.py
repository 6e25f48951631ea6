"""Where commands keep what they have compiled, so that a run that goes on does not compile again."""

import glob
import hashlib
import itertools
import logging
import os
import platform
import re
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from drifting.config.paths import is_address
from drifting.errors import one_line

logger = logging.getLogger("drifting")

COMPILED_BYTES = 4 * 2**30
"""The most that is kept; what was not used for longest goes first."""

COMPILED_SETTINGS = {
    "JAX_COMPILATION_CACHE_MAX_SIZE": str(COMPILED_BYTES),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",  # what is compiled faster is not worth a file
}


ADDRESSES = ("gs", "s3", "az", "hf")
"""The schemes that JAX's library of paths knows. Of any other it raises, out of the first program that is compiled."""

NOT_KEPT = "Error (reading|writing) persistent compilation cache entry|Cache value for key .* exceeds the maximum"
"""How JAX's warnings begin, one for each program, where it cannot read or keep what is compiled."""

NOT_READ = "Error reading persistent compilation cache entry for '([^']*)'"

KEPT_FILES = ("-cache", "-atime")
"""How the names end of the two files that JAX has of a program."""


def keep_compiled() -> None:
    """Makes JAX keep compiled programs in the user's cache folder; must come before JAX is imported.

    Every value that the environment sets already stays: `JAX_COMPILATION_CACHE_DIR` says where they are kept, and
    `JAX_ENABLE_COMPILATION_CACHE=false` that they are not. Where the folder cannot be used nothing is kept, which is
    said in one line where the environment names it. Processes may share it: JAX locks it while it reads and writes.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        _tell_once_what_is_not_kept(os.environ["JAX_COMPILATION_CACHE_DIR"])
        return
    if os.environ.get("JAX_ENABLE_COMPILATION_CACHE", "true").lower() in ("false", "0", "f", "no", "n", "off"):
        return
    try:
        folder = compiled_folder()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # there is no place for it, or not even a home
        return
    if not os.access(folder, os.W_OK):
        return
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    for name, value in COMPILED_SETTINGS.items():
        os.environ.setdefault(name, value)
    _remove_halves(folder)
    _replace_what_cannot_be_read(folder)


def _remove_halves(folder: Path) -> None:
    """Removes programs that a killed process had not kept to the end: without its second file, when it was used last,
    one of them makes JAX keep no further one."""
    names = {suffix: {path.name.removesuffix(suffix) for path in folder.glob(f"*{suffix}")} for suffix in KEPT_FILES}
    # Under JAX's own lock, for another process may be between the two; a lock that is taken is not waited for.
    with suppress(OSError, Timeout), FileLock(folder / ".lockfile", timeout=1):
        for suffix, other in itertools.permutations(KEPT_FILES):
            for name in names[suffix]:
                if not (folder / f"{name}{other}").exists():
                    (folder / f"{name}{suffix}").unlink(missing_ok=True)


def _replace_what_cannot_be_read(folder: Path) -> None:
    """Removes what JAX says it cannot read, so that the program, once compiled, is kept in its place. A full disk or
    one that cannot be written to is no matter: the program is compiled, and nobody needs to know."""
    show = warnings.showwarning

    def showwarning(message: Any, *where: Any, **more: Any) -> None:
        if not re.match(NOT_KEPT, str(message)):
            show(message, *where, **more)
        elif broken := re.match(NOT_READ, str(message)):
            with suppress(OSError):
                for path in folder.glob(f"{glob.escape(broken[1])}-*"):
                    path.unlink(missing_ok=True)

    warnings.showwarning = showwarning


def _tell_once_what_is_not_kept(folder: str) -> None:
    """Puts one line in the place of JAX's warnings of a folder that a person has named. Other warnings are shown."""
    show, told = warnings.showwarning, False

    def tell(reason: str) -> None:
        remedy = "programs are compiled at each start; mend that, or unset it"
        logger.warning("JAX_COMPILATION_CACHE_DIR=%s: %s; %s", folder, reason, remedy)

    def showwarning(message: Any, *where: Any, **more: Any) -> None:
        nonlocal told
        if not re.match(NOT_KEPT, str(message)):
            show(message, *where, **more)
        elif not told:
            told = True
            tell(_reason(str(message)))

    if is_address(folder) and folder.partition("://")[0] not in ADDRESSES:
        del os.environ["JAX_COMPILATION_CACHE_DIR"]
        tell(f"is no address of {', '.join(ADDRESSES)}")
        return
    warnings.showwarning = showwarning


def _reason(warning: str) -> str:
    """What a warning of JAX says besides the name of the program."""
    short = re.sub(r"^Error (?:reading|writing) .*? for '[^']*': |(?<=^Cache value) for key '[^']*'", "", warning)
    return one_line(short)[:300]


def compiled_folder() -> Path:
    """The folder of this kind of machine: programs for one CPU may not run on another, and homes are shared."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(given) if os.path.isabs(given) else Path.home() / ".cache"
    return root / "drifting" / "compiled" / machine_kind()


def machine_kind() -> str:
    """A name of what this CPU can do: the same on all machines with the same."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = [platform.processor()]
    able = sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))} or lines)
    return f"{platform.machine()}-{hashlib.sha256('|'.join(able).encode()).hexdigest()[:12]}"
