"""Schedules that fall, what weight decay leaves out, and Muon, each against a restatement."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drifting.method.optimizer import MUON_DECAY, OPTIMIZERS, learning_rate, make_optimizer, matrices
from drifting.method.state import apply_gradients, make_state

SHAPES = {
    "linear": {"kernel": (6, 4), "bias": (4,)},
    "blocks": {"kernel": (3, 4, 8), "bias": (3, 8), "norm": {"gain": (3, 4)}},
    "conv": {"kernel": (3, 3, 2, 5)},
    "modulation_kernel": (2, 4, 4),
    "label_embed": (10, 4),
}

MATRICES = {"linear/kernel", "blocks/kernel", "conv/kernel", "modulation_kernel"}


def named(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {"/".join(str(key.key) for key in path): leaf for path, leaf in leaves}


def draw(seed: int) -> Any:
    rng = np.random.default_rng(seed)
    is_shape = {"is_leaf": lambda x: isinstance(x, tuple)}
    return jax.tree.map(lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32), SHAPES, **is_shape)


@pytest.mark.parametrize(("no_op", "warmup"), [(0, 0), (3, 0), (0, 4), (3, 4)])
@pytest.mark.parametrize(("decay", "decay_steps"), [("linear", 0), ("wsd", 10), ("wsd", 33)])
def test_rates_that_fall_in_a_line(decay: str, decay_steps: int, no_op: int, warmup: int):
    peak, total = 2e-3, 40
    schedule = learning_rate(
        peak=peak, warmup_steps=warmup, total_steps=total, decay=decay, no_op_steps=no_op, decay_steps=decay_steps
    )
    falls = decay_steps or total - no_op - warmup
    for step in range(no_op + warmup, 60):
        left = np.clip((total - step) / falls, 0, 1)
        assert float(schedule(step)) == pytest.approx(peak * (left + (1 - left) * 1e-6), rel=1e-4, abs=1e-9)


def test_a_line_needs_steps():
    with pytest.raises(ValueError, match="no step for the linear"):
        learning_rate(peak=1.0, warmup_steps=6, total_steps=6, decay="linear")
    with pytest.raises(ValueError, match="decay_steps=7 must lie between 1 and 6"):
        learning_rate(peak=1.0, warmup_steps=4, total_steps=10, decay="wsd", decay_steps=7)


def test_matrices_are_told_by_their_names():
    assert {name for name, found in named(matrices(draw(0))).items() if found} == MATRICES


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("decayed", ["all", "matrices"])
def test_what_decays(name: str, decayed: str):
    """Without a gradient a step is decay alone."""
    params = draw(0)
    hyper = dict(b1=0.9, b2=0.95, weight_decay=0.1, clip_norm=1.0)
    optimizer = make_optimizer(lambda step: 0.5, name=name, decayed=decayed, **hyper)
    state = make_state(params, optimizer)
    after = apply_gradients(state, jax.tree.map(jnp.zeros_like, params), optimizer)[0]
    for key, value in named(after.params).items():
        factor = 1 - 0.05 if decayed == "all" or key in MATRICES else 1.0
        np.testing.assert_allclose(value, factor * named(params)[key], rtol=1e-6)


def test_muon_moves_each_matrix_by_an_orthogonal_one_and_the_rest_as_adam():
    params, hyper = draw(0), dict(b1=0.9, b2=0.95, weight_decay=0.0, clip_norm=1e9)
    muon, adam = (make_optimizer(lambda step: 1.0, name=name, **hyper) for name in ("muon", "adamw"))
    states = [make_state(params, optimizer) for optimizer in (muon, adam)]
    mean: Any = jax.tree.map(jnp.zeros_like, params)
    for seed in (1, 2, 3):
        before, gradient = named(states[0].params), draw(seed)
        states = [apply_gradients(s, gradient, o)[0] for s, o in zip(states, (muon, adam), strict=True)]
        mean = jax.tree.map(lambda m, g: MUON_DECAY * m + (1 - MUON_DECAY) * g, mean, gradient)
        correction = 1 - MUON_DECAY ** (seed + 1)
        for key, value in named(states[0].params).items():
            if key not in MATRICES:
                np.testing.assert_array_equal(value, named(states[1].params)[key])
                continue
            nesterov = MUON_DECAY * np.asarray(named(mean)[key]) / correction
            nesterov = nesterov + (1 - MUON_DECAY) * np.asarray(named(gradient)[key]) / (1 - MUON_DECAY**seed)
            for moved, wanted in zip(_as_matrices(before[key] - value), _as_matrices(nesterov), strict=True):
                u, _, vh = np.linalg.svd(wanted, full_matrices=False)
                size = 0.2 * max(wanted.shape) ** 0.5
                # Five steps of Newton and Schulz leave singular values between about 0.7 and 1.2.
                assert np.all(np.abs(np.linalg.svd(moved / size, compute_uv=False) - 0.95) < 0.3)
                assert np.sum(moved * (u @ vh)) > 0.97 * np.linalg.norm(moved) * np.linalg.norm(u @ vh)


def _as_matrices(x: Any) -> Any:
    x = np.asarray(x)
    return x.reshape(1, -1, x.shape[-1]) if x.ndim == 4 else x.reshape(-1, *x.shape[-2:])
