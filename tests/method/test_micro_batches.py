"""The micro-batched gradient: that of the whole batch, in a fraction of the memory."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drifting.assembly.run import set_up
from drifting.assembly.spaces import feature_encoder, sample_space
from drifting.data.sources.digits import digits
from drifting.method.kernels import KERNELS
from drifting.method.loss import chunk_shape, map_loss, maps_together, objective_loss
from drifting.method.micro_batches import accumulated_gradient, in_micro_batches, micro_batched_gradient
from drifting.method.objective import LossMemory, Objective
from drifting.method.step import train_step
from scripts.bench import WORKLOAD_T, micro_batched, workload_t
from tests.support.runs import FULL, tiny_config

QUICK: dict[str, Any] = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}

# The compilers for GPU and TPU order operations so as to need the least memory; the CPU's own spends it on threads.
LEAST_MEMORY = QUICK | {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}

RELEASED_MB = 1168  # temporary memory of workload T in the released code


def relative(found: Any, expected: Any) -> float:
    """Relative error in the Euclidean norm of all leaves together."""
    pairs = list(zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True))
    error = sum(np.sum(np.square(np.asarray(a, np.float64) - b)) for a, b in pairs)
    return float(np.sqrt(error / sum(np.sum(np.square(np.asarray(b, np.float64))) for _, b in pairs)))


# --- in the small -----------------------------------------------------------------------------------------------------


def coupled(features: jax.Array) -> Any:
    """A loss that looks at all samples together."""
    return jnp.sum(jnp.square(features - jnp.mean(features, axis=0))) / jnp.linalg.norm(features), features.shape


@pytest.mark.parametrize("size", [0, 1, 3, 4, 12])
def test_value_extra_and_gradient_are_those_of_the_whole_batch(size: int):
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.normal(size=(4, 3)), jnp.float32), "b": jnp.asarray(rng.normal(size=3), jnp.float32)}
    inputs = {"x": jnp.asarray(rng.normal(size=(12, 4)), jnp.float32)}

    def forward(params: Any, inputs: Any) -> Any:
        return jnp.tanh(inputs["x"] @ params["w"] + params["b"]), inputs["x"][:, 0]

    (value, shape), extra, gradient = micro_batched_gradient(forward, coupled, params, inputs, size)
    expected = jax.grad(lambda params: coupled(forward(params, inputs)[0])[0])(params)
    assert shape == (12, 3)
    np.testing.assert_array_equal(extra, inputs["x"][:, 0])  # in the order of the batch
    np.testing.assert_allclose(value, coupled(forward(params, inputs)[0])[0], rtol=1e-6)
    assert relative(gradient, expected) < 1e-6


@pytest.mark.parametrize(("count", "parts"), [(1, 1), (3, 3), (5, 6), (12, 12), (100, 12)])
def test_as_few_equal_micro_batches_as_can_be_but_as_many_as_asked_for(count: int, parts: int):
    shapes: list[Any] = []

    def function(x: jax.Array) -> jax.Array:
        shapes.append(x.shape)
        return 2 * x

    np.testing.assert_array_equal(in_micro_batches(function, jnp.arange(12), count), 2 * np.arange(12))
    assert shapes[0] == (12 // parts,)


def test_parameter_gradients_add_up_in_float32_whatever_the_networks_compute_in():
    def forward(params: Any, x: jax.Array) -> Any:
        return x.astype(jnp.bfloat16) * params["w"].astype(jnp.bfloat16), None

    ones, params = jnp.ones(1000), {"w": jnp.ones(())}
    (outputs, _), gradient = accumulated_gradient(forward, params, ones, ones.astype(jnp.bfloat16), 1000)
    # In bfloat16 the sum would stop at 256.
    assert outputs.dtype == jnp.bfloat16 and gradient["w"].dtype == jnp.float32 and gradient["w"] == 1000


# --- the problems of a map, some positions at a time ------------------------------------------------------------------


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize(("name", "scale"), [("drift", "per_map"), ("log_kde", "per_problem")])
def test_a_map_in_chunks_has_the_same_loss(name: str, scale: str, normalise: bool):
    rng = np.random.default_rng(0)
    gen, pos, unc = (jnp.asarray(rng.normal(size=(2, n, 6, 5)) + 1, jnp.float32) for n in (4, 5, 3))
    weights = [jnp.asarray(rng.uniform(0.5, 1.5, (2, n)), jnp.float32) for n in (4, 5, 3)]
    widths = jnp.asarray([0.4, 0.1])

    def evaluate(chunk: int, kept: int, remade: bool = False) -> Any:
        memory = LossMemory(chunk, kept, remade=remade)
        objective = Objective(name, KERNELS["laplace"], normalise, scale, memory)
        function = jax.value_and_grad(lambda gen: map_loss(objective, widths, gen, pos, unc, *weights), has_aux=True)
        return jax.jit(function, compiler_options=QUICK)(gen)

    whole = evaluate(2**28, 2**28)
    # A problem has 3 x 4 x 12 + 12 x 5 + 2 x 4 x 5 = 244 numbers, and its fields 40.
    for memory in ((2**28, 0), (500, 2**28), (500, 0), (1500, 479), (244, 480), (2**28, 2**28, True), (500, 0, True)):
        assert relative(evaluate(*memory), whole) < 2e-6, memory


def test_what_is_not_finite_stays_in_its_problem():
    """The first number of the features, of which the empty results of the chunks are made."""
    rng = np.random.default_rng(0)
    gen, pos, unc = (jnp.asarray(rng.normal(size=(2, n, 6, 5)), jnp.float32) for n in (4, 5, 3))
    weights = [jnp.ones((2, n)) for n in (4, 5, 3)]
    objective = Objective("log_kde", KERNELS["laplace"], False, "per_problem", LossMemory(244, 2**28))
    function = jax.grad(lambda gen: map_loss(objective, jnp.asarray([0.4]), gen, pos, unc, *weights)[0])
    gradient = np.array(jax.jit(function, compiler_options=QUICK)(gen.at[0, 0, 0, 0].set(jnp.nan)))
    assert np.isnan(gradient[0, :, 0]).any()
    gradient[0, :, 0] = 0
    assert np.isfinite(gradient).all() and np.abs(gradient[1]).max() > 0


@pytest.mark.parametrize(("name", "scale"), [("drift", "per_map"), ("log_kde", "per_problem"), ("score", "none")])
def test_maps_that_are_joined_have_the_same_losses(name: str, scale: str):
    """Eleven positions of three maps in chunks of four, for which one is made up; the large one by itself, and each."""
    rng = np.random.default_rng(0)
    shapes = {"d": (1, 5), "a": (7, 5), "c": (2, 6), "b": (3, 5)}
    maps = [
        {key: jnp.asarray(rng.normal(size=(2, n, *shape)) + 1, jnp.float32) for key, shape in shapes.items()}
        for n in (4, 5, 3)
    ]
    widths, weights = jnp.asarray([0.4, 0.1]), jnp.asarray([0.5, 1.5])

    def evaluate(memory: LossMemory) -> Any:
        objective = Objective(name, KERNELS["laplace"], True, scale, memory)
        function = jax.value_and_grad(
            lambda gen: objective_loss(objective, widths, gen, *maps[1:], weights), has_aux=True
        )
        return jax.jit(function, compiler_options=QUICK)(maps[0])

    # A problem of five channels has 244 numbers, see above, and its fields 40.
    apart, joined, around = (LossMemory(1952, 2**28, together) for together in (0, 2**28, 4000))
    assert chunk_shape(1952, 2, 11, 244, joined=True) == (2, 4, 1)
    for memory, together in (
        (apart, [["d"], ["a"], ["c"], ["b"]]),
        (joined, [["d", "a", "b"], ["c"]]),
        (around, [["d", "b"], ["a"], ["c"]]),
        (LossMemory(1952, 799, 2**28), [["d", "a"], ["c"], ["b"]]),
    ):
        assert maps_together(maps[0], (4, 3, 5), 2, memory) == together
    alone = evaluate(apart)
    assert relative(evaluate(joined), alone) < 2e-6 and relative(evaluate(around), alone) < 2e-6


def test_a_map_that_takes_most_of_the_room_is_not_copied_for_small_ones():
    """And those before it are joined with those after it."""
    positions = {"a": 1, "large": 8, "b": 2, "larger": 11, "c": 6, "d": 2, "largest_of_the_joined": 7}
    maps = {name: jax.ShapeDtypeStruct((2, 4, count, 5), jnp.float32) for name, count in positions.items()}
    maps["of_another_dtype"] = jax.ShapeDtypeStruct((2, 4, 1, 5), jnp.bfloat16)
    # Ten positions of these problems, see above, of which three quarters are seven and a half.
    memory = LossMemory(0, 2**28, 10 * 2 * 244)
    assert maps_together(maps, (4, 3, 5), 2, memory) == [
        ["a", "b", "c"],
        ["large"],
        ["larger"],
        ["d", "largest_of_the_joined"],
        ["of_another_dtype"],
    ]


def test_maps_come_one_after_the_other():
    """A map more costs the generated samples' features, whose place the gradient takes, and its distances."""
    labels, n, positions, channels = 8, 16, 64, 32
    objective = Objective(
        "drift", KERNELS["laplace"], True, "per_map", LossMemory(2**17, 2**28)
    )  # as large maps are: some positions

    def temporaries(maps: int) -> int:
        names = [f"map{i}" for i in range(maps)]

        def features(x: jax.Array) -> Any:
            waves = jnp.arange(1.0, 1 + positions)[:, None]
            return {name: jnp.sin(x[:, None, :] * waves * (i + 1)) for i, name in enumerate(names)}

        def step(params: jax.Array, z: jax.Array, real: Any, weight: jax.Array) -> Any:
            none = {name: f[:, :0] for name, f in real.items()}

            def loss(found: Any) -> Any:
                found = {name: f.reshape(labels, n, *f.shape[1:]) for name, f in found.items()}
                return objective_loss(objective, jnp.asarray([0.2, 0.05]), found, real, none, weight)

            return micro_batched_gradient(lambda params, z: (features(z @ params), None), loss, params, z, 8)

        def shape(*size: int) -> Any:
            return jax.ShapeDtypeStruct(size, jnp.float32)

        real = {name: shape(labels, n, positions, channels) for name in names}
        lowered = jax.jit(step).lower(shape(8, channels), shape(labels * n, 8), real, shape(labels))
        return int(lowered.compile(compiler_options=LEAST_MEMORY).memory_analysis().temp_size_in_bytes)

    of_a_map = labels * n * positions * (channels + 2 * n) * 4
    assert temporaries(8) - temporaries(4) <= 4 * 1.1 * of_a_map


# --- one training step ------------------------------------------------------------------------------------------------


def step_of(micro_batch: int, encoder: bool = False, **sections: Any) -> tuple[Any, Any]:
    """Parameters' gradient (as the optimiser's first moment has it) and metrics of a step on digits."""
    # Means over a whole map are zero here (a group of the norm is one channel): rounding, to be told from features.
    kinds = dict(mean=False, std=False, mean_patches=[], std_patches=[], every_k_block=1)
    options = dict(mae=dict(weights="random://pixel_smoke", **kinds))
    features = dict(encoders=["mae"], options=options) if encoder else {}
    settings: dict[str, Any] = dict(features=features, train=dict(micro_batch=micro_batch)) | sections
    config = tiny_config(**settings)
    source = digits()
    images, labels = source.__getitems__(np.arange(200))
    if encoder:
        images = np.repeat(images, 3, axis=3)  # the untrained encoder takes three colours
    space = sample_space(None, images.shape[1:])
    found = feature_encoder(config.features, space)
    parts, empty = set_up(config, space, found, 10)
    state = jax.jit(empty)()
    # Not the initial parameters: their last layer is zero, and the generated samples would coincide.
    rng = np.random.default_rng(1)
    moved = jax.tree.map(lambda p: np.float32(np.asarray(p) + 0.2 * rng.normal(size=p.shape)), state.params)
    state = dataclasses.replace(state, params=moved)
    rows = (
        np.concatenate([np.flatnonzero(labels == c)[:4] for c in range(3)]) if state.banks is None else np.arange(200)
    )
    batch = {"image": images[rows], "label": labels[rows], "id": rows.astype(np.uint32)}
    step = jax.jit(partial(train_step, parts), compiler_options=QUICK)
    state, metrics = step(state, batch, found.params, jnp.asarray(config.loss.widths), jax.random.key(3))
    moments = [s.mu for s in jax.tree.leaves(state.opt_state, is_leaf=lambda s: hasattr(s, "mu")) if hasattr(s, "mu")]
    return moments[0], metrics


MLP = dict(name="mlp", num_heads=None, depth=2)

CASES = {
    "drift, an encoder, three widths": dict(
        encoder=True, loss=dict(objective="drift", kernel="laplace", widths=[0.2, 0.05, 0.02])
    ),
    "log-KDE, the samples alone, one width": dict(loss=dict(objective="log_kde", widths=[0.4])),
    "log-KDE not normalised, two widths, neighbour scale": dict(
        model=MLP,
        loss=dict(
            objective="log_kde",
            widths=[1.0, 0.5],
            normalise_field=False,
            unconditional=0,
            feature_scale="neighbour",
            neighbours=2,
        ),
        bank=dict(per_class=0),
        guidance=dict(alpha_max=1.0),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_step_in_micro_batches_is_the_step(case: str):
    """12 generated samples, 4 at a time: every metric, and the gradient to 1e-5 of its length."""
    settings: Any = CASES[case]
    gradient, metrics = step_of(4, **settings)
    expected, expected_metrics = step_of(0, **settings)
    assert relative(gradient, expected) < 1e-5
    for name in ("loss", "gap", "field_norm", "collapse", "grad_norm", "alpha"):
        np.testing.assert_allclose(metrics[name], expected_metrics[name], rtol=1e-5, err_msg=name)


@pytest.mark.skipif(not FULL, reason="compiles a large step; set DRIFTING_FULL_TESTS=1")
def test_workload_t_in_micro_batches_needs_less_than_a_quarter_of_the_released_memory():
    """128 samples, 8 at a time, state and bank donated as in training."""
    parts, make, batch = workload_t()
    state, encoder = jax.eval_shape(make)
    step = jax.jit(partial(train_step, micro_batched(parts, 8)), donate_argnums=0)
    lowered = step.lower(state, batch, encoder, jnp.asarray(WORKLOAD_T.loss.widths), jax.random.key(0))
    memory = lowered.compile(compiler_options=QUICK).memory_analysis()
    assert memory.temp_size_in_bytes / 1e6 <= RELEASED_MB / 4
    assert memory.alias_size_in_bytes >= sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
