"""Several processes that train together: how they find one another and how they stop together.

Every process runs the same command. What they share is the run's directory and the coordinator, process 0.
"""

import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from drifting.devices.backend import require_devices
from drifting.devices.interrupts import interrupts, stop_signals
from drifting.errors import ArgumentError, ConfigError, one_line, require_argument

logger = logging.getLogger("drifting")


def initialise(
    coordinator: str | None = None,
    process_count: int | None = None,
    process_index: int | None = None,
    timeout: int = 100,
) -> None:
    """Joins the processes of this job, if there are several; must come before anything else of JAX.

    They are told of one another by arguments; or by the environment: `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and
    `JAX_PROCESS_ID`, as the launcher for Kubernetes sets them, a step of SLURM's, or a TPU pod.

    Args:
        coordinator: `HOST:PORT` of process 0; or `auto`, to find it and the others as JAX does on TPU VMs.
        process_count: how many processes there are.
        process_index: which one this is.
        timeout: seconds after which the death of one ends the others.

    Raises:
        ArgumentError: some of the three are given and others are not, or process 0 cannot be reached.
    """
    if coordinator == "auto" and process_count is None and process_index is None:
        _initialise(timeout)
        return
    given = {"coordinator": coordinator, "process_count": process_count, "process_index": process_index}
    missing = [argument for argument, value in given.items() if value is None]
    if 0 < len(missing) < 3:
        raise ArgumentError(missing[0], None, f"is missing; several processes need all of {', '.join(given)}")
    if missing and "JAX_COORDINATOR_ADDRESS" in os.environ:
        names = ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
        if absent := [name for name in names if not os.environ.get(name, "").isdecimal()]:
            raise ConfigError(f"{absent[0]}: is no number, and JAX_COORDINATOR_ADDRESS is set; set both or neither")
        coordinator = os.environ["JAX_COORDINATOR_ADDRESS"]
        process_count, process_index = (int(os.environ[name]) for name in names)
    found: dict[str, Any] = {}
    if process_count is not None:
        known = process_index is not None and 0 <= process_index < process_count
        require_argument(known, "process_index", process_index, f"must lie in [0, process_count={process_count})")
        found = dict(coordinator_address=coordinator, num_processes=process_count, process_id=process_index)
    if process_count != 1 and (process_count is not None or _in_cluster()):
        _initialise(timeout, **found)
        return
    require_devices()
    if not jax.distributed.is_initialized() and jax.process_count() > 1:
        raise ArgumentError(
            "coordinator", None, "is missing, and this is one of several processes; on TPU VMs use auto"
        )


def _initialise(timeout: int, **found: Any) -> None:
    try:
        jax.distributed.initialize(**found, heartbeat_timeout_seconds=timeout)
    except (RuntimeError, ValueError) as error:
        reason, where = one_line(error)[:200], found.get("coordinator_address", "auto")
        raise ArgumentError("coordinator", where, f"the processes did not find one another ({reason})") from error


def _in_cluster() -> bool:
    """Whether SLURM or a TPU pod started several of us."""
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    return tasks != "1" or "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")


def is_writer() -> bool:
    """Whether this process writes what one alone should: logs, metrics, pictures."""
    return jax.process_index() == 0


def agreed(value: int) -> int:
    """What process 0 says, on every process."""
    return value if jax.process_count() == 1 else int(multihost_utils.broadcast_one_to_all(value))


def everyones(value: int) -> list[int]:
    """What each process says, on every process."""
    return [value] if jax.process_count() == 1 else [int(v) for v in multihost_utils.process_allgather(np.int32(value))]


def wait_for_all(name: str) -> None:
    """Returns once every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


class StopRequests(NamedTuple):
    """How a loop learns that it is to stop.

    Attributes:
        after: called with the step just finished, after each: whether this is the one to stop after.
        by_hand: whether Ctrl-C asked for it, at this process.
        at_once: a context in which a request raises `StopRequested`, for what one process does alone and can do anew.
    """

    after: Callable[[int], bool]
    by_hand: Callable[[], bool]
    at_once: Callable[[], AbstractContextManager[None]]


@contextmanager
def stop_requests() -> Iterator[StopRequests]:
    """SIGTERM, SIGHUP and Ctrl-C only ask to stop while the block runs, and all processes stop after the same step."""
    if jax.process_count() == 1:
        with interrupts() as interrupted:
            yield StopRequests(lambda step: interrupted(), interrupted.by_hand, interrupted.at_once)
        return
    # Where there are several, JAX takes SIGTERM for the notice of a preemption and agrees with the others on a step.
    others = [number for number in stop_signals() if number != signal.SIGTERM]
    received: list[int] = []

    def pass_on(number: int, _: Any) -> None:
        received.append(number)
        os.kill(os.getpid(), signal.SIGTERM)

    old = {number: signal.signal(number, pass_on) for number in others}
    try:
        yield StopRequests(
            multihost_utils.reached_preemption_sync_point, lambda: signal.SIGINT in received, nullcontext
        )
    finally:
        for number, previous in old.items():
            signal.signal(number, previous)
