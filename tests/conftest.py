"""Settings that hold before jax starts, and strict numerics for every test."""

import os
from importlib.metadata import version
from pathlib import Path

os.environ["NPROC"] = "16"  # XLA's threads: with few, collectives over several CPU devices hang
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# Tests spend most of their time in the compiler. Without its optimisations it takes two thirds of
# the time and half of the memory. XLA refuses flags that it does not know.
_FLAGS = ["--xla_backend_optimization_level=0"]
if version("jax").startswith("0.10."):
    _FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *_FLAGS]).strip()

# compiled once for all runs of the tests, and for the processes that they start
_CACHE = Path(__file__).parent.parent / ".pytest_cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

import jax
import pytest
from jaxtyping import install_import_hook

install_import_hook("jdmm.inference", "beartype.beartype")  # shapes of the recursions are checked

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64():
    """Double precision for one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module", autouse=True)
def _release_compiled_programs():
    """Frees the compiled programs of each file, which add up to gigabytes."""
    yield
    jax.clear_caches()
