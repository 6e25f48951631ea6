"""A jitted function over a stream of rows, in blocks of one fixed size.

Compilers sum in another order when the batch has another size, and the last digit of a result follows. So a network
always sees `block` rows, the last block filled up with zeros, and the same rows always stand in the same block: how
many blocks are in flight, and on how many devices, changes nothing. Every device runs the same program on whole blocks.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

Rows = tuple[np.ndarray, ...]


class BlockFunction:
    """`function(params, *rows)`, jitted, for any number of rows.

    Args:
        function: it takes parameters and arrays `[block, ...]` and gives a pytree of arrays `[block, ...]`.
        block: the number of rows of a call.
        devices: the devices that blocks go to in turn; None: the one where the parameters are.
        in_flight: how many blocks each device computes before the first is fetched.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        block: int,
        devices: Sequence[jax.Device] | None = None,
        in_flight: int = 2,
    ) -> None:
        self.block, self._function = block, jax.jit(function)
        self._devices, self._in_flight = devices, max(1, in_flight)

    def place(self, params: Any) -> list[Any]:
        """The parameters on each device, for `__call__`."""
        return [params] if self._devices is None else [jax.device_put(params, device) for device in self._devices]

    def shapes(self, placed: list[Any], *rows: jax.ShapeDtypeStruct) -> Any:
        """What a call gives, as shapes `[block, ...]`; `rows` are those of one block."""
        return jax.eval_shape(self._function, placed[0], *rows)

    def __call__(self, placed: list[Any], rows: Rows) -> Iterator[Any]:
        """The results of all rows, in order, a pytree of NumPy arrays for each block; the padding is cut off.

        Args:
            placed: what `place` returned.
            rows: arrays `[N, ...]` with the same N.
        """
        pending: deque[tuple[Any, int]] = deque()
        for number, first in enumerate(range(0, len(rows[0]), self.block)):
            block = [array[first : first + self.block] for array in rows]
            count = len(block[0])
            block = [_pad(array, self.block - count) for array in block]
            pending.append((self._function(placed[number % len(placed)], *block), count))
            if len(pending) >= self._in_flight * len(placed):
                yield _fetch(*pending.popleft())
        while pending:
            yield _fetch(*pending.popleft())


def _pad(array: np.ndarray, missing: int) -> np.ndarray:
    return np.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1)) if missing else array


def _fetch(result: Any, count: int) -> Any:
    return jax.tree.map(lambda array: np.asarray(array)[:count], result)


def join_blocks(results: Iterable[Any]) -> Any:
    """The results of a `BlockFunction` as one pytree of arrays `[N, ...]`; None of none."""
    found = list(results)
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *found) if found else None
