"""Settings that hold before jax starts, and strict numerics for every test."""

import os

os.environ["NPROC"] = "16"  # XLA's threads: with few, collectives over several CPU devices hang
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64():
    """Double precision for one test."""
    with jax.enable_x64(True):
        yield
