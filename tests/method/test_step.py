"""The training step: the released step reproduced, its draws, its metrics, and every objective through it."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from drifting.assembly.recipe import optimizer_of, recipe_of
from drifting.assembly.run import set_up
from drifting.assembly.spaces import feature_encoder, sample_space
from drifting.config.parse import parse
from drifting.config.schema import Config
from drifting.data.sources.digits import digits
from drifting.method.encoders.mae import mae_features
from drifting.method.features import pixel_features
from drifting.method.fields import FIELDS
from drifting.method.kernels import KERNELS
from drifting.method.micro_batches import micro_batched_gradient
from drifting.method.objective import Objective
from drifting.method.pool import bank_pool, draw_labels
from drifting.method.potentials import LOSSES
from drifting.method.state import TrainState, apply_gradients, make_state
from drifting.method.step import (
    Draw,
    StepParts,
    draw_samples,
    generator_inputs,
    open_pool,
    real_features,
    step_loss,
    train_step,
)
from drifting.networks.dit import DiT
from drifting.networks.mae import MAE
from drifting.networks.network import Generator
from drifting.weights.released_names import (
    generator_from_released,
    generator_kwargs_from_released,
    generator_to_released,
    mae_from_released,
    mae_kwargs_from_released,
)
from tests.support.golden_files import group, load, mae_params_a, meta
from tests.support.runs import FULL, tiny_config

KEY = jax.random.key(7)

QUICK = {"xla_backend_optimization_level": 0}  # half the time to compile, and little to run


def make_parts(config: Config) -> tuple[StepParts, Any]:
    """The parts of a run on digits, and what makes the state before the first step."""
    source = digits()
    space = sample_space(None, source.shape)
    return set_up(config, space, feature_encoder(config.features, space), source.num_classes)


def filled(parts: StepParts, state: TrainState, rows: Any) -> TrainState:
    """The state with these digits in its banks."""
    batch = {name: jnp.asarray(array) for name, array in batch_of(rows).items()}
    return dataclasses.replace(state, banks=open_pool(parts, state, batch, {}).kept())


@partial(jax.jit, static_argnums=0)
def drawn(parts: StepParts, state: TrainState, key: jax.Array) -> Draw:
    """A draw from the banks as they are."""
    assert state.banks is not None
    return draw_samples(parts, state.banks, state.params, {}, key)


def loss_of(parts: StepParts, samples: jax.Array, draw: Draw, frozen: Any, widths: Any) -> Any:
    """Loss and metrics of samples `[L * N, H, W, C]`."""
    real = real_features(parts, draw, frozen)
    return step_loss(parts.recipe.objective, parts.features(frozen, samples), real, draw, widths)


def batch_of(rows: Any) -> dict[str, np.ndarray]:
    images, labels = digits().__getitems__(rows)
    return {"image": images, "label": labels, "id": np.asarray(rows, np.uint32)}


# --- the released step ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Released:
    """The golden step, and ours with the same draw."""

    golden: dict[str, np.ndarray]
    samples: np.ndarray
    loss: np.ndarray
    maps: dict[str, Any]
    gradient: dict[str, np.ndarray]
    after: TrainState
    update: dict[str, Any]
    before: dict[str, np.ndarray]

    @property
    def metrics(self) -> dict[str, float]:
        return dict(zip(self.golden["metric_names"].tolist(), self.golden["metric_values"].tolist(), strict=True))


# That micro-batches are the whole batch, test_micro_batches.py shows of many a step.
REPEATED = pytest.mark.skipif(not FULL, reason="repeats the whole step in micro-batches; set DRIFTING_FULL_TESTS=1")


@pytest.fixture(scope="module", params=[0, pytest.param(4, marks=REPEATED)], ids=["whole", "micro_batches"])
def released(request: pytest.FixtureRequest, golden: Path) -> Released:
    z = load(golden / "train_step_tiny.npz")
    m = meta(z)
    kwargs = generator_kwargs_from_released(m["gen_config"])
    params = generator_from_released(group(load(golden / "generator_a.npz"), "params"), **kwargs)
    config = parse(
        {
            "loss": dict(objective="drift", kernel="laplace", widths=m["R_list"], labels=m["n_labels"], generated=8),
            "optimizer": dict(learning_rate=m["lr"]["learning_rate"], warmup_steps=0, weight_decay=m["weight_decay"]),
            "train": dict(ema_decays=[m["ema_decay"]], micro_batch=request.param),
        }
    )
    assert isinstance(config, Config)
    graphdef, _ = nnx.split(nnx.eval_shape(lambda: DiT(**kwargs, rngs=nnx.Rngs(0))))
    features, encoder = released_features(golden, m["mae_config"])
    encoder = jax.tree.map(jnp.asarray, encoder)
    optimizer = optimizer_of(config.optimizer, m["lr"]["total_steps"])
    generator, space = Generator(graphdef, (8, 8, 4)), sample_space(None, (8, 8, 4))
    parts = StepParts(recipe_of(config), generator, space, features, optimizer, bank_pool)
    noise = {"image": jnp.asarray(z["noise_x"]), "style": jnp.asarray(z["noise_labels"])}
    draw = Draw(*(jnp.asarray(z[key]) for key in ("labels", "positive", "negative", "cfg")), noise)
    widths, stored = jnp.asarray(config.loss.widths), jnp.asarray(z["gen_samples"]).reshape(16, 8, 8, 4)

    # The features are those of the stored samples: one activation lies 2e-6 from the kink of a ReLU, and the rounding
    # of our samples could put it on the other side.
    def features_of(params: Any, inputs: Any) -> Any:
        samples = generator(params, *inputs[0])
        return features(encoder, inputs[1] + samples - jax.lax.stop_gradient(samples)), samples

    def gradient_of(params: Any) -> Any:
        real = real_features(parts, draw, encoder)
        loss_fn = partial(step_loss, parts.recipe.objective, real=real, draw=draw, widths=widths)
        inputs = (generator_inputs(draw), stored)
        return micro_batched_gradient(features_of, loss_fn, params, inputs, config.train.micro_batch)

    (loss, maps), samples, gradient = jax.jit(gradient_of, compiler_options=QUICK)(params)
    state = make_state(jax.tree.map(jnp.asarray, params), optimizer, ema_decays=config.train.ema_decays)
    after, update = jax.jit(partial(apply_gradients, optimizer=optimizer))(state, gradient)
    before = generator_to_released(params)
    gradient = generator_to_released(jax.device_get(gradient))
    return Released(z, *jax.device_get((samples, loss, maps)), gradient, *jax.device_get((after, update)), before)


def released_features(golden: Path, config: dict[str, Any]) -> tuple[Any, Any]:
    """Features of the golden encoder and its parameters."""
    kwargs = mae_kwargs_from_released(config)
    params = mae_from_released(mae_params_a(golden), **kwargs)["encoder"]
    graphdef, _ = nnx.split(nnx.eval_shape(lambda: MAE(**kwargs, rngs=nnx.Rngs(0)).encoder))

    def features(params: Any, x: jax.Array) -> dict[str, jax.Array]:
        return pixel_features(x) | mae_features(nnx.merge(graphdef, params), x, mean=False, std=False)

    return features, params


def test_released_samples(released: Released):
    expected = released.golden["gen_samples"]
    np.testing.assert_allclose(
        released.samples.reshape(expected.shape), expected, rtol=0, atol=1e-5 * np.abs(expected).max()
    )


def test_released_loss_and_gradient_norm(released: Released):
    np.testing.assert_allclose(released.loss, released.metrics["loss"], rtol=1e-5)
    np.testing.assert_allclose(released.update["grad_norm"], released.metrics["g_norm"], rtol=1e-4)
    np.testing.assert_allclose(released.update["learning_rate"], released.metrics["lr"], rtol=1e-6)
    assert released.update["grad_norm_clipped"] == 2.0


def test_released_feature_maps(released: Released):
    names, losses = released.golden["loss_per_feature_names"].tolist(), released.golden["loss_per_feature"]
    assert sorted(released.maps) == names
    for name, loss in zip(names, losses, strict=True):
        found = released.maps[name]
        np.testing.assert_allclose(found.loss, loss, rtol=2e-5, err_msg=name)
        # The released scale and field norm carry the rounding of its distances, 5e-5 and 1e-4 (golden README, 8).
        np.testing.assert_allclose(found.scale, released.metrics[f"scale/{name}"], rtol=1e-4, err_msg=name)
        for norm, width in zip(found.field_norm, ("0.2", "0.05", "0.02"), strict=True):
            np.testing.assert_allclose(norm**2, released.metrics[f"loss_{width}/{name}"], rtol=2e-4, err_msg=name)


def test_released_gradients(released: Released):
    norms = dict(zip(released.golden["grad_norm_names"].tolist(), released.golden["grad_norms"], strict=True))
    assert released.gradient.keys() == norms.keys()
    for name, norm in norms.items():
        np.testing.assert_allclose(np.linalg.norm(released.gradient[name]), norm, rtol=1e-4, err_msg=name)
    stored = group(released.golden, "grad")
    assert len(stored) > 40
    for name, expected in stored.items():
        error = np.linalg.norm(released.gradient[name] - expected) / np.linalg.norm(expected)
        assert error < 1e-4, name


@pytest.mark.parametrize("what", ["params", "ema"])
def test_released_update(released: Released, what: str):
    new = released.after.params if what == "params" else released.after.ema["0.999"]
    found, expected = generator_to_released(new), group(released.golden, f"new_{what}")
    step_size, compared = 1e-3 if what == "params" else 1e-6, 0
    for name, value in expected.items():
        # Adam's first step is the sign of the gradient, which rounding decides where the gradient is tiny.
        gradient = np.abs(released.gradient[name])
        clear = gradient > 1e-3 * gradient.max()
        atol = 1e-3 * step_size + 2e-7 * np.abs(value).max()
        np.testing.assert_allclose((found[name] - value)[clear], 0, atol=atol, err_msg=name)
        compared += int(clear.sum())
    assert compared > 1000
    if what == "params":
        names = released.golden["grad_norm_names"].tolist()
        lengths = [np.linalg.norm(found[name] - released.before[name]) for name in names]
        np.testing.assert_allclose(lengths, released.golden["delta_norms"], rtol=2e-3)


# --- draws ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "classes"), [(3, 10), (23, 10), (7, 1)])
def test_labels_are_drawn_as_evenly_as_can_be(count: int, classes: int):
    labels = np.asarray(draw_labels(KEY, count, classes))
    counts = np.bincount(labels, minlength=classes)
    assert labels.shape == (count,) and labels.dtype == np.int32 and len(counts) == classes
    assert counts.max() - counts.min() <= 1


def test_every_class_is_drawn_equally_often_over_the_steps():
    keys = jax.vmap(partial(jax.random.fold_in, KEY))(jnp.arange(2000))
    labels = np.asarray(jax.vmap(lambda key: draw_labels(key, 3, 10))(keys))
    counts = np.bincount(labels.ravel(), minlength=10)
    # 600 expected; the standard deviation is that of a draw without replacement, below sqrt(600 * 0.7).
    assert np.abs(counts - 600).max() < 5 * np.sqrt(600 * 0.7)


def test_the_noise_of_a_sample_depends_on_its_own_key_alone():
    parts, init = make_parts(tiny_config())
    params, keys = jax.jit(init)().params, jax.random.split(KEY, 8)
    noise = parts.generator.sample_noise(params, keys)
    assert {name: value.shape for name, value in noise.items()} == {"image": (8, 8, 8, 1), "style": (8, 1)}
    for rows in ([3], [7, 0, 5]):
        alone = parts.generator.sample_noise(params, keys[jnp.asarray(rows)])
        for name, value in alone.items():
            np.testing.assert_array_equal(value, noise[name][jnp.asarray(rows)])


# --- one tiny step ----------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Tiny:
    """The compiled tiny step, its first state with filled banks, and its arguments."""

    parts: StepParts
    state: TrainState
    compiled: Any
    traces: list[None]
    """Grows when the step is traced, as it is for every compilation."""

    def __call__(
        self, state: TrainState, widths: tuple[float, ...] = (0.4,), key: Any = KEY, measure: bool = True
    ) -> Any:
        batch = batch_of(np.arange(int(state.step) * 16, int(state.step) * 16 + 16))
        state = jax.tree.map(jnp.copy, state)
        return self.compiled(state, batch, {}, jnp.asarray(widths, jnp.float32), key, np.bool_(measure))


@pytest.fixture(scope="module")
def tiny() -> Tiny:
    parts, empty = make_parts(tiny_config(model=dict(name="mlp", num_heads=None, depth=2)))
    state = filled(parts, jax.jit(empty)(), np.arange(400, 800))
    traces: list[None] = []

    def counted(*arguments: Any) -> Any:
        traces.append(None)
        return train_step(parts, *arguments)

    return Tiny(parts, state, jax.jit(counted, donate_argnums=0, compiler_options=QUICK), traces)


def test_a_step_is_its_parts_in_order(tiny: Tiny):
    """Push, draw, generate, loss, update: the page as it reads, composed by hand."""
    widths = jnp.asarray([0.4])
    pushed = filled(tiny.parts, tiny.state, np.arange(16))
    draw = jax.jit(partial(drawn, tiny.parts))(pushed, jax.random.fold_in(KEY, 0))

    def loss_fn(params: Any) -> jax.Array:
        return loss_of(tiny.parts, tiny.parts.generator(params, *generator_inputs(draw)), draw, {}, widths)[0]

    def update(state: TrainState) -> TrainState:
        return apply_gradients(state, jax.grad(loss_fn)(state.params), tiny.parts.optimizer)[0]

    expected = jax.jit(update, compiler_options=QUICK)(pushed)
    found, metrics = tiny(tiny.state)
    jax.tree.map(np.testing.assert_array_equal, found.banks, expected.banks)
    assert int(found.step) == int(expected.step) == 1
    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, found.opt_state, expected.opt_state)
    for name, value in {"params": found.params, "0.9": found.ema["0.9"], "0.99": found.ema["0.99"]}.items():
        jax.tree.map(close, value, expected.params if name == "params" else expected.ema[name])
    assert np.any(np.asarray(found.params["last"]["kernel"] != tiny.state.params["last"]["kernel"]))
    norm = np.sqrt(sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(found.params)))
    np.testing.assert_allclose(metrics["param_norm"], norm, rtol=1e-5)


def test_the_batch_is_in_the_banks_before_anything_is_drawn(tiny: Tiny):
    _, empty_state = make_parts(tiny_config(model=dict(name="mlp", num_heads=None, depth=2)))
    empty = dataclasses.replace(jax.jit(empty_state)(), params=tiny.state.params)
    images = digits().__getitems__(np.arange(16))[0]
    after, metrics = tiny(empty)
    held = np.asarray(after.banks.unconditional.samples[0, 0])
    assert int(after.banks.unconditional.pushed[0, 0]) == 16
    np.testing.assert_array_equal(held, images)
    np.testing.assert_allclose(metrics["bank_fill"], 16 / 80)  # 16 samples in 10 rings of 8


def test_the_gap_is_computed_where_it_is_wanted(tiny: Tiny):
    """One program serves both kinds of steps, and nothing else of a step depends on it."""
    state, metrics = tiny(tiny.state)
    traced = len(tiny.traces)
    other, others = tiny(tiny.state, measure=False)
    jax.tree.map(np.testing.assert_array_equal, state, other)
    gaps = [[found.pop("gap"), *(m.gap for m in found["maps"].values())] for found in (metrics, others)]
    assert np.all(np.isfinite(gaps[0])) and np.all(np.isnan(gaps[1]))
    metrics["maps"], others["maps"] = (
        {n: m._replace(gap=0.0) for n, m in x["maps"].items()} for x in (metrics, others)
    )
    jax.tree.map(np.testing.assert_array_equal, metrics, others)
    assert len(tiny.traces) == traced


def test_metrics(tiny: Tiny):
    _, metrics = tiny(tiny.state)
    names = "loss gap field_norm collapse alpha bank_fill param_norm maps grad_norm grad_norm_clipped learning_rate"
    assert set(metrics) == set(names.split())
    for name in set(metrics) - {"maps"}:
        assert metrics[name].shape == () and metrics[name].dtype == jnp.float32 and np.isfinite(metrics[name]), name
    assert set(metrics["maps"]) == {"global"}
    assert metrics["bank_fill"] == 1 and 1 <= metrics["alpha"] <= 4
    np.testing.assert_allclose(metrics["loss"], 1, rtol=1e-5)  # one width, normalised: constant by construction
    assert 0 < metrics["collapse"] < 100


def test_a_step_is_a_function_of_state_batch_and_key(tiny: Tiny):
    (one, m1), (two, m2), (other, _) = tiny(tiny.state), tiny(tiny.state), tiny(tiny.state, key=jax.random.key(8))
    jax.tree.map(np.testing.assert_array_equal, (one, m1), (two, m2))
    assert any(jax.tree.leaves(jax.tree.map(lambda a, b: bool(jnp.any(a != b)), one.params, other.params)))


def test_steps_draw_anew(tiny: Tiny):
    one, two = (drawn(tiny.parts, tiny.state, jax.random.fold_in(KEY, number)) for number in (0, 1))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        assert np.any(np.asarray(a != b))


def test_positives_are_of_their_class_and_not_repeated(tiny: Tiny):
    draw = jax.device_get(drawn(tiny.parts, tiny.state, KEY))
    images, labels = digits().__getitems__(np.arange(1400))
    known = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    assert draw.positives.shape == (3, 4, 8, 8, 1) and draw.unconditional.shape == (3, 2, 8, 8, 1)
    for label, positives in zip(draw.labels, draw.positives, strict=True):
        assert {known[image.tobytes()] for image in positives} == {label}
        assert len({image.tobytes() for image in positives}) == 4


def test_a_kernel_width_does_not_recompile(tiny: Tiny):
    first, _ = tiny(tiny.state)
    traced = len(tiny.traces)
    second, _ = tiny(tiny.state, widths=(0.2,))
    assert len(tiny.traces) == traced >= 1
    assert np.any(np.asarray(first.params["last"]["kernel"] != second.params["last"]["kernel"]))


# --- the loss of a draw -----------------------------------------------------------------------------------------------


def test_drift_loss_is_the_published_formula(tiny: Tiny):
    """The two-axis drift of the samples' pixels and its gradient, restated in float64 as the paper's code orders it."""
    draw = drawn(tiny.parts, tiny.state, KEY)
    rng = np.random.default_rng(0)
    samples = rng.uniform(-1, 1, (3, 4, 8, 8, 1))
    widths = (0.2, 0.05)
    recipe = dataclasses.replace(tiny.parts.recipe, objective=Objective("drift", "laplace"))
    parts = dataclasses.replace(tiny.parts, recipe=recipe)

    def loss_fn(x: jax.Array) -> jax.Array:
        return loss_of(parts, x, draw, {}, jnp.asarray(widths))[0]

    loss, gradient = jax.value_and_grad(loss_fn)(jnp.asarray(samples.reshape(12, 8, 8, 1), jnp.float32))

    flat = [np.asarray(a, np.float64).reshape(3, -1, 64) for a in (samples, draw.unconditional, draw.positives)]
    gen, targets = flat[0], np.concatenate(flat, axis=1)
    w_unc = np.asarray(draw.alpha, np.float64) - 1
    weights = np.concatenate([np.ones((3, 4)), np.repeat(w_unc[:, None] * 3 / 2, 2, 1), np.ones((3, 4))], axis=1)
    distance = np.maximum(np.linalg.norm(gen[:, :, None] - targets[:, None], axis=-1), 1e-4)
    scale = (distance * weights[:, None]).mean() / weights.mean()
    unit = scale / 8
    logits = -distance / scale
    logits[:, np.arange(4), np.arange(4)] -= 100
    total = np.zeros_like(gen)
    for width in widths:
        e = np.exp(logits / width)
        a = np.sqrt(np.maximum(e / e.sum(2, keepdims=True) * e / e.sum(1, keepdims=True), 1e-6)) * weights[:, None]
        minus, plus = a[:, :, :6], a[:, :, 6:]
        b = np.concatenate([-minus * plus.sum(2, keepdims=True), plus * minus.sum(2, keepdims=True)], axis=2)
        field = (b @ targets - b.sum(2, keepdims=True) * gen) / unit
        total += field / np.sqrt((field**2).mean())
    np.testing.assert_allclose(loss, (total**2).mean(), rtol=2e-5)
    expected = -2 * total / (total.size * unit)
    error = np.linalg.norm(np.asarray(gradient).reshape(gen.shape) - expected) / np.linalg.norm(expected)
    assert error < 1e-4


def objectives_and_kernels() -> list[Any]:
    """Each with each; at first only each with one of the others, for test_loss.py tries all pairs on a map."""
    slow = pytest.mark.skipif(not FULL, reason="takes ten seconds; set DRIFTING_FULL_TESTS=1")
    objectives, kernels = [*LOSSES, *FIELDS], list(KERNELS)
    return [
        pytest.param(objective, kernel, marks=() if (i - j) % len(kernels) == 0 else slow)
        for i, objective in enumerate(objectives)
        for j, kernel in enumerate(kernels)
    ]


@pytest.mark.parametrize(("objective", "kernel"), objectives_and_kernels())
def test_every_objective_and_kernel_gives_a_direction(tiny: Tiny, objective: str, kernel: str):
    draw = drawn(tiny.parts, tiny.state, KEY)
    recipe = dataclasses.replace(tiny.parts.recipe, objective=Objective(objective, KERNELS[kernel]))
    parts = dataclasses.replace(tiny.parts, recipe=recipe)
    samples = jnp.float32(np.random.default_rng(0).uniform(-1, 1, (12, 8, 8, 1)))
    loss, gradient = jax.value_and_grad(lambda x: loss_of(parts, x, draw, {}, jnp.asarray([0.4]))[0])(samples)
    assert np.isfinite(loss) and np.all(np.isfinite(gradient)) and np.any(np.asarray(gradient) != 0)


# --- without banks ----------------------------------------------------------------------------------------------------


def test_neighbour_scale_and_mlp_without_banks():
    """The MNIST recipe: class-balanced batches are the positives, each class in the unit of its nearest neighbours."""
    config = tiny_config(
        model=dict(name="mlp", num_heads=None, depth=2),
        loss=dict(unconditional=0, feature_scale="neighbour", neighbours=2, neighbour_decay=0.75),
        bank=dict(per_class=0),
        guidance=dict(alpha_max=1.0),
        optimizer=dict(learning_rate=1e-2, warmup_steps=0),
    )
    parts, empty = make_parts(config)
    labels = digits().labels
    compiled = jax.jit(partial(train_step, parts))
    state, expected, gaps = jax.jit(empty)(), np.zeros(10), []
    for number in range(12):
        classes = [(3 * number + c) % 10 for c in range(3)]
        batch = batch_of(np.concatenate([np.flatnonzero(labels == c)[number : number + 4] for c in classes]))
        for c, images in zip(classes, batch["image"].reshape(3, 4, 64).astype(np.float64), strict=True):
            distances = np.sort(np.linalg.norm(images[:, None] - images, axis=-1), axis=1)[:, 1:3].mean()
            expected[c] = distances if expected[c] == 0 else 0.75 * expected[c] + 0.25 * distances
        state, metrics = compiled(state, batch, {}, jnp.asarray([1.0]), KEY)
        gaps.append(float(metrics["gap"]))
        np.testing.assert_allclose(state.neighbour_scale, expected, rtol=1e-5)
    assert int(state.step) == 12 and metrics["bank_fill"] == 1
    assert np.isfinite(gaps).all() and np.mean(gaps[-3:]) < np.mean(gaps[:3])  # it learns
