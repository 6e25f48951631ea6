"""The devices that JAX computes on: whether there are any, and how a command does without."""

import os

import jax

from drifting.errors import MachineError, one_line

PLATFORMS_VARIABLE = "JAX_PLATFORMS"


def require_devices() -> None:
    """Checks that JAX finds what it is to compute on, before a library meets that and speaks of something else.

    Raises:
        MachineError: it does not. The message names the variable that says so, and how to go on.
    """
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # JAX asserts that there are some once it has failed to find them
        raise MachineError(without_devices(error)) from error


def without_devices(error: BaseException) -> str:
    """One line for what JAX raises where it finds no device."""
    wanted = os.environ.get(PLATFORMS_VARIABLE)
    reason = one_line(error).split(" (set JAX_PLATFORMS")[0][:300]
    if not wanted:
        return f"JAX finds no device to compute on ({reason}); set {PLATFORMS_VARIABLE}=cpu to do without"
    remedy = f"unset {PLATFORMS_VARIABLE}, or set it to what there is, such as cpu"
    return f"{PLATFORMS_VARIABLE}={wanted}: JAX does not find that here{f' ({reason})' if reason else ''}; {remedy}"


def finds_no_device(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, is what JAX raises where it finds no device."""
    while error is not None:
        if any(words in str(error) for words in ("Unable to initialize backend", "Unknown backend")):
            return True
        error = error.__cause__ or error.__context__
    return False


def compute_nothing() -> None:
    """Has JAX look for no other device than the host, for what only looks at shapes. To be called before it looks."""
    jax.config.update("jax_platforms", "cpu")
