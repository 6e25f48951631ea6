"""Memory that a command keeps between steps: what glibc says of it, in a process of its own."""

import os
import subprocess
import sys

import pytest

from drifting.cli.memory_kept import ACCELERATORS, KEEP_MEMORY_VARIABLE

MAPPED = """
import ctypes, platform, sys
import numpy as np
from drifting.cli.memory_kept import keep_memory

class Info(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

libc = ctypes.CDLL(None)
if platform.libc_ver()[0] != "glibc" or not hasattr(libc, "mallinfo2"):
    sys.exit(77)
libc.mallinfo2.restype = Info
kept = keep_memory()
array = np.ones(2**24)
mapped, heap = libc.mallinfo2().hblkhd, libc.mallinfo2().arena
del array
print(kept, mapped >= 2**27, libc.mallinfo2().arena == heap)
"""


def of_a_process(**variables: str) -> list[str]:
    """Whether it keeps memory, whether a large array was mapped by itself, and whether the heap stays as large."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_", "JAX_"))}
    done = subprocess.run(
        [sys.executable, "-c", MAPPED], env=plain | variables, capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode == 77:
        pytest.skip("not glibc 2.33 or later")
    assert not done.returncode, done.stderr
    return done.stdout.split()


@pytest.mark.skipif(any(os.path.exists(file) for file in ACCELERATORS), reason="there is an accelerator")
def test_large_arrays_come_from_a_heap_that_does_not_shrink():
    assert of_a_process() == ["True", "False", "True"]


@pytest.mark.parametrize(
    "variables",
    [
        {KEEP_MEMORY_VARIABLE: "0"},
        {"MALLOC_ARENA_MAX": "2"},
        {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"},
        {"JAX_PLATFORMS": "cuda"},
    ],
)
def test_who_sets_it_otherwise_is_left_alone(variables: dict[str, str]):
    assert of_a_process(**variables)[:2] == ["False", "True"]
