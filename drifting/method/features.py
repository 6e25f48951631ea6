"""Statistics of feature maps, each one term of the loss: locations, means and standard deviations of their patches.

Source: "Generative Modeling via Drifting" (Deng et al.), App. A.5, and its released recipe. Each of a map's positions
is one drift problem. Every function is differentiable in the samples.
"""

from collections.abc import Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp

from drifting.networks.layers import EPSILON

Features = dict[str, jax.Array]
"""Feature maps by name, `[B, positions, channels]` each."""

Size = tuple[int, int]


def pixel_features(x: jax.Array) -> Features:
    """The sample itself as its only feature: `{"global": float32 [B, 1, H*W*C]}`, of `[B, ...]`."""
    return {"global": x.astype(jnp.float32).reshape(x.shape[0], 1, -1)}


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
