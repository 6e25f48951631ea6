"""Statistics of feature maps, each one term of the loss: locations, means and standard deviations of their patches.

Source: "Generative Modeling via Drifting" (Deng et al.), App. A.5, and its released recipe. Each of a map's positions
is one drift problem. Every function is differentiable in the samples.
"""

from collections.abc import Iterable, Mapping, Sequence

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Float32, Shaped

from drifting.networks.layers import EPSILON

Features = dict[str, Float[Array, "samples _positions _channels"]]
"""Feature maps by name."""

PatchMoments = Float32[Array, "samples _rows _columns channels"]
"""A mean or a variance of each patch of a map."""

PatchSize = tuple[int, int]
"""Rows and columns of a patch."""


def pixel_features(x: Shaped[Array, "samples ..."]) -> Features:
    """The sample itself, flat and in float32, as its only feature: `global`, of one position."""
    return {"global": x.astype(jnp.float32).reshape(x.shape[0], 1, -1)}


def multi_scale_statistics(
    maps: Mapping[str, Float[Array, "samples _height _width _channels"]],
    *,
    locations: bool = True,
    mean: bool,
    std: bool,
    mean_patches: Sequence[int],
    std_patches: Sequence[int],
) -> Features:
    """Each map's locations, and the mean and standard deviation of the whole map and of its `s` x `s` patches.

    Args:
        maps: feature maps by name, of height `h` and width `w`.
        locations: whether to give `NAME`, of `h*w` positions.
        mean: whether to give `NAME_mean`, of one position.
        std: whether to give `NAME_std`, of one position.
        mean_patches: patch sides `s` of `NAME_mean_s`, of `(h/s)*(w/s)` positions; a side that does not divide both
            `h` and `w` gives no feature.
        std_patches: the same for `NAME_std_s`.

    Returns:
        Features in the order of `maps`, each with its locations, mean, std, patch means, patch stds. Means have the
        dtype of the map; standard deviations are float32, `sqrt(biased variance + 1e-6)`.
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


def _positions(x: Float[Array, "samples height width channels"]) -> Float[Array, "samples height*width channels"]:
    """The rows of a map one after the other."""
    return x.reshape(x.shape[0], -1, x.shape[-1])


def _moments(
    x: Float[Array, "samples height width channels"], sizes: Iterable[PatchSize]
) -> dict[PatchSize, tuple[PatchMoments, PatchMoments]]:
    """Mean and biased variance of every patch of a map, for patches of each size.

    Coarser patches are made from finer ones, so that the map itself is read once, forward and backward: the variance of
    a patch is the mean of its parts' variances plus the variance of their means.
    """
    x = x.astype(jnp.float32)
    moments = {(1, 1): (x, jnp.zeros_like(x))}
    for rows, columns in sorted(sizes):
        finer = max(size for size in moments if rows % size[0] == 0 and columns % size[1] == 0)
        means, variances = moments[finer]
        parts = (rows // finer[0], columns // finer[1])
        mean = _in_patches(means, parts).mean(axis=(2, 4), keepdims=True)
        variance = _in_patches(variances, parts) + jnp.square(_in_patches(means, parts) - mean)
        moments[rows, columns] = mean[:, :, 0, :, 0], variance.mean(axis=(2, 4))
    return moments


def _in_patches(
    x: Float[Array, "samples height width channels"], size: PatchSize
) -> Float[Array, "samples height//{size[0]} {size[0]} width//{size[1]} {size[1]} channels"]:
    """A map as patches of some rows and columns."""
    b, h, w, c = x.shape
    return x.reshape(b, h // size[0], size[0], w // size[1], size[1], c)
