"""The Fréchet distance against SciPy's matrix square root, closed forms and the golden files."""

from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import sqrtm

from drifting.scoring.metrics.frechet import frechet_distance
from drifting.scoring.metrics.gaussian import GaussianStatistics
from tests.support.golden_files import group, load


def by_sqrtm(mu1: np.ndarray, sigma1: np.ndarray, mu2: np.ndarray, sigma2: np.ndarray) -> float:
    root = sqrtm(sigma1 @ sigma2)
    return float(((mu1 - mu2) ** 2).sum() + np.trace(sigma1 + sigma2) - 2 * np.trace(root).real)


def by_features(x: np.ndarray, y: np.ndarray) -> float:
    """From the features themselves, with no covariance: exact however singular (nuclear norm of the cross product)."""
    a, b = ((z - z.mean(axis=0)) / np.sqrt(len(z) - 1) for z in (x.astype(np.float64), y.astype(np.float64)))
    overlap = np.linalg.norm(a @ b.T, "nuc")
    return float(((x.mean(axis=0) - y.mean(axis=0)) ** 2).sum() + (a**2).sum() + (b**2).sum() - 2 * overlap)


def gaussian(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x.mean(axis=0, dtype=np.float64), np.cov(x.astype(np.float64), rowvar=False)


def features(n: int, dim: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, dim)) @ rng.normal(size=(dim, dim)) + rng.normal(size=dim)


@pytest.mark.parametrize("case", range(4))
def test_golden_distance(golden: Path, case: int) -> None:
    z = group(load(golden / "fid_pr_is.npz"), f"case{case}")
    value = frechet_distance(z["mu_real"], z["sigma_real"], z["mu_fake"], z["sigma_fake"])
    # 1e-8 of the terms: in the singular case 3 the reference's general eigenvalues leave noise of 7e-7 in a sum of 110.
    terms = np.trace(z["sigma_real"] + z["sigma_fake"])
    np.testing.assert_allclose(value, z["fid"], rtol=0, atol=1e-8 * (terms if case == 3 else z["fid"]))
    reference = by_features(z["feat_real"].astype(np.float64), z["feat_fake"].astype(np.float64))
    np.testing.assert_allclose(value, reference, rtol=1e-11)


@pytest.mark.parametrize("case", range(4))
def test_golden_statistics(golden: Path, case: int) -> None:
    z = group(load(golden / "fid_pr_is.npz"), f"case{case}")
    for kind in ("real", "fake"):
        x = z[f"feat_{kind}"]
        stats = GaussianStatistics.empty(x.shape[1])
        for part in np.array_split(x, 7):
            stats.update(part)
        np.testing.assert_allclose(stats.mean, z[f"mu_{kind}"], rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(stats.covariance, z[f"sigma_{kind}"], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("n", "dim", "seed"), [(50, 3, 0), (400, 20, 1), (100, 60, 2)])
def test_equals_the_matrix_square_root(n: int, dim: int, seed: int) -> None:
    one, two = gaussian(features(n, dim, seed)), gaussian(features(n, dim, seed + 10))
    np.testing.assert_allclose(frechet_distance(*one, *two), by_sqrtm(*one, *two), rtol=1e-10)
    np.testing.assert_allclose(frechet_distance(*one, *two), frechet_distance(*two, *one), rtol=1e-12)


def test_nearly_singular_covariances() -> None:
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    spectrum = np.logspace(0, -9, 12)
    s1 = basis * spectrum @ basis.T
    other = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    s2 = other * spectrum[::-1] @ other.T
    mu = np.zeros(12)
    np.testing.assert_allclose(frechet_distance(mu, s1, mu, s2), by_sqrtm(mu, s1, mu, s2), rtol=1e-8)
    # Sharing the basis, the distance is that of the standard deviations; here eigenvalues as small as 1e-9 count.
    closed = ((np.sqrt(spectrum) - np.sqrt(spectrum[::-1])) ** 2).sum()
    np.testing.assert_allclose(frechet_distance(mu, s1, mu, basis * spectrum[::-1] @ basis.T), closed, rtol=1e-9)


@pytest.mark.parametrize(("n1", "n2", "dim"), [(10, 15, 40), (5, 200, 30), (2, 2, 8)])
def test_fewer_samples_than_features_is_exact(n1: int, n2: int, dim: int) -> None:
    x, y = features(n1, dim, 5), features(n2, dim, 6)
    np.testing.assert_allclose(frechet_distance(*gaussian(x), *gaussian(y)), by_features(x, y), rtol=1e-12)
    assert frechet_distance(*gaussian(x), *gaussian(x)) <= 1e-12 * np.trace(gaussian(x)[1])


def test_closed_forms() -> None:
    eye, zero = np.eye(5), np.zeros((5, 5))
    mu = np.arange(5.0)
    assert frechet_distance(mu, zero, mu - 2, zero) == pytest.approx(20)
    assert frechet_distance(mu, zero, mu, eye) == pytest.approx(5)
    assert frechet_distance(mu, 4 * eye, mu, 9 * eye) == pytest.approx(5)
    x = features(40, 4, 0)
    base = frechet_distance(*gaussian(x), *gaussian(features(40, 4, 1)))
    scaled = frechet_distance(*gaussian(3 * x), *gaussian(3 * features(40, 4, 1)))
    assert scaled == pytest.approx(9 * base)


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_streaming_equals_the_whole_far_from_the_origin(offset: float) -> None:
    x = features(301, 6, 0) + offset
    stats = GaussianStatistics.empty(6)
    for part in np.split(x, [1, 2, 2, 40, 300]):
        stats.update(part)
    assert stats.count == 301
    np.testing.assert_allclose(stats.mean, x.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(stats.covariance, np.cov(x, rowvar=False), rtol=1e-9, atol=1e-9)


def test_float32_batches_are_summed_in_float64() -> None:
    x = (features(20_000, 3, 0) + 1000).astype(np.float32)
    stats = GaussianStatistics.empty(3)
    for part in np.array_split(x, 11):
        stats.update(part)
    np.testing.assert_allclose(stats.covariance, np.cov(x.astype(np.float64), rowvar=False), rtol=1e-10)


def test_merge_is_the_union_and_leaves_the_other_alone() -> None:
    x, y = features(30, 4, 0), features(50, 4, 1)
    one, two, none = (GaussianStatistics.empty(4) for _ in range(3))
    one.update(x)
    two.update(y)
    before = two.covariance.copy()
    one.merge(two)
    one.merge(none)
    none.merge(one)
    for stats in (one, none):
        np.testing.assert_allclose(stats.covariance, np.cov(np.concatenate([x, y]), rowvar=False), rtol=1e-12)
        assert stats.count == 80
    np.testing.assert_array_equal(two.covariance, before)
    copy = GaussianStatistics(one.count, one.mean, one.scatter)
    copy.update(x)
    assert one.count == 80 and not np.shares_memory(copy.mean, one.mean)


def test_refuses_bad_input() -> None:
    stats = GaussianStatistics.empty(3)
    with pytest.raises(ValueError, match=r"give \[N, 3\]"):
        stats.update(np.zeros((2, 4)))
    stats.update(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="at least 2 rows"):
        _ = stats.covariance
    eye = np.eye(3)
    with pytest.raises(ValueError, match="do not fit"):
        frechet_distance(np.zeros(3), eye, np.zeros(4), np.eye(4))
    with pytest.raises(ValueError, match="not finite"):
        frechet_distance(np.zeros(3), eye, np.full(3, np.nan), eye)
