"""How long the steps of a loop take, and how much of that they wait for data."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager


class Stopwatch:
    """Times a loop between moments at which its device is known to have finished.

    What a loop does beside its steps, such as drawing and saving, is left out.
    """

    def __init__(self, samples: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Measures nothing until `start`.

        Args:
            samples: images that one step trains on, over all devices.
            clock: seconds, monotonic.
        """
        self._samples, self._clock = samples, clock
        self._step: int | None = None
        self._since = self._waited = self._apart = 0.0

    def start(self, step: int) -> None:
        """Begins anew after `step`, which is finished: the first one of a start is mostly compilation."""
        self._step, self._since, self._waited, self._apart = step, self._clock(), 0.0, 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The block waits for data."""
        began = self._clock()
        try:
            yield
        finally:
            self._waited += self._clock() - began

    @contextmanager
    def apart(self) -> Iterator[None]:
        """The block is no part of the steps."""
        began = self._clock()
        try:
            yield
        finally:
            self._apart += self._clock() - began

    def lap(self, step: int) -> dict[str, float]:
        """The steps up to `step`, which is finished, since the lap before; {} where there are none.

        Returns:
            `speed/seconds_per_step`, `speed/images_per_second`, and `speed/data_wait`, the share of that time in which
            the loop waited for data.
        """
        if self._step is None or step <= self._step:
            return {}
        steps, seconds, waited = step - self._step, self._clock() - self._since - self._apart, self._waited
        self.start(step)
        return {
            "speed/seconds_per_step": seconds / steps,
            "speed/images_per_second": steps * self._samples / seconds,
            "speed/data_wait": waited / seconds,
        }


def spoken(measured: Mapping[str, float]) -> str:
    """Timings as a part of a line: `0.236 s/step  1,085 images/s  3% data wait  1.2 GB`."""
    forms = {
        "speed/seconds_per_step": "{:.3g} s/step",
        "speed/images_per_second": "{:,.0f} images/s",
        "speed/data_wait": "{:.0%} data wait",
        "speed/device_memory_gb": "{:.1f} GB",
    }
    return "  ".join(form.format(measured[name]) for name, form in forms.items() if name in measured)
