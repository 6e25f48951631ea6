"""Schedules, AdamW, averages and no-op steps against the golden file and a float64 restatement."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from drifting.method import bank, state
from drifting.method.optimizer import Optimizer, learning_rate, make_optimizer
from drifting.method.pool import Banks
from tests.support.golden_files import group, load, meta, unflatten

PARAMS = {"a": {"kernel": np.array([[0.5, -1.0], [2.0, 0.25]], np.float32)}, "b": np.array([1.0, -3.0], np.float32)}

HYPER = {"b1": 0.9, "b2": 0.95, "weight_decay": 0.01, "clip_norm": 2.0}


def params():
    """Fresh device arrays, since the tests donate them."""
    return jax.tree.map(jnp.array, PARAMS)


def gradients(steps: int, scale: float = 1.0):
    """A deterministic gradient for each step, structured as the parameters."""
    rng = np.random.default_rng(0)
    return [jax.tree.map(lambda x: scale * rng.normal(size=x.shape).astype(np.float32), PARAMS) for _ in range(steps)]


def assert_same(a, b):
    """Equal trees, bit for bit."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def optimizer(no_op_steps: int = 0, **changes) -> Optimizer:
    schedule = learning_rate(
        peak=0.01, warmup_steps=3, total_steps=30 + no_op_steps, decay="cosine", no_op_steps=no_op_steps
    )
    return make_optimizer(schedule, **(HYPER | changes))


def step_function(opt: Optimizer, no_op_steps: int = 0):
    return jax.jit(lambda s, g: state.apply_gradients(s, g, opt, no_op_steps), donate_argnums=0)


# --- learning rate ----------------------------------------------------------------------------------------------------


def test_schedules_golden(golden):
    z = load(golden / "lr_optimizer.npz")
    names = {key.split("/")[1] for key in z if key.startswith("lr/")}
    assert len(names) == 5
    for name in names:
        case = group(z, f"lr/{name}")
        m = meta(case)
        schedule = learning_rate(
            peak=m["learning_rate"],
            warmup_steps=m["warmup_steps"],
            total_steps=m["total_steps"],
            decay={"const": "constant", "cos": "cosine", "cosine": "cosine"}[m["lr_schedule"]],
        )
        got = [float(schedule(step)) for step in case["steps"]]
        jitted = jax.vmap(jax.jit(schedule))(case["steps"])
        np.testing.assert_allclose(got, case["lr"], rtol=1e-6, atol=1e-6 * m["learning_rate"])
        np.testing.assert_allclose(jitted, case["lr_jit_int32"], rtol=1e-6, atol=1e-6 * m["learning_rate"])


@pytest.mark.parametrize("decay", ["constant", "cosine"])
@pytest.mark.parametrize("warmup,no_op", [(0, 0), (5, 0), (5, 4), (0, 4)])
def test_schedule_is_the_formula(decay, warmup, no_op):
    peak, total = 2e-3, 40

    def formula(step: int) -> float:
        step -= no_op
        if step < 0:
            return 0.0
        if step < warmup:
            return 1e-6 + (peak - 1e-6) * step / warmup
        if decay == "constant":
            return peak
        done = min((step - warmup) / (total - no_op - warmup), 1.0)
        return peak * ((1 - 1e-6) * 0.5 * (1 + np.cos(np.pi * done)) + 1e-6)

    schedule = learning_rate(peak=peak, warmup_steps=warmup, total_steps=total, decay=decay, no_op_steps=no_op)
    steps = np.arange(60)
    got = np.array([schedule(s) for s in steps])
    np.testing.assert_allclose(got, [formula(s) for s in steps], rtol=1e-5, atol=1e-6 * peak)
    assert (got[:no_op] == 0.0).all() and got[no_op] > 0


def test_schedule_refuses_nonsense():
    with pytest.raises(ValueError, match="decay='step'"):
        learning_rate(peak=1.0, warmup_steps=0, total_steps=10, decay="step")
    with pytest.raises(ValueError, match="warmup_steps=-1"):
        learning_rate(peak=1.0, warmup_steps=-1, total_steps=10)
    with pytest.raises(ValueError, match="no step for the cosine"):
        learning_rate(peak=1.0, warmup_steps=6, total_steps=10, decay="cosine", no_op_steps=4)


# --- optimiser --------------------------------------------------------------------------------------------------------


def test_optimizer_golden(golden):
    z = load(golden / "lr_optimizer.npz")
    m = meta(z, "opt/meta")
    lr = m["lr_schedule"]
    schedule = learning_rate(peak=lr["learning_rate"], warmup_steps=lr["warmup_steps"], total_steps=lr["total_steps"])
    opt = make_optimizer(
        schedule, b1=m["b1"], b2=m["b2"], eps=m["eps"], weight_decay=m["weight_decay"], clip_norm=m["max_grad_norm"]
    )
    start = jax.tree.map(jnp.array, unflatten(group(z, "opt/param0")))
    now = state.make_state(start, opt, ema_decays=[m["ema_decay"]])
    step = step_function(opt)
    for t in range(int(z["opt/n_steps"])):
        want = group(z, f"opt/step{t}")
        now, metrics = step(now, unflatten(group(want, "grad")))
        np.testing.assert_allclose(metrics["grad_norm"], want["g_norm"], rtol=1e-6)
        np.testing.assert_allclose(metrics["grad_norm_clipped"], min(float(want["g_norm"]), 2.0), rtol=1e-6)
        np.testing.assert_allclose(metrics["learning_rate"], want["lr"], rtol=1e-6, atol=1e-6 * lr["learning_rate"])
        adam = next(s for s in now.opt_state if isinstance(s, optax.ScaleByAdamState))
        for name, got in {
            "param": now.params,
            "ema": now.ema[str(m["ema_decay"])],
            "mu": adam.mu,
            "nu": adam.nu,
        }.items():
            jax.tree.map(
                lambda g, w: np.testing.assert_allclose(g, w, rtol=1e-6, atol=1e-6), got, unflatten(group(want, name))
            )


def adamw(steps: int, grads, lr, decays) -> tuple[dict, dict]:
    """AdamW with clipping and averages in float64, one flat dict of tensors."""
    flat = {"k": PARAMS["a"]["kernel"].astype(np.float64), "b": PARAMS["b"].astype(np.float64)}
    mu, nu = {n: 0 * x for n, x in flat.items()}, {n: 0 * x for n, x in flat.items()}
    ema = {d: dict(flat) for d in decays}
    for t in range(steps):
        g = {"k": grads[t]["a"]["kernel"].astype(np.float64), "b": grads[t]["b"].astype(np.float64)}
        norm = np.sqrt(sum((x**2).sum() for x in g.values()))
        g = {n: x * min(1.0, HYPER["clip_norm"] / norm) for n, x in g.items()}
        mu = {n: HYPER["b1"] * mu[n] + (1 - HYPER["b1"]) * x for n, x in g.items()}
        nu = {n: HYPER["b2"] * nu[n] + (1 - HYPER["b2"]) * x**2 for n, x in g.items()}
        for n, x in flat.items():
            mu_hat, nu_hat = mu[n] / (1 - HYPER["b1"] ** (t + 1)), nu[n] / (1 - HYPER["b2"] ** (t + 1))
            flat[n] = x - lr(t) * (mu_hat / (np.sqrt(nu_hat) + 1e-8) + HYPER["weight_decay"] * x)
        ema = {d: {n: d * e[n] + (1 - d) * flat[n] for n in flat} for d, e in ema.items()}
    return flat, ema


@pytest.mark.parametrize("scale", [0.01, 10.0])  # never clipped, always clipped
def test_optimizer_is_clipped_adamw_with_several_averages(scale):
    decays = (0.0, 0.5, 0.9999)
    opt = optimizer()
    now = state.make_state(params(), opt, ema_decays=decays)
    assert set(now.ema) == {"0.0", "0.5", "0.9999"}
    step, grads = step_function(opt), gradients(6, scale)
    for g in grads:
        now, _ = step(now, g)
    want, want_ema = adamw(6, grads, lambda t: float(opt.learning_rate(t)), decays)
    np.testing.assert_allclose(now.params["a"]["kernel"], want["k"], rtol=1e-5)
    np.testing.assert_allclose(now.params["b"], want["b"], rtol=1e-5)
    for decay in decays:
        np.testing.assert_allclose(now.ema[str(decay)]["a"]["kernel"], want_ema[decay]["k"], rtol=1e-5)
        np.testing.assert_allclose(now.ema[str(decay)]["b"], want_ema[decay]["b"], rtol=1e-5)
    assert_same(now.ema["0.0"], now.params)
    assert int(now.step) == 6


@pytest.mark.parametrize("norm,clipped", [(1.9, 1.9), (2.0, 2.0), (2.1, 2.0), (1e4, 2.0)])
def test_clip_is_exact_at_the_norm(norm, clipped):
    """What Adam's first moment receives is the gradient, or the gradient scaled to the clip norm."""
    opt = optimizer()
    grads = jax.tree.map(lambda x: jnp.full_like(x, norm / np.sqrt(6)), params())  # six equal entries
    now, metrics = state.apply_gradients(state.make_state(params(), opt), grads, opt)
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm_clipped"], clipped, rtol=1e-6)
    adam = next(s for s in now.opt_state if isinstance(s, optax.ScaleByAdamState))
    np.testing.assert_allclose(optax.tree.norm(adam.mu), 0.1 * clipped, rtol=1e-6)


# --- no-op steps ------------------------------------------------------------------------------------------------------


def test_no_op_steps_leave_no_trace():
    """Bitwise nothing changes while they last; after them the run is bitwise the run without them."""
    no_op = 3
    plain_opt, opt = optimizer(), optimizer(no_op)
    plain, plain_step = state.make_state(params(), plain_opt, ema_decays=[0.9]), step_function(plain_opt)
    now, step = state.make_state(params(), opt, ema_decays=[0.9]), step_function(opt, no_op)
    before = jax.tree.map(np.array, (now.params, now.opt_state, now.ema))
    for i, g in enumerate(gradients(no_op, 5.0)):
        now, metrics = step(now, g)
        assert int(now.step) == i + 1
        assert float(metrics["learning_rate"]) == 0.0 and float(metrics["grad_norm"]) > 0.0
        assert_same((now.params, now.opt_state, now.ema), before)
    for g in gradients(5):
        plain, plain_metrics = plain_step(plain, g)
        now, metrics = step(now, g)
        assert_same((now.params, now.opt_state, now.ema), (plain.params, plain.opt_state, plain.ema))
        assert float(metrics["learning_rate"]) == float(plain_metrics["learning_rate"]) > 0.0
    with pytest.raises(AssertionError):
        assert_same(now.params, before[0])


def test_no_op_steps_keep_parameters_even_from_a_nan_gradient():
    opt = optimizer(2)
    now = state.make_state(params(), opt, ema_decays=[0.9])
    bad = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), params())
    now, _ = step_function(opt, 2)(now, bad)
    assert_same(now.params, PARAMS)
    assert_same(now.ema["0.9"], PARAMS)


# --- state ------------------------------------------------------------------------------------------------------------


def test_state_is_one_donatable_pytree():
    opt = optimizer()
    banks = Banks(bank.empty_bank(2, 3, (4,)), bank.empty_bank(1, 5, (4,)))
    now = state.make_state(params(), opt, ema_decays=[0.9, 0.99], banks=banks, neighbour_scale=jnp.ones(2))
    buffers = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(now)}
    assert len(buffers) == len(jax.tree.leaves(now))  # no array appears twice: donation would refuse it
    old = now.params["b"]
    now, _ = step_function(opt)(now, gradients(1)[0])
    assert old.is_deleted()
    assert isinstance(now.banks, Banks) and now.neighbour_scale.shape == (2,)
    names = {field.name for field in dataclasses.fields(now)}
    assert names == {"step", "params", "opt_state", "ema", "banks", "neighbour_scale"}


def test_state_can_be_shaped_without_computing():
    opt = optimizer()
    shapes = jax.eval_shape(lambda p: state.make_state(p, opt, ema_decays=[0.9]), PARAMS)
    assert shapes.step.dtype == jnp.int32 and shapes.neighbour_scale is None and shapes.banks is None
    assert jax.tree.map(lambda x: x.shape, shapes.ema["0.9"]) == jax.tree.map(np.shape, PARAMS)


@pytest.mark.parametrize("decays", [[1.0], [-0.1], [0.9, 0.9]])
def test_ema_decays_are_checked(decays):
    with pytest.raises(ValueError, match="ema: decays"):
        state.init_ema(PARAMS, decays)
