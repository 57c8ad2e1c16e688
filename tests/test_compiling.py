"""The persistent compilation cache is shared by processes and seeds; compilations are counted."""

import functools
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
import threadpoolctl

from jdmm import compiling
from jdmm.compiling import Compilations, Static

PROGRAM = """
import sys
import jax
from jax import numpy as jnp
from jdmm import MDMM, Modality, TrainSettings, compiling, series_from_arrays
from jdmm.training import loop
from jdmm.training.schedule import Schedule

compiling.MIN_COMPILE_SECONDS = 0.0
compiling.enable_compilation_cache(sys.argv[1])
series = series_from_arrays({"x": [[1.0, 2.0]]})
model, how = MDMM((Modality("x"),), latent=1, hidden=1), TrainSettings(batch_size=1)
state = loop.initial_progress(model, series, how, [int(sys.argv[2])]).state
step = loop.over_seeds(loop.make_train_step(model, Schedule(how, 1)))
jax.jit(step)(state, jax.tree.map(jnp.asarray, series), jnp.zeros((1, 1), int))
"""


def test_another_seed_loads_the_programs_of_the_first(tmp_path):
    for seed in (0, 1):
        subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path), str(seed)], check=True)
        kept = sorted(path.name for path in tmp_path.iterdir() if path.name.endswith("-cache"))
        if seed == 0:
            first = kept
    assert any("train_step" in name for name in first)
    assert kept == first


@pytest.fixture
def settings():
    """Restores JAX's cache settings after the test."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_cache_directory(settings, monkeypatch, tmp_path):
    """A given directory, JAX's configured one, none, or the default in the user's cache."""

    def directory():
        return jax.config.jax_compilation_cache_dir

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiling.enable_compilation_cache("/somewhere")
    assert directory() == "/somewhere"
    compiling.enable_compilation_cache()
    assert directory() == "/somewhere"
    compiling.enable_compilation_cache("")
    assert directory() is None
    compiling.enable_compilation_cache()
    assert directory() == str(tmp_path / "jdmm" / "compiled")


def test_compilations_are_counted_by_name():
    """Once per shape, from the start of counting on."""

    @jax.jit
    def doubled(x):
        return 2 * x

    Compilations()
    doubled(np.ones(3))
    count = Compilations()
    doubled(np.ones(3))
    assert count.of("doubled") == {"doubled": 0}
    doubled(np.ones(4))
    doubled(np.ones(5))
    assert count.of("doubled", "other") == {"doubled": 2, "other": 0}


def test_static_arguments():
    """Equal values share a program; without a hash, the same object does."""

    @functools.partial(jax.jit, static_argnums=0)
    def scaled(static, x):
        return static.value[0] * x

    count = Compilations()
    one, other = [2.0], [2.0]
    for value in ((2.0,), (2.0,), one, one):
        assert scaled(Static(value), np.ones(3))[0] == 2.0
    assert count.of("scaled") == {"scaled": 2}
    assert scaled(Static(other), np.ones(3))[0] == 2.0
    assert scaled(Static((3.0,)), np.ones(3))[0] == 3.0
    assert count.of("scaled") == {"scaled": 4}
    assert Static((2.0,)) != Static([2.0]) and Static(1) != 1


def test_threads_are_limited_unless_the_environment_says_otherwise(monkeypatch):
    monkeypatch.delenv("NPROC", raising=False)
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    compiling.limit_threads(1)
    assert "NPROC" not in os.environ
    monkeypatch.setenv("XLA_FLAGS", "")
    compiling.limit_threads(0)
    assert "NPROC" not in os.environ
    compiling.limit_threads(2)
    assert os.environ["NPROC"] == "2"
    compiling.limit_threads(1)
    assert os.environ["NPROC"] == "2"
    blas = threadpoolctl.ThreadpoolController().select(user_api="blas").info()
    assert blas and all(library["num_threads"] == 1 for library in blas)
