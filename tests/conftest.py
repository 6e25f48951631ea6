"""What every test file shares: fixtures, a compilation cache, and the check of the annotations of `drifting.method`."""

import gc
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from jaxtyping import config, install_import_hook

import tests.support.checked_types  # the hook knows it by its name

ROOT = Path(__file__).resolve().parent.parent

# Before jax is imported anywhere: tests run on the CPU, and subprocesses that they start inherit the cache.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".jax_cache"))

os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

# Most of the suite's time is compiling programs that run once: without optimisation, with the older and plainer
# emitters, and each in one piece, that takes a third of the time.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1",
)

# Python looks for garbage after every 700 new objects, and tracing makes millions: a twentieth of the suite's time.
gc.set_threshold(50_000, 10, 10)

OPTIMISED: dict[str, bool | int] = {
    "xla_backend_optimization_level": 3,
    "xla_llvm_disable_expensive_passes": False,
    "xla_cpu_use_fusion_emitters": True,
}
"""`compiler_options` for the few tests that need what users run, to the last rounding."""


# Before drifting is imported anywhere. Subprocesses that tests start go without, as users do.
install_import_hook("drifting.method", f"{tests.support.checked_types.__name__}.check")


@pytest.fixture
def unchecked() -> Iterator[None]:
    """What users see: calls that the annotations do not allow reach the function, whose own error the test wants."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True)
def own_logger() -> Iterator[None]:
    """The command line sets up its logger for the whole process, after which `caplog` would see nothing."""
    logger = logging.getLogger("drifting")
    before = logger.handlers, logger.level, logger.propagate
    yield
    logger.handlers, logger.level, logger.propagate = before


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of the golden reference files; tests that need it are skipped, and say so, where it is absent."""
    path = Path(os.environ.get("DRIFTING_GOLDEN", ROOT.parent / "shared" / "golden"))
    if not (path / "drift_loss.npz").is_file():
        pytest.skip(f"no golden files at {path}: set DRIFTING_GOLDEN to their folder")
    return path
