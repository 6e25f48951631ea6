"""Averages after the fact: stored ones are exact, others are nearly so, and what is damaged is one line."""

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drifting.config.checks import EMA_STDS
from drifting.errors import ArgumentError, InputError
from drifting.method.optimizer import learning_rate, make_optimizer
from drifting.method.power_average import WIDEST_STD, combination, exponent, profile, share_of_new
from drifting.method.state import STD_PREFIX, TrainState, apply_gradients, make_state
from drifting.weights.averages import AVERAGES, reconstruct, store_averages, stored_averages

STEPS, EVERY, NO_OP, STDS = 600, 50, 4, (0.05, 0.1)

Trajectory = list[dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trajectory, TrainState]:
    """A run of a few parameters: its folder with the stored averages, the parameters after every update, its end."""
    workdir, trajectory = tmp_path_factory.mktemp("run"), []
    schedule = learning_rate(peak=0.05, warmup_steps=20, total_steps=STEPS, decay="cosine", no_op_steps=NO_OP)
    optimizer = make_optimizer(schedule, b1=0.9, b2=0.95, weight_decay=0.01, clip_norm=2.0)
    params = {"a": {"kernel": jnp.ones((3, 2))}, "b": jnp.full(4, -2.0)}

    @partial(jax.jit, donate_argnums=0)
    def step(state: TrainState, key: jax.Array) -> TrainState:
        noise = jax.tree.map(lambda leaf: jax.random.normal(key, leaf.shape), state.params)
        grads = jax.tree.map(lambda leaf, noise: leaf - 1 + noise, state.params, noise)
        return apply_gradients(state, grads, optimizer, NO_OP)[0]

    state = make_state(params, optimizer, ema_decays=(0.99,), ema_stds=STDS)
    for number in range(1, STEPS + 1):
        state = step(state, jax.random.key(number))
        if number > NO_OP:
            trajectory.append(jax.tree.map(np.asarray, state.params))
        if number % EVERY == 0:
            averages = {std: state.ema[f"{STD_PREFIX}{std}"] for std in STDS}
            store_averages(workdir, number, number - NO_OP, averages)
    return workdir, trajectory, state


def exact(trajectory: Trajectory, std: float) -> Any:
    """The average of all parameters in float64, by the integral of `s^gamma` over each update."""
    gamma, count = exponent(std), len(trajectory)
    edges = (np.arange(count + 1) / count) ** (gamma + 1)
    weights = np.diff(edges)
    return jax.tree.map(lambda *leaves: np.tensordot(weights, np.stack(leaves).astype(np.float64), 1), *trajectory)


def largest(tree: Any) -> float:
    return max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(tree))


def difference(actual: Any, expected: Any) -> float:
    return largest(jax.tree.map(lambda a, b: np.asarray(a, np.float64) - b, actual, expected))


@pytest.mark.parametrize("std", STDS)
def test_what_is_stored_is_the_exact_average(run: tuple[Path, Trajectory, TrainState], std: float):
    _, trajectory, state = run
    assert difference(state.ema[f"{STD_PREFIX}{std}"], exact(trajectory, std)) < 2e-6


@pytest.mark.parametrize("std", [0.04, 0.05, 0.07, 0.1, 0.15, 0.2, WIDEST_STD])
def test_others_are_near_the_exact_average(
    run: tuple[Path, Trajectory, TrainState], std: float, caplog: pytest.LogCaptureFixture
):
    workdir, trajectory, state = run
    step, found = reconstruct(workdir, std, state.params)
    spread = difference(exact(trajectory, 0.05), exact(trajectory, 0.2))
    error = difference(found, exact(trajectory, std))
    assert step == STEPS and all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(found))
    assert spread > 0.02
    assert std in (0.2, WIDEST_STD) or error < (5e-6 if std in STDS else 0.03 * spread)
    # An average is off by no more than the weight that lies elsewhere moves the parameters.
    pairs = [(width, one.updates) for one in stored_averages(workdir) for width in one.stds]
    _, off = combination(pairs, std, STEPS - NO_OP)
    extent = jax.tree.map(lambda *leaves: np.ptp(np.stack(leaves), axis=0), *trajectory)
    assert error < 1e-5 + off * largest(extent) and off < (1e-9 if std in STDS else 0.15)
    assert ("is met but for" in caplog.text) == (off > 0.05)


def test_widths_are_those_of_the_profiles():
    for std in (0.01, 0.05, 0.1, 0.2, WIDEST_STD):
        weights, positions = profile(std, 20_000, 1, 20_000), (np.arange(20_000) + 0.5) / 20_000
        mean = weights @ positions
        assert weights.sum() == pytest.approx(1) and math.sqrt(weights @ (positions - mean) ** 2) == pytest.approx(
            std, rel=1e-5
        )
    np.testing.assert_allclose([exponent(std) for std in STDS], [16.97, 6.94], atol=0.005)  # as the paper has them


def test_shares_late_in_a_run_are_exact():
    for updates in (1, 2, 1000, 3_000_000):
        share = float(share_of_new(0.05, jnp.int32(updates)))
        expected = 1.0 if updates == 1 else -math.expm1((exponent(0.05) + 1) * math.log1p(-1 / updates))
        assert share == pytest.approx(expected, rel=2e-6)


def test_factors_add_up_to_one_and_leave_out_what_is_later():
    stored = [(std, updates) for updates in range(1000, 20_001, 1000) for std in STDS]
    for std in (0.03, 0.1, 0.25):
        for until in (1000, 9500, 20_000):
            found, off = combination(stored, std, until)
            assert found.sum() == pytest.approx(1)
            assert not found[[after > until for _, after in stored]].any()
            # Widths that are stored are met, others by twenty times two profiles within a few percent.
            assert off < (1e-9 if std in STDS and until % 1000 == 0 else 0.05 if until == 20_000 else 1)
    with pytest.raises(ValueError, match="no average of update 10 or before"):
        combination(stored, 0.1, 10)


def test_what_cannot_be_made_is_one_line(run: tuple[Path, Trajectory, TrainState], tmp_path: Path):
    workdir, _, state = run
    with pytest.raises(ArgumentError, match=r"has stored no averages .* train\.ema_stds=\(0\.05, 0\.1\)"):
        reconstruct(tmp_path, 0.1, state.params)
    for std in (0.0, -1.0, 0.3, math.nan):
        with pytest.raises(ArgumentError, match=r"use a width above 0 and at most 0\.25"):
            reconstruct(workdir, std, state.params)
    with pytest.raises(InputError, match=r"missing tensor 0\.05/c, 0\.1/c; unexpected tensor 0\.05/b"):
        reconstruct(workdir, 0.1, {"a": state.params["a"], "c": np.zeros(4)})


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "8.safetensors").unlink(), r"8\.safetensors: is missing; remove both"),
        (lambda folder: (folder / "8.safetensors").write_bytes(b"x" * 200), r"is damaged, its SHA-256 is"),
        (lambda folder: (folder / "8.json").write_text("{}"), r"8\.json: does not describe averages; remove both"),
        (lambda folder: (folder / "8.json").write_text("{"), r"8\.json"),
        (lambda folder: _rewrite(folder / "8.json", stds=[0.07]), "missing tensor 0.07/w; unexpected tensor 0.05/w"),
    ],
)
def test_damage_is_one_line_and_the_others_do_without(tmp_path: Path, damage: Any, words: str):
    shapes = {"w": np.zeros(3, np.float32)}
    for step in (4, 8, 12):
        store_averages(tmp_path, step, step, {0.05: {"w": np.full(3, step, np.float32)}})
    folder = tmp_path / AVERAGES
    damage(folder)
    with pytest.raises(InputError, match=words) as error:
        reconstruct(tmp_path, 0.05, shapes)
    assert "\n" not in str(error.value)
    for name in ("8.json", "8.safetensors"):
        (folder / name).unlink(missing_ok=True)
    step, found = reconstruct(tmp_path, 0.05, shapes)
    assert step == 12
    np.testing.assert_allclose(found["w"], 12, rtol=1e-6)


def _rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_what_a_killed_process_leaves_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store_averages(tmp_path, 4, 4, {0.05: {"w": np.ones(3, np.float32)}})
    monkeypatch.setattr("drifting.weights.averages.write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    for step in (4, 8):
        with pytest.raises(KeyboardInterrupt):
            store_averages(tmp_path, step, step, {0.05: {"w": np.zeros(3, np.float32)}})
    assert not stored_averages(tmp_path)


def test_every_width_that_settings_allow_has_an_exponent():
    assert EMA_STDS[1] == WIDEST_STD
    assert [exponent(std) > -1 for std in (*EMA_STDS, *np.linspace(*EMA_STDS, 7))] == [True] * 9
