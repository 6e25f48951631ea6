"""Requests to stop, SIGTERM and Ctrl-C, that wait until what is under way is finished."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """SIGTERM and Ctrl-C only ask to stop while the block runs; a second Ctrl-C stops at once.

    Yields:
        A function that says whether a stop has been asked for.
    """
    received: list[int] = []

    def handler(number: int, frame: Any) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    old = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(received)
    finally:
        for number, previous in old.items():
            signal.signal(number, previous)
