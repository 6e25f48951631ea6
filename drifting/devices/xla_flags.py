"""The flags of XLA's own: those that commands give it; and a process that reads them first, and may end of them."""

import functools
import os
import re
import subprocess
import sys

from drifting.errors import MachineError

VARIABLE = "XLA_FLAGS"

LOOPS_AS_WRITTEN = "--xla_backend_extra_options=xla_cpu_disable_loop_unrolling"
"""Loops of programs for CPUs are not unrolled: a training step compiles in 7/8 of the time and is no slower."""

# XLA reads the variable when its first options are made, and ends the process where it cannot.
READ_FLAGS = "from jaxlib import xla_client; xla_client.CompileOptions()"


def give_xla_flags() -> None:
    """Says `LOOPS_AS_WRITTEN` where nothing is said, before XLA reads it: for programs that are the package's own."""
    os.environ.setdefault(VARIABLE, LOOPS_AS_WRITTEN)


@functools.cache
def require_xla_flags() -> None:
    """Checks that XLA can read `XLA_FLAGS`, in a process of its own (0.3 s), where somebody has set the variable.

    Raises:
        MachineError: it cannot. The message says which flag, and how to go on.
    """
    given = os.environ.get(VARIABLE)
    if not given or given == LOOPS_AS_WRITTEN:
        return
    reader = [sys.executable, "-c", READ_FLAGS]
    done = subprocess.run(reader, check=False, capture_output=True, text=True, errors="replace")
    said = re.findall(r"^[EF]\d{4} .*_flags.*?\] (.+)$", done.stderr, re.MULTILINE)
    if done.returncode and said:  # of what else is wrong with the installation, its first use speaks
        reason = said[0].rstrip(".")[:300]
        raise MachineError(f"{VARIABLE}={given}: {reason}; correct it, or unset {VARIABLE}")
