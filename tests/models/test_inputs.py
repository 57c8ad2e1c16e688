"""Models with inputs: what they learn of them, and what is refused."""

import dataclasses

import jax
import numpy as np
import pytest

import jdmm
from jdmm import (
    InputError,
    LinearGaussianSSM,
    Modality,
    SigmaPointSSM,
    TrainSettings,
    series_from_arrays,
)
from jdmm.models import MODELS
from jdmm.networks import ProductTransition

MODALITIES = (Modality("x", features=2),)
STEPS = 20


def controlled(count, seed=0):
    """Two noisy sums of a random control, which decay: x_t = 0.7 x_{t-1} + (u_t, -u_t)."""
    rng = np.random.default_rng(seed)
    control = rng.normal(size=(count, STEPS, 1))
    state, values = np.zeros((count, 1)), []
    for t in range(STEPS):
        state = 0.7 * state + control[:, t]
        values.append(np.concatenate([state, -state], 1))
    noise = 0.1 * rng.normal(size=(count, STEPS, 2))
    return series_from_arrays({"x": np.stack(values, 1) + noise}, inputs=control)


def forecast_error(fitted, series):
    """Mean squared error of the second half, given the first and the inputs of all steps."""
    late = np.arange(STEPS)[:, None] >= STEPS // 2
    found = fitted.predict(series.hide({"x": ~late[None]}))
    return float(np.mean((found.mean["x"] - series.values["x"])[:, late[:, 0]] ** 2))


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        (LinearGaussianSSM(MODALITIES, latent=2, iterations=200, inputs=1), None),
        (
            SigmaPointSSM(MODALITIES, latent=2, hidden=4, iterations=0, inputs=1),
            TrainSettings(batch_size=20, epochs=150, learning_rate=0.03),
        ),
    ],
    ids=["linear", "sigma points"],
)
def test_forecasts_follow_the_inputs(model, settings, tmp_path):
    """The noise is the least error; the variance of the values, 1.96, is that without inputs."""
    fitted = jdmm.fit(model, controlled(60), settings=settings)
    test = controlled(30, seed=1)
    assert forecast_error(fitted, test) < 0.03
    blind = test.replace(inputs=np.zeros_like(test.inputs))
    assert forecast_error(fitted, blind) > 1.0
    jdmm.save(tmp_path / "model", fitted)
    loaded = jdmm.load(tmp_path / "model")
    assert loaded.model.inputs == 1 and forecast_error(loaded, test) < 0.03
    push = np.zeros((STEPS, 1))
    push[10] = 5.0
    drawn = fitted.sample(200, STEPS, inputs=push)["x"].mean(0)
    assert abs(drawn[9]).max() < 0.5
    np.testing.assert_allclose(drawn[10:12], [[5, -5], [3.5, -3.5]], atol=0.5)
    with pytest.raises(InputError, match=r"inputs of shape \(20, 1\) to sample from, got None"):
        fitted.sample(2, STEPS)


def test_bounds_of_a_model_with_inputs_reach_its_likelihood():
    """Importance sampling is exact for a linear model, whose proposals are the posterior."""
    series = controlled(3)
    model = SigmaPointSSM(MODALITIES, latent=2, hidden=4, iterations=1, inputs=1)
    variables = model.init(jax.random.key(0), series)
    variables["params"]["transition"]["change"]["kernel"] *= 0
    variables["params"]["transition"]["linear"]["kernel"] += 0.3
    variables["params"]["initial_inputs"]["kernel"] += 0.5
    exact = -model.loss(variables, series, series, jax.random.key(1)).terms["filter_nll"]
    found = jdmm.log_likelihood_bounds(model, variables, series, jax.random.key(2), (3,))
    np.testing.assert_allclose(np.sum(found.bounds[3]), exact, rtol=1e-4)


def test_padding_changes_nothing():
    """Neither beyond a series nor beside it, and inputs there count as 0."""
    series = controlled(2)
    model = SigmaPointSSM(MODALITIES, latent=2, hidden=4, iterations=1, inputs=1)
    variables = model.init(jax.random.key(0), series)
    short = jax.tree.map(lambda leaf: leaf[:1, :7] if leaf.ndim == 3 else leaf[:1], series)
    short = short.replace(lengths=np.array([7], np.int32))
    padded = series_from_arrays(
        {"x": [series.values["x"][0, :7], series.values["x"][1]]},
        inputs=[series.inputs[0, :7], series.inputs[1]],
    )
    alone, beside = (
        jax.jit(model.posterior_samples, static_argnums=3)(variables, own, jax.random.key(0), 2)
        for own in (short, padded)
    )
    np.testing.assert_allclose(beside.states[:, :1, :7], alone.states, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_models_take_inputs_or_refuse_them(name):
    cls, series = MODELS[name], controlled(2)
    model = cls(MODALITIES)
    with pytest.raises(InputError, match="expected series with 0 inputs.* got 1: give"):
        model.check(series)
    if not cls.takes_inputs:
        with pytest.raises(InputError, match="expected no inputs for"):
            cls(MODALITIES, inputs=1)
        return
    dataclasses.replace(model, inputs=1).check(series)
    with pytest.raises(InputError, match="expected series with 2 inputs"):
        cls(MODALITIES, inputs=2).check(series)


def test_an_own_transition_takes_inputs():
    series = controlled(2)
    own = ProductTransition(2, 3)
    model = SigmaPointSSM(MODALITIES, latent=2, transition=own, iterations=0, inputs=1)
    variables = model.init(jax.random.key(0), series)
    assert variables["params"]["own_transition"]["gate"]["kernel"].shape == (3, 3)
    with pytest.raises(InputError, match="expected 1 inputs of the series, got 0"):
        model.state_space(variables)
