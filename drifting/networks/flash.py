"""Attention in one kernel, where the platform has one: no array of all pairs of tokens is ever in memory.

The kernels are those of JAX, in Pallas: FlashAttention (Dao et al. 2022) for GPU, by way of Triton, and for TPU.
Products are of the inputs' dtype and sums float32. As everywhere in JAX, products of float32 have the default
precision of the platform, on a GPU TF32; `JAX_DEFAULT_MATMUL_PRECISION=highest` makes them exact.
`drifting.networks.layers.attend` is the reference, and what all other platforms have.
"""

import jax
import jax.numpy as jnp

FLASH_PLATFORMS = ("gpu", "tpu")
"""Platforms that have a kernel."""

GPU_BLOCK, TPU_BLOCK = 32, 128
"""Tokens of a tile: the sequence is padded to a multiple of it."""


def flash_attend(q: jax.Array, k: jax.Array, v: jax.Array, platform: str, interpret: bool = False) -> jax.Array:
    """Softmax attention of bfloat16 or float32 `[B, heads, N, d]`, scaled by `1/sqrt(d)`; differentiable.

    Args:
        q: queries.
        k: keys.
        v: values.
        platform: one of `FLASH_PLATFORMS`.
        interpret: run the kernel for GPU as JAX operations, on any platform, to compare it.

    Returns:
        The same shape and dtype.
    """
    block = GPU_BLOCK if platform == "gpu" else TPU_BLOCK
    n, missing = q.shape[2], -q.shape[2] % block
    q, k, v = (jnp.pad(x, ((0, 0), (0, 0), (0, missing), (0, 0))) for x in (q, k, v))
    # Tokens that only fill a tile are a sequence of their own.
    segments = jnp.broadcast_to((jnp.arange(n + missing) >= n).astype(jnp.int32), (q.shape[0], n + missing))
    scale = q.shape[-1] ** -0.5
    attend = _attend_on_gpu if platform == "gpu" else _attend_on_tpu
    return attend(q, k, v, segments if missing else None, scale, interpret)[:, :, :n]


def _attend_on_gpu(
    q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array | None, scale: float, interpret: bool
) -> jax.Array:
    from jax.experimental.pallas.ops.gpu.attention import BlockSizes, mha

    tokens_first = (x.swapaxes(1, 2) for x in (q, k, v))
    blocks = BlockSizes(*[GPU_BLOCK] * 6)
    out: jax.Array = mha(*tokens_first, segments, sm_scale=scale, block_sizes=blocks, interpret=interpret)
    return out.swapaxes(1, 2)


def _attend_on_tpu(
    q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array | None, scale: float, interpret: bool
) -> jax.Array:
    from jax.experimental.pallas.ops.tpu.flash_attention import SegmentIds, flash_attention

    ids = None if segments is None else SegmentIds(segments, segments)
    out: jax.Array = flash_attention(q, k, v, segment_ids=ids, sm_scale=scale)
    return out
