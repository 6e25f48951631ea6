"""Measures the drift of a trained generator, map by map."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from drifting.assembly.recipe import objective_of
from drifting.config.schema import DiagnoseSettings, LossConfig
from drifting.data.source import LabelledSource, read_records
from drifting.errors import counted, require
from drifting.method.alignment import Alignment, Side, compare, sides
from drifting.method.encoders import FeatureEncoder
from drifting.method.exact_pairs import independent_pairs
from drifting.method.fields import drift
from drifting.method.guidance import unconditional_weight
from drifting.method.kernels import Kernel
from drifting.method.loss import map_loss
from drifting.method.objective import MapMetrics, Objective
from drifting.method.space import SampleSpace
from drifting.method.spread import neighbour_distance
from drifting.networks.network import Generator, Params

logger = logging.getLogger("drifting")

BLOCK_NAMES = ("generated", "unconditional", "positive")
"""The names of the blocks of samples, in the order of the arrays of `BlockMeans`."""

BLOCK_QUANTITIES = ("effective", "eps_sym²", "eps_mc²")
"""The names of the quantities of each block, in the order of the attributes of `BlockMeans`."""

_map_loss = jax.jit(map_loss, static_argnums=0)

LOGGED_QUANTITIES = ("relative_error", "cosine", "preconditioner_ratio", "residual_gap")
"""What is looked at first, and logged in training: the four panels of the paper's Figure 5."""


@dataclass(frozen=True)
class Subject:
    """What is diagnosed: a generator, its real samples, and the loss they meet in."""

    generator: Generator
    source: LabelledSource
    space: SampleSpace
    encoder: FeatureEncoder
    loss: LossConfig
    objective: Objective


def subject_of(
    loss: LossConfig, generator: Generator, source: LabelledSource, space: SampleSpace, encoder: FeatureEncoder
) -> Subject:
    """What is diagnosed, from its parts. Raises `ConfigError` where the loss names what there is not."""
    return Subject(generator, source, space, encoder, loss, objective_of(loss))


class Problem(NamedTuple):
    """One feature map of all labels, `[L, samples, positions, C]` each, or one drift problem, `[samples, C]` each.

    Attributes:
        x: generated samples, the queries, and as in training the first negatives.
        pos, unc: positives and unconditional negatives, as many as in training.
        ref_q, ref_p, ref_u: further samples, with which the former are compared: generated and real ones of the class,
            and real ones of any class. None is among the former too, or the two would be alike by that alone.
    """

    x: Array
    pos: Array
    unc: Array
    ref_q: Array
    ref_p: Array
    ref_u: Array


class BlockMeans(NamedTuple):
    """Means over queries and problems of each block of negatives and positives, `[3]` in the order of `BLOCK_NAMES`.

    Attributes:
        effective: effective sample size `1 / sum w^2` of the softmax over targets within the block.
        symmetry: `eps_sym^2`, squared distance of the block's barycentres with and without the softmax over queries.
        pool: `eps_mc^2`, squared distance of the latter from the barycentre of the block's further samples.
    """

    effective: Array
    symmetry: Array
    pool: Array


def one_problem(problem: Problem, kernel: Kernel, width: ArrayLike) -> tuple[Side, Side, BlockMeans]:
    """Both sides of a problem, `[N, ...]`, and the blocks of its training pools, `[3, N]`. For p stand all real samples
    of the class, for q the further generated ones."""
    centre = jnp.mean(problem.pos, axis=0)
    x, pos, unc, ref_q, ref_p, ref_u = (a - centre for a in problem)
    real = jnp.concatenate([pos, ref_p])
    p, q = sides(independent_pairs(x, real, ref_q), x, real, ref_q, kernel, width)
    anything, others = sides(independent_pairs(x, ref_u, ref_p), x, ref_u, ref_p, kernel, width)
    oracle = (x + q.mean_shift, x + anything.mean_shift, x + others.mean_shift)

    negatives, n = jnp.concatenate([x, unc]), len(x)
    pairs = independent_pairs(x, pos, negatives)
    pairs = pairs._replace(is_self=jnp.eye(n, len(negatives), dtype=bool))
    # Within a block the other blocks' share of the softmax over targets cancels. So each block has a softmax of its
    # own: with Gauss the share of a block that is further away than another is zero in float32.
    logits = [kernel.log_k(d, width) for d in (pairs.d_neg[:, :n], pairs.d_neg[:, n:], pairs.d_pos)]
    logits[0] = jnp.where(pairs.is_self[:, :n], -jnp.inf, logits[0])
    row = [jax.nn.softmax(a, axis=1) for a in logits]
    affinities = drift(pairs, kernel, width)  # floored, so none is zero
    blocks = (-affinities.neg[:, :n], -affinities.neg[:, n:], affinities.pos)
    both = [a / jnp.sum(a, axis=1, keepdims=True) for a in blocks]
    targets = (x, unc, pos)
    exact = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    mean_both, mean_row = ([exact(w, y) for w, y in zip(ws, targets, strict=True)] for ws in (both, row))

    def squared(a: Sequence[Array], b: Sequence[Array]) -> Array:
        return jnp.stack([jnp.sum(jnp.square(u - v), axis=1) for u, v in zip(a, b, strict=True)])

    effective = jnp.stack([1 / jnp.sum(jnp.square(w), axis=1) for w in row])
    return p, q, BlockMeans(effective, squared(mean_both, mean_row), squared(mean_row, oracle))


@partial(jax.jit, static_argnames="kernel")
def measure_map(maps: Problem, kernel: Kernel, width: ArrayLike, scale: ArrayLike) -> tuple[Alignment, BlockMeans]:
    """The quantities of one feature map, all labels and positions together, in units of its feature scale."""

    def problems(a: Array) -> Array:
        labels, samples, positions, channels = a.shape
        moved = jnp.moveaxis(a, 2, 1).astype(jnp.float32) / scale
        return moved.reshape(labels * positions, samples, channels)

    each = Problem(*(problems(a) for a in maps))
    p, q, blocks = jax.lax.map(lambda problem: one_problem(problem, kernel, width), each, batch_size=8)
    return compare(p, q), jax.tree.map(lambda a: jnp.mean(a, axis=(0, 2)), blocks)


class Gathering:
    """Gathers the samples of every feature map, at most `positions` of its positions. Real samples are read once.

    Args:
        found: what is diagnosed.
        settings: how many samples there are.
        alpha: the guidance scale of the generated ones.
    """

    def __init__(self, found: Subject, settings: DiagnoseSettings, alpha: float) -> None:
        self._loss, self._settings, source = found.loss, settings, found.source
        rng = np.random.default_rng(settings.seed)
        counts = np.bincount(source.labels, minlength=source.num_classes)
        require(any(counts >= 2), "data.name", source.name, "no class has two samples")
        self._labels = np.sort(rng.permutation(np.flatnonzero(counts >= 2))[: settings.labels])
        real_of = [rng.permutation(np.flatnonzero(source.labels == label)) for label in self._labels]
        least = min(map(len, real_of))
        self._positives = min(found.loss.positives, least // 2)
        most = self._positives + settings.references
        if least < most:
            logger.warning(
                "study.references=%d: a class has %s, %d beside the positives, whose noise eps_mc² of the "
                "positives then has too",
                *(settings.references, counted(least, "real sample"), least - self._positives),
            )
        key_draw, self._key_noise = jax.random.split(jax.random.key(settings.seed))
        draw = jax.jit(lambda frozen, x, key: found.space.draw(frozen, found.space.records(frozen, x), key))
        features = jax.jit(found.encoder.features)
        generator, count = found.generator, settings.generated + settings.references

        def maps_of(samples: Array) -> dict[str, np.ndarray]:
            maps = features(found.encoder.params, samples)
            return {name: np.asarray(_spread(f, settings.positions), np.float32) for name, f in maps.items()}

        def real(rows: np.ndarray, number: int) -> dict[str, np.ndarray]:
            images, _ = read_records(source, rows, np.zeros(len(rows), bool), None)
            return maps_of(draw(found.space.params, images, jax.random.fold_in(key_draw, number)))

        @jax.jit
        def generate(params: Params, label: Array, key: Array) -> Array:
            noise = generator.sample_noise(params, jax.random.split(key, count))
            return generator(params, noise, jnp.full(count, label), jnp.full(count, alpha))

        self._maps_of, self._generate = maps_of, generate
        anything = rng.permutation(len(source))[: settings.references + found.loss.unconditional]
        self._of_any = real(anything, 0)
        self._of_class = [real(rows[: min(least, most)], number) for number, rows in enumerate(real_of, start=1)]

    def __call__(self, params: Params) -> dict[str, Problem]:
        """The problem of each map, with samples of the generator with `params`, always of the same noise."""
        n, k, loss = self._settings.generated, self._positives, self._loss
        out: dict[str, list[Problem]] = {name: [] for name in self._of_any}
        for number, (label, of_class) in enumerate(zip(self._labels, self._of_class, strict=True), start=1):
            key = jax.random.fold_in(self._key_noise, number)
            generated = self._maps_of(self._generate(params, jnp.int32(label), key))
            length = 1.0
            if loss.feature_scale == "neighbour":
                length = float(neighbour_distance(jnp.asarray(of_class["global"][None, :, 0]), loss.neighbours)[0])
            for name in out:
                fake, real, other = (maps[name] / length for maps in (generated, of_class, self._of_any))
                u = loss.unconditional
                arrays = (fake[:n], real[:k], other[:u], fake[n:], real[k:], other[u:])
                out[name].append(Problem(*(jnp.asarray(a) for a in arrays)))
        return {name: jax.tree.map(lambda *a: jnp.stack(a), *found) for name, found in out.items()}


def _spread(x: Array, count: int) -> Array:
    """Keeps at most `count` positions of `[B, positions, C]`, evenly spread."""
    positions = x.shape[1]
    return x[:, np.linspace(0, positions - 1, min(count, positions)).round().astype(int)]


class MapMeasures(NamedTuple):
    """A feature map: what training would log of it, and for each width the quantities of `measure_map`."""

    own: MapMetrics
    scale: float
    quantities: list[tuple[Alignment, BlockMeans]]


def measures_of(found: Subject, maps: Problem, kernel: Kernel, widths: Sequence[float], alpha: float) -> MapMeasures:
    """All quantities of one map; its own loss, gap and norms are those of the loss trained with."""
    labels, n = maps.x.shape[:2]
    w_unc = unconditional_weight(jnp.full(labels, alpha), n, maps.unc.shape[1])
    ones = jnp.ones
    weights = (ones((labels, n)), ones(maps.pos.shape[:2]), jnp.broadcast_to(w_unc[:, None], maps.unc.shape[:2]))
    samples = (maps.x, maps.pos, maps.unc)
    own = _map_loss(found.objective, jnp.asarray(widths, jnp.float32), *samples, *weights)[1]
    scale = max(float(own.scale), 1e-3)
    return MapMeasures(own, scale, [measure_map(maps, kernel, width, scale) for width in widths])


class Diagnosis:
    """The four quantities of the paper's Figure 5 in the course of a training, for every map and width of its loss.

    Args:
        found: what is trained.
        alpha: the guidance scale.
    """

    def __init__(self, found: Subject, alpha: float) -> None:
        self._found, self._alpha = found, alpha
        self._gather = Gathering(found, DiagnoseSettings(), alpha)

    def __call__(self, params: Params) -> dict[str, float]:
        """`diagnose/QUANTITY/MAP/WIDTH` of the generator with `params`."""
        loss = self._found.loss
        flat: dict[str, float] = {}
        for name, maps in self._gather(params).items():
            quantities = measures_of(
                self._found, maps, self._found.objective.kernel, loss.widths, self._alpha
            ).quantities
            for width, (alignment, _) in zip(loss.widths, quantities, strict=True):
                flat |= {f"diagnose/{q}/{name}/{width:g}": float(getattr(alignment, q)) for q in LOGGED_QUANTITIES}
        return flat
