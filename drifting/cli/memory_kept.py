"""How commands keep their memory between the steps of a computation on a CPU."""

import ctypes
import os
import platform
from pathlib import Path

KEEP_MEMORY_VARIABLE = "DRIFTING_KEEP_MEMORY"

ACCELERATORS = ("/dev/nvidiactl", "/dev/kfd", "/dev/accel0", "/dev/vfio/0")
"""Files of which one is there where an accelerator is: of NVIDIA, of AMD, and of TPUs. Their memory is not malloc's."""

MALLOC_SETTINGS = {
    -4: 0,  # M_MMAP_MAX: large blocks come from the heap too
    -1: -1,  # M_TRIM_THRESHOLD: the heap does not shrink
    -8: 1,  # M_ARENA_MAX: there is one heap, for only the first of several can hold large blocks
}
"""Parameters of glibc's `mallopt` and their values."""


def keep_memory() -> bool:
    """Makes the process keep what it frees, for the next step needs as much; returns whether it does.

    XLA takes the arrays of every step from malloc, which maps large blocks anew each time; the system then clears page
    after page as they are touched, which can be a fifth of a step on a CPU. Kept memory has been touched already. The
    process holds the most that it ever needed, until it ends.

    `DRIFTING_KEEP_MEMORY=0`, or any setting of malloc in the environment, leaves malloc as it is; and so does an
    accelerator, without which nothing is gained, or a C library that has no such settings. It is for processes that are
    the package's own: a library does not set what the whole process uses.
    """
    chosen = os.environ.get(KEEP_MEMORY_VARIABLE, "1").lower() in ("0", "false", "no", "off")
    tuned = any(name.startswith("MALLOC_") for name in os.environ) or "malloc" in os.environ.get("GLIBC_TUNABLES", "")
    elsewhere = os.environ.get("JAX_PLATFORMS", "cpu") != "cpu" or any(Path(file).exists() for file in ACCELERATORS)
    if chosen or tuned or elsewhere or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    accepted = [mallopt(parameter, value) for parameter, value in MALLOC_SETTINGS.items()]  # all are tried
    return all(accepted)
