"""How pools store records: each as one row of 32-bit words.

The compiler for TPU pads the last axis of an array to 128 lanes. Latents `[32, 32, 8]` in float16 take four times their
size so, and images `[256, 256, 3]` more; a pool of them would be copied and padded in every step. As rows of words the
same bits are stored as they are, and are written in place. On other devices it makes no difference.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Shaped, UInt32

WORD_BYTES = 4


@dataclass(frozen=True, init=False)
class RecordFormat:
    """The shape and dtype of a record, and its form as words.

    Attributes:
        shape: the shape of one record.
        dtype: the name of its dtype, of 1, 2 or 4 bytes.

    Raises:
        ValueError: numbers of that dtype do not fit into words.
    """

    shape: tuple[int, ...]
    dtype: str

    def __init__(self, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        object.__setattr__(self, "shape", tuple(shape))  # a frozen dataclass sets its fields so
        object.__setattr__(self, "dtype", jnp.dtype(dtype).name)
        if self._bytes not in (1, 2, 4) or jnp.dtype(dtype) == jnp.bool_:
            raise ValueError(f"records: are of {self.dtype}, give numbers of 1, 2 or 4 bytes")

    @property
    def words(self) -> int:
        """Words of a record; the last one may be padded."""
        return -(-math.prod(self.shape) * self._bytes // WORD_BYTES)

    def pack(self, records: Shaped[Array, "..."]) -> UInt32[Array, "... {self.words}"]:
        """Records `[*lead, *shape]`, cast to the dtype, as words `[*lead, words]`."""
        lead = records.shape[: records.ndim - len(self.shape)]
        flat = records.astype(self.dtype).reshape(*lead, -1)
        if self._bytes == WORD_BYTES:
            return jax.lax.bitcast_convert_type(flat, jnp.uint32)
        missing = self.words * self._in_word - flat.shape[-1]
        if missing:
            flat = jnp.pad(flat, [(0, 0)] * len(lead) + [(0, missing)])
        return jax.lax.bitcast_convert_type(flat.reshape(*lead, self.words, self._in_word), jnp.uint32)

    def unpack(self, words: UInt32[Array, "... {self.words}"]) -> Shaped[Array, "..."]:
        """Inverse of `pack`, to the last bit."""
        lead = words.shape[:-1]
        flat = jax.lax.bitcast_convert_type(words, jnp.dtype(self.dtype)).reshape(*lead, -1)
        return flat[..., : math.prod(self.shape)].reshape(*lead, *self.shape)

    def pack_on_host(self, records: Shaped[np.ndarray, "..."]) -> UInt32[np.ndarray, "... {self.words}"]:
        """As `pack`, of arrays in the host's memory; a view where no record is padded."""
        flat = np.ascontiguousarray(records, self.dtype).reshape(*records.shape[: records.ndim - len(self.shape)], -1)
        missing = self.words * self._in_word - flat.shape[-1]
        if missing:
            flat = np.pad(flat, [(0, 0)] * (flat.ndim - 1) + [(0, missing)])
        return flat.view(np.uint32)

    @property
    def _bytes(self) -> int:
        return jnp.dtype(self.dtype).itemsize

    @property
    def _in_word(self) -> int:
        return WORD_BYTES // self._bytes
