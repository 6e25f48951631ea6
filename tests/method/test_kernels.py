"""Kernels against their definitions (autodiff, float64 integrals), and distances where float32 is short of digits."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from drifting.method.kernels import KERNELS, Kernel, centred_distance, inverse_log_sharp, pairwise_distance, safe_sqrt
from drifting.studies import small_widths
from tests.support import restated

WIDTHS = (0.02, 0.3, 2.0)

U = np.array([1e-3, 0.03, 0.2, 0.7, 1.0, 1.6, 3.0, 8.0, 25.0, 60.0])  # distances in kernel widths

# Kernels a user might add: a profile in float32 and the same in float64. The last two are entries of KERNELS of which
# only the profile is kept, so that what is tested is the quadrature.
USER_PROFILES = {
    "student_t": (lambda d, s: -3 * jnp.log1p(jnp.square(d / s)), lambda d, s: -3 * np.log1p((d / s) ** 2)),
    "soft_laplace": (lambda d, s: -jnp.sqrt(1 + jnp.square(d / s)), lambda d, s: -np.sqrt(1 + (d / s) ** 2)),
    "gaussian": (KERNELS["gaussian"].log_profile, restated.LOG_K["gaussian"]),
    "laplace": (KERNELS["laplace"].log_profile, restated.LOG_K["laplace"]),
}

ALL = KERNELS | {f"user_{name}": Kernel(profile) for name, (profile, _) in USER_PROFILES.items()}

# Compiling is most of what these tests cost, so it is done once for each kernel and without optimisation.
quick = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

traces: list[str] = []


@cache
def compiled(name: str) -> Callable[..., tuple[jax.Array, jax.Array, jax.Array]]:
    """`(d [10], width) -> log k, log k#, log kb` of one kernel of ALL."""
    kernel = ALL[name]

    def everything(d, width):
        traces.append(name)
        return kernel.log_k(d, width), kernel.log_sharp(d, width), kernel.log_flat(d, width)

    return quick(everything)


def values(name: str, d: np.ndarray, width: float) -> list[np.ndarray]:
    return [np.asarray(a, np.float64) for a in compiled(name)(float32(d), width)]


def float32(d) -> jax.Array:
    return jnp.asarray(d, jnp.float32)


def assert_log_close(got, want, tolerance=2e-6):
    """Logarithms of kernels: absolute where they are small, relative where float32 has no more digits to give."""
    want = np.asarray(want, np.float64)
    assert np.isfinite(want).all()
    np.testing.assert_allclose(np.asarray(got, np.float64), want, rtol=tolerance, atol=tolerance)


# --- closed forms -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", restated.LOG_K)
def test_table_of_closed_forms(name, width):
    near = np.minimum(U, 20.0)  # so that k itself does not underflow
    d = near * width
    k = np.exp(restated.LOG_K[name](d, width))
    value, sharp, flat = values(name, d, width)
    assert_log_close(value, np.log(k))
    assert_log_close(sharp, np.log(restated.SHARP[name](k, d, width)))
    assert_log_close(flat, np.log(restated.FLAT[name](k, d, width)))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", KERNELS)
def test_sharp_and_flat_are_what_they_are_defined_to_be(name, width):
    """`k# = ½∫φ` by float64 quadrature, `kb = −2φ'` by float64 differences."""
    log_k, d = restated.log_profile(name), U * width
    value, sharp, flat = values(name, d, width)
    assert_log_close(value, log_k(d, width))
    assert_log_close(sharp, restated.log_sharp(log_k, d, width))
    assert_log_close(flat, restated.log_flat(log_k, d, width))


@pytest.mark.parametrize("name", ALL)
def test_gradient_of_sharp_is_k_times_displacement(name):
    """`grad_x k#(x, y) = k (y − x)` and `grad_x k(x, y) = kb (y − x)`, by autodiff in three dimensions."""
    kernel, width = ALL[name], 0.6
    x, y = jax.random.normal(jax.random.key(0), (2, 20, 3))

    def value(log_profile):
        return lambda x, y: jnp.exp(log_profile(jnp.linalg.norm(x - y), width))

    d = jnp.linalg.norm(x - y, axis=1)
    for above, below in ((kernel.log_sharp, kernel.log_k), (kernel.log_k, kernel.log_flat)):
        got = quick(jax.vmap(jax.grad(value(above))))(x, y)
        want = np.exp(below(d, width))[:, None] * (y - x)
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-12)
        assert np.abs(want).max() > 0.1


@pytest.mark.parametrize("name", ALL)
def test_flat_of_sharp_is_the_kernel(name):
    width = 0.3
    d = float32(np.maximum(U, 0.2) * width)  # nearer, the slope of log k# is a difference of two large numbers
    assert_log_close(quick(Kernel(ALL[name].log_sharp).log_flat)(d, width), ALL[name].log_k(d, width), 1e-5)


@pytest.mark.parametrize("name", KERNELS)
def test_closed_forms_agree_with_what_a_bare_profile_gets(name):
    bare, width = Kernel(KERNELS[name].log_profile), 0.05
    d = float32(U * width)
    _, sharp, flat = values(name, d, width)
    assert_log_close(bare.log_sharp(d, width), sharp)
    assert_log_close(bare.log_flat(d, width), flat)


@pytest.mark.parametrize("name", KERNELS)
def test_the_parts_of_a_sharp_make_it_up(name):
    d, width = float32(U * 0.05), 0.05
    log, factor = KERNELS[name].sharp_parts(d, width)
    assert_log_close(log + (0.0 if factor is None else np.log(factor)), KERNELS[name].log_sharp(d, width))
    assert (factor is None) == (name != "laplace")


# --- quadrature -------------------------------------------------------------------------------------------------------


def integral(log_k, d: float, width: float) -> float:
    """`log k#(d)` by adaptive quadrature in float64, scaled by `k(d)`."""
    at_d, reach = log_k(d, width), width / (1 + d / width)

    def integrand(t: float) -> float:
        return (d + reach * t) * np.exp(log_k(d + reach * t, width) - at_d)

    bounds = ((0.0, 1.0), (1.0, 10.0), (10.0, 1e3), (1e3, np.inf))
    pieces = [quad(integrand, *ends, epsabs=0, epsrel=1e-11, limit=200)[0] for ends in bounds]
    return at_d + np.log(sum(pieces) * reach)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", USER_PROFILES)
def test_quadrature_against_scipy(name, width):
    _, log_k = USER_PROFILES[name]
    d = np.array([0.0, *U[1:]]) * width
    _, sharp, _ = values(f"user_{name}", d, width)
    assert_log_close(sharp, [integral(log_k, a, width) for a in d])


@pytest.mark.parametrize("name", USER_PROFILES)
def test_derivatives_of_the_quadrature(name):
    """With respect to the distance and to the width, forwards and backwards, against float64 differences."""
    profile, log_k = USER_PROFILES[name]
    kernel, width, h = Kernel(profile), 0.3, 1e-4
    d = np.array([0.1, 1.0, 5.0]) * width
    in_d = [
        (integral(log_k, a + h * width, width) - integral(log_k, a - h * width, width)) / (2 * h * width) for a in d
    ]
    in_width = [
        (integral(log_k, a, width * (1 + h)) - integral(log_k, a, width * (1 - h))) / (2 * h * width) for a in d
    ]

    backwards = quick(jax.vmap(jax.grad(kernel.log_sharp, argnums=(0, 1)), in_axes=(0, None)))(float32(d), width)
    np.testing.assert_allclose(backwards, [in_d, in_width], rtol=1e-5)
    forwards = quick(jax.jacfwd(kernel.log_sharp, argnums=1))(float32(d), width)
    np.testing.assert_allclose(forwards, in_width, rtol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_width_is_traced(name):
    """Sweeping the width compiles once for all; its values do matter."""
    narrow, wide = (values(name, U, width) for width in (0.05, 0.3))
    assert traces.count(name) == 1
    assert all(np.abs(a - b).max() > 0.1 for a, b in zip(narrow, wide, strict=True))


@pytest.mark.parametrize("name", ALL)
def test_inverse_of_the_sharp_kernel(name):
    kernel, width = ALL[name], 0.3
    _, log_sharp, _ = values(name, U * width, width)
    log_value = float32([*log_sharp[2:], log_sharp[0] + 0.5, log_sharp[0] + 5.0])  # the last two above k#(0)
    d = np.asarray(quick(partial(inverse_log_sharp, kernel))(log_value, width))
    np.testing.assert_allclose(d[:-2], U[2:] * width, rtol=1e-4)
    assert_log_close(values(name, d, width)[1][:-2], log_sharp[2:])  # the well-conditioned direction
    assert (d[-2:] < 1e-6 * width).all()


# --- distances --------------------------------------------------------------------------------------------------------


def points(n: int, m: int, dim: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, dim)).astype(np.float32), rng.normal(size=(m, dim)).astype(np.float32)


def test_distances():
    x, y = points(5, 7, 16)
    got = pairwise_distance(jnp.asarray(x), jnp.asarray(y))
    np.testing.assert_allclose(got, restated.distances(x, y), rtol=2e-6)
    got = pairwise_distance(jnp.asarray(x, jnp.bfloat16), jnp.asarray(y, jnp.bfloat16))
    rounded = (np.asarray(jnp.asarray(a, jnp.bfloat16), np.float64) for a in (x, y))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, restated.distances(*rounded), rtol=2e-6)


def test_distances_do_not_feel_a_common_offset():
    """The points lie on a grid that float32 holds exactly even with the offset, so nothing may change."""
    x, y = (np.round(a * 64) / 64 for a in points(5, 7, 16))
    far = jnp.asarray(x + np.float32(1024)), jnp.asarray(y + np.float32(1024))
    got = pairwise_distance(*far)
    np.testing.assert_allclose(got, restated.distances(x, y), rtol=2e-6)
    lost = centred_distance(*far)
    assert np.abs(np.asarray(lost) / restated.distances(x, y) - 1).max() > 1e-2


@pytest.fixture(scope="module")
def far_from_the_origin() -> dict[str, Any]:
    """The 4096-dimensional features of docs/small-widths.md: length 100, mean distance 1; distances in three ways."""
    x, y = small_widths.features(100)
    distances = {method: small_widths.float32_distances(method, x, y) for method in small_widths.DISTANCE_METHODS}
    exact = small_widths.Distances(restated.distances(x, y), restated.distances(x, x))
    return {"x": x, "y": y, "exact": exact, **distances}


def test_near_duplicates_are_told_apart(far_from_the_origin):
    """Where the textbook expansion is off by tens of per cent and more, the package is right to one in a thousand."""
    exact = small_widths.near_pairs(far_from_the_origin["exact"])
    error = {
        method: np.abs(small_widths.near_pairs(far_from_the_origin[method]) / exact - 1).max(axis=0)
        for method in small_widths.DISTANCE_METHODS
    }
    true = np.array(small_widths.NEAR_DISTANCES)
    np.testing.assert_allclose(np.median(exact, axis=0), true, rtol=1e-3)
    assert error["textbook"][true <= 0.05].min() > 0.1
    assert error["centred"][true >= 0.02].max() < 1e-3
    # What is left is 1e-7 r²/d, with r² = ½ about the centre of the positives.
    assert (error["centred"] * true < 4 * 1e-7 * 0.5 / true).all()


@pytest.mark.parametrize("width", small_widths.SMALL_WIDTHS)
@pytest.mark.parametrize("kernel", restated.LOG_K)
def test_narrow_kernels_of_far_features(far_from_the_origin, kernel, width):
    """`log k` over all pairs, near duplicates included, down to a width of 0.02."""
    exact = restated.LOG_K[kernel](small_widths.all_pairs(far_from_the_origin["exact"]), width)
    error = {
        method: np.abs(
            small_widths.log_kernel(kernel, width, small_widths.all_pairs(far_from_the_origin[method])) - exact
        )
        for method in small_widths.DISTANCE_METHODS
    }
    assert error["centred"].max() < 1e-2
    assert error["centred"].max() < 1e-2 * error["textbook"].max()
    if width <= 0.05:
        assert error["textbook"].max() > 1


@pytest.mark.parametrize("name", ["sharp", "drift"])
@pytest.mark.parametrize("kernel", ["gaussian", "laplace"])
def test_narrow_fields_of_far_features(far_from_the_origin, name, kernel):
    """Normalised fields of samples that are not near each other, at a width of 0.02."""
    rows, columns = slice(27, 39), slice(0, 16)
    x, y = far_from_the_origin["x"][rows], far_from_the_origin["y"][columns]
    exact = restated.FIELDS[name](restated.problem(x, y, x, own=True), restated.LOG_K[kernel], 0.02)
    exact /= np.sqrt(np.mean(exact**2))
    error = {}
    for method in small_widths.DISTANCE_METHODS:
        d = far_from_the_origin[method]
        kept = small_widths.Distances(d.pos[rows, columns], d.neg[rows, rows])
        got = small_widths.unit_field(name, kernel, 0.02, kept, x, y)
        error[method] = np.linalg.norm(got - exact) / np.linalg.norm(exact)
    assert error["centred"] < 1e-3
    assert error["textbook"] > (0.1 if kernel == "gaussian" else 0.02)


def test_gradient_of_the_distance():
    """The unit vector from one point to the other, and zero from a point to itself."""
    x, y = points(5, 7, 16)
    y[2] = x[2]
    jacobian = quick(jax.jacrev(pairwise_distance))(x, y)
    d = restated.distances(x, y)
    for i in range(5):
        for j in range(7):
            if d[i, j] > 0:
                np.testing.assert_allclose(jacobian[i, j, i], (x[i] - y[j]) / d[i, j], atol=1e-5)
    assert np.isfinite(jacobian).all()


@pytest.mark.parametrize("floor", [0.0, 1e-4])
def test_coincident_points_have_finite_distance_and_gradient(floor):
    """Exactly representable coordinates, so that the distance is zero and not rounding noise."""
    x = jnp.arange(12.0).reshape(4, 3)
    x = jnp.concatenate([x, x[:1]])
    total = quick(jax.value_and_grad(lambda a, b: jnp.sum(pairwise_distance(a, b, floor))))
    value, gradient = total(x, x)
    assert np.isfinite(value) and np.isfinite(gradient).all()
    d = pairwise_distance(x, x, floor)
    assert float(d.min()) == np.float32(floor) and float(d[0, 4]) == np.float32(floor)
    assert not np.any(total(jnp.ones((5, 3)), jnp.ones((5, 3)))[1])


def test_safe_sqrt_stops_at_its_floor():
    squared = float32([-1e-7, 0.0, 0.04, 0.25])
    np.testing.assert_allclose(safe_sqrt(squared, 0.3), [0.3, 0.3, 0.3, 0.5])
    np.testing.assert_allclose(jax.vmap(jax.grad(lambda s: safe_sqrt(s, 0.3)))(squared), [0.0, 0.0, 0.0, 1.0])
    np.testing.assert_allclose(jax.vmap(jax.grad(safe_sqrt))(squared), [0.0, 0.0, 2.5, 1.0], rtol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_kernels_of_coincident_points_are_finite(name):
    """Value and gradient of `log k` and `log k#` where points coincide or nearly do."""
    kernel = ALL[name]
    x = float32([[0.0, 0.0], [0.0, 0.0], [3.0, 4.0], [3.0, 4.0 + 1e-6]])

    def total(x, width):
        d = pairwise_distance(x, jax.lax.stop_gradient(x))
        return jnp.stack([jnp.sum(kernel.log_k(d, width)), jnp.sum(kernel.log_sharp(d, width))])

    function = quick(lambda x, width: (total(x, width), jax.jacrev(total)(x, width)))
    for width in (0.02, 1.0):
        value, gradient = function(x, width)
        assert np.isfinite(value).all() and np.isfinite(gradient).all() and np.abs(gradient).max() > 0
