"""Features in which samples drift: a frozen encoder's maps and their local statistics, `{name: [B, positions, channels]}`.

Source: "Generative Modeling via Drifting" (Deng et al.), App. A.5, and its released recipe. Each entry is one term of the
loss; each of its positions is one drift problem. Every function is differentiable in the samples.
"""

from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp

from drifting.models.layers import EPSILON
from drifting.models.mae import Encoder

Features = dict[str, jax.Array]


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
    mean_patches: Iterable[int],
    std_patches: Iterable[int],
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
        if locations:
            features[name] = x.reshape(x.shape[0], height * width, x.shape[-1])
        if mean:
            features[f"{name}_mean"] = _patches(x, height, width).mean(axis=2)
        if std:
            features[f"{name}_std"] = _std(_patches(x, height, width))
        for s in mean_patches:
            if height % s == 0 and width % s == 0:
                features[f"{name}_mean_{s}"] = _patches(x, s, s).mean(axis=2)
        for s in std_patches:
            if height % s == 0 and width % s == 0:
                features[f"{name}_std_{s}"] = _std(_patches(x, s, s))
    return features


def mae_features(
    encoder: Encoder,
    x: jax.Array,
    *,
    locations: bool = True,
    mean: bool = True,
    std: bool = True,
    mean_patches: tuple[int, ...] = (2, 4),
    std_patches: tuple[int, ...] = (2, 4),
    every_k_block: int = 2,
) -> Features:
    """All features of the released recipe: `global`, `norm_x`, then the statistics of the encoder's maps.

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
    return pixel_features(x) | {"norm_x": norm_x(tokens)} | statistics


def _wanted(name: str, every_k_block: int) -> bool:
    _, is_block, number = name.partition("_blk")
    return not is_block or (every_k_block > 0 and int(number) % every_k_block == 0)


def _patches(x: jax.Array, rows: int, columns: int) -> jax.Array:
    """`[B, h, w, C]` to `[B, patches, rows*columns, C]`, both in row-major order."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // rows, rows, w // columns, columns, c).swapaxes(2, 3)
    return x.reshape(b, (h // rows) * (w // columns), rows * columns, c)


def _std(patches: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.var(patches.astype(jnp.float32), axis=2) + EPSILON)
