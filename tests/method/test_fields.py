"""Drift fields against a float64 restatement, and against what the papers prove about them."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from drifting.method.fields import (
    BALANCED,
    FIELDS,
    Pairs,
    StoredPairs,
    density_weights,
    displace,
    drift_field,
    log_density,
    log_sum_exp,
    log_sum_exp_in_one_pass,
)
from drifting.method.kernels import KERNELS, pairwise_distance
from tests.support import restated

# Properties a field of the papers is proved to have. What is not listed here holds, and is tested, for every entry.
CONSERVATIVE = {"mmd", "sharp", "score", "coulomb"}

SEPARABLE = {"mean_shift", *CONSERVATIVE}  # weights act as counts: they do not pass through a softmax over both sides

N, M, DIM = 5, 8, 3  # queries, targets of each side, dimensions

EVERY = pytest.mark.parametrize(("name", "kernel"), [(f, k) for f in FIELDS for k in KERNELS])

quick = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@cache
def compiled(kernel: str):
    """`(x, y_pos, y_neg, w_pos, w_neg, width) -> {(field, masked): V}`: all fields in one compilation."""

    def masked(name, x, y_pos, y_neg, w_pos, w_neg, width):
        is_self, centre = jnp.eye(N, M, dtype=bool), jnp.mean(y_pos, axis=0)
        pairs = Pairs(pairwise_distance(x, y_pos), pairwise_distance(x, y_neg), w_pos, w_neg, is_self)
        return displace(FIELDS[name](pairs, KERNELS[kernel], width), x - centre, y_pos - centre, y_neg - centre)

    def fields(x, y_pos, y_neg, w_pos, w_neg, width):
        given = dict(kernel=kernel, width=width, w_pos=w_pos, w_neg=w_neg)
        bare = {(name, False): drift_field(x, y_pos, y_neg, field=name, **given) for name in FIELDS}
        return bare | {(name, True): masked(name, x, y_pos, y_neg, w_pos, w_neg, width) for name in FIELDS}

    return quick(fields)


def evaluate(name, kernel, x, y_pos, y_neg, w_pos, w_neg, width=0.7, masked=True) -> np.ndarray:
    """The field at N queries for M positives and M negatives; `masked`: the first of these are the queries."""
    return np.asarray(compiled(kernel)(x, y_pos, y_neg, w_pos, w_neg, width)[name, masked], np.float64)


def samples(seed: int = 0) -> dict[str, np.ndarray]:
    """Generated samples, positives, negatives (the generated samples and three others), and the weights of both."""
    rng = np.random.default_rng(seed)
    x, y_pos, y_unc = (rng.normal(size=(n, DIM)) + shift for n, shift in ((N, 0.0), (M, 0.7), (M - N, -0.5)))
    return {
        "x": x.astype(np.float32),
        "y_pos": y_pos.astype(np.float32),
        "y_neg": np.concatenate([x, y_unc]).astype(np.float32),
        "w_pos": rng.uniform(0.3, 2.0, M).astype(np.float32),
        "w_neg": np.concatenate([np.ones(N), rng.uniform(0.3, 2.0, M - N)]).astype(np.float32),
    }


def assert_same(got, want, tolerance: float = 2e-5):
    """Equal up to `tolerance` of the largest component."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert np.isfinite(got).all() and np.abs(want).max() > 0
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max())


# --- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("width", [0.4, 1.5])
@EVERY
def test_against_the_restatement(name, kernel, width, masked):
    if name not in restated.FIELDS:
        pytest.skip(f"tests/support/restated.py has no restatement of {name!r}")
    s = samples()
    if not masked:
        s["y_neg"] = s["y_neg"] + np.float32(0.25)  # no pair coincides
    p = restated.problem(s["x"], s["y_pos"], s["y_neg"], s["w_pos"], s["w_neg"], own=masked)
    want = restated.FIELDS[name](p, restated.log_profile(kernel), width)
    assert_same(evaluate(name, kernel, **s, width=width, masked=masked), want)


@pytest.mark.parametrize("name", ["mean_shift", "drift"])
def test_defaults_are_unit_weights_and_no_masking(name):
    s = samples()
    s["y_neg"] = s["y_neg"] + np.float32(0.25)
    function = partial(drift_field, field=name, kernel=KERNELS["laplace"], width=0.7)
    got = quick(function)(s["x"], s["y_pos"], s["y_neg"])
    p = restated.problem(s["x"], s["y_pos"], s["y_neg"])
    assert_same(got, restated.FIELDS[name](p, restated.log_profile("laplace"), 0.7))
    assert got.dtype == jnp.float32


@pytest.mark.parametrize("width", [0.02, 0.2])
@EVERY
def test_finite_for_narrow_kernels_and_coincident_samples(name, kernel, width):
    """Far apart in kernel widths, a positive on a query, two queries on each other."""
    s = samples()
    s["y_pos"][0] = s["x"][0]
    s["x"][2] = s["x"][1]
    s["y_neg"][:N] = s["x"]
    assert np.isfinite(evaluate(name, kernel, **s, width=width)).all()


@EVERY
def test_does_not_feel_a_common_offset(name, kernel):
    """Samples on a grid that float32 holds exactly with the offset too: only the arithmetic could lose digits."""
    s = {key: np.round(a * 64) / 64 for key, a in samples().items()}
    moved = {key: a + np.float32(1024) if key in ("x", "y_pos", "y_neg") else a for key, a in s.items()}
    assert_same(evaluate(name, kernel, **moved), evaluate(name, kernel, **s))


# --- equilibrium and antisymmetry -------------------------------------------------------------------------------------


@EVERY
def test_vanishes_where_the_two_sets_are_equal(name, kernel):
    s = samples()
    size = np.abs(evaluate(name, kernel, **s, masked=False)).max()
    order = np.random.default_rng(1).permutation(M)
    y, w = s["y_neg"] + np.float32(0.25), s["w_neg"]
    at_rest = evaluate(name, kernel, s["x"], y[order], y, w[order], w, masked=False)
    assert np.abs(at_rest).max() < 2e-6 * max(size, 1)


@EVERY
def test_changes_its_sign_when_the_sets_change_places(name, kernel):
    """With nothing masked; the two-sided softmaxes of the drift fields do not mind which side a target is on."""
    s = samples()
    y_neg = s["y_neg"] + np.float32(0.25)
    there = evaluate(name, kernel, s["x"], s["y_pos"], y_neg, s["w_pos"], s["w_neg"], masked=False)
    back = evaluate(name, kernel, s["x"], y_neg, s["y_pos"], s["w_neg"], s["w_pos"], masked=False)
    assert_same(there, -back)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", sorted(SEPARABLE))
def test_weights_are_counts(name, kernel):
    """Weight two is a sample given twice, weight zero one that is absent, a common factor nothing; on either side."""
    s = samples()
    x, y_pos, y_neg, one = s["x"], s["y_pos"], s["y_neg"], np.ones(M, np.float32)
    w_pos, w_neg = one.copy(), 2 * one
    w_pos[1], w_pos[7] = 2, 0
    w_neg[6], w_neg[7] = 0, 4
    got = evaluate(name, kernel, x, y_pos, y_neg, 3 * w_pos, w_neg)
    want = evaluate(name, kernel, x, y_pos[[0, 1, 1, 2, 3, 4, 5, 6]], y_neg[[0, 1, 2, 3, 4, 5, 7, 7]], one, one)
    assert_same(got, want)


# --- conservation ----------------------------------------------------------------------------------------------------


@cache
def asymmetry(kernel: str) -> dict[str, float]:
    """Largest `|J − Jᵀ|` over the largest `|J|`, at six queries, of each field as a function of its query."""
    s = samples()

    def fields(x, width):
        function = partial(drift_field, kernel=kernel, width=width, w_pos=s["w_pos"], w_neg=s["w_neg"])
        names = [name for name in FIELDS if kernel == "laplace" or not name.startswith("drift")]
        return {name: function(x[None], s["y_pos"], s["y_neg"], field=name)[0] for name in names}

    queries = np.random.default_rng(2).normal(size=(6, DIM)).astype(np.float32)
    jacobians = quick(jax.vmap(jax.jacfwd(fields), in_axes=(0, None)))(queries, 0.8)
    jacobians = {name: np.asarray(j, np.float64) for name, j in jacobians.items()}
    assert all(np.isfinite(j).all() for j in jacobians.values())
    return {name: np.abs(j - j.swapaxes(1, 2)).max() / np.abs(j).max() for name, j in jacobians.items()}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", sorted(CONSERVATIVE))
def test_conservative_fields_have_no_curl(name, kernel):
    assert asymmetry(kernel)[name] < 1e-5


def test_mean_shift_is_conservative_for_the_gaussian_alone():
    """ "Drifting Fields are not Conservative", Theorem 4 and its converse."""
    assert asymmetry("gaussian")["mean_shift"] < 1e-5
    assert asymmetry("laplace")["mean_shift"] > 0.03
    assert asymmetry("rational_quadratic")["mean_shift"] > 0.03


@pytest.mark.parametrize("name", ["drift", "drift_row", "drift_raw"])
def test_drift_fields_are_not_conservative(name):
    assert asymmetry("laplace")[name] > 0.03


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", sorted(CONSERVATIVE))
def test_conservative_fields_are_gradients(name, kernel):
    """Of what the papers say they are gradients of, by autodiff of the densities."""
    s, k, width = samples(), KERNELS[kernel], 0.8

    def ascended(x):
        def log_kde(log_profile, y, w):
            d = jnp.linalg.norm(x - y, axis=1)
            return jax.nn.logsumexp(log_profile(d, width), b=w / jnp.sum(w))

        log_profile = k.log_sharp if name in ("mmd", "sharp") else k.log_k
        link = jnp.exp if name in ("mmd", "coulomb") else (lambda v: v)
        log_p = log_kde(log_profile, s["y_pos"], s["w_pos"])
        return link(log_p) - link(log_kde(log_profile, s["y_neg"], s["w_neg"]))

    query = np.random.default_rng(3).normal(size=(N, DIM)).astype(np.float32)
    got = evaluate(name, kernel, **s | {"x": query}, width=width, masked=False)
    assert_same(got, quick(jax.vmap(jax.grad(ascended)))(query), 1e-5)


# --- identities and limits -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [0.3, 1.7])
def test_for_the_gaussian_three_fields_are_one(width):
    """`mean_shift = σ² sharp = σ² score`."""
    s = samples()
    shift, sharp, score = (evaluate(f, "gaussian", **s, width=width) for f in ("mean_shift", "sharp", "score"))
    assert_same(width**2 * sharp, shift, 1e-5)
    assert_same(width**2 * score, shift, 1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
def test_drift_row_is_a_cross_weighted_mean(kernel):
    """`E[k k (y⁺ − y⁻)] / (Z_p + Z_q)²` for equal counts, in float64 from the definition."""
    rng = np.random.default_rng(4)
    x, y_pos, y_neg = rng.normal(size=(N, DIM)), rng.normal(size=(M, DIM)), rng.normal(size=(M, DIM))
    k_pos, k_neg = (np.exp(restated.log_profile(kernel)(restated.distances(x, y), 0.7)) for y in (y_pos, y_neg))
    want = np.zeros((N, DIM))
    for i in range(N):
        pairs = [k_pos[i, j] * k_neg[i, k] * (y_pos[j] - y_neg[k]) for j in range(M) for k in range(M)]
        want[i] = np.mean(pairs, axis=0) / (k_pos[i].mean() + k_neg[i].mean()) ** 2
    ones = np.ones(M, np.float32)
    assert_same(evaluate("drift_row", kernel, x, y_pos, y_neg, ones, ones, masked=False), want)


def test_tails_of_the_laplace_fields():
    """Far from the positives: constant length 1/σ (sharp), growing with the distance (mean shift), vanishing (MMD).

    The negatives lie on both sides of the query, so that they pull nowhere.
    """
    y_pos = samples()["y_pos"]
    width, length, ones = 0.5, {}, np.ones(M, np.float32)
    for far in (10.0, 100.0, 1000.0):
        x = np.tile(np.float32([far, 0, 0]), (N, 1))
        y_neg = x[0] + np.tile(np.float32([[0, 1, 0], [0, -1, 0]]), (M // 2, 1))
        for name in ("sharp", "mean_shift", "mmd"):
            v = evaluate(name, "laplace", x, y_pos, y_neg, ones, ones, width, masked=False)[0]
            assert v[0] <= 0  # towards the positives
            length[name, far] = np.linalg.norm(v)
    assert abs(length["sharp", 100.0] * width - 1) < 0.01 and abs(length["sharp", 1000.0] * width - 1) < 0.001
    assert abs(length["mean_shift", 1000.0] / length["mean_shift", 100.0] - 10) < 0.2
    assert length["mmd", 10.0] < 1e-6 and length["mmd", 100.0] < 1e-6


@cache
def many_batches() -> dict[str, np.ndarray]:
    """Each field at four queries for 4096 batches of both sets, drawn from one law and from two, `[2, 4096, 4, 2]`."""

    @quick
    def fields(key):
        x = jax.random.normal(jax.random.key(9), (4, 2))
        y_pos, y_neg = jax.random.normal(key, (2, 4096, 6, 2))
        y_pos = jnp.stack([y_pos, y_pos + 0.5])
        function = partial(drift_field, kernel="laplace", width=0.7)
        over_both = {name: jax.vmap(jax.vmap(partial(function, x, field=name)), in_axes=(0, None)) for name in FIELDS}
        return {name: field(y_pos, y_neg) for name, field in over_both.items()}

    return {name: np.asarray(v) for name, v in fields(jax.random.key(0)).items()}


@pytest.mark.parametrize("name", FIELDS)
def test_monte_carlo_mean_vanishes_in_equilibrium(name):
    """Both sets drawn from one law: the mean over T batches falls like 1/√T. From two laws it does not."""

    def slope(v: np.ndarray) -> float:
        def spread(t: int) -> float:
            """Root mean square of the means of blocks of t batches."""
            return np.sqrt(np.mean(np.mean(v.reshape(-1, t, 4, 2), axis=1) ** 2))

        return np.log(spread(256) / spread(1)) / np.log(256)

    one_law, two_laws = many_batches()[name]
    assert -0.6 < slope(one_law) < -0.4
    assert slope(two_laws) > -0.4


# --- the parts -------------------------------------------------------------------------------------------------------


def test_log_density_counts_only_what_is_not_excluded():
    rng = np.random.default_rng(5)
    log_k, w = rng.normal(size=(3, 4)).astype(np.float32), np.float32([1.0, 2.0, 0.0, 0.5])
    excluded = np.eye(3, 4, dtype=bool)
    want = [
        np.log(sum(w[j] * np.exp(log_k[i, j]) for j in range(4) if j != i) / sum(w[j] for j in range(4) if j != i))
        for i in range(3)
    ]
    got = quick(log_density)(log_k, w, excluded)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    rows = quick(density_weights)(log_k, w, got, excluded)
    np.testing.assert_allclose(np.sum(rows, axis=1), 1.0, rtol=1e-6)
    assert not np.any(np.asarray(rows)[excluded]) and not np.any(rows[:, 2])


@pytest.mark.parametrize("axis", [0, 1])
def test_one_pass_over_pairs_and_two_give_the_same_sums(axis):
    """Accelerators take the one, processors the other. Nothing but -inf gives -inf, one that is no number none, and far
    ones keep their digits."""
    rng = np.random.default_rng(6)
    logits = rng.normal(scale=30, size=(2, 5, 6)).astype(np.float32)
    logits[:, :, 3], logits[:, 0, 0], logits[:, 4, 5] = -1e30, 1e4, np.nan
    logits[:, 1, :], logits[:, :, 2] = -np.inf, -np.inf
    factors = rng.uniform(0, 2, logits.shape).astype(np.float32)
    factors[:, 2, 1] = 0
    with np.errstate(divide="ignore"):
        wanted = logsumexp(np.float64(logits), axis + 1), logsumexp(np.float64(logits), axis + 1, factors)
    assert np.isneginf(wanted[0]).any() and np.isnan(wanted[0]).any()
    for function in (log_sum_exp, log_sum_exp_in_one_pass):
        found = quick(jax.vmap(lambda a, b, f=function: (f(a, axis), f(a, axis, b))))(logits, factors)
        for got, want in zip(found, wanted, strict=True):
            np.testing.assert_allclose(got, want, rtol=3e-7, atol=3e-6)


@EVERY
def test_stored_pairs_have_the_affinities_of_pairs(name, kernel):
    """What is for accelerators, here on the CPU: each exponential twice, each sum in one pass."""
    s = {key: jnp.asarray(a, jnp.float32) for key, a in samples().items()}
    d_pos, d_neg = pairwise_distance(s["x"], s["y_pos"]), pairwise_distance(s["x"], s["y_neg"])
    arguments = d_pos, d_neg, s["w_pos"], s["w_neg"], jnp.eye(N, M, dtype=bool), jnp.float32(1e-4)

    def affinities(kind):
        return jax.vmap(lambda width: FIELDS[name](kind(*arguments), KERNELS[kernel], width))(jnp.array([0.5, 1.5]))

    for one, other in zip(*(quick(partial(affinities, kind))() for kind in (StoredPairs, Pairs)), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-12)


def test_a_target_of_weight_zero_counts_for_nothing_however_near():
    log_k = jnp.array([[0.0, -200.0, -201.0]])  # exp(200) is infinite in float32
    w = jnp.array([0.0, 1.0, 1.0])
    rows = quick(density_weights)(log_k, w, log_density(log_k, w))
    np.testing.assert_allclose(rows[0], [0, *(np.exp([1.0, 0.0]) / (1 + np.e))], rtol=1e-5)


@EVERY
def test_affinities_have_their_signs(name, kernel):
    """Attraction by positives, repulsion by negatives, nothing between a sample and itself."""
    s = {key: jnp.asarray(a) for key, a in samples().items()}
    pairs = Pairs(
        jnp.asarray(restated.distances(s["x"], s["y_pos"]), jnp.float32),
        jnp.asarray(restated.distances(s["x"], s["y_neg"]), jnp.float32),
        s["w_pos"],
        s["w_neg"],
        jnp.eye(N, M, dtype=bool),
    )
    b = FIELDS[name](pairs, KERNELS[kernel], 0.7)
    assert b.pos.shape == b.neg.shape == (N, M)
    assert np.all(np.asarray(b.pos) >= 0) and np.any(b.pos) and np.all(np.asarray(b.neg) <= 0) and np.any(b.neg)
    got = displace(b, s["x"], s["y_pos"], s["y_neg"])
    assert_same(got, evaluate(name, kernel, **s))
    if FIELDS[name] in BALANCED:
        total = np.abs(b.pos).sum(axis=1)
        np.testing.assert_array_less(np.abs(b.pos.sum(axis=1) + b.neg.sum(axis=1)), 1e-6 * total)
    # The coordinates of a sample's pair with itself do not matter: its displacement is zero.
    assert name.startswith("drift") or not np.any(np.diagonal(b.neg))
