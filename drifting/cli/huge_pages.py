"""How commands get huge pages for the memory of a computation on a CPU."""

import os
import platform
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

HUGE_PAGES_VARIABLE = "DRIFTING_HUGE_PAGES"

ACCELERATORS = ("/dev/nvidiactl", "/dev/kfd", "/dev/accel0", "/dev/vfio/0")
"""Files of which one is there where an accelerator is: of NVIDIA, of AMD, and of TPUs. Their memory is not malloc's."""

OFFERED = "/sys/kernel/mm/transparent_hugepage/enabled"
"""What Linux says of huge pages: `[madvise]` where they are for those who ask."""

TUNABLE = "glibc.malloc.hugetlb=1"
"""What makes glibc, of version 2.35 or later, ask for them."""


def begin_with_huge_pages() -> None:
    """Begins the process anew with the same arguments, once, so that its arrays lie in huge pages.

    XLA takes the arrays of every step from malloc, which maps large blocks anew each time; the system then clears page
    after page as they are touched, which can be a fifth of a step on a CPU. Of huge pages there are five hundred times
    fewer. glibc asks for them where a variable says so that is read before a program begins, and has no other way.

    Nothing happens where nothing is gained: with an accelerator, another C library, or a system that gives huge pages
    to everybody or nobody; nor where `DRIFTING_HUGE_PAGES=0` or any setting of malloc is in the environment, or where a
    debugger is at work, which would lose the process. It is for programs that are the package's own: a library does
    not begin the whole process anew.
    """
    if sys.executable and sys.gettrace() is None and _gain(os.environ):
        with suppress(OSError):  # then it goes on as it is
            arguments = [sys.executable, *sys.orig_argv[1:]]
            os.execve(sys.executable, arguments, {**os.environ, "GLIBC_TUNABLES": TUNABLE})


def _gain(environment: Mapping[str, str]) -> bool:
    declined = environment.get(HUGE_PAGES_VARIABLE, "1").lower() in ("0", "false", "no", "off")
    tuned = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in environment)
    # An empty variable is none to JAX.
    asked = environment.get("JAX_PLATFORMS", "")
    elsewhere = asked != "cpu" if asked else any(Path(file).exists() for file in ACCELERATORS)
    return not (declined or tuned or elsewhere) and _reads_the_tunable() and _given_to_those_who_ask()


def _reads_the_tunable() -> bool:
    library, version = platform.libc_ver()
    numbers = version.split(".")
    return library == "glibc" and all(n.isdecimal() for n in numbers) and tuple(map(int, numbers)) >= (2, 35)


def _given_to_those_who_ask() -> bool:
    try:
        return "[madvise]" in Path(OFFERED).read_text(encoding="ascii")
    except (OSError, ValueError):
        return False
