"""Filters over gaps in which a transition that expands leaves every scale."""

import jax
import numpy as np
import pytest

from jdmm import Modality, SigmaPointSSM, series_from_arrays

STEPS = 300
MODEL = SigmaPointSSM((Modality("x"),), latent=2, hidden=3)


def expanding(series):
    variables = MODEL.init(jax.random.key(0), series)
    params = variables["params"]
    params["transition"]["linear"]["kernel"] = 3 * np.eye(2, dtype=np.float32)
    return {"params": params}


@pytest.mark.parametrize("seen", ["nothing", "the last step", "both ends"])
def test_gradients_after_an_expanding_gap_are_finite(seen):
    """3^300 is beyond float32; a long gap must not spoil the gradient of the other series."""
    values = np.full((2, STEPS), np.nan)
    values[1, :10] = 1.0
    if seen != "nothing":
        values[0, -1] = 2.0
    if seen == "both ends":
        values[0, 0] = 1.0
    series = series_from_arrays({"x": values}, lengths=[STEPS, 10])

    def loss(variables):
        return sum(MODEL.loss(variables, series, series, jax.random.key(1)).terms.values())

    value, gradient = jax.jit(jax.value_and_grad(loss))(expanding(series))
    assert np.isfinite(value)
    for leaf in jax.tree.leaves(gradient):
        assert np.isfinite(leaf).all()


def test_smoothed_states_after_an_expanding_gap_are_finite():
    values = np.full((1, STEPS), np.nan)
    values[0, [0, -1]] = 1.0
    series = series_from_arrays({"x": values})
    path = jax.jit(MODEL.posterior_mean)(expanding(series), series, jax.random.key(0))
    assert np.isfinite(path.states).all()
