"""Fixtures every test file shares: where the golden files are, and one compilation cache for the whole suite."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Before jax is imported anywhere: tests run on the CPU, and subprocesses that they start inherit the cache.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of the golden reference files; tests that need it are skipped, and say so, where it is absent."""
    path = Path(os.environ.get("DRIFTING_GOLDEN", ROOT.parent / "shared" / "golden"))
    if not (path / "drift_loss.npz").is_file():
        pytest.skip(f"no golden files at {path}: set DRIFTING_GOLDEN to their folder")
    return path
