"""The loss of own arrays: one call, without settings, encoders or a training loop."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Float32

from drifting.method.arguments import floating_array, is_known, kernel_width, number_array
from drifting.method.guidance import unconditional_weight
from drifting.method.kernels import Kernel
from drifting.method.loss import FeatureMaps, objective_loss
from drifting.method.objective import Objective

Points = Float[Array | np.ndarray, "..."]
"""Samples of one problem `[samples, dimensions]`, or of several: `[labels, samples, dimensions]`, or feature maps of
them, `[labels, samples, positions, channels]`."""

Maps = Points | Mapping[str, Points]
"""Samples, or several feature maps of the same samples by name."""


def drift_loss(
    generated: Maps,
    positives: Maps,
    unconditional: Maps | None = None,
    *,
    objective: str = "log_kde",
    kernel: str | Kernel = "gaussian",
    widths: Float[ArrayLike, "*widths"] | Sequence[float] = (0.4,),
    alpha: Float[ArrayLike, "*labels"] | None = None,
    normalise_field: bool = True,
    feature_scale: str = "per_map",
) -> tuple[Float32[Array, ""], dict[str, Any]]:
    """The loss that moves generated samples towards positives, and away from one another.

    Every class label has a drift problem of its own at every position. Losses of several feature maps are added up.
    Numbers of samples may differ between generated, positive and unconditional ones. Gradient goes into the generated
    samples alone, not into positives, unconditional ones, widths or alpha; and there are no second derivatives.

    Args:
        generated: generated samples; at least two of each label.
        positives: real samples of the label's class.
        unconditional: real samples of any class, for guidance; needs `alpha`.
        objective: a key of `LOSSES` ("Drifting Fields are not Conservative") or of `FIELDS` ("Generative Modeling via
            Drifting").
        kernel: a key of `KERNELS` or a `Kernel`; make it once, for the first call with a new one compiles.
        widths: one kernel width or several, in units of the feature scale; may be traced.
        alpha: guidance scale, at least 1, one for all labels or one for each.
        normalise_field: divide each width's field by its root mean square, as the published runs do.
        feature_scale: the unit of the widths: the mean distance of a map (`per_map`) or of a problem (`per_problem`),
            or 1 (`none`).

    Returns:
        The loss and metrics: `gap`, how much denser generated samples lie around generated ones than positives do;
        `field_norm` of each width; and `maps`, a `MapMetrics` for each feature map.

    Raises:
        ValueError: shapes do not fit, or there is nothing of a name that is given; before anything is traced.
    """
    static = Objective(objective, kernel, normalise_field, feature_scale)
    if feature_scale == "neighbour":
        raise ValueError("feature_scale='neighbour': divide the samples by their length unit, and use 'none'")
    gen = _maps("generated", generated)
    pos = _maps("positives", positives)
    _check(generated, gen, "positives", positives, pos)
    unc = _unconditional(generated, gen, pos, unconditional, alpha)
    labels, count = next(iter(gen.values())).shape[:2]
    if count < 2:
        raise ValueError(f"generated: {count} of a label, give at least 2: they repel one another")
    scale = _guidance_scale(1.0 if alpha is None else alpha, labels)
    weight = unconditional_weight(scale, count, next(iter(unc.values())).shape[1])
    width = jnp.atleast_1d(kernel_width("widths", widths, (0, 1), "one kernel width or several"))
    return _loss_of(static, width, gen, pos, unc, weight)


# One program: the first call would compile each operation by itself, which takes ten times as long.
@partial(jax.jit, static_argnums=0, inline=True)
def _loss_of(
    objective: Objective,
    widths: Float[Array, "widths"],
    gen: FeatureMaps,
    pos: FeatureMaps,
    unc: FeatureMaps,
    w_unc: Float32[Array, "labels"],
) -> tuple[Float32[Array, ""], dict[str, Any]]:
    """`drift_loss` of arguments that fit."""
    loss, maps = objective_loss(objective, widths, gen, pos, unc, w_unc)
    return loss, {"gap": maps.gap, "field_norm": maps.field_norm, "maps": dict(maps)}


def _unconditional(generated: Maps, gen: FeatureMaps, pos: FeatureMaps, given: Maps | None, alpha: Any) -> FeatureMaps:
    """The maps of the unconditional samples that were `given`; none of each map without guidance."""
    if (given is None) != (alpha is None):
        missing = "alpha" if alpha is None else "unconditional"
        raise ValueError(f"{missing}=None: guidance needs both alpha and unconditional samples, give both or neither")
    if given is None:
        return {name: x[:, :0] for name, x in pos.items()}
    unc = _maps("unconditional", given)
    _check(generated, gen, "unconditional", given, unc)
    return unc


def _maps(argument: str, given: Maps) -> FeatureMaps:
    """The given arrays as feature maps."""
    maps = dict(given) if isinstance(given, Mapping) else {"samples": given}
    if not maps:
        raise ValueError(f"{argument}: is an empty dict, give at least one feature map")
    found = {}
    for name, x in maps.items():
        if not isinstance(name, str):
            raise ValueError(f"{argument}: has a map by the name {name!r}, give texts")
        what = _of_map(argument, given, name)
        x = floating_array(what, x)
        if x.ndim == 2:
            x = x[None]
        if x.ndim == 3:
            x = x[:, :, None]
        if x.ndim != 4:
            shapes = "[samples, dimensions], [labels, samples, dimensions] or [labels, samples, positions, channels]"
            raise ValueError(f"{what}: has shape {x.shape}, give {shapes}")
        if not (x.shape[0] and x.shape[2] and x.shape[3]):
            raise ValueError(f"{what}: has shape {_shape_of(given, name)}, give at least one of all but samples")
        found[name] = x
    return found


def _of_map(argument: str, given: Maps, name: str) -> str:
    """What a message calls the map of that name."""
    return f"{argument}[{name!r}]" if isinstance(given, Mapping) else argument


def _shape_of(given: Maps, name: str) -> tuple[int, ...]:
    """The shape of a map as it was given, which messages show."""
    return jnp.shape(given[name] if isinstance(given, Mapping) else given)


def _guidance_scale(given: Float[ArrayLike, "*labels"], labels: int) -> Float32[Array, "labels"]:
    """The guidance scale of each label."""
    scale = number_array("alpha", given, "one number or several")
    if scale.shape not in ((), (labels,)):
        raise ValueError(f"alpha: has shape {scale.shape}, give one number or [{labels}], one for each label")
    known = np.asarray(given, np.float32) if is_known(given) else np.ones(())
    if not (np.isfinite(known) & (known >= 1)).all():
        raise ValueError(
            f"alpha: is {np.asarray(given).tolist()}, give finite numbers of at least 1 (1 is no guidance)"
        )
    return jnp.broadcast_to(scale, (labels,))


def _check(generated: Maps, gen: FeatureMaps, argument: str, given: Maps, other: FeatureMaps) -> None:
    """Refuses real samples, as they were `given` for `argument`, whose maps are not those of the generated ones."""
    if set(gen) != set(other):
        raise ValueError(f"{argument}: has the maps {sorted(other)}, the generated samples {sorted(gen)}")
    for name, maps in (("generated", gen), (argument, other)):
        if len({x.shape[:2] for x in maps.values()}) > 1:
            counts = ", ".join(f"{key!r} {x.shape[0]} x {x.shape[1]}" for key, x in maps.items())
            raise ValueError(f"{name}: maps have different numbers of labels x samples ({counts}), give the same ones")
    for name, x in gen.items():
        what, shape = _of_map(argument, given, name), _shape_of(given, name)
        if not other[name].shape[1]:
            raise ValueError(f"{what}: has shape {shape}, without a sample, give at least 1")
        (labels, _, *rest), (found, _, *found_rest) = x.shape, other[name].shape
        if (labels, rest) != (found, found_rest):
            raise ValueError(
                f"{what}: has shape {shape}, the generated samples {_shape_of(generated, name)}: "
                "all but the numbers of samples must be equal"
            )
