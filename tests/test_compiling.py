"""Compiled programs are found again by another process, whatever its seed."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from jdmm import compiling
from jdmm.compiling import Compilations

PROGRAM = """
import sys
import jax
from jax import numpy as jnp
from jdmm import MDMM, Modality, TrainSettings, compiling, series_from_arrays
from jdmm.training import loop
from jdmm.training.schedule import Schedule

compiling.LEAST_SECONDS = 0.0
compiling.keep_compiled(sys.argv[1])
series = series_from_arrays({"x": [[1.0, 2.0]]})
model, how = MDMM((Modality("x"),), latent=1, hidden=1), TrainSettings(batch_size=1)
state = loop.initial_progress(model, series, how, [int(sys.argv[2])]).state
step = loop.over_seeds(loop.make_train_step(model, Schedule(how, 1)))
jax.jit(step)(state, jax.tree.map(jnp.asarray, series), jnp.zeros((1, 1), int))
"""


def test_another_seed_finds_the_programs_of_the_first(tmp_path):
    for seed in (0, 1):
        subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path), str(seed)], check=True)
        kept = sorted(path.name for path in tmp_path.iterdir() if path.name.endswith("-cache"))
        if seed == 0:
            first = kept
    assert any("train_step" in name for name in first)
    assert kept == first


@pytest.fixture
def settings():
    """jax's settings of the cache, put back afterwards."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_where_programs_are_kept(settings, monkeypatch, tmp_path):
    """A given directory, none, what jax was told already, or ours in the user's."""

    def directory():
        return jax.config.jax_compilation_cache_dir

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiling.keep_compiled("/somewhere")
    assert directory() == "/somewhere"
    compiling.keep_compiled()
    assert directory() == "/somewhere"
    compiling.keep_compiled("")
    assert directory() is None
    compiling.keep_compiled()
    assert directory() == str(tmp_path / "jdmm" / "compiled")


def test_compilations_are_counted_by_name():
    """Once per shape, from the moment on that counting starts."""

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
