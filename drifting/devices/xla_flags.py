"""The flags of XLA's own: read by a process that may end of them, before the one that would."""

import functools
import os
import re
import subprocess
import sys

from drifting.errors import MachineError

VARIABLE = "XLA_FLAGS"

# XLA reads the variable when its first options are made, and ends the process where it cannot.
READ_FLAGS = "from jaxlib import xla_client; xla_client.CompileOptions()"


@functools.cache
def require_xla_flags() -> None:
    """Checks that XLA can read `XLA_FLAGS`, in a process of its own (0.3 s); without the variable, nothing is done.

    Raises:
        MachineError: it cannot. The message says which flag, and how to go on.
    """
    given = os.environ.get(VARIABLE)
    if not given:
        return
    reader = [sys.executable, "-c", READ_FLAGS]
    done = subprocess.run(reader, check=False, capture_output=True, text=True, errors="replace")
    said = re.findall(r"^[EF]\d{4} .*_flags.*?\] (.+)$", done.stderr, re.MULTILINE)
    if done.returncode and said:  # of what else is wrong with the installation, its first use speaks
        reason = said[0].rstrip(".")[:300]
        raise MachineError(f"{VARIABLE}={given}: {reason}; correct it, or unset {VARIABLE}")
