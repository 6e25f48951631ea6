"""Whether a device computes what the CPU computes: losses, kernels, networks, attention, sample banks."""

import itertools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from drifting.assembly import networks
from drifting.config.schema import ModelConfig
from drifting.method import bank
from drifting.method.encoders.mae import mae_features
from drifting.method.fields import FIELDS
from drifting.method.kernels import KERNELS
from drifting.method.loss import objective_loss
from drifting.method.objective import LOSS_MEMORY, Objective
from drifting.method.potentials import LOSSES
from drifting.networks.flash import FLASH_PLATFORMS, flash_attend
from drifting.networks.layers import attend
from drifting.networks.mae import MAE
from scripts.chip.rows import Row, failed, guarded
from scripts.measuring import moved

WIDTHS = (0.2, 0.05, 0.02)
"""The kernel widths of the published ablation."""

TOLERANCES = {
    "kernels": 1e-5,
    "losses, float32": 2e-4,
    "losses, bfloat16": 2e-3,
    "networks, float32, exact products": 2e-4,
    "networks, float32, products as in training": 3e-2,
    "networks, bfloat16": 6e-2,
    "attention in one kernel, float32, exact products": 2e-4,
    "attention in one kernel, bfloat16": 2e-2,
    "sample banks": 0.0,
}
"""Relative errors, norm of the difference over norm, of value and gradient. The CPU computes losses in the same dtype,
networks and attention in float32 with exact products; banks hold bits, and have to agree in each.

Two ways of summing on one CPU differ in losses by 4e-5 in float32 and 3e-4 in bfloat16 at the most; and networks and
attention in bfloat16 from those in float32 by 2e-2 and 3e-3."""


# Programs that run once: optimising them takes several times as long. Options that all of jax 0.10 to 0.12 have.
CPU_OPTIONS: dict[str, Any] = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@dataclass(frozen=True)
class Check:
    """One thing that both compute.

    Attributes:
        group: a key of `TOLERANCES`.
        name: what it is, in its group.
        device: the function, as the device computes it.
        cpu: the function, as the CPU computes it; both give trees of arrays of the same structure.
        arguments: of both, in the host's memory.
    """

    group: str
    name: str
    device: Callable[..., Any]
    cpu: Callable[..., Any]
    arguments: tuple[Any, ...]


def rows(tiny: bool, seconds: float) -> Iterator[Row]:
    """A row for each check: the largest relative error of what it gives, the tolerance, and whether it passed.

    `seconds`: checks that have not begun by then are left out.
    """
    device, end = jax.local_devices()[0], time.monotonic() + seconds
    # A compiler leaves most of a host's cores idle.
    with ThreadPoolExecutor() as pool:
        for group in GROUPS:
            try:
                checks = list(group(device, tiny))
            except Exception as error:  # what one group is made of must not take the others with it
                yield failed(group.__name__, error)
                continue
            found = pool.map(lambda c: _row(c, device, end), checks)
            yield from found


def _row(check: Check, device: jax.Device, end: float) -> Row:
    name = f"{check.group}: {check.name}"
    if time.monotonic() >= end:
        return {"name": name, "group": check.group, "left_out": "the time for comparing was over"}
    return {"group": check.group} | guarded(name, partial(compare, check, device))


def compare(check: Check, device: jax.Device) -> Row:
    """The row of one check."""
    found = _computed(check.device, check.arguments, device)
    wanted = _computed(check.cpu, check.arguments, jax.devices("cpu")[0])
    tolerance = TOLERANCES[check.group]
    error = largest_error(found, wanted)
    if not np.isfinite(error):
        return {"tolerance": tolerance, "error": "what is not finite, or of another shape, was computed", "ok": False}
    return {"largest_error": error, "tolerance": tolerance, "ok": bool(error <= tolerance)}


def _computed(function: Callable[..., Any], arguments: tuple[Any, ...], device: jax.Device) -> Any:
    options = CPU_OPTIONS if device.platform == "cpu" else None
    return jax.device_get(jax.jit(function, compiler_options=options)(*jax.device_put(arguments, device)))


def largest_error(found: Any, wanted: Any) -> float:
    """The largest relative error of the arrays of a tree, norm of the difference over norm; infinite where one of them
    holds what is not finite."""
    errors = [0.0]
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        a, b = (np.asarray(x, np.float64) for x in (a, b))
        if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
            return float("inf")
        norm = np.linalg.norm(b)
        errors.append(float(np.linalg.norm(a - b) / (norm if norm else 1.0)))
    return max(errors)


def kernels(device: jax.Device, tiny: bool) -> Iterator[Check]:
    """Kernel, sharp and flat at distances over four decades, and the derivative of the sharp."""
    d = np.geomspace(1e-2, 10.0, 64, dtype=np.float32)
    for name, kernel in KERNELS.items():

        def profiles(d: jax.Array, width: jax.Array, kernel: Any = kernel) -> Any:
            found = (kernel.log_k(d, width), kernel.log_sharp(d, width), kernel.log_flat(d, width))
            return *found, jax.grad(lambda d: jnp.sum(kernel.log_sharp(d, width)))(d)

        yield Check("kernels", name, profiles, profiles, (d, np.float32(0.5)))


def losses(device: jax.Device, tiny: bool) -> Iterator[Check]:
    """Every objective with every kernel: value and gradient of two maps, in chunks as the platform has them; and each
    objective by kernels in Pallas, where there are some."""
    platform = platform_of(device)
    labels, generated, positives, unconditional = (2, 8, 8, 2) if tiny else (4, 64, 64, 16)
    shapes = {"small": (2, 16), "large": (4, 32)} if tiny else {"small": (4, 64), "large": (16, 256)}
    rng = np.random.default_rng(0)

    def maps(samples: int, shift: float) -> dict[str, np.ndarray]:
        return {name: rng.normal(shift, 1.0, (labels, samples, *s)).astype(np.float32) for name, s in shapes.items()}

    features = maps(generated, 0.3), maps(positives, 0.0), maps(unconditional, 0.0)
    weights = rng.uniform(0.5, 2.0, labels).astype(np.float32)
    widths = np.asarray(WIDTHS, np.float32)
    for objective, kernel, dtype in combinations(tiny):
        given = jax.tree.map(lambda x, dtype=dtype: x.astype(jnp.dtype(dtype)), features)
        there, here = (partial(_loss_and_gradient, objective, kernel, place, None) for place in (platform, "cpu"))
        yield Check(f"losses, {dtype}", f"{objective}, {kernel}", there, here, (widths, *given, weights))
    fused = {"gpu": "gpu", "cpu": "gpu-interpreted", "tpu": "tpu"}.get(platform)
    # Each objective once: its kernels take long to compile.
    for objective, kernel, dtype in combinations(tiny=True) if fused else []:
        given = jax.tree.map(lambda x, dtype=dtype: x.astype(jnp.dtype(dtype)), features)
        there = partial(_loss_and_gradient, objective, kernel, platform, fused)
        here = partial(_loss_and_gradient, objective, kernel, "cpu", None)
        name = f"{objective}, {kernel}, in kernels"
        yield Check(f"losses, {dtype}", name, there, here, (widths, *given, weights))


def combinations(tiny: bool) -> list[tuple[str, str, str]]:
    """Objective, kernel and dtype: all of them; `tiny`: each objective once, the others in turn."""
    objectives, dtypes = (*LOSSES, *FIELDS), ("float32", "bfloat16")
    if tiny:
        return list(zip(objectives, itertools.cycle(KERNELS), itertools.cycle(dtypes), strict=False))
    # The kernel last: where time is short, every objective has had its turn.
    return [(objective, kernel, dtype) for kernel in KERNELS for dtype in dtypes for objective in objectives]


def _loss_and_gradient(
    name: str, kernel: str, platform: str, fused: str | None, widths: Any, gen: Any, pos: Any, unc: Any, w_unc: Any
) -> Any:
    # Potentials are trained as they are, as in the recipes for MNIST; of fields there is but one form.
    memory = LOSS_MEMORY[platform]
    objective = Objective(name, kernel, normalise_field=name in FIELDS, memory=memory, fused=fused)
    return jax.value_and_grad(lambda gen: objective_loss(objective, widths, gen, pos, unc, w_unc)[0])(gen)


def platform_of(device: jax.Device) -> str:
    """`cpu`, `gpu` or `tpu`."""
    return device.platform if device.platform in LOSS_MEMORY else "gpu"


def nets(device: jax.Device, tiny: bool) -> Iterator[Check]:
    """A small generator and a small MAE encoder: what they give, and a gradient."""
    platform = platform_of(device)
    for name, forward, arguments in (("generator", *_generator(tiny)), ("MAE encoder", *_encoder(tiny))):
        reference = partial(forward, "float32", "cpu", True)
        for group, dtype, exact in (
            ("networks, float32, exact products", "float32", True),
            ("networks, float32, products as in training", "float32", False),
            ("networks, bfloat16", "bfloat16", False),
        ):
            yield Check(group, name, partial(forward, dtype, platform, exact), reference, arguments)


def _generator(tiny: bool) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """A function of dtype, platform, whether products are exact, and arguments; and these."""
    size = dict(hidden_size=32, depth=1, num_heads=2) if tiny else dict(hidden_size=256, depth=4, num_heads=4)
    shape, key, count = ((4, 4, 4) if tiny else (16, 16, 4)), jax.random.key(0), 2 if tiny else 8

    def made(dtype: str, platform: str) -> Any:
        model = ModelConfig(**size, dtype=dtype, attention_dtype=None)  # type: ignore[arg-type]
        return networks.generator(model, shape, 10, 0, platform)

    def arguments() -> Any:
        generator, init = made("float32", "cpu")
        params = moved(init(), key)
        noise = generator.sample_noise(params, jax.random.split(key, count))
        cotangent = jax.random.normal(key, (count, *shape))
        return params, noise, jnp.arange(count) % 10, jnp.linspace(1.0, 3.0, count), cotangent

    def forward(dtype: str, platform: str, exact: bool, params: Any, *rest: Any) -> Any:
        generator, _ = made(dtype, platform)
        *inputs, cotangent = rest
        return with_gradient(lambda params: generator(params, *inputs), exact, cotangent)(params)

    return forward, _on_cpu(arguments)


def _encoder(tiny: bool) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """As `_generator`; the gradient is that with respect to the samples, as training takes it."""
    size = dict(base_channels=8, layers=(1, 1)) if tiny else dict(base_channels=64, layers=(1, 1, 1, 1))
    shape = (2, 4, 4, 4) if tiny else (8, 16, 16, 4)

    def made(dtype: str) -> Any:
        network = dict(size, num_classes=0, in_channels=4, patch_size=2, input_patch_size=1, dtype=dtype, remat=False)
        return MAE(**network, rngs=nnx.Rngs(0)).encoder  # type: ignore[arg-type]

    def arguments() -> Any:
        return nnx.to_pure_dict(nnx.state(made("float32"))), jax.random.normal(jax.random.key(1), shape)

    def forward(dtype: str, platform: str, exact: bool, params: Any, x: Any) -> Any:
        graphdef = nnx.graphdef(nnx.eval_shape(partial(made, dtype)))
        return with_gradient(lambda x: mae_features(nnx.merge(graphdef, params), x), exact)(x)

    return forward, _on_cpu(arguments)


def _on_cpu(make: Callable[[], Any]) -> Any:
    """What a function makes, in the host's memory, made by the CPU: the same for all devices."""
    with jax.default_device(jax.devices("cpu")[0]):
        return jax.device_get(jax.jit(make, compiler_options=CPU_OPTIONS)())


def with_gradient(function: Callable[[Any], Any], exact: bool, cotangent: Any = None) -> Callable[[Any], Any]:
    """`function` and the gradient of the sum of all that it gives times `cotangent`; None: of the mean squares.

    `exact`: products of float32 are not rounded to what the device multiplies fastest.
    """

    def total(x: Any) -> tuple[Any, Any]:
        out = function(x)
        if cotangent is not None:
            return jnp.sum(out * cotangent), out
        return sum(jnp.mean(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(out)), out

    def both(x: Any) -> Any:
        with jax.default_matmul_precision("highest" if exact else "default"):
            (_, out), gradient = jax.value_and_grad(total, has_aux=True)(x)
        return _as_one(out), _as_one(gradient)

    return both


def _as_one(tree: Any) -> Any:
    """All numbers as one array, judged together: some maps, and gradients of some parameters, are next to zero."""
    return jnp.concatenate([leaf.astype(jnp.float32).ravel() for leaf in jax.tree.leaves(tree)])


def attention(device: jax.Device, tiny: bool) -> Iterator[Check]:
    """The kernel that this platform has for attention; where it has none, that for GPU as JAX operations."""
    platform, rng = platform_of(device), np.random.default_rng(0)
    has_one = platform in FLASH_PLATFORMS
    kernel = partial(flash_attend, platform=platform if has_one else "gpu", interpret=not has_one)
    for tokens in (40,) if tiny else (272, 304):
        shape = (1, 2, tokens, 16) if tiny else (4, 12, tokens, 64)
        # Numbers that bfloat16 has, too.
        *given, cotangent = (rng.normal(size=shape).astype(jnp.bfloat16).astype(np.float32) for _ in range(4))

        def computed(exact: bool, function: Any, dtype: Any, given: Any, cotangent: Any) -> Any:
            return with_gradient(
                lambda given: function(*(x.astype(dtype) for x in given)).astype(jnp.float32), exact, cotangent
            )(given)

        name = f"{tokens} tokens" + ("" if has_one else ", interpreted")
        reference, arguments = partial(computed, True, attend, jnp.float32), (given, cotangent)
        for group, dtype, exact in (("float32, exact products", jnp.float32, True), ("bfloat16", jnp.bfloat16, False)):
            found = partial(computed, exact, kernel, dtype)
            yield Check(f"attention in one kernel, {group}", name, found, reference, arguments)


def banks(device: jax.Device, tiny: bool) -> Iterator[Check]:
    """Push and draw, to the last bit."""
    classes, capacity, batch = (3, 4, 9) if tiny else (100, 64, 512)
    for dtype, shape in (("float16", (8, 8, 8)), ("uint8", (9, 9, 3))):
        rng = np.random.default_rng(0)
        samples = rng.integers(0, 255, (2, batch, *shape)).astype(dtype)
        labels = rng.integers(-1, classes, (2, batch)).astype(np.int32)

        def held(samples: Any, labels: Any, dtype: str = dtype, shape: Any = shape) -> Any:
            found = bank.empty_bank(classes, capacity, shape, dtype)
            for new, of in zip(samples, labels, strict=True):
                found = bank.push(found, new, of, jnp.arange(batch))
            drawn = bank.sample(found, jax.random.key(0), jnp.arange(classes), 3)
            return found.words, found.ids, found.pushed, drawn

        yield Check("sample banks", f"push and draw, {dtype}", held, held, (samples, labels))


GROUPS: tuple[Callable[[jax.Device, bool], Iterator[Check]], ...] = (kernels, losses, nets, attention, banks)
"""What is compared."""
