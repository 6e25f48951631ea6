"""One-step generators of points: the whole method on one drift problem, small enough to train by the dozen."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from drifting.method.fields import Pairs, displace
from drifting.method.kernels import pairwise_distance
from drifting.method.objective import Objective, attach_gradient
from drifting.networks.mlp import MLP
from drifting.networks.network import Params
from drifting.studies.targets import PointSampler

Distance = Callable[[Array, Array], Array]

Carry = tuple[Params, Params, Any]


class Start(NamedTuple):
    """Where the generated distribution starts: the untrained network's output times `scale`, about `centre`."""

    centre: tuple[float, ...] | float = 0.0
    scale: float = 1.0


@dataclass(frozen=True)
class ToyRecipe:
    """How a generator is trained: Adam to a rate that falls to zero along a cosine, samples from an average.

    `batch` samples of each side a step; `hidden_size` and `depth` of an MLP that maps `noise_dim` normals to a point.
    """

    steps: int = 1000
    batch: int = 1024
    learning_rate: float = 2e-3
    hidden_size: int = 128
    depth: int = 4
    noise_dim: int = 32
    ema_decay: float = 0.99


class ToyGenerator(NamedTuple):
    """A trained generator: `sample(key, n) -> [n, D]`, and what it drew on the way, `[snapshots, n, D]`."""

    sample: PointSampler
    snapshots: np.ndarray


def move(objective: Objective, width: ArrayLike, x: Array, y: Array, distance: Distance = pairwise_distance) -> Array:
    """The field of one problem at generated `x` `[N, D]`, which are their own negatives, towards `y` `[P, D]`.

    With `normalise_field` it has unit root mean square. Distances are taken as they come, without a feature scale.
    """
    is_self = jnp.eye(x.shape[0], dtype=bool)
    d_neg = jnp.where(is_self, 0.0, distance(x, x))
    pairs = Pairs(distance(x, y), d_neg, jnp.ones(y.shape[0]), jnp.ones(x.shape[0]), is_self)
    centre = jnp.mean(y, axis=0)
    v = displace(objective.affinities(pairs, width), x - centre, y - centre, x - centre)
    if objective.normalise_field:
        v *= jax.lax.rsqrt(jnp.maximum(jnp.mean(jnp.square(v)), 1e-8))
    return v


def train_toy(
    objective: Objective,
    width: ArrayLike,
    target: PointSampler,
    recipe: ToyRecipe,
    *,
    dimension: int = 2,
    start: Start | None = None,
    distance: Distance = pairwise_distance,
    snapshots: int = 0,
    shown: int = 512,
    seed: int = 0,
) -> ToyGenerator:
    """Trains a generator to draw `target`, by the stop-gradient objective `mean |x - sg(x + V(x))|^2`.

    Args:
        objective: field or potential and kernel; `normalise_field` is obeyed, `feature_scale` is not.
        width: kernel width, in the units of the points (traced: no new width compiles anything).
        target: draws `[n, dimension]` real points.
        start: where the generated distribution begins.
        distance: how distances are computed, for those who doubt them.
        snapshots, shown: draw so many points so many times on the way, evenly spread, the untrained network's first.
    """
    network = MLP(
        noise_dim=recipe.noise_dim,
        out_dim=dimension,
        hidden_size=recipe.hidden_size,
        depth=recipe.depth,
        num_classes=0,
        dtype="float32",
        rngs=nnx.Rngs(params=jax.random.key(seed)),
    )
    graphdef, state = nnx.split(network)
    params, start = nnx.to_pure_dict(state), start or Start()
    params["last"]["kernel"] = params["last"]["kernel"] * start.scale
    params["last"]["bias"] = jnp.broadcast_to(jnp.asarray(start.centre, jnp.float32), (dimension,))

    parts = max(snapshots - 1, 1)
    setup = _Setup(graphdef, objective, target, recipe, distance, -(-recipe.steps // parts))
    picture_key = jax.random.key(seed + 1)
    carry = (params, params, _adam(recipe).init(params))
    drawn = [_draw(graphdef, recipe.noise_dim, params, picture_key, shown)]
    for part in range(parts):
        carry = _advance(setup, carry, jnp.int32(part * setup.chunk), jnp.float32(width), jax.random.key(seed))
        if snapshots:
            drawn.append(_draw(graphdef, recipe.noise_dim, carry[1], picture_key, shown))
    average = carry[1]
    return ToyGenerator(lambda key, n: _draw(graphdef, recipe.noise_dim, average, key, n), np.asarray(jnp.stack(drawn)))


class _Setup(NamedTuple):
    """What a training step is compiled for: widths, seeds and starts are not among it."""

    graphdef: Any
    objective: Objective
    target: PointSampler
    recipe: ToyRecipe
    distance: Distance
    chunk: int


def _adam(recipe: ToyRecipe) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(recipe.learning_rate, recipe.steps))


@partial(jax.jit, static_argnums=(0, 1, 4))
def _draw(graphdef: Any, noise_dim: int, params: Params, key: Array, n: int) -> Array:
    noise = {"image": jax.random.normal(key, (n, noise_dim))}
    return nnx.merge(graphdef, params)(noise, jnp.zeros(n, jnp.int32), 1.0)


@partial(jax.jit, static_argnums=0)
def _advance(setup: _Setup, carry: Carry, first: Array, width: Array, key: Array) -> Carry:
    """Trains `setup.chunk` steps, the first of which has the number `first`."""
    recipe, optimizer = setup.recipe, _adam(setup.recipe)

    def step(carry: Carry, t: Array) -> tuple[Carry, None]:
        params, average, opt_state = carry
        key_x, key_y = jax.random.split(jax.random.fold_in(key, t))
        y = setup.target(key_y, recipe.batch)

        def loss(params: Params) -> Array:
            x = _draw(setup.graphdef, recipe.noise_dim, params, key_x, recipe.batch)
            v = move(setup.objective, width, jax.lax.stop_gradient(x), y, setup.distance)
            return attach_gradient(x, jnp.mean(jnp.square(v)), -2 * v / x.size)

        updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state)
        params = optax.apply_updates(params, updates)
        decay = jnp.minimum(recipe.ema_decay, (1 + t) / (10 + t))
        average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, average, params)
        return (params, average, opt_state), None

    return jax.lax.scan(step, carry, first + jnp.arange(setup.chunk))[0]


def sliced_wasserstein(a: Array, b: Array, key: Array, projections: int = 200) -> Array:
    """Mean over random directions of the Wasserstein-1 distance of the projections; `[N, D]` both, as many each."""
    directions = jax.random.normal(key, (a.shape[1], projections))
    directions /= jnp.linalg.norm(directions, axis=0)
    exact = jax.lax.Precision.HIGHEST
    u, v = (jnp.sort(jnp.matmul(x, directions, precision=exact), axis=0) for x in (a, b))
    return jnp.mean(jnp.abs(u - v))


def rbf_mmd(a: Array, b: Array, bandwidth: ArrayLike) -> Array:
    """Maximum mean discrepancy of `[N, D]` and `[M, D]`, Gaussian kernel: the root of the unbiased estimate of its
    square, zero where that is negative."""

    def mean_kernel(x: Array, y: Array) -> Array:
        rows = jax.lax.map(lambda row: jnp.mean(jnp.exp(-jnp.sum((row - y) ** 2, -1) / (2 * bandwidth**2))), x)
        return jnp.mean(rows)

    def within(x: Array) -> Array:
        n = x.shape[0]
        return (mean_kernel(x, x) * n - 1) / (n - 1)

    return jnp.sqrt(jnp.maximum(within(a) + within(b) - 2 * mean_kernel(a, b), 0.0))
