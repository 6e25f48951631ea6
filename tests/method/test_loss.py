"""The loss of a feature map against the golden cases, a float64 restatement and plain autodiff of the potentials.

Most tests are on one shape, so that an objective is compiled once for all of them.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drifting.method.fields import FIELDS, Pairs, displace
from drifting.method.kernels import KERNELS, Kernel, pairwise_distance
from drifting.method.loss import map_loss, objective_loss
from drifting.method.objective import FEATURE_SCALES, Objective, attach_gradient
from drifting.method.potentials import LOSSES, potential, potential_affinities
from drifting.method.spread import collapse_ratio, neighbour_distance
from drifting.studies import small_widths
from tests.support import restated
from tests.support.golden_files import drift_case, load, meta
from tests.support.runs import FULL

L, N, P, U, F, C = 2, 4, 5, 3, 2, 6  # labels, generated, positives, unconditional, positions, channels

CLAMPED = 4e-4  # features times this: the unit of the coordinates is clamped, that of the distances is not

OBJECTIVES = [*FIELDS, *LOSSES]

PER_KERNEL = pytest.mark.parametrize("kernel", KERNELS)

quick = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def features(seed: int = 0, scale: float = 1.0) -> list[np.ndarray]:
    """`gen, pos, unc, w_gen, w_pos, w_unc` with a common offset and weights of each label's own."""
    rng = np.random.default_rng(seed)
    shifts = ((N, 0.0), (P, 0.8), (U, -0.4))
    gen, pos, unc = ((scale * (rng.normal(size=(L, n, F, C)) + shift + 2)).astype(np.float32) for n, shift in shifts)
    w_gen, w_pos = (rng.uniform(0.5, 1.5, (L, n)).astype(np.float32) for n in (N, P))
    return [gen, pos, unc, w_gen, w_pos, np.repeat(np.float32([[0.4], [1.7]]), U, axis=1)]


@partial(quick, static_argnums=0)
def _evaluate(objective: Objective, widths, gen, *others):
    return jax.value_and_grad(lambda x: map_loss(objective, widths, x, *others), has_aux=True)(gen)


def evaluate(objective: Objective, widths, *args):
    """`(loss, metrics), gradient` of a map."""
    return _evaluate(objective, np.float32(widths), *args)


def gradient_of(objective: Objective, widths, *args) -> np.ndarray:
    return np.asarray(evaluate(objective, widths, *args)[1], np.float64)


def relative(got, want) -> float:
    """Relative error in the Euclidean norm."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


# --- the released recipe ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(29))
def test_golden(golden, number):
    """Loss, gradient, scale and field norms of the released code, at the tolerances its files give."""
    case, args = drift_case(golden, number)
    (loss, metrics), gradient = evaluate(Objective("drift", KERNELS["laplace"]), case["R_list"], *args)
    what = meta(case)
    assert relative(loss, case["loss"].mean()) < 2e-5, what
    assert relative(gradient[:, :, 0] * len(case["gen"]), case["grad_gen"]) < 2e-5, what
    assert relative(metrics.scale, case["info_scale"]) < 2e-5, what
    np.testing.assert_allclose(np.square(metrics.field_norm), case["info_loss_R"], rtol=5e-5, err_msg=str(what))


def test_golden_cases_are_all_there(golden):
    assert int(load(golden / "drift_loss.npz")["n_cases"]) == 29


SETTINGS = [(k, True, "per_map", 1.0) for k in KERNELS]

SETTINGS += [
    ("laplace", False, "per_map", CLAMPED),
    ("laplace", False, "per_problem", 1.0),
    ("laplace", True, "none", 1.0),
]


@pytest.mark.parametrize(("kernel", "normalise", "kind", "scale"), SETTINGS)
@pytest.mark.parametrize("name", sorted(restated.FIELDS))
def test_fields_against_the_restatement(name, kernel, normalise, kind, scale):
    """The stop-gradient objective in float64 with loops."""
    args, widths = features(scale=scale), [0.3, 0.8]
    (loss, metrics), gradient = evaluate(Objective(name, KERNELS[kernel], normalise, kind), widths, *args)
    want = restated.field_map_loss(name, restated.log_profile(kernel), widths, args, normalise, kind)
    assert relative(loss, want.loss) < 5e-5
    assert relative(metrics.loss, want.loss) < 5e-5
    assert relative(gradient, want.gradient) < 5e-5
    assert relative(metrics.field_norm, want.field_norm) < 5e-5
    assert relative(metrics.scale, want.scale) < 1e-5
    assert scale == 1 or want.scale > 1e-3 > want.scale / np.sqrt(C)


# --- potentials ------------------------------------------------------------------------------------------------------


def one_problem(seed: int = 0) -> tuple[jax.Array, ...]:
    """`x, y_pos, y_unc, w_pos, w_neg` of one problem."""
    gen, pos, unc, *_ = features(seed)
    w_pos, w_neg = np.float32([1, 2, 0.5, 1, 1]), np.float32([1] * N + [0.4, 0.0, 1.3])
    return tuple(jnp.asarray(a) for a in (gen[0, :, 0], pos[0, :, 0], unc[0, :, 0], w_pos, w_neg))


def pairs_of(x, y_pos, y_unc, w_pos, w_neg, unit=1.0) -> Pairs:
    """The problem as a kernel sees it, differentiable in `x` as a query alone."""
    y_neg = jnp.concatenate([jax.lax.stop_gradient(x), y_unc])
    is_self = jnp.eye(len(x), len(y_neg), dtype=bool)
    return Pairs(pairwise_distance(x, y_pos) / unit, pairwise_distance(x, y_neg) / unit, w_pos, w_neg, is_self)


@PER_KERNEL
@pytest.mark.parametrize("name", sorted(restated.LINKS))
def test_potential_against_the_restatement(name, kernel):
    x, y_pos, y_unc, w_pos, w_neg = one_problem()
    p = restated.problem(x, y_pos, np.concatenate([x, y_unc]), w_pos, w_neg, own=True)
    got = potential(pairs_of(x, y_pos, y_unc, w_pos, w_neg), KERNELS[kernel], 0.9, LOSSES[name])
    want = restated.potential(name, p, restated.log_profile(kernel), 0.9)
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-5 * np.abs(want).max())


@PER_KERNEL
@pytest.mark.parametrize("name", LOSSES)
def test_slope_of_the_link(name, kernel):
    """Its declared derivative is the one that its values have; `g` increases, so that a field attracts and repels."""
    width, step = 0.7, 0.02
    log_v = KERNELS[kernel].log_sharp(jnp.linspace(0.2, 3.0, N), width)

    def link(log_v):
        return LOSSES[name](log_v, KERNELS[kernel], width)

    slope = jax.jvp(link, (log_v,), (jnp.ones_like(log_v),))[1]
    np.testing.assert_allclose(slope, (link(log_v + step) - link(log_v - step)) / (2 * step), rtol=5e-3)
    assert (slope > 0).all()


@PER_KERNEL
@pytest.mark.parametrize("name", LOSSES)
def test_affinities_are_the_gradient_of_the_potential(name, kernel):
    """`V_i = −N ∂L/∂x_i`, by autodiff through the distances, for the mean potential `L`, negatives held constant."""
    x, *others = one_problem()
    k, link = KERNELS[kernel], LOSSES[name]

    def both(x):
        def mean_potential(x):
            return jnp.mean(potential(pairs_of(x, *others), k, 0.9, link))

        affinities = potential_affinities(pairs_of(x, *others), k, 0.9, link)
        field = displace(affinities, x, others[0], jnp.concatenate([x, others[1]]))
        return field, -N * jax.grad(mean_potential)(x)

    field, descent = quick(both)(x)
    assert relative(field, descent) < 2e-5
    assert np.abs(descent).max() > 1e-3


def plain_potential(name, kernel: Kernel, widths, gen, pos, unc, w_gen, w_pos, w_unc, distance_units):
    """The scalar objective of a map as it is written: the mean over samples and problems, summed over widths."""

    def of_problem(x, y_pos, y_unc, w_pos, w_neg, unit):
        pairs = pairs_of(x, y_pos, y_unc, w_pos, w_neg, unit)
        return jax.vmap(lambda width: jnp.mean(potential(pairs, kernel, width, LOSSES[name])))(widths).sum()

    of_label = jax.vmap(of_problem, in_axes=(1, 1, 1, None, None, 0))
    w_neg, units = jnp.concatenate([w_gen, w_unc], axis=1), jnp.float32(distance_units).reshape(L, F)
    return jnp.mean(jax.vmap(of_label)(gen, pos, unc, w_pos, w_neg, units))


def reference_units(args, kind: str) -> list[tuple[float, float]]:
    return [restated.units(s, C, kind) for s in restated.feature_scales(restated.map_problems(*args), kind)]


SCALARS = [(name, kernel, "per_map", 1.0) for name in LOSSES for kernel in KERNELS]

SCALARS += [("log_kde", "laplace", kind, 1.0) for kind in FEATURE_SCALES]

SCALARS += [("log_kde", "gaussian", kind, CLAMPED) for kind in ("per_map", "per_problem")]


@pytest.mark.parametrize(("name", "kernel", "kind", "scale"), SCALARS)
def test_scalar_objective_is_its_potential(name, kernel, kind, scale):
    """Value and gradient equal plain autodiff through the raw features, the feature scale held constant.

    The unit of the coordinates, clamped or not, is none of the potential's business.
    """
    args, k, widths = features(scale=scale), KERNELS[kernel], [0.4, 1.1]
    units = [u for u, _ in reference_units(args, kind)]
    (loss, metrics), gradient = evaluate(Objective(name, k, False, kind), widths, *args)
    plain = jax.value_and_grad(lambda x: plain_potential(name, k, jnp.float32(widths), x, *args[1:], units))
    value, want = quick(plain)(args[0])
    np.testing.assert_allclose(loss, value, rtol=2e-5, atol=1e-5)
    assert metrics.loss == loss
    assert relative(gradient, want) < 5e-5


@PER_KERNEL
@pytest.mark.parametrize("name", LOSSES)
def test_normalised_potential_is_its_gradient_at_unit_length(name, kernel):
    """With one width the loss is one, and the gradient that of the potential, rescaled for the whole map."""
    args, k = features(), KERNELS[kernel]
    (loss, _), gradient = evaluate(Objective(name, k), [0.7], *args)
    potential_gradient = gradient_of(Objective(name, k, normalise_field=False), [0.7], *args)
    assert abs(float(loss) - 1) < 1e-5
    unit = reference_units(args, "per_map")[0][1]
    field = -potential_gradient / np.sqrt(np.mean(potential_gradient**2))
    assert relative(gradient, -2 * field / (unit * field.size)) < 2e-5


@PER_KERNEL
def test_log_kde_is_the_sharp_field_and_mmd_kde_the_mmd_field(kernel):
    for normalise in (True, False):
        for potential_name, field in (("log_kde", "sharp"), ("mmd_kde", "mmd")):
            args = features()
            got = gradient_of(Objective(potential_name, KERNELS[kernel], normalise), [0.7], *args)
            want = gradient_of(Objective(field, KERNELS[kernel], normalise), [0.7], *args)
            if not normalise:  # one descends the potential, the other half the square of its gradient
                want *= reference_units(args, "per_map")[0][1] * np.linalg.norm(got) / np.linalg.norm(want)
                got *= reference_units(args, "per_map")[0][1]
            assert relative(got, want) < 1e-5


def test_no_entry_is_both_a_field_and_a_potential():
    assert not set(FIELDS) & set(LOSSES)


# --- properties of every objective -----------------------------------------------------------------------------------


@PER_KERNEL
@pytest.mark.parametrize("name", OBJECTIVES)
def test_finite_when_all_generated_samples_coincide(name, kernel):
    """A generator whose last layer is zero, with and without a positive at that very point."""
    args = features()
    args[0] = np.broadcast_to(args[0][:, :1], args[0].shape).copy()
    for normalise in (True, False):
        (loss, metrics), gradient = evaluate(Objective(name, KERNELS[kernel], normalise), [0.1], *args)
        leaves = jax.tree.leaves((loss, metrics, gradient))
        assert all(np.isfinite(a).all() for a in leaves)
        assert np.abs(gradient).max() > 0 or name in ("mmd", "coulomb", "drift_raw", "mmd_kde")
        args[1][:, 0] = args[0][:, 0]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_several_widths_are_summed(name):
    """Normalised fields of all widths into one target, potentials into one loss; metrics keep the widths apart."""
    args = features()
    scalar = name in LOSSES
    objective = Objective(name, KERNELS["laplace"], normalise_field=not scalar)
    (loss, metrics), gradient = evaluate(objective, [0.3, 0.9], *args)
    singly = [evaluate(objective, [w], *args) for w in (0.3, 0.9)]
    assert relative(gradient, singly[0][1] + singly[1][1]) < 1e-5
    np.testing.assert_allclose(metrics.field_norm, [m.field_norm[0] for (_, m), _ in singly], rtol=1e-5)
    np.testing.assert_allclose(metrics.gap, np.mean([m.gap for (_, m), _ in singly]), rtol=1e-5)
    if scalar:
        np.testing.assert_allclose(loss, singly[0][0][0] + singly[1][0][0], rtol=1e-5, atol=1e-6)
    else:
        assert loss > 1.5  # neither the mean nor one of them


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gap_is_the_log_kde_potential_of_every_objective(name):
    args = features()
    units = [u for u, _ in reference_units(args, "per_map")]
    want = plain_potential("log_kde", KERNELS["laplace"], jnp.float32([0.6]), *args, units)
    (_, metrics), _ = evaluate(Objective(name, KERNELS["laplace"]), [0.6], *args)
    np.testing.assert_allclose(metrics.gap, want, rtol=2e-5)


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, "per_map") for name in (*LOSSES, "mean_shift", "mmd", "sharp", "score", "coulomb")]
    + [("log_kde", "per_problem"), ("log_kde", "none")],
)
def test_weightless_unconditional_samples_do_not_count(name, kind):
    """α = 1 switches guidance off: as if there were no unconditional sample, whatever the feature scale."""
    args = features()
    args[5] = np.zeros_like(args[5])
    objective = Objective(name, KERNELS["rational_quadratic"], feature_scale=kind)
    (loss, metrics), gradient = evaluate(objective, [0.9], *args)
    args[2], args[5] = args[2][:, :0], args[5][:, :0]
    (loss_without, metrics_without), gradient_without = evaluate(objective, [0.9], *args)
    np.testing.assert_allclose(loss, loss_without, rtol=1e-5)
    assert relative(gradient, gradient_without) < 1e-5
    for a, b in zip(metrics, metrics_without, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize("name", ["drift", "drift_row", "drift_raw"])
def test_without_unconditional_samples_at_all(name):
    """A zero-size set; in the drift fields weightless samples still pass through the softmax, absent ones do not."""
    args = features()
    args[2], args[5] = args[2][:, :0], args[5][:, :0]
    (loss, _), gradient = evaluate(Objective(name, KERNELS["laplace"]), [0.7], *args)
    want = restated.field_map_loss(name, restated.log_profile("laplace"), [0.7], args, True, "per_map")
    assert relative(loss, want.loss) < 2e-5 and relative(gradient, want.gradient) < 2e-5


@pytest.mark.parametrize("name", ["log_kde", "sharp", "drift"])
def test_which_feature_scale_couples_labels(name):
    """Another label's features ten times as far apart: this label's gradient feels it through a scale per map alone."""
    calm, other = features(), features()
    for a in other[:3]:
        a[1] *= 10
    felt = {}
    for kind in ("per_map", "per_problem", "none"):
        objective = Objective(name, KERNELS["laplace"], normalise_field=False, feature_scale=kind)
        here, there = (gradient_of(objective, [0.7], *args)[0] for args in (calm, other))
        felt[kind] = relative(there, here)
    assert felt["per_map"] > 0.1 and felt["per_problem"] < 1e-6 and felt["none"] < 1e-6


def test_problems_of_a_map_are_its_labels_and_positions():
    """Swapping labels, or positions, of all features swaps them in the gradient: nothing is mixed up on the way."""
    args = features()
    objective = Objective("drift", KERNELS["laplace"], feature_scale="per_problem")
    (loss, _), gradient = evaluate(objective, [0.3], *args)
    (loss_labels, _), labels = evaluate(objective, [0.3], *(a[::-1] for a in args))
    (loss_positions, _), positions = evaluate(objective, [0.3], *(a[:, :, ::-1] for a in args[:3]), *args[3:])
    np.testing.assert_allclose([loss_labels, loss_positions], loss, rtol=1e-5)
    assert relative(labels[::-1], gradient) < 1e-5 and relative(positions[:, :, ::-1], gradient) < 1e-5


@pytest.mark.parametrize("name", ["log_kde", "drift"])
def test_bfloat16_features(name):
    """The gradient has the features' type; the arithmetic is float32 on their rounded values."""
    args = features()
    objective = Objective(name, KERNELS["laplace"])
    rounded = [jnp.asarray(a, jnp.bfloat16) for a in args[:3]]
    (loss, metrics), gradient = evaluate(objective, [0.5], *rounded, *args[3:])
    exact = [a.astype(jnp.float32) for a in rounded]
    (loss_exact, _), gradient_exact = evaluate(objective, [0.5], *exact, *args[3:])
    assert gradient.dtype == jnp.bfloat16 and loss.dtype == jnp.float32
    assert all(a.dtype == jnp.float32 for a in metrics)
    assert loss == loss_exact
    assert relative(gradient.astype(jnp.float32), gradient_exact) < 2**-8


def test_only_generated_features_carry_gradient():
    args = [jnp.asarray(a) for a in features()]
    objective = Objective("log_kde", KERNELS["laplace"], normalise_field=False)
    gradients = quick(
        jax.grad(lambda pos, unc: map_loss(objective, jnp.float32([0.5]), args[0], pos, unc, *args[3:])[0], (0, 1))
    )
    assert not any(np.any(g) for g in gradients(args[1], args[2]))


def test_widths_are_traced():
    """A sweep over kernel widths compiles once."""
    traces = []

    @quick
    def loss(widths, *args):
        traces.append(widths)
        return map_loss(Objective("log_kde", KERNELS["laplace"], normalise_field=False), widths, *args)[0]

    args = features()
    got = [float(loss(jnp.float32([w]), *args)) for w in (0.1, 0.7)]
    want = [float(evaluate(Objective("log_kde", KERNELS["laplace"], False), [w], *args)[0][0]) for w in (0.1, 0.7)]
    np.testing.assert_allclose(got, want, rtol=1e-5)
    assert len(traces) == 1


@pytest.mark.parametrize("name", LOSSES)
def test_a_kernel_given_by_its_profile_alone(name):
    """No closed form of its sharp: the objective trains all the same, and agrees with the closed form."""
    args = features()
    bare = Kernel(KERNELS["laplace"].log_profile)
    (loss, _), gradient = evaluate(Objective(name, bare, False), [0.5], *args)
    (want, _), want_gradient = evaluate(Objective(name, KERNELS["laplace"], False), [0.5], *args)
    np.testing.assert_allclose(loss, want, rtol=1e-5)
    assert relative(gradient, want_gradient) < 2e-5


@pytest.mark.parametrize(("name", "field"), [("log_kde", "sharp"), ("drift", "drift")])
def test_narrow_kernels_on_4096_channels_with_a_common_offset(name, field):
    """The whole loss keeps its digits at a width of 0.02, where features are a hundred times as long as apart."""
    x, y = small_widths.features(100)
    rows = [0, 4, 27, 28, 29, 30, 31, 54, 58]  # near duplicates of positives, fresh samples, near duplicates of those
    gen, pos = x[rows][None, :, None], y[:16][None, :, None]
    weights = [np.ones(a.shape[:2], np.float32) for a in (gen, pos, gen[:, :0])]
    args = [gen, pos, gen[:, :0], *weights]
    objective = Objective(name, KERNELS["laplace"])
    (_, metrics), gradient = evaluate(objective, [0.02], *args)
    want = restated.field_map_loss(field, restated.log_profile("laplace"), [0.02], args, True, "per_map")
    assert relative(metrics.scale, want.scale) < 1e-5
    assert relative(gradient, want.gradient) < 1e-3


# --- all maps together -----------------------------------------------------------------------------------------------


def test_maps_are_summed_with_unit_weights_and_guidance_weights_spread():
    gen, pos, unc, *_ = map(jnp.asarray, features())
    other = [jnp.asarray(a) for a in features(1)]
    w_unc = jnp.float32([0.4, 1.7])
    maps = [{"a": a, "b": b} for a, b in zip((gen, pos, unc), other[:3], strict=True)]
    objective, widths = Objective("drift", KERNELS["laplace"]), jnp.float32([0.5])
    (total, metrics), gradient = quick(
        jax.value_and_grad(lambda x: objective_loss(objective, widths, x, *maps[1:], w_unc), has_aux=True)
    )(maps[0])
    assert list(metrics) == ["a", "b"]
    losses = []
    for name in maps[0]:
        args = [m[name] for m in maps]
        weights = [np.ones((L, N)), np.ones((L, P)), np.repeat(w_unc[:, None], U, axis=1)]
        (loss, _), want = evaluate(objective, [0.5], *args, *(np.float32(w) for w in weights))
        losses.append(loss)
        assert relative(gradient[name], want) < 1e-6
        np.testing.assert_allclose(metrics[name].loss, loss, rtol=1e-6)  # they are computed together
    np.testing.assert_allclose(total, sum(losses), rtol=1e-6)


def test_attached_gradient():
    """The value passes through, the derivative is what was declared, times the cotangent, in the features' type."""
    x, declared = jnp.arange(3.0), jnp.float32([1.0, -2.0, 0.5])
    value, gradient = jax.value_and_grad(lambda x: 3.0 * attach_gradient(x, jnp.float32(7.0), declared))(x)
    assert value == 21.0
    np.testing.assert_array_equal(gradient, 3 * declared)
    half = jax.jit(jax.grad(lambda x: attach_gradient(x, jnp.float32(0.0), declared)))(x.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_array_equal(half.astype(jnp.float32), declared)
    chained = jax.grad(lambda w: attach_gradient(w * x, jnp.float32(0.0), declared))(jnp.float32(2.0))
    np.testing.assert_allclose(chained, jnp.dot(x, declared))


@pytest.mark.parametrize("arguments", [dict(name="log_kdee"), dict(name="drift", feature_scale="map")])
def test_unknown_names_are_refused(arguments):
    with pytest.raises(ValueError, match=r"(log_kdee|map)'.*use one of .*(log_kde|per_map)"):
        Objective(kernel=KERNELS["laplace"], **arguments)


# --- lengths of the data ---------------------------------------------------------------------------------------------


def test_neighbour_distance():
    real = np.random.default_rng(0).normal(size=(3, 9, 4)).astype(np.float32)
    want = []
    for one_class in real:
        d = restated.distances(one_class, one_class)
        want.append(np.mean([sorted(d[i, j] for j in range(9) if j != i)[:5] for i in range(9)]))
    np.testing.assert_allclose(quick(neighbour_distance)(real), want, rtol=1e-5)
    for neighbours in (0, 9):
        with pytest.raises(ValueError, match=f"neighbours={neighbours}"):
            neighbour_distance(jnp.asarray(real), neighbours)


def test_copies_of_one_image_have_a_length_unit_and_do_not_look_collapsed():
    """Whatever the images, their number and their size: neither 0, by which samples would be divided, nor NaN."""
    rng = np.random.default_rng(0)
    for dims, samples in ((4, 3), (192, 6), (784, 9)):
        copies = jnp.asarray(np.repeat(rng.normal(size=(2, 1, dims)), samples, axis=1), jnp.float32)
        unit = np.asarray(quick(partial(neighbour_distance, neighbours=2))(copies))
        np.testing.assert_allclose(unit, 2 / 255 * np.sqrt(dims), rtol=1e-6)
        spread = jnp.asarray(rng.normal(size=copies.shape), jnp.float32)
        assert float(quick(collapse_ratio)(copies, copies)) == 1.0
        assert np.isfinite(float(quick(collapse_ratio)(spread, copies)))
        assert float(quick(collapse_ratio)(copies, spread)) < 0.02


EVERY_CASE = [(name, kernel, kind) for name in OBJECTIVES for kernel in KERNELS for kind in FEATURE_SCALES]

FEW_CASES = [("log_kde", "gaussian", "neighbour"), ("drift", "laplace", "per_map"), ("score", "laplace", "per_problem")]


@pytest.mark.parametrize(("name", "kernel", "kind"), EVERY_CASE if FULL else FEW_CASES)
def test_coincident_samples_have_finite_losses_and_gradients(name: str, kernel: str, kind: str):
    """All samples of a side alike, and both sides the same."""
    objective = Objective(name, KERNELS[kernel], name in FIELDS, kind)
    gen, pos, unc, *weights = features()
    gen, pos, unc = (np.full_like(x, 0.3) for x in (gen, pos, unc))
    for apart in (0.0, 0.5):
        (loss, _), gradient = evaluate(objective, [0.4], gen + np.float32(apart), pos, unc, *weights)
        assert np.isfinite(loss) and np.isfinite(gradient).all()


def test_collapse_ratio():
    rng = np.random.default_rng(1)
    gen, real = rng.normal(size=(2, 4, 3)).astype(np.float32), 3 * rng.normal(size=(2, 4, 3)).astype(np.float32)

    def mean_distance(samples):
        return np.mean(
            [[np.linalg.norm(a - b) for j, b in enumerate(s) if j != i] for s in samples for i, a in enumerate(s)]
        )

    ratio = quick(collapse_ratio)
    np.testing.assert_allclose(ratio(gen, real), mean_distance(gen) / mean_distance(real), rtol=1e-5)
    np.testing.assert_allclose(ratio(3 * real, real), 3.0, rtol=1e-6)
    assert float(ratio(np.ones_like(gen), real)) < 1e-3
