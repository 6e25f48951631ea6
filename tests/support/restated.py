"""The mathematics once more, in float64 NumPy: explicit loops and exact differences, written from the definitions.

Nothing here is shared with the package, and nothing is fast. Kernels are `log_k(d, width)`; their sharp and flat come
from the defining integrals and derivatives, so that the closed forms have something to be compared with.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import quad_vec

from drifting.method.kernels import KERNELS

LogProfile = Callable[[np.ndarray, float], np.ndarray]

LOG_K: dict[str, LogProfile] = {
    "gaussian": lambda d, s: -(d**2) / (2 * s**2),
    "laplace": lambda d, s: -d / s,
    "rational_quadratic": lambda d, s: -2 * np.log(1 + d**2 / s**2),
}

# Closed forms of "Drifting Fields are not Conservative", Table 1, as printed: sharp k# and flat kb from k, d and width.
SHARP = {
    "gaussian": lambda k, d, s: s**2 * k,
    "laplace": lambda k, d, s: s * (d + s) * k,
    "rational_quadratic": lambda k, d, s: s**2 / 2 * np.sqrt(k),
}

FLAT = {
    "gaussian": lambda k, d, s: k / s**2,
    "laplace": lambda k, d, s: k / (s * d),
    "rational_quadratic": lambda k, d, s: 4 / s**2 * k**1.5,
}


def log_profile(name: str) -> LogProfile:
    """`log k` of an entry of KERNELS; of one that is not restated above, its own profile run in float64."""

    def own(d: np.ndarray, width: float) -> np.ndarray:
        with jax.enable_x64(True):
            return np.asarray(KERNELS[name].log_profile(jnp.asarray(d, jnp.float64), width), np.float64)

    return LOG_K.get(name, own)


def log_sharp(log_k: LogProfile, d: np.ndarray, width: float) -> np.ndarray:
    """`k# = ½ ∫_{d²}^∞ φ = ∫_d^∞ s k(s) ds`, by adaptive quadrature relative to `k(d)`."""
    d = np.asarray(d, np.float64)
    at_d = log_k(d, width)
    reach = width / (1 + d / width)  # a length on which every kernel falls, however far out

    def integrand(t: float) -> np.ndarray:
        s = d + reach * t
        return s * np.exp(log_k(s, width) - at_d) * reach / (width * (d + width))

    parts = [quad_vec(integrand, *ends, epsabs=1e-13, epsrel=1e-11)[0] for ends in ((0, 1), (1, 30), (30, np.inf))]
    return at_d + np.log(sum(parts)) + np.log(width * (d + width))


def log_flat(log_k: LogProfile, d: np.ndarray, width: float) -> np.ndarray:
    """`kb = −2 φ'(d²)` by central differences, `d > 0`."""
    r, step = np.asarray(d, np.float64) ** 2, 1e-5
    slope = (log_k(np.sqrt(r * (1 + step)), width) - log_k(np.sqrt(r * (1 - step)), width)) / (2 * r * step)
    return log_k(d, width) + np.log(-2 * slope)


def distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """`[N, D]`, `[M, D]` to `[N, M]`, from the differences."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return np.array([[np.sqrt(np.sum((a - b) ** 2)) for b in y] for a in x]).reshape(len(x), len(y))


@dataclass
class Problem:
    """One drift problem. `own[i, j]`: negative `j` is query `i` itself."""

    x: np.ndarray
    y_pos: np.ndarray
    y_neg: np.ndarray
    d_pos: np.ndarray
    d_neg: np.ndarray
    w_pos: np.ndarray
    w_neg: np.ndarray
    own: np.ndarray


def problem(
    x: np.ndarray,
    y_pos: np.ndarray,
    y_neg: np.ndarray,
    w_pos: np.ndarray | None = None,
    w_neg: np.ndarray | None = None,
    own: bool = False,
) -> Problem:
    """A problem in the units of its samples, in float64; `own`: the first negatives are the queries."""
    x, y_pos, y_neg = (np.asarray(a, np.float64) for a in (x, y_pos, y_neg))
    w_pos = np.ones(len(y_pos)) if w_pos is None else np.asarray(w_pos, np.float64)
    w_neg = np.ones(len(y_neg)) if w_neg is None else np.asarray(w_neg, np.float64)
    is_own = np.array([[own and i == j for j in range(len(y_neg))] for i in range(len(x))])
    return Problem(x, y_pos, y_neg, distances(x, y_pos), distances(x, y_neg), w_pos, w_neg, is_own)


def mean_shift(p: Problem, log_k: LogProfile, width: float) -> np.ndarray:
    """`Σ softmax(log k⁺ + log w) y⁺ − Σ softmax(log k⁻ + log w) y⁻`, row by row."""

    def barycentre(d: np.ndarray, y: np.ndarray, w: np.ndarray, skip: np.ndarray) -> np.ndarray:
        log_k_row = log_k(d, width)
        top = max(log_k_row[j] for j in range(len(y)) if not skip[j])
        k = [0.0 if skip[j] else w[j] * np.exp(log_k_row[j] - top) for j in range(len(y))]
        return sum(k[j] * y[j] for j in range(len(y))) / sum(k)

    nothing = np.zeros(len(p.y_pos), bool)
    return np.array(
        [
            barycentre(p.d_pos[i], p.y_pos, p.w_pos, nothing) - barycentre(p.d_neg[i], p.y_neg, p.w_neg, p.own[i])
            for i in range(len(p.x))
        ]
    )


def _ratio_of_means(
    p: Problem, log_top: Callable[[np.ndarray], np.ndarray], log_bottom: Callable[[np.ndarray], np.ndarray] | None
) -> np.ndarray:
    """`E_p[top (y − x)] / E_p[bottom] − E_q[top (y − x)] / E_q[bottom]`; without a bottom the divisor is one."""
    out = np.zeros_like(p.x)
    sides = ((1.0, p.y_pos, p.d_pos, p.w_pos, np.zeros(p.d_pos.shape, bool)), (-1.0, p.y_neg, p.d_neg, p.w_neg, p.own))
    for sign, y, d, w, skip in sides:
        safe = np.where(skip, 1.0, d)
        top = log_top(safe)
        bottom = np.zeros_like(d) if log_bottom is None else log_bottom(safe)
        for i in range(len(p.x)):
            kept = [j for j in range(len(y)) if not skip[i, j]]
            shift = max(bottom[i, j] for j in kept)
            below = sum(w[j] * np.exp(bottom[i, j] - shift) for j in kept)
            for j in kept:
                out[i] += sign * w[j] * np.exp(top[i, j] - shift) / below * (y[j] - p.x[i])
    return out


def mmd(p: Problem, log_k: LogProfile, width: float) -> np.ndarray:
    return _ratio_of_means(p, lambda d: log_k(d, width), None)


def sharp(p: Problem, log_k: LogProfile, width: float) -> np.ndarray:
    return _ratio_of_means(p, lambda d: log_k(d, width), lambda d: log_sharp(log_k, d, width))


def score(p: Problem, log_k: LogProfile, width: float) -> np.ndarray:
    return _ratio_of_means(p, lambda d: log_flat(log_k, d, width), lambda d: log_k(d, width))


def coulomb(p: Problem, log_k: LogProfile, width: float) -> np.ndarray:
    return _ratio_of_means(p, lambda d: log_flat(log_k, d, width), None)


def _softmax(a: np.ndarray, axis: int) -> np.ndarray:
    e = np.exp(a - a.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def _drift(p: Problem, log_k: LogProfile, width: float, *, affinity: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """`V_i = (Σ_k a⁻_ik) Σ_j a⁺_ij y⁺_j − (Σ_j a⁺_ij) Σ_k a⁻_ik y⁻_k`, the self pair 100 further away."""
    m = len(p.y_neg)
    d = np.concatenate([p.d_neg + 100.0 * p.own, p.d_pos], axis=1)
    a = affinity(log_k(d, width)) * np.concatenate([p.w_neg, p.w_pos])
    out = np.zeros_like(p.x)
    for i in range(len(p.x)):
        neg, pos = a[i, :m], a[i, m:]
        out[i] = neg.sum() * sum(pos[j] * y for j, y in enumerate(p.y_pos))
        out[i] -= pos.sum() * sum(neg[j] * y for j, y in enumerate(p.y_neg))
    return out


def two_axis(logits: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(_softmax(logits, 1) * _softmax(logits, 0), 1e-6))


FIELDS: dict[str, Callable[[Problem, LogProfile, float], np.ndarray]] = {
    "mean_shift": mean_shift,
    "mmd": mmd,
    "sharp": sharp,
    "score": score,
    "coulomb": coulomb,
    "drift": partial(_drift, affinity=two_axis),
    "drift_row": partial(_drift, affinity=lambda logits: _softmax(logits, 1)),
    "drift_raw": partial(_drift, affinity=np.exp),
}


def log_sharp_densities(p: Problem, log_k: LogProfile, width: float) -> tuple[np.ndarray, np.ndarray]:
    """`log p#` and `log q#` at every query, the counts those of the targets that are not left out."""
    k_pos = np.exp(log_sharp(log_k, p.d_pos, width))
    k_neg = np.exp(log_sharp(log_k, p.d_neg, width))
    log_p, log_q = np.zeros(len(p.x)), np.zeros(len(p.x))
    for i in range(len(p.x)):
        kept = [j for j in range(len(p.y_neg)) if not p.own[i, j]]
        log_p[i] = np.log(sum(p.w_pos * k_pos[i])) - np.log(sum(p.w_pos))
        log_q[i] = np.log(sum(p.w_neg[j] * k_neg[i, j] for j in kept)) - np.log(sum(p.w_neg[j] for j in kept))
    return log_p, log_q


def _minus_squared_inverse(log_v: np.ndarray, log_k: LogProfile, width: float) -> np.ndarray:
    """`−r²` with `k#(r) = v`; zero where `v` is not below `k#(0)`."""

    low, high = np.zeros_like(log_v), np.full_like(log_v, 1e3 * width)
    for _ in range(50):
        middle = (low + high) / 2
        further = log_sharp(log_k, middle, width) > log_v
        low, high = np.where(further, middle, low), np.where(further, high, middle)
    return -(low**2)


LINKS: dict[str, Callable[[np.ndarray, LogProfile, float], np.ndarray]] = {
    "log_kde": lambda log_v, log_k, width: log_v,
    "mmd_kde": lambda log_v, log_k, width: np.exp(log_v),
    "inverse_profile_kde": _minus_squared_inverse,
}


def potential(name: str, p: Problem, log_k: LogProfile, width: float) -> np.ndarray:
    """`g(q#) − g(p#)` at every query."""
    log_p, log_q = log_sharp_densities(p, log_k, width)
    return LINKS[name](log_q, log_k, width) - LINKS[name](log_p, log_k, width)


# --- a whole feature map: [L, N, F, C] -------------------------------------------------------------------------------


def map_problems(
    gen: np.ndarray, pos: np.ndarray, unc: np.ndarray, w_gen: np.ndarray, w_pos: np.ndarray, w_unc: np.ndarray
) -> list[Problem]:
    """The problems of a map in raw units: labels, and within each its positions. Raw distances are at least 1e-4."""
    problems = []
    for label in range(gen.shape[0]):
        for position in range(gen.shape[2]):
            x, y_pos, y_unc = (np.asarray(a[label, :, position], np.float64) for a in (gen, pos, unc))
            y_neg, w_neg = np.concatenate([x, y_unc]), np.concatenate([w_gen[label], w_unc[label]])
            p = problem(x, y_pos, y_neg, w_pos[label], w_neg, own=True)
            p.d_pos, p.d_neg = np.maximum(p.d_pos, 1e-4), np.maximum(p.d_neg, 1e-4)
            problems.append(p)
    return problems


def feature_scales(problems: list[Problem], kind: str) -> list[float]:
    """`mean(w d) / mean(w)` over queries and targets: of each problem, of all together, or one."""
    if kind in ("none", "neighbour"):
        return [1.0] * len(problems)

    def scale(group: list[Problem]) -> float:
        above = np.mean([np.concatenate([p.d_neg * p.w_neg, p.d_pos * p.w_pos], axis=1) for p in group])
        return float(above / np.mean([np.concatenate([p.w_neg, p.w_pos]) for p in group]))

    return [scale(problems)] * len(problems) if kind == "per_map" else [scale([p]) for p in problems]


def units(scale: float, channels: int, kind: str) -> tuple[float, float]:
    """What distances and what coordinates are divided by: two clamps at different places."""
    if kind in ("none", "neighbour"):
        return 1.0, 1.0
    return max(scale, 1e-3), max(scale / np.sqrt(channels), 1e-3)


def normalised(p: Problem, distance_unit: float, coordinate_unit: float) -> Problem:
    coordinates = (a / coordinate_unit for a in (p.x, p.y_pos, p.y_neg))
    return Problem(*coordinates, p.d_pos / distance_unit, p.d_neg / distance_unit, p.w_pos, p.w_neg, p.own)


@dataclass
class MapLoss:
    """Loss of a map by the stop-gradient objective, and its gradient with respect to the features `[L, N, F, C]`."""

    loss: float
    gradient: np.ndarray
    field_norm: np.ndarray
    scale: float


def field_map_loss(
    field: str, log_k: LogProfile, widths: list[float], features: list[np.ndarray], normalise: bool, kind: str
) -> MapLoss:
    """`mean((x̃ − sg(x̃ + Σ_σ F_σ))²)` for a name in FIELDS; `features`: the arguments of `map_problems`."""
    labels, n, positions, channels = features[0].shape
    problems = map_problems(*features)
    scales = feature_scales(problems, kind)
    unit = [units(s, channels, kind) for s in scales]
    total, norms = np.zeros((len(problems), n, channels)), []
    for width in widths:
        drifts = np.array([FIELDS[field](normalised(p, *u), log_k, width) for p, u in zip(problems, unit, strict=True)])
        mean_square = np.mean(drifts**2)
        norms.append(np.sqrt(mean_square))
        total += drifts / np.sqrt(max(mean_square, 1e-8)) if normalise else drifts
    gradient = np.array([-2 * t / u[1] / total.size for t, u in zip(total, unit, strict=True)])
    gradient = gradient.reshape(labels, positions, n, channels).swapaxes(1, 2)
    return MapLoss(float(np.mean(total**2)), gradient, np.array(norms), float(np.mean(scales)))
