"""The Inception network of the Fréchet inception distance: TensorFlow's of 2015-12-05, with its peculiarities.

Source: "Rethinking the Inception Architecture for Computer Vision" (Szegedy et al. 2016), as in the graph that FID
(Heusel et al. 2017) is defined by; layer for layer the `FeatureExtractorInceptionV3` of the torch-fidelity library,
whose weights drifting.weights.fid_inception reads. Blocks and convolutions have the names of its tensors.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from drifting.errors import InputError
from drifting.networks.layers import Conv, Linear

INCEPTION_SIDE = 299
"""Side of the images that the network sees."""

INCEPTION_LOGITS = 1008
"""Outputs of the classifier: the thousand classes of ImageNet and eight without a meaning."""

SPATIAL_CHANNELS = 7
"""How many channels sFID takes (Nash et al. 2021): with 17 x 17 positions about as many numbers as are pooled."""

NORM_EPSILON = 1e-3

Pooling = Literal["mean", "max", "halve"]
"""What a block's last branch starts with, over 3x3 positions: mean, maximum, or maximum at every other position."""


class InceptionOutputs(NamedTuple):
    """What the metrics need of each image, all float32.

    Attributes:
        pool: `[B, 2048]`, mean over the last map: the features of FID, KID, precision and recall.
        spatial: `[B, 17, 17, 7]`, the first channels of `Mixed_6d`: the features of sFID.
        logits: `[B, 1008]`, with the bias. torch-fidelity's inception score takes them without (`logits_unbiased`),
            which is `logits - inception.fc.bias[...]`.
    """

    pool: jax.Array
    spatial: jax.Array
    logits: jax.Array


class Row(NamedTuple):
    """One convolution of a block: its name, whose output it takes (`x` is the block's input), and what it is.

    `halve`: stride 2 and no padding; otherwise the map keeps its size.
    """

    name: str
    source: str
    outputs: int
    size: int | tuple[int, int]
    halve: bool = False


class BatchNorm(nnx.Module):
    """Batch norm with stored statistics: this network is not trained here."""

    def __init__(self, channels: int) -> None:
        self.gain, self.bias = nnx.Param(jnp.ones(channels)), nnx.Param(jnp.zeros(channels))
        self.mean, self.variance = nnx.Param(jnp.zeros(channels)), nnx.Param(jnp.ones(channels))

    def __call__(self, x: jax.Array) -> jax.Array:
        """`(x - mean) / sqrt(variance + 1e-3) * gain + bias`, `[..., C]` to float32 of the same shape."""
        scale = jax.lax.rsqrt(self.variance[...] + NORM_EPSILON) * self.gain[...]
        return (x.astype(jnp.float32) - self.mean[...]) * scale + self.bias[...]


class ConvNorm(nnx.Module):
    """Convolution, batch norm, ReLU; `valid` has no padding, otherwise the map keeps its size but for the stride."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int | tuple[int, int],
        *,
        stride: int = 1,
        valid: bool = False,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        padding = ((0, 0), (0, 0)) if valid else None
        self.conv = Conv(inputs, outputs, size, stride=stride, padding=padding, dtype=dtype, rngs=rngs)
        self.bn = BatchNorm(outputs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, inputs]` to `[B, h, w, outputs]` in the compute dtype."""
        return jax.nn.relu(self.bn(self.conv(x))).astype(self.conv.dtype)


class Mixed(nnx.Module):
    """A block: convolutions and a pooling; the outputs that no convolution takes are its output, in order, joined."""

    def __init__(
        self, inputs: int, rows: tuple[Row, ...], pooling: Pooling, *, dtype: DTypeLike, rngs: nnx.Rngs
    ) -> None:
        channels = {"x": inputs, "pool": inputs} | {row.name: row.outputs for row in rows}
        self.rows, self.pooling = rows, pooling
        self.convs: nnx.Dict[ConvNorm] = nnx.Dict()
        for row in rows:
            stride = 2 if row.halve else 1
            self.convs[row.name] = ConvNorm(
                channels[row.source], row.outputs, row.size, stride=stride, valid=row.halve, dtype=dtype, rngs=rngs
            )
        taken = {row.source for row in rows}
        self.joined = tuple(name for name in (*(row.name for row in rows), "pool") if name not in taken)
        self.outputs = sum(channels[name] for name in self.joined)

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, h, w, inputs]` to `[B, h, w, outputs]`, or about half the sides."""
        maps = {"x": x, "pool": _pool(x, self.pooling)}
        for row in self.rows:
            maps[row.name] = self.convs[row.name](maps[row.source])
        return jnp.concatenate([maps[name] for name in self.joined], axis=-1)


def _pool(x: jax.Array, pooling: Pooling) -> jax.Array:
    if pooling == "halve":
        return nnx.max_pool(x, (3, 3), strides=(2, 2))
    if pooling == "max":
        return nnx.max_pool(x, (3, 3), padding="SAME")
    # As in TensorFlow, the mean at the border is over the positions that there are.
    mean = nnx.avg_pool(x.astype(jnp.float32), (3, 3), padding="SAME", count_include_pad=False)
    return mean.astype(x.dtype)


def _rows_a(pooled: int) -> tuple[Row, ...]:
    return (
        Row("branch1x1", "x", 64, 1),
        Row("branch5x5_1", "x", 48, 1),
        Row("branch5x5_2", "branch5x5_1", 64, 5),
        Row("branch3x3dbl_1", "x", 64, 1),
        Row("branch3x3dbl_2", "branch3x3dbl_1", 96, 3),
        Row("branch3x3dbl_3", "branch3x3dbl_2", 96, 3),
        Row("branch_pool", "pool", pooled, 1),
    )


def _rows_b() -> tuple[Row, ...]:
    return (
        Row("branch3x3", "x", 384, 3, halve=True),
        Row("branch3x3dbl_1", "x", 64, 1),
        Row("branch3x3dbl_2", "branch3x3dbl_1", 96, 3),
        Row("branch3x3dbl_3", "branch3x3dbl_2", 96, 3, halve=True),
    )


def _rows_c(inner: int) -> tuple[Row, ...]:
    return (
        Row("branch1x1", "x", 192, 1),
        Row("branch7x7_1", "x", inner, 1),
        Row("branch7x7_2", "branch7x7_1", inner, (1, 7)),
        Row("branch7x7_3", "branch7x7_2", 192, (7, 1)),
        Row("branch7x7dbl_1", "x", inner, 1),
        Row("branch7x7dbl_2", "branch7x7dbl_1", inner, (7, 1)),
        Row("branch7x7dbl_3", "branch7x7dbl_2", inner, (1, 7)),
        Row("branch7x7dbl_4", "branch7x7dbl_3", inner, (7, 1)),
        Row("branch7x7dbl_5", "branch7x7dbl_4", 192, (1, 7)),
        Row("branch_pool", "pool", 192, 1),
    )


def _rows_d() -> tuple[Row, ...]:
    return (
        Row("branch3x3_1", "x", 192, 1),
        Row("branch3x3_2", "branch3x3_1", 320, 3, halve=True),
        Row("branch7x7x3_1", "x", 192, 1),
        Row("branch7x7x3_2", "branch7x7x3_1", 192, (1, 7)),
        Row("branch7x7x3_3", "branch7x7x3_2", 192, (7, 1)),
        Row("branch7x7x3_4", "branch7x7x3_3", 192, 3, halve=True),
    )


def _rows_e() -> tuple[Row, ...]:
    return (
        Row("branch1x1", "x", 320, 1),
        Row("branch3x3_1", "x", 384, 1),
        Row("branch3x3_2a", "branch3x3_1", 384, (1, 3)),
        Row("branch3x3_2b", "branch3x3_1", 384, (3, 1)),
        Row("branch3x3dbl_1", "x", 448, 1),
        Row("branch3x3dbl_2", "branch3x3dbl_1", 384, 3),
        Row("branch3x3dbl_3a", "branch3x3dbl_2", 384, (1, 3)),
        Row("branch3x3dbl_3b", "branch3x3dbl_2", 384, (3, 1)),
        Row("branch_pool", "pool", 192, 1),
    )


def _blocks() -> dict[str, tuple[tuple[Row, ...], Pooling]]:
    """Convolutions and pooling of each block, in order; the last takes a maximum (an oddity of these weights)."""
    return {
        "Mixed_5b": (_rows_a(32), "mean"),
        "Mixed_5c": (_rows_a(64), "mean"),
        "Mixed_5d": (_rows_a(64), "mean"),
        "Mixed_6a": (_rows_b(), "halve"),
        "Mixed_6b": (_rows_c(128), "mean"),
        "Mixed_6c": (_rows_c(160), "mean"),
        "Mixed_6d": (_rows_c(160), "mean"),
        "Mixed_6e": (_rows_c(192), "mean"),
        "Mixed_7a": (_rows_d(), "halve"),
        "Mixed_7b": (_rows_e(), "mean"),
        "Mixed_7c": (_rows_e(), "max"),
    }


class Inception(nnx.Module):
    """Images to the features and logits of FID and its relatives.

    Args:
        dtype: what the convolutions compute in; parameters, norms, pooled features and logits are float32. Published
            scores are of float32, which is computed in full precision whatever the device's default is.
    """

    def __init__(self, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        dtype = jnp.dtype(dtype)

        def conv(inputs: int, outputs: int, size: int, stride: int = 1, valid: bool = True) -> ConvNorm:
            return ConvNorm(inputs, outputs, size, stride=stride, valid=valid, dtype=dtype, rngs=rngs)

        self.dtype = dtype
        self.stem = nnx.Dict(
            Conv2d_1a_3x3=conv(3, 32, 3, stride=2),
            Conv2d_2a_3x3=conv(32, 32, 3),
            Conv2d_2b_3x3=conv(32, 64, 3, valid=False),
            Conv2d_3b_1x1=conv(64, 80, 1),
            Conv2d_4a_3x3=conv(80, 192, 3),
        )
        self.blocks: nnx.Dict[Mixed] = nnx.Dict()
        channels = 192
        for name, (rows, pooling) in _blocks().items():
            self.blocks[name] = block = Mixed(channels, rows, pooling, dtype=dtype, rngs=rngs)
            channels = block.outputs
        self.fc = Linear(channels, INCEPTION_LOGITS, dtype=jnp.float32, init=nnx.initializers.lecun_normal(), rngs=rngs)

    def __call__(self, images: jax.Array) -> InceptionOutputs:
        """Features and logits of `[B, H, W, 3]` uint8, or floats in [0, 255], which are not rounded.

        Raises:
            InputError: images of another shape.
        """
        if images.ndim != 4 or images.shape[-1] != 3:
            raise InputError(f"images of shape {images.shape}: must be [B, H, W, 3]")
        # Tensor cores would otherwise compute float32 with ten bits, and a distance of a hundredth would be noise.
        with jax.default_matmul_precision("highest"):
            return self._outputs((resize(images) - 128) / 128)

    def _outputs(self, x: jax.Array) -> InceptionOutputs:
        """The outputs for images `[B, 299, 299, 3]` in [-1, 1)."""
        x = x.astype(self.dtype)
        for name in ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3"):
            x = self.stem[name](x)
        x = _pool(x, "halve")
        for name in ("Conv2d_3b_1x1", "Conv2d_4a_3x3"):
            x = self.stem[name](x)
        x = _pool(x, "halve")
        maps = {}
        for name in _blocks():
            x = maps[name] = self.blocks[name](x)
        pool = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        spatial = maps["Mixed_6d"][..., :SPATIAL_CHANNELS].astype(jnp.float32)
        return InceptionOutputs(pool, spatial, self.fc(pool))


def resize(images: jax.Array) -> jax.Array:
    """`[B, H, W, C]` to float32 `[B, 299, 299, C]` as TensorFlow 1 did it, see `resize_matrix`; 299 stays as it is."""
    rows, columns = resize_matrix(images.shape[1]), resize_matrix(images.shape[2])
    x = jnp.einsum("ph,bhwc->bpwc", rows, images.astype(jnp.float32), precision="highest")
    return jnp.einsum("qw,bpwc->bpqc", columns, x, precision="highest")


def resize_matrix(side: int) -> np.ndarray:
    """Bilinear resize of one axis as a matrix, float32 `[299, side]`.

    Output `i` is at the input's `i * side / 299`, without half-pixel offset or antialiasing, and beyond the last pixel
    is that pixel: the `align_corners=False` of TensorFlow 1, in its float32.
    """
    position = np.arange(INCEPTION_SIDE, dtype=np.float32) * np.float32(side / INCEPTION_SIDE)
    low = position.astype(int)
    above = position - low.astype(np.float32)
    matrix = np.zeros((INCEPTION_SIDE, side), np.float32)
    np.add.at(matrix, (np.arange(INCEPTION_SIDE), low), 1 - above)
    np.add.at(matrix, (np.arange(INCEPTION_SIDE), np.minimum(low + 1, side - 1)), above)
    return matrix
