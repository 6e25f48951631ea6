"""The devices that JAX computes on: whether there are any."""

import os

import jax

from drifting.devices.xla_flags import require_xla_flags
from drifting.errors import MachineError, one_line

PLATFORMS_VARIABLE = "JAX_PLATFORMS"


def require_devices() -> None:
    """Checks that JAX finds what it is to compute on, before a library meets that and speaks of something else.

    Raises:
        MachineError: it does not, or XLA cannot read `XLA_FLAGS`. The message names the variable that says so, and how
            to go on.
    """
    require_xla_flags()
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # without a CUDA plug-in, JAX asserts that it found something
        wanted, reason = os.environ.get(PLATFORMS_VARIABLE), one_line(error).split(" (set JAX_PLATFORMS")[0][:300]
        if not wanted:
            remedy = f"set {PLATFORMS_VARIABLE}=cpu to do without"
            raise MachineError(f"JAX finds no device to compute on ({reason}); {remedy}") from error
        found = f"JAX does not find that here{f' ({reason})' if reason else ''}"
        remedy = f"unset {PLATFORMS_VARIABLE}, or set it to what there is, such as cpu"
        raise MachineError(f"{PLATFORMS_VARIABLE}={wanted}: {found}; {remedy}") from error
