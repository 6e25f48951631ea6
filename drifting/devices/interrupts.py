"""Requests to stop, SIGTERM, SIGHUP and Ctrl-C, that wait until what is under way is finished."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def stop_signals() -> list[int]:
    """The signals that ask to stop; SIGHUP, of a closed terminal, is not among them where `nohup` ignores it."""
    hangup = [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGTERM, signal.SIGINT, *hangup]


class StopRequested(Exception):
    """A request to stop came while `Interrupts.at_once` was in force."""


class Interrupts:
    """What has been asked of this process since it began to listen."""

    def __init__(self) -> None:
        self._received: list[int] = []
        self._at_once = False

    def __call__(self) -> bool:
        """Whether a stop has been asked for."""
        return bool(self._received)

    def by_hand(self) -> bool:
        """Whether Ctrl-C was among what asked for it: whoever pressed it wants nothing that follows to be done."""
        return signal.SIGINT in self._received

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """While the block runs, a request does not wait: it raises `StopRequested`. For what can be done anew."""
        if self():
            raise StopRequested
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def handle(self, number: int, frame: Any) -> None:
        """Takes a signal; a second Ctrl-C ends the process at once."""
        if self._received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._received.append(number)
        if self._at_once:
            raise StopRequested


@contextmanager
def interrupts() -> Iterator[Interrupts]:
    """SIGTERM, SIGHUP and Ctrl-C only ask to stop while the block runs; a second Ctrl-C stops at once."""
    found = Interrupts()
    old = {number: signal.signal(number, found.handle) for number in stop_signals()}
    try:
        yield found
    finally:
        for number, previous in old.items():
            signal.signal(number, previous)
