"""The guidance-scale prior against its analytic law and the golden file."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from drifting.method.guidance import draw_alpha, unconditional_weight
from tests.support.golden_files import load

EXPONENTS = [0.0, 0.5, 1.0, 3.0, 5.0]

RANGES = [(1.0, 4.0), (0.5, 2.0), (1.0, 1.0)]


def inverse_cdf(u: np.ndarray, low: float, high: float, k: float) -> np.ndarray:
    """The formula as it is written, in float64."""
    p = 1.0 - k
    return low * (high / low) ** u if p == 0 else (low**p + u * (high**p - low**p)) ** (1 / p)


def cdf(alpha: np.ndarray, low: float, high: float, k: float) -> np.ndarray:
    """Integral of `α^-k` from `low`, normalised: independent of the code under test."""
    p = 1.0 - k
    return np.log(alpha / low) / np.log(high / low) if p == 0 else (alpha**p - low**p) / (high**p - low**p)


def draw(u, u_one, low, high, k, p_one=0.0):
    return draw_alpha(u, u_one, alpha_min=low, alpha_max=high, exponent=k, p_one=p_one)


def test_golden(golden):
    z = load(golden / "cfg_sampling.npz")
    checked = 0
    for name, want in z.items():
        if match := re.fullmatch(r"cfg_min=(.*),max=(.*),pw=(.*),no_cfg_frac=(.*)", name):
            low, high, k, p_one = map(float, match.groups())
            np.testing.assert_allclose(draw(z["u"], z["u2"], low, high, k, p_one), want, rtol=1e-6)
            checked += 1
        elif match := re.fullmatch(r"uncond_w_G=(\d+),N=(\d+)", name):
            got = unconditional_weight(z["uncond_w_cfg"], int(match[1]), int(match[2]))
            np.testing.assert_allclose(got, want, rtol=1e-6)
            checked += 1
    assert checked == 20


@pytest.mark.parametrize("k", EXPONENTS)
@pytest.mark.parametrize("low,high", RANGES)
def test_is_the_inverse_cdf(low, high, k):
    u = np.linspace(0.0, 1.0, 101)
    got = np.asarray(draw(u, np.ones_like(u), low, high, k))
    np.testing.assert_allclose(got, inverse_cdf(u, low, high, k), rtol=2e-6)
    assert got[0] == low and (got >= low).all() and (got <= high).all()


@pytest.mark.parametrize("k", EXPONENTS)
def test_law_is_the_power_of_the_scale(k):
    u, u_one = jax.random.uniform(jax.random.key(0), (2, 20_000))
    alpha = np.asarray(draw(u, u_one, 1.0, 4.0, k), np.float64)
    assert stats.kstest(alpha, lambda a: cdf(a, 1.0, 4.0, k)).pvalue > 1e-3
    assert stats.kstest(alpha, lambda a: cdf(a, 1.0, 4.0, k + 0.3)).pvalue < 1e-6  # the test has the power to refuse


def test_law_with_the_unguided_part():
    u, u_one = jax.random.uniform(jax.random.key(1), (2, 20_000))
    alpha = np.asarray(draw(u, u_one, 1.0, 4.0, 3.0, 0.5), np.float64)
    guided = alpha[alpha != 1.0]
    assert stats.binomtest(alpha.size - guided.size, alpha.size, 0.5).pvalue > 1e-3
    assert stats.kstest(guided, lambda a: cdf(a, 1.0, 4.0, 3.0)).pvalue > 1e-3
    assert (np.asarray(draw(u, u_one, 2.0, 4.0, 3.0, 1.0)) == 1.0).all()


def test_continuous_through_exponent_one():
    u = np.linspace(0.0, 1.0, 11)
    at_one = draw(u, np.ones_like(u), 1.0, 4.0, 1.0)
    for k in (1.0 - 1e-5, 1.0 + 1e-5, 1.0 + 1e-6):
        np.testing.assert_allclose(draw(u, np.ones_like(u), 1.0, 4.0, k), at_one, rtol=2e-5)


def test_every_argument_may_be_traced():
    """One compilation serves every exponent, 1 among them, and the result is that of plain numbers."""
    traces = []

    @jax.jit
    def traced(u, low, high, k, p):
        traces.append(1)
        return draw(u, u, low, high, k, p)

    u = jnp.linspace(0.0, 0.99, 12)
    for k in (1.0, 3.0):
        np.testing.assert_allclose(traced(u, 1.0, 4.0, k, 0.3), draw(u, u, 1.0, 4.0, k, 0.3), rtol=1e-6)
    assert len(traces) == 1


def test_unconditional_weight_gives_the_effective_law():
    """The unconditional part of all negative weight, `U w_u / (N - 1 + U w_u)`, is `1 - 1/α`."""
    alpha = np.array([1.0, 1.5, 4.0])
    weight = np.asarray(unconditional_weight(alpha, 64, 16), np.float64)
    np.testing.assert_allclose(16 * weight / (63 + 16 * weight), 1 - 1 / alpha, rtol=1e-6)
    assert weight[0] == 0.0
    assert np.isfinite(np.asarray(unconditional_weight(alpha, 64, 0))).all()
