"""The loss of own arrays: the same as the step's, of every rank, and every mistake is one line before tracing."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drifting.config.checks import check
from drifting.errors import ConfigError
from drifting.method.arguments import WIDTH_RANGE
from drifting.method.drift_loss import drift_loss
from drifting.method.fields import FIELDS, drift_field
from drifting.method.guidance import unconditional_weight
from drifting.method.kernels import KERNELS, Kernel, gaussian
from drifting.method.loss import objective_loss
from drifting.method.objective import Objective
from drifting.method.potentials import LOSSES
from tests.support.runs import tiny_config

RNG = np.random.default_rng(0)


def array(*shape: int) -> jax.Array:
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


X, Y, U = array(3, 6, 2, 5), array(3, 7, 2, 5), array(3, 4, 2, 5)


@pytest.mark.parametrize("objective", ["log_kde", "drift", "mmd_kde", "mean_shift"])
def test_it_is_the_loss_of_a_step(objective: str):
    alpha = jnp.asarray([1.0, 2.0, 3.0])
    own = Objective(objective, KERNELS["laplace"])
    weights = unconditional_weight(alpha, 6, 4)

    def expected(x: jax.Array) -> Any:
        maps = ({"a": x, "b": 2 * x}, {"a": Y, "b": 2 * Y}, {"a": U, "b": 2 * U})
        return objective_loss(own, jnp.asarray([0.1, 0.4]), *maps, weights)

    def found(x: jax.Array) -> Any:
        maps = ({"a": x, "b": 2 * x}, {"a": Y, "b": 2 * Y}, {"a": U, "b": 2 * U})
        return drift_loss(*maps, objective=objective, kernel="laplace", widths=(0.1, 0.4), alpha=alpha)

    (value, metrics), gradient = jax.jit(jax.value_and_grad(found, has_aux=True))(X)
    (wanted, maps), wanted_gradient = jax.jit(jax.value_and_grad(expected, has_aux=True))(X)
    np.testing.assert_array_equal(value, wanted)
    np.testing.assert_array_equal(gradient, wanted_gradient)
    assert set(metrics["maps"]) == {"a", "b"} and metrics["field_norm"].shape == (2,)
    np.testing.assert_allclose(metrics["gap"], np.mean([m.gap for m in maps.values()]), rtol=1e-6)


def test_whoever_replaces_an_entry_gets_the_new_one(monkeypatch: pytest.MonkeyPatch):
    """A call is compiled for what stands under the name, not for the name."""
    monkeypatch.setitem(LOSSES, "mine", LOSSES["log_kde"])
    monkeypatch.setitem(KERNELS, "mine", KERNELS["laplace"])
    first = drift_loss(X, Y, objective="mine", kernel="mine")[0]
    assert first == drift_loss(X, Y, objective="log_kde", kernel="laplace")[0]
    monkeypatch.setitem(LOSSES, "mine", LOSSES["mmd_kde"])
    assert drift_loss(X, Y, objective="mine", kernel="mine", normalise_field=False)[0] != first
    monkeypatch.setitem(KERNELS, "mine", KERNELS["gaussian"])
    found = drift_loss(X, Y, objective="mine", kernel="mine", normalise_field=False)[0]
    assert found == drift_loss(X, Y, objective="mmd_kde", kernel="gaussian", normalise_field=False)[0]


def test_ranks():
    """One problem, a problem for each label, a problem for each label and position: a rank less is an axis of one."""
    whole, _ = drift_loss(X[:1, :, :1], Y[:1, :, :1])
    for x, y in ((X[0, :, 0], Y[0, :, 0]), (X[:1, :, 0], Y[:1, :, 0]), ({"m": X[0, :, 0]}, {"m": Y[0, :, 0]})):
        np.testing.assert_array_equal(drift_loss(x, y)[0], whole)


def test_defaults_are_of_a_class_without_guidance():
    value, metrics = drift_loss(X[:, :, 0], Y[:, :, 0], widths=0.3)
    both, _ = drift_loss(X[:, :, 0], Y[:, :, 0], U[:, :, 0], alpha=1.0, widths=[0.3])
    np.testing.assert_allclose(value, both, rtol=1e-6)  # alpha = 1 switches the unconditional ones off
    assert metrics["gap"].shape == () and np.isfinite(metrics["gap"])


@pytest.mark.usefixtures("unchecked")
def test_widths_and_guidance_may_be_traced_one_by_one():
    def loss(width: jax.Array, alpha: jax.Array) -> jax.Array:
        return drift_loss(X, Y, U, widths=(0.1, width), alpha=jnp.stack([alpha, 2 * alpha, alpha]))[0]

    expected, _ = drift_loss(X, Y, U, widths=(0.1, 0.4), alpha=jnp.asarray([1.5, 3.0, 1.5]))
    np.testing.assert_allclose(jax.jit(loss)(0.4, 1.5), expected, rtol=1e-6)


def test_widths_and_kernels_of_ones_own():
    def student(d: jax.Array, width: Any) -> jax.Array:
        return -3.0 * jnp.log1p(jnp.square(d / width))

    traced = []

    @jax.jit
    def loss(x: jax.Array, widths: jax.Array) -> jax.Array:
        traced.append(x)
        return drift_loss(x, Y, kernel=Kernel(student), widths=widths)[0]

    one, other = loss(X, jnp.asarray([0.3])), loss(X, jnp.asarray([0.6]))
    assert np.isfinite([one, other]).all() and len(traced) == 1


def test_a_network_learns_from_it():
    """Points that start elsewhere come to the positives: their gap closes."""
    positives = array(64, 2) * 0.1 + jnp.asarray([3.0, -2.0])

    @jax.jit
    def step(x: jax.Array) -> Any:
        (_, metrics), gradient = jax.value_and_grad(
            lambda x: drift_loss(x, positives, widths=1.0, normalise_field=False, feature_scale="none"), has_aux=True
        )(x)
        return x - 0.2 * gradient * len(x), metrics["gap"]

    x = array(32, 2)
    for _ in range(200):
        x, gap = step(x)
    assert abs(gap) < 0.5 and np.linalg.norm(x.mean(axis=0) - positives.mean(axis=0)) < 0.2


WRONG: list[tuple[Any, dict[str, Any], str]] = [
    ((X[0, 0, 0], Y), {}, r"generated: has shape \(5,\), give \[samples, dimensions\]"),
    ((X[None], Y), {}, r"generated: has shape \(1, 3, 6, 2, 5\), give"),
    ((X, Y[:2]), {}, r"positives: has shape \(2, 7, 2, 5\), the generated samples \(3, 6, 2, 5\)"),
    ((X, Y[..., :4]), {}, r"positives: has shape \(3, 7, 2, 4\), the generated samples"),
    ((X, Y[:, :0]), {}, r"positives: has shape \(3, 0, 2, 5\), without a sample, give at least 1"),
    ((X[0, :, 0], Y[0, :, 0, :4]), {}, r"positives: has shape \(7, 4\), the generated samples \(6, 5\): all but"),
    (({"a": X, "b": X}, {"a": Y, "b": Y[:, :, 0]}), {}, r"positives\['b'\]: has shape \(3, 7, 5\), the generated"),
    ((X, Y), {"widths": "wide"}, "widths: is 'wide', give one kernel width or several"),
    ((X, Y), {"widths": None}, "widths: is None, give one kernel width or several"),
    ((X, Y), {"widths": [0.1, None]}, r"widths: is \[0.1, None\], give one kernel width or several"),
    ((X, Y), {"widths": float("inf")}, "widths: is inf, give one kernel width or several, from 1e-06 to 1e"),
    ((X, Y), {"widths": [0.1, 1e-30]}, r"widths: is \[0.1, 1e-30\], give one kernel width or several, from 1e-06 to"),
    ((X, Y), {"kernel": None}, "kernel=None: use one of gaussian"),
    ((X[:, :1], Y), {}, "generated: 1 of a label, give at least 2"),
    (({"a": X}, {"b": Y}), {}, r"positives: has the maps \['b'\], the generated samples \['a'\]"),
    (({}, {}), {}, "generated: is an empty dict"),
    (
        ({"a": X, "b": X[:, :3]}, {"a": Y, "b": Y}),
        {},
        r"generated: maps have different numbers of labels x samples \('a' 3 x 6, 'b' 3 x 3\)",
    ),
    ((X.astype(jnp.int32), Y), {}, "generated: is of int32, give floating-point numbers"),
    ((X, Y), {"kernel": "gausian"}, "kernel='gausian': use one of gaussian"),
    ((X, Y), {"objective": "drfit"}, "objective='drfit': use one of log_kde"),
    ((X, Y), {"feature_scale": "map"}, "feature_scale='map': use one of per_map"),
    ((X, Y), {"feature_scale": "neighbour"}, "feature_scale='neighbour': divide the samples"),
    ((X, Y), {"widths": ()}, "widths: has shape"),
    ((X, Y), {"widths": [[0.1]]}, "widths: has shape"),
    ((X, Y), {"alpha": 2.0}, "unconditional=None: guidance needs both"),
    ((X, Y, U), {}, "alpha=None: guidance needs both"),
    ((X, Y, U), {"alpha": jnp.ones(2)}, r"alpha: has shape \(2,\), give one number or \[3\]"),
    ((X, Y, U), {"alpha": 0.5}, "alpha: is 0.5, give finite numbers of at least 1"),
    ((X, Y, U), {"alpha": float("nan")}, "alpha: is nan, give finite numbers of at least 1"),
    ((X, Y, U), {"alpha": [1.0, -3.0, 2.0]}, "alpha: is .*-3.0.*, give finite numbers of at least 1"),
    ((X, Y, U), {"alpha": float("inf")}, "alpha: is inf, give finite numbers of at least 1"),
    (({"a": X, "b": X}, {"a": Y, 1: Y}), {}, "positives: has a map by the name 1, give texts"),
    (({"a": X, 1: X}, {"a": Y, 1: Y}), {}, "generated: has a map by the name 1, give texts"),
    ((X[:0], Y[:0]), {}, r"generated: has shape \(0, 6, 2, 5\), give at least one of all but samples"),
    ((X[0, :, 0, :0], Y[0, :, 0, :0]), {}, r"generated: has shape \(6, 0\), give at least one of all but samples"),
    ((X, Y[:, :, :0]), {}, r"positives: has shape \(3, 7, 0, 5\), give at least one of all but samples"),
    ((X, Y, U[:1]), {"alpha": 2.0}, r"unconditional: has shape \(1, 4, 2, 5\)"),
]


@pytest.mark.parametrize(("arguments", "options", "message"), WRONG, ids=lambda x: x if isinstance(x, str) else "")
@pytest.mark.usefixtures("unchecked")
def test_mistakes_are_one_line_before_anything_is_traced(arguments: Any, options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=f"^{message}") as error:
        drift_loss(*arguments, **options)
    assert "\n" not in str(error.value)
    # Inside somebody else's jit as well: shapes are known there.
    if not any(isinstance(maps, dict) and 1 in maps for maps in arguments):  # which jax itself cannot sort
        with pytest.raises(ValueError, match=f"^{message}"):
            jax.jit(lambda *arguments: drift_loss(*arguments, **options)[0])(*arguments)


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        (3, ", is 3"),
        (lambda d: d, "; it raised TypeError: "),
        (lambda d, width: d.sum(), r"; of d \(2, 3\) it made \(\)"),
        (lambda d, width: np.exp(d), "; it raised Tracer"),
        (lambda d, width: None, "; of d .* it made NoneType"),
    ],
)
@pytest.mark.parametrize("name", ["log_profile", "log_sharp_profile", "log_flat_profile"])
@pytest.mark.usefixtures("unchecked")
def test_a_kernel_of_ones_own_is_tried(name: str, profile: Any, message: str):
    start = rf"^kernel: {name} must be a jax function \(d, width\) -> array of the shape of d"
    if not callable(profile):
        with pytest.raises(ValueError, match=start + message):
            Kernel(**({"log_profile": gaussian} | {name: profile}))
        return
    kernel = Kernel(**({"log_profile": gaussian} | {name: profile}))
    with pytest.raises(ValueError, match=start + message):
        drift_loss(X, Y, kernel=kernel)
    with pytest.raises(ValueError, match=start + message):
        drift_field(X[0, :, 0], Y[0, :, 0], width=0.3, kernel=kernel)


@pytest.mark.parametrize(
    "given",
    [None, "words", [[1.0], [2.0, 3.0]], [[1, 2]], object()],
    ids=["None", "words", "ragged", "integers", "object"],
)
@pytest.mark.parametrize("place", range(3))
@pytest.mark.usefixtures("unchecked")
def test_what_is_no_array_of_numbers_is_refused_by_its_argument(place: int, given: Any):
    arguments: list[Any] = [X[0, :, 0], Y[0, :, 0], U[0, :, 0]]
    arguments[place] = given
    names = ("generated", "positives", "unconditional")
    if not (place == 2 and given is None):  # None is none
        with pytest.raises(ValueError, match=f"^{names[place]}: is "):
            drift_loss(*arguments, alpha=2.0)
        with pytest.raises(ValueError, match=f"^{('x', 'positives', 'negatives')[place]}: is "):
            drift_field(*arguments, width=0.3)


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_with_itself_as_negatives_leaves_each_query_out(field: str):
    x, y = X[0, :, 0], Y[0, :, 0]
    found = drift_field(x, y, width=0.5, field=field)
    assert found.shape == x.shape and found.dtype == jnp.float32 and np.isfinite(found).all()
    if field in ("drift", "drift_row", "drift_raw"):
        return  # their self-pair is pushed far away, not left out: see the golden tests
    for i in range(len(x)):
        alone = drift_field(x[i : i + 1], y, jnp.delete(x, i, axis=0), width=0.5, field=field)
        np.testing.assert_allclose(found[i], alone[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((X[0, 0, 0], Y[0, :, 0]), {}, r"x: has shape \(5,\), give \[samples, dimensions\]"),
        ((X[0, :, 0], Y[0]), {}, r"positives: has shape \(7, 2, 5\), give \[samples, 5\]"),
        ((X[0, :, 0], Y[0, :, 0, :4]), {}, r"positives: has shape \(7, 4\), give \[samples, 5\]"),
        ((X[0, :, 0], Y[0, :0, 0]), {}, r"positives: has shape \(0, 5\), give at least one sample, \[samples, 5\]"),
        ((X[0, :0, 0], Y[0, :, 0]), {}, r"x: has shape \(0, 5\), give at least one sample, \[samples, 5\]"),
        ((X[0, :, 0], Y[0, :, 0], X[0, :0, 0]), {}, r"negatives: has shape \(0, 5\), give at least one sample"),
        ((X[0, :, 0], Y[0, :, 0]), {"w_pos": ["a"] * 7}, r"w_pos: is \['a', .*\], give \[7\], a weight for each"),
        ((X[0, :, 0], Y[0, :, 0]), {"w_neg": [-1.0] * 6}, "w_neg: is .*, give finite numbers of at least 0, not all"),
        ((X[0, :, 0], Y[0, :, 0]), {"w_neg": jnp.zeros(6)}, "w_neg: is .*, give finite numbers of at least 0, not all"),
        ((X[0, :, 0], Y[0, :, 0]), {"w_pos": [np.nan] * 7}, "w_pos: is .*, give finite numbers of at least 0, not all"),
        ((X[0, :, 0], Y[0, :, 0]), {"width": "a"}, "width: is 'a', give one kernel width"),
        ((X[0, :, 0], Y[0, :, 0]), {"width": None}, "width: is None, give one kernel width"),
        ((X[0, :, 0], Y[0, :, 0]), {"width": 0}, "width: is 0.0, give one kernel width, positive"),
        ((X[0, :, 0], Y[0, :, 0]), {"width": np.inf}, "width: is inf, give one kernel width, from 1e-06 to 1e"),
        ((X[0, :, 0], Y[0, :, 0]), {"field": "drfit"}, "field='drfit': use one of mean_shift"),
        ((X[0, :, 0], Y[0, :, 0]), {"kernel": "gaus"}, "kernel='gaus': use one of gaussian"),
        ((X[0, :, 0], Y[0, :, 0]), {"w_pos": jnp.ones(3)}, r"w_pos: has shape \(3,\), give \[7\]"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_mistakes_of_a_field(arguments: Any, options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=f"^{message}"):
        drift_field(*arguments, **({"width": 0.3} | options))


def test_samples_that_are_not_finite_have_no_gap():
    """A generator that has run away is not one that has arrived."""
    for bad in (jnp.nan, jnp.inf, -jnp.inf):
        for x, y in ((X.at[0, 0, 0, 0].set(bad), Y), (jnp.full_like(X, bad), Y), (X, jnp.full_like(Y, bad))):
            assert np.isnan(drift_loss(x, y)[1]["gap"]) and np.isnan(drift_loss(x, y, feature_scale="none")[1]["gap"])


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("width", WIDTH_RANGE)
def test_the_ends_of_the_range_of_widths_are_finite(kernel: str, width: float):
    for objective in ("log_kde", "drift"):
        value, metrics = drift_loss(X[0, :, 0], Y[0, :, 0], objective=objective, kernel=kernel, widths=width)
        assert np.isfinite(value) and np.isfinite(metrics["gap"]) and np.isfinite(metrics["field_norm"]).all()
    check(tiny_config(loss={"widths": (width,)}))
    beyond = width / 10 if width < 1 else width * 10
    with pytest.raises(ConfigError, match=r"^loss\.widths=.*between 1e-6 and 1e12$"):
        check(tiny_config(loss={"widths": (beyond,)}))


def test_the_loss_and_the_field_have_one_default_kernel():
    defaults = {inspect.signature(function).parameters["kernel"].default for function in (drift_loss, drift_field)}
    assert len(defaults) == 1


def test_every_name_of_an_objective_is_a_loss_or_a_field():
    for name in [*LOSSES, *FIELDS]:
        assert np.isfinite(drift_loss(X[0, :, 0], Y[0, :, 0], objective=name, kernel="gaussian")[0])
