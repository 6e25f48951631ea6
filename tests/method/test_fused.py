"""The loss in kernels, interpreted, against the loss in operations of JAX; and against the golden vectors."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drifting.method import fused
from drifting.method.arguments import WIDTH_RANGE
from drifting.method.fields import FIELDS
from drifting.method.kernels import KERNELS, Kernel
from drifting.method.loss import map_loss, objective_loss
from drifting.method.objective import Objective
from drifting.method.potentials import LOSSES
from tests.support.golden_files import drift_case
from tests.support.runs import FULL

COVERED = [name for name in (*FIELDS, *LOSSES) if name != "inverse_profile_kde"]


def arguments(labels: int, n: int, p: int, u: int, positions: int, channels: int, dtype: Any = np.float32) -> list[Any]:
    """Features and weights of generated, positive and unconditional samples, as `map_loss` takes them."""
    rng = np.random.default_rng(0)
    features = [
        jnp.asarray(rng.normal(size=(labels, count, positions, channels)) + shift, dtype)
        for count, shift in ((n, 2.0), (p, 2.8), (u, 1.6))
    ]
    return [*features, *(jnp.float32(rng.uniform(0.5, 1.5, (labels, count))) for count in (n, p, u))]


@partial(jax.jit, static_argnums=0)
def evaluate(objective: Objective, widths: Any, gen: Any, *others: Any) -> Any:
    return jax.value_and_grad(lambda x: map_loss(objective, widths, x, *others), has_aux=True)(gen)


def assert_same(
    objective: dict[str, Any], widths: list[float], args: list[Any], bound: float = 1e-5, how: str = "gpu-interpreted"
) -> None:
    """Loss, gradient and metrics by kernels are those of the reference, in the Euclidean norm."""
    found, wanted = (
        jax.tree.leaves(evaluate(Objective(**objective, fused=by), jnp.float32(widths), *args)) for by in (how, None)
    )
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
        assert np.linalg.norm(one - other) <= bound * np.linalg.norm(other)


def objectives_and_kernels() -> list[Any]:
    """Each with each; at first each with one of them."""
    every = [(name, kernel, (i - j) % 3) for i, name in enumerate(COVERED) for j, kernel in enumerate(KERNELS)]
    return [(name, kernel) for name, kernel, later in every if FULL or not later]


@pytest.mark.parametrize(("name", "kernel"), objectives_and_kernels())
def test_every_objective_is_that_of_the_reference(name: str, kernel: str):
    """Numbers of samples and channels that fill no tile, and three widths."""
    args = arguments(2, 5, 6, 3, 2, 40)
    assert fused.is_covered(Objective(name, kernel, fused="gpu-interpreted"), (5, 3, 6), 40)
    assert_same(dict(name=name, kernel=kernel), [0.05, 0.3, 1.0], args)


@pytest.mark.parametrize(("name", "kernel"), [("drift", "laplace"), ("log_kde", "gaussian"), ("score", "laplace")])
@pytest.mark.parametrize("unconditional", [0, 3])
def test_as_a_tpu_has_it(name: str, kernel: str, unconditional: int):
    """Whole arrays, apart by position; generated samples are as many as lie side by side."""
    args = arguments(2, 8, 5, unconditional, 3, 40)
    assert fused.is_covered(Objective(name, kernel, fused="tpu-interpreted"), (8, unconditional, 5), 40)
    assert_same(dict(name=name, kernel=kernel), [0.05, 1.0], args, how="tpu-interpreted")


@pytest.mark.parametrize(
    "sizes", [(1, 16, 16, 0, 1, 32), (2, 4, 33, 0, 3, 7), (1, 17, 2, 16, 2, 65), (3, 2, 2, 1, 1, 1)]
)
@pytest.mark.parametrize(("name", "normalise"), [("log_kde", False), ("drift", True), ("mmd_kde", False)])
def test_odd_sizes(name: str, normalise: bool, sizes: tuple[int, ...]):
    assert_same(dict(name=name, kernel="laplace", normalise_field=normalise), [0.4], arguments(*sizes))


@pytest.mark.parametrize("name", ["log_kde", "drift_row"])
def test_what_fills_a_tile_is_nothing_beside_samples_that_are_far_apart(name: str):
    """Whose kernel falls as a power of their distance, here 1e10 widths."""
    features, weights = (arguments(2, 5, 6, 3, 2, 4)[i] for i in (slice(3), slice(3, 6)))
    far = [1e4 * x for x in features]
    assert_same(dict(name=name, kernel="rational_quadratic", feature_scale="none"), [1e-6], [*far, *weights])


@pytest.mark.parametrize("scale", ["per_problem", "none"])
def test_every_feature_scale(scale: str):
    assert_same(dict(name="log_kde", kernel="gaussian", feature_scale=scale), [0.4, 2.0], arguments(2, 4, 5, 3, 2, 6))


def test_features_in_bfloat16():
    """They are read as such; the gradient, of their dtype, is that of the reference to its last digit."""
    assert_same(dict(name="drift", kernel="laplace"), [0.2], arguments(2, 4, 5, 3, 2, 6, jnp.bfloat16), bound=2**-8)


def test_maps_together_and_the_gap_where_it_is_asked_for():
    gen, pos, unc, *_ = arguments(2, 4, 5, 3, 2, 6)
    maps = [{"a": x, "b": x[:, :, :1] * 3} for x in (gen, pos, unc)]

    @partial(jax.jit, static_argnums=0)
    def evaluate(how: str | None, measure: Any) -> Any:
        objective = Objective("drift", "laplace", fused=how)
        loss = partial(objective_loss, objective, jnp.float32([0.3, 0.1]))
        unconditional = jnp.float32([0.0, 1.7])
        return jax.value_and_grad(lambda x: loss(x, *maps[1:], unconditional, measure=measure), has_aux=True)(maps[0])

    for measure in (True, False):
        found, wanted = (evaluate(how, measure) for how in ("gpu-interpreted", None))
        assert all(np.isfinite(m.gap) == measure for m in found[0][1].values())
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize(("name", "kernel"), [("log_kde", "laplace"), ("drift", "rational_quadratic")])
def test_however_wide_a_kernel_what_fills_a_tile_counts_for_nothing(name: str, kernel: str):
    widths, args = jnp.float32([0.3, WIDTH_RANGE[1]]), arguments(2, 4, 5, 3, 2, 6)
    found, wanted = (evaluate(Objective(name, kernel, fused=how), widths, *args) for how in ("gpu-interpreted", None))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5, equal_nan=False)


@pytest.mark.parametrize("number", range(29) if FULL else (0, 9, 20))
def test_golden(golden: Path, number: int):
    """The drift loss of the released code and its gradient, at the tolerances of the reference's own test."""
    case, args = drift_case(golden, number)
    objective = Objective("drift", "laplace", fused="gpu-interpreted")
    (loss, metrics), gradient = evaluate(objective, case["R_list"], *args)
    for found, wanted in (
        (loss, case["loss"].mean()),
        (gradient[:, :, 0] * len(case["gen"]), case["grad_gen"]),
        (metrics.scale, case["info_scale"]),
        (np.square(metrics.field_norm), case["info_loss_R"]),
    ):
        assert np.linalg.norm(found - wanted) <= 2e-5 * np.linalg.norm(wanted)


@pytest.mark.parametrize("name", COVERED)
def test_for_gpus_there_are_three_kernels(name: str):
    """Lowered, which needs no compiler of theirs: Triton has all operations of every field and potential."""
    maps = [{"map": x} for x in arguments(1, 4, 5, 3, 1, 6)[:3]]
    loss = partial(objective_loss, Objective(name, "laplace", fused="gpu"), jnp.float32([0.3]))
    gradient = jax.jit(jax.grad(lambda x: loss(x, *maps[1:], jnp.float32([1.7])), has_aux=True))
    text = gradient.trace(maps[0]).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("__gpu$xla.gpu.triton") == 3


def test_on_gpus_maps_of_all_sizes_have_the_same_kernels():
    """What is compiled for one serves all; only channels that are no multiple of a tile's, and a number of problems of
    another order, have their own."""
    shapes = {"a": (2, 64), "b": (7, 128), "c": (40, 32), "d": (2, 65), "e": (300, 96)}
    maps = [{name: jnp.zeros((2, count, *shape)) for name, shape in shapes.items()} for count in (4, 5, 3)]
    loss = partial(objective_loss, Objective("drift", "laplace", fused="gpu"), jnp.float32([0.3, 0.1]))

    @jax.jit
    def gradient(gen: Any, measure: Any) -> Any:
        return jax.grad(lambda x: loss(x, *maps[1:], jnp.float32([1.7, 1.0]), measure=measure), has_aux=True)(gen)

    text = gradient.trace(maps[0], True).lower(lowering_platforms=("cuda",)).as_text()
    found = re.findall(r"__gpu\$xla.gpu.triton\(.*?backend_config = \{(.*?)\}, operand", text, re.DOTALL)
    assert len(found) == 3 * len(shapes) and len(set(found)) == 3 * 3


def test_what_the_kernels_do_not_know_is_computed_by_the_reference():
    """A kernel of one's own, a link that searches, and problems that are too large for a program."""
    args = arguments(1, 4, 5, 3, 1, 6)
    few = (4, 3, 5)
    own = Kernel(lambda d, width: -jnp.log1p(d / width) * 3)
    for objective, counts in (
        (Objective("log_kde", own, fused="gpu-interpreted"), few),
        (Objective("inverse_profile_kde", "laplace", fused="gpu-interpreted"), few),
        (Objective("log_kde", "laplace"), few),
        (Objective("log_kde", "laplace", fused="gpu-interpreted"), (100, 3, 100)),
        (Objective("log_kde", "laplace", fused="tpu-interpreted"), few),  # 4 generated samples
    ):
        assert not fused.is_covered(objective, counts, 6)
    few = Objective("log_kde", "laplace", fused="gpu"), (4, 3, 5)
    assert fused.is_covered(*few, 2**10, 2**17) and not fused.is_covered(
        *few, 2**10, 2**18
    )  # places are 32-bit numbers
    assert np.isfinite(evaluate(Objective("log_kde", own, fused="gpu-interpreted"), jnp.float32([0.4]), *args)[0][0])
