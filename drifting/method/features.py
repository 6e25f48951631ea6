"""Features in which samples drift, `{name: [B, positions, channels]}`: a frozen encoder's maps and their statistics.

Source: "Generative Modeling via Drifting" (Deng et al.), App. A.5, and its released recipe. Each entry is one term of
the loss, and each of its positions one drift problem. Every function is differentiable in the samples.
"""

from collections.abc import Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp

from drifting.networks.convnext import ConvNeXtV2
from drifting.networks.layers import EPSILON
from drifting.networks.mae import Encoder

Features = dict[str, jax.Array]

Size = tuple[int, int]

IMAGENET_MEAN = (0.485, 0.456, 0.406)

IMAGENET_STD = (0.229, 0.224, 0.225)
"""Of red, green and blue in [0, 1], with which the networks of PyTorch's libraries were trained."""


def pixel_features(x: jax.Array) -> Features:
    """The sample itself as its only feature: `{"global": float32 [B, 1, H*W*C]}`, of `[B, ...]`."""
    return {"global": x.astype(jnp.float32).reshape(x.shape[0], 1, -1)}


def norm_x(tokens: jax.Array) -> jax.Array:
    """Root mean square of each channel, `[B, h, w, C]` to `[B, 1, C]` of the same dtype."""
    square = jnp.mean(jnp.square(tokens.astype(jnp.float32)), axis=(1, 2))
    return jnp.sqrt(square + EPSILON).astype(tokens.dtype)[:, None]


def multi_scale_statistics(
    maps: Mapping[str, jax.Array],
    *,
    locations: bool = True,
    mean: bool,
    std: bool,
    mean_patches: Sequence[int],
    std_patches: Sequence[int],
) -> Features:
    """Each map's locations, and the mean and standard deviation of the whole map and of its `s` x `s` patches.

    Args:
        maps: `[B, h, w, C]` by name.
        locations: `NAME [B, h*w, C]`.
        mean, std: `NAME_mean`, `NAME_std [B, 1, C]`.
        mean_patches, std_patches: patch sides `s` of `NAME_mean_s`, `NAME_std_s [B, (h/s)*(w/s), C]`; a side that does
            not divide both `h` and `w` gives no feature.

    Returns:
        In the order of `maps`, each with its locations, mean, std, patch means, patch stds. Means have the dtype of the
        map; standard deviations are float32, `sqrt(biased variance + 1e-6)`.
    """
    features: Features = {}
    for name, x in maps.items():
        height, width = x.shape[1:3]
        whole = (height, width)
        patches = {s: (s, s) for s in (*mean_patches, *std_patches) if height % s == width % s == 0}
        moments = _moments(x, {whole, *patches.values()})
        if locations:
            features[name] = _positions(x)
        if mean:
            features[f"{name}_mean"] = _positions(moments[whole][0].astype(x.dtype))
        if std:
            features[f"{name}_std"] = _positions(jnp.sqrt(moments[whole][1] + EPSILON))
        for s in mean_patches:
            if s in patches:
                features[f"{name}_mean_{s}"] = _positions(moments[s, s][0].astype(x.dtype))
        for s in std_patches:
            if s in patches:
                features[f"{name}_std_{s}"] = _positions(jnp.sqrt(moments[s, s][1] + EPSILON))
    return features


def mae_features(
    encoder: Encoder,
    x: jax.Array,
    *,
    locations: bool = True,
    mean: bool = True,
    std: bool = True,
    mean_patches: Sequence[int] = (2, 4),
    std_patches: Sequence[int] = (2, 4),
    every_k_block: int = 2,
) -> Features:
    """A masked autoencoder's features of the released recipe: `norm_x`, then the statistics of the encoder's maps.

    The recipe's `global`, the sample itself, is `pixel_features`.

    Args:
        encoder: a masked autoencoder's encoder, e.g. `nnx.merge(graphdef, params)` of `nnx.split(mae.encoder)`.
        x: samples `[B, H, W, C]` float32.
        locations, mean, std, mean_patches, std_patches: see `multi_scale_statistics`.
        every_k_block: of the residual blocks, counted from 1 in each stage, use every k-th; 0 = none.

    Raises:
        ValueError: `every_k_block` is negative.
    """
    if every_k_block < 0:
        raise ValueError(f"every_k_block {every_k_block} must be 0 (no block) or positive")
    tokens = encoder.patchify(x).astype(encoder.dtype)
    maps = {name: y for name, y in encoder.maps(tokens).items() if _wanted(name, every_k_block)}
    statistics = multi_scale_statistics(
        maps, locations=locations, mean=mean, std=std, mean_patches=mean_patches, std_patches=std_patches
    )
    return {"norm_x": norm_x(tokens)} | statistics


def convnext_features(net: ConvNeXtV2, x: jax.Array, resolution: int = 224) -> Features:
    """All features of the released recipe from a ConvNeXt V2: each stage's normalised map and its statistics.

    Args:
        net: the frozen network, of three colours.
        x: images `[B, H, W, 3]` float32 in [-1, 1]; what lies beyond is not clipped, so that it has a gradient.
        resolution: side to which they are resized, bilinearly with antialiasing.

    Returns:
        For each stage, in order, `convnext_stageK [B, h*w, C]` (not of the first), `convnext_stageK_mean` and
        `convnext_stageK_std [B, 1, C]`; then `convnext_pooled [B, 1, C]`, the network's own pooled output, and
        `convnext_pooled_std`, which is the last stage's std once more: the released recipe counts that term twice.
        Standard deviations are float32, all others in the network's dtype.
    """
    y = ((x.astype(jnp.float32) + 1) / 2 - jnp.asarray(IMAGENET_MEAN)) / jnp.asarray(IMAGENET_STD)
    maps = net.stages(jax.image.resize(y, (x.shape[0], resolution, resolution, x.shape[-1]), "bilinear"))
    last = f"stage{len(maps)}"
    features: Features = {}
    for name, stage in maps.items():
        features |= multi_scale_statistics(
            {f"convnext_{name}": _normalise_channels(stage)},
            locations=name != "stage1",
            mean=True,
            std=True,
            mean_patches=(),
            std_patches=(),
        )
    features["convnext_pooled"] = net.pooled(maps[last])[:, None]
    return features | {"convnext_pooled_std": features[f"convnext_{last}_std"]}


def _normalise_channels(x: jax.Array) -> jax.Array:
    """`(x - mean) / (std + 1e-3)` over the channels of each position, biased; shape and dtype of `x`."""
    y = x.astype(jnp.float32)
    y = y - jnp.mean(y, axis=-1, keepdims=True)
    # The root of zero has no gradient; 1e-12 gives it one and is nothing beside the 1e-3.
    std = jnp.sqrt(jnp.mean(y * y, axis=-1, keepdims=True) + 1e-12)
    return (y / (std + 1e-3)).astype(x.dtype)


def _wanted(name: str, every_k_block: int) -> bool:
    _, is_block, number = name.partition("_blk")
    return not is_block or (every_k_block > 0 and int(number) % every_k_block == 0)


def _positions(x: jax.Array) -> jax.Array:
    """`[B, h, w, C]` to `[B, h*w, C]`."""
    return x.reshape(x.shape[0], -1, x.shape[-1])


def _moments(x: jax.Array, sizes: Iterable[Size]) -> dict[Size, tuple[jax.Array, jax.Array]]:
    """Float32 mean and biased variance of every patch of `[B, h, w, C]`, for patches of each size (rows, columns).

    Coarser patches are made from finer ones, so that the map itself is read once, forward and backward: the variance of
    a patch is the mean of its parts' variances plus the variance of their means.
    """
    x = x.astype(jnp.float32)
    moments = {(1, 1): (x, jnp.zeros_like(x))}
    for rows, columns in sorted(sizes):
        finer = max(size for size in moments if rows % size[0] == 0 and columns % size[1] == 0)
        means, variances = moments[finer]
        parts = (rows // finer[0], columns // finer[1])
        mean = _split(means, parts).mean(axis=(2, 4), keepdims=True)
        variance = _split(variances, parts) + jnp.square(_split(means, parts) - mean)
        moments[rows, columns] = mean[:, :, 0, :, 0], variance.mean(axis=(2, 4))
    return moments


def _split(x: jax.Array, size: Size) -> jax.Array:
    """`[B, h, w, C]` to `[B, h/rows, rows, w/columns, columns, C]`."""
    b, h, w, c = x.shape
    return x.reshape(b, h // size[0], size[0], w // size[1], size[1], c)
