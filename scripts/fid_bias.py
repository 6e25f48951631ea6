"""Bias of the Fréchet distance of few samples: Gaussians whose distance is known, 1,000 to 50,000 samples.

    python -m scripts.fid_bias

Prints the tables of docs/evaluation.md; some minutes on two cores, most of them for 2048 dimensions.
"""

from collections.abc import Iterator

import numpy as np
from absl import app, flags

from drifting.scoring.metrics.frechet import frechet_distance
from drifting.scoring.metrics.gaussian import GaussianStatistics

DIMS = flags.DEFINE_multi_integer("dim", [64, 256, 2048], "dimensions")

COUNTS = (1_000, 5_000, 50_000)

REPEATS = {64: 20, 256: 8, 2048: 1}

DISTANCE = 2.0
"""Of the two Gaussians: half of it between the means, half between the spreads."""


def spectrum(dim: int) -> np.ndarray:
    """Variances along the axes, in all 100: a power law, as those of Inception features roughly are."""
    values = np.arange(1, dim + 1) ** -1.0
    return 100 * values / values.sum()


def pair(dim: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Variances of the real Gaussian, of the other one, and the difference of their means.

    Both are diagonal, which costs nothing: the distance does not change when both are rotated.
    """
    real = spectrum(dim)
    factor = 1 + np.sqrt(DISTANCE / 2 / real.sum())  # of every standard deviation
    return real, real * factor**2, np.sqrt(DISTANCE / 2 * real / real.sum())


def measured(real: np.ndarray, fake: np.ndarray, shift: np.ndarray, count: int, seed: int) -> Iterator[float]:
    """Distances of `count` samples to the exact real Gaussian: of equal Gaussians, and of the two."""
    rng = np.random.default_rng([seed, count, len(real)])
    for variance, mean in ((real, np.zeros_like(shift)), (fake, shift)):
        statistics = GaussianStatistics.empty(len(real))
        for start in range(0, count, 5_000):
            noise = rng.standard_normal((min(5_000, count - start), len(real)))
            statistics.update(mean + noise * np.sqrt(variance))
        yield frechet_distance(np.zeros_like(shift), np.diag(real), statistics.mean, statistics.covariance)


def main(_: list[str]) -> None:
    """Prints a table."""
    print("| dimensions | samples | distance 0, measured | distance 2, measured | bias × samples |")
    print("|---|---|---|---|---|")
    for dim in DIMS.value:
        real, fake, shift = pair(dim)
        exact = frechet_distance(np.zeros(dim), np.diag(real), shift, np.diag(fake))
        assert abs(exact - DISTANCE) < 1e-6, exact
        for count in COUNTS:
            found = np.array([list(measured(real, fake, shift, count, seed)) for seed in range(REPEATS[dim])])
            (zero, two), spread = found.mean(axis=0), found.std(axis=0)
            errors = [f" ± {deviation:.3f}" if len(found) > 1 else "" for deviation in spread]
            both = [f"{mean:.3f}{error}" for mean, error in zip((zero, two), errors, strict=True)]
            numbers = f"{both[0]} | {both[1]} | {count * zero:,.0f}"
            print(f"| {dim} | {count:,} | {numbers} |", flush=True)


if __name__ == "__main__":
    app.run(main)
