"""Residuals against the joint Gaussian of everything."""

import jax
import numpy as np
import pytest
from inference.test_full_filtering import evidence, full_model, points
from oracles import linear_model

from jdmm.inference import full_filtering, residual
from jdmm.inference.residual import Autoregression

pytestmark = pytest.mark.usefixtures("x64")

TIME, FEATURES, SERIES = 6, 3, 4
RNG = np.random.default_rng(0)
OWN = Autoregression(np.array([[0.9], [0.5], [0.0]]), np.array([[2.0], [0.3], [1.0]]))


def covariance(decay: float, variance: float) -> np.ndarray:
    """Of a stationary autoregression of first order."""
    steps = np.arange(TIME)
    return variance * decay ** np.abs(steps[:, None] - steps)


def series():
    value = RNG.normal(size=(TIME, FEATURES, SERIES))
    observed = RNG.uniform(size=value.shape) < 0.6
    observed[:, :, 0] = False
    observed[:, :, 1] = True
    return np.where(observed, value, 0.0), observed


def test_residuals_given_the_states_are_the_conditional_gaussian():
    value, observed = series()
    noise = RNG.uniform(0.1, 0.5, value.shape)
    given = np.where(observed, value, 1e3)
    found, log_prob = residual.smooth(OWN, given, noise, observed)
    for f, n in np.ndindex(FEATURES, SERIES):
        prior, seen = covariance(*(leaf[f, 0] for leaf in OWN)), observed[:, f, n]
        inner = prior[np.ix_(seen, seen)] + np.diag(noise[seen, f, n])
        gain = prior[:, seen] @ np.linalg.inv(inner)
        x = value[seen, f, n]
        np.testing.assert_allclose(found.mean[:, f, n], gain @ x, atol=1e-12)
        variance = np.diag(prior - gain @ prior[seen])
        np.testing.assert_allclose(found.variance[:, f, n], variance, atol=1e-12)
        quadratic = x @ np.linalg.solve(inner, x)
        expected = -0.5 * (quadratic + np.linalg.slogdet(2 * np.pi * inner)[1])
        np.testing.assert_allclose(log_prob[:, f, n].sum(), expected, atol=1e-10)
    assert not np.asarray(log_prob)[~observed].any()


@pytest.mark.parametrize("latent", [2, 5], ids=["many features", "few features"])
def test_the_first_update_has_the_marginals_of_the_joint_gaussian(latent):
    """Of states and residuals, given the features of one step."""
    linear = linear_model(latent, FEATURES)
    model = full_model(linear)
    model = type(model)(model.initial, model.transition, model.emission, OWN)
    value, observed = series()
    given = evidence(np.moveaxis(value[:1], -1, 0), np.moveaxis(observed[:1], -1, 0))
    at = points("sigma_points", 1, SERIES, latent)
    step = full_filtering.StepPoints(at.offsets[0], at.weights)
    one = jax.tree.map(lambda leaf: leaf[0], given)
    start = full_filtering.initial_states(model, given)
    after, change = full_filtering.update_step(model, start, one, step)
    mean = np.concatenate([linear.mean, np.zeros(FEATURES)])
    prior = np.diag(np.concatenate([linear.variance, np.asarray(OWN.variance)[:, 0]]))
    emission = np.concatenate([linear.emission, np.eye(FEATURES)], 1)
    for n in range(SERIES):
        seen = observed[0, :, n]
        own = emission[seen]
        inner = own @ prior @ own.T + np.diag(linear.emission_noise[seen])
        gain = prior @ own.T @ np.linalg.inv(inner)
        error = value[0, seen, n] - own @ mean - linear.emission_bias[seen]
        expected, spread = mean + gain @ error, prior - gain @ own @ prior
        states, residuals = after.states, after.residual
        np.testing.assert_allclose(states.mean[:, n], expected[:latent], atol=1e-10)
        root = np.asarray(states.root[:, :, n])
        np.testing.assert_allclose(root @ root.T, spread[:latent, :latent], atol=1e-10)
        np.testing.assert_allclose(residuals.mean[:, n], expected[latent:], atol=1e-10)
        np.testing.assert_allclose(residuals.variance[:, n], np.diag(spread)[latent:], atol=1e-10)
        log_prob = -0.5 * (
            error @ np.linalg.solve(inner, error) + np.linalg.slogdet(2 * np.pi * inner)[1]
        )
        np.testing.assert_allclose(change.log_likelihood[n], log_prob, atol=1e-10)
