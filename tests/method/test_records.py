"""Records as words: to the last bit, of every dtype and size, in an array whose rows need no padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drifting.method.records import RecordFormat


@pytest.mark.parametrize("dtype", ["uint8", "int8", "float16", "bfloat16", "float32", "int32"])
@pytest.mark.parametrize("shape", [(), (3,), (4,), (2, 3, 1), (8, 8, 8)])
def test_words_hold_every_bit(shape: tuple[int, ...], dtype: str):
    record = RecordFormat(shape, dtype)
    size = int(np.prod(shape)) * jnp.dtype(dtype).itemsize
    raw = np.random.default_rng(0).integers(0, 256, (2, 5, size), dtype=np.uint8)  # NaN and infinity among them
    records = raw.view(jnp.dtype(dtype)).reshape(2, 5, *shape)
    words = record.pack(jnp.asarray(records))
    assert words.shape == (2, 5, record.words) and words.dtype == jnp.uint32 and record.words * 4 - size in range(4)
    back = np.asarray(record.unpack(words))
    assert back.shape == records.shape and back.dtype == records.dtype and back.tobytes() == records.tobytes()
    np.testing.assert_array_equal(record.pack_on_host(records), words)


def test_records_are_cast_and_other_numbers_refused():
    record = RecordFormat((2,), jnp.float16)
    np.testing.assert_array_equal(record.unpack(record.pack(jnp.ones((3, 2)))), np.ones((3, 2), np.float16))
    np.testing.assert_array_equal(record.pack_on_host(np.ones((3, 2))), record.pack(jnp.ones((3, 2))))
    for dtype in (bool, np.float64, np.complex64):
        with pytest.raises(ValueError, match="give numbers of 1, 2 or 4 bytes"):
            RecordFormat((2,), dtype)


def test_a_format_is_static():
    """Equal formats share what is compiled."""
    assert RecordFormat((2, 3), np.uint8) == RecordFormat((2, 3), "uint8")
    assert hash(RecordFormat((2, 3), jnp.float16)) == hash(RecordFormat((2, 3), "float16"))
    count = []

    @jax.jit
    def counted(words: jax.Array) -> jax.Array:
        count.append(1)
        return RecordFormat((4,), "uint8").unpack(words)

    counted(jnp.zeros((2, 1), jnp.uint32))
    counted(jnp.ones((2, 1), jnp.uint32))
    assert len(count) == 1
