"""Paths sampled forwards, against the dense joint Gaussian and importance weights."""

from functools import partial

import jax
import numpy as np
import pytest
from inference.test_full_filtering import (
    LATENT,
    TIME,
    covariances,
    data,
    evidence,
    full_model,
    points,
)
from jax import numpy as jnp
from oracles import PRESENT, linear_model
from scipy.stats import multivariate_normal

from jdmm.inference import full_smoothing, path_sampling
from jdmm.inference.full_filtering import Evidence, FullModel
from jdmm.inference.gaussian import Gaussian, Moments
from jdmm.inference.path_sampling import PathSampler, SampledPaths
from jdmm.inference.square_root import FullMoments

pytestmark = pytest.mark.usefixtures("x64")


def sampler_of(model: FullModel, given: Evidence) -> PathSampler:
    time, _, batch = given.value.shape
    at = points("sigma_points", time, batch)
    found = full_smoothing.smooth_path(model, given, np.full(batch, time), at)
    return path_sampling.path_sampler(model, found.smoothed, given, at)


@partial(jax.jit, static_argnums=0)
def sampled(features: int, given: Evidence, noise: jax.Array) -> SampledPaths:
    model = full_model(linear_model(LATENT, features))
    return path_sampling.sample_paths(model, sampler_of(model, given), noise)


@pytest.mark.parametrize("case", PRESENT)
@pytest.mark.parametrize("features", [2, 5])
def test_samples_are_exact_for_linear_models(case: str, features: int) -> None:
    """The map from noise to paths is linear; its covariance is that of the whole posterior."""
    values, observed = data(case, features, batch=1)
    size = values.shape[1] * LATENT
    unit = np.moveaxis(np.eye(size).reshape(size, -1, LATENT), 0, -1)
    noise = jnp.array(np.concatenate([np.zeros_like(unit[..., :1]), unit], 2))
    paths = sampled(features, evidence(values, observed), noise)
    states = np.array(paths.states).reshape(size, -1)
    mean, covariance, _ = linear_model(LATENT, features).posterior(values[0], observed[0])
    root = states[:, 1:] - states[:, :1]
    np.testing.assert_allclose(states[:, 0], mean, atol=1e-8)
    np.testing.assert_allclose(root @ root.T, covariance, atol=1e-8)
    density = multivariate_normal(np.array(mean), np.array(covariance)).logpdf(states.T)
    np.testing.assert_allclose(paths.log_posterior.sum(0), density, rtol=1e-6, atol=1e-8)


def test_weights_are_even_for_linear_models() -> None:
    """p(x, z) / q(z | x) is p(x) at every path, of every series."""
    linear = linear_model(LATENT, 2)
    values, observed = data("stretch missing", 2)
    noise = np.random.default_rng(0).normal(size=(TIME, LATENT, 3 * len(values)))
    paths = sampled(2, evidence(values, observed), jnp.array(noise))
    prior = -0.5 * (
        (paths.states - paths.prior.mean) ** 2 / paths.prior.variance
        + np.log(2 * np.pi * paths.prior.variance)
    )
    mean = np.einsum("fd,tdm->tfm", linear.emission, paths.states)
    error = np.tile(np.moveaxis(values, 0, -1), 3) - mean - linear.emission_bias[:, None]
    noise_variance = linear.emission_noise[:, None]
    seen = -0.5 * (error**2 / noise_variance + np.log(2 * np.pi * noise_variance))
    mask = np.tile(np.moveaxis(observed, 0, -1), 3)
    weights = (
        prior.sum((0, 1)) + np.where(mask, seen, 0).sum((0, 1)) - paths.log_posterior.sum(0)
    ).reshape(3, -1)
    for n in range(len(values)):
        likelihood = linear.posterior(values[n], observed[n])[2]
        np.testing.assert_allclose(weights[:, n], likelihood, atol=1e-8)


def test_encoders_are_further_observations() -> None:
    """A factor of the state moves the first states as the smoother says."""
    model = full_model(linear_model(LATENT, 2))
    values, observed = data("stretch missing", 2, batch=1)
    rng = np.random.default_rng(2)
    precision = jnp.array(rng.uniform(0.5, 3, (TIME, LATENT, 1)) * (rng.random((TIME, 1, 1)) > 0.4))
    factor = Gaussian(precision, precision * rng.normal(size=precision.shape))
    given = evidence(values, observed)._replace(factor=factor)
    at = points("sigma_points", TIME, 1)
    found = full_smoothing.smooth_path(model, given, np.full(1, TIME), at)
    sampler = path_sampling.path_sampler(model, found.smoothed, given, at)
    paths = path_sampling.sample_paths(model, sampler, jnp.zeros((TIME, LATENT, 1)))
    np.testing.assert_allclose(paths.states, found.smoothed.mean, atol=1e-8)


def test_curved_transitions_are_followed() -> None:
    """With little noise, weights stay even where those of backward samples do not."""
    noise = 1e-3

    def transition(z: jax.Array) -> Moments:
        rotated = jnp.stack([z[0] * jnp.cos(z[2]) - z[1] * jnp.sin(z[2]), 0 * z[0], z[2]])
        rotated = rotated.at[1].set(z[0] * jnp.sin(z[2]) + z[1] * jnp.cos(z[2]))
        return Moments(rotated, jnp.full_like(z, noise**2))

    def emission(z: jax.Array) -> Moments:
        return Moments(z[:2], jnp.full_like(z[:2], 0.2**2))

    start = FullMoments(
        jnp.array([[1.0], [0.0], [0.3]]), jnp.diag(jnp.array([0.3, 0.3, 0.1]))[:, :, None]
    )
    model = FullModel(start, transition, emission)
    rng = np.random.default_rng(0)
    angle = 0.35 * np.arange(12)
    values = np.stack([np.cos(angle), np.sin(angle)], -1)[None] + rng.normal(0, 0.2, (1, 12, 2))
    given = evidence(values, np.ones(values.shape, bool))
    at, lengths = points("sigma_points", 12, 1), np.full(1, 12)
    first = full_smoothing.smooth_path(model, given, lengths, at)
    found = full_smoothing.iterate_linearisation(model, given, lengths, at, first, 5)
    noises = jnp.array(rng.normal(size=(12, 3, 500)))

    def effective(states: jax.Array, log_posterior: jax.Array) -> float:
        reached = transition(jnp.moveaxis(states[:-1], 0, 1).reshape(3, -1))
        log_prior = -0.5 * (states[0] - start.mean) ** 2 / start.variance
        steps = (jnp.moveaxis(states[1:], 0, 1).reshape(3, -1) - reached.mean) ** 2 / noise**2
        seen = (given.value - states[:, :2]) ** 2 / 0.2**2
        total = log_prior.sum(0) - 0.5 * steps.reshape(3, 11, -1).sum((0, 1))
        logs = total - 0.5 * seen.sum((0, 1)) - log_posterior.sum(0)
        weights = np.exp(logs - logs.max())
        return float(weights.sum() ** 2 / (weights**2).sum())

    backward = full_smoothing.sample_paths(found, noises)
    sampler = path_sampling.path_sampler(model, found.smoothed, given, at)
    forward = path_sampling.sample_paths(model, sampler, noises)
    few = effective(backward.states, backward.log_density)
    many = effective(forward.states, forward.log_posterior)
    assert many > 250 and many > 3 * few
    spread = np.std(np.array(forward.states), -1) / np.sqrt(
        covariances(found.smoothed.root)[0, :, np.arange(3), np.arange(3)].T
    )
    np.testing.assert_allclose(spread, 1.0, atol=0.2)


def test_paths_of_an_expanding_transition_stay_near_the_smoothed_states(monkeypatch) -> None:
    """Its noise is too small to bring them back."""

    def transition(z: jax.Array) -> Moments:
        return Moments(1.3 * z + 2.0 * z**3, jnp.full_like(z, 1e-6))

    def emission(z: jax.Array) -> Moments:
        return Moments(z, jnp.full_like(z, 0.09))

    start = FullMoments(jnp.zeros((LATENT, 1)), 0.5 * jnp.eye(LATENT)[:, :, None])
    model = FullModel(start, transition, emission)
    given = evidence(np.zeros((1, 20, LATENT)), np.ones((1, 20, LATENT), bool))
    at = points("sigma_points", 20, 1)
    smoothed = full_smoothing.smooth_path(model, given, np.full(1, 20), at).smoothed
    sampler = path_sampling.path_sampler(model, smoothed, given, at)
    noise = jnp.array(np.random.default_rng(0).normal(size=(20, LATENT, 400)))
    bounded = path_sampling.sample_paths(model, sampler, noise)
    # the dimensions are alike and independent, so that roots are diagonal
    sd = np.einsum("tiin->tin", smoothed.root)
    limit = path_sampling.REACH
    distance = np.abs((bounded.states - smoothed.mean) / sd)
    monkeypatch.setattr(path_sampling, "REACH", np.inf)
    free = path_sampling.sample_paths(model, sampler, noise)
    assert distance.max() < limit + np.abs(noise).max()
    assert np.abs((free.states - smoothed.mean) / sd).max() > 2 * limit
    reached = np.abs((bounded.posterior.mean - smoothed.mean) / sd).max((0, 1))
    held = reached > limit - 1e-6
    assert 0 < held.mean() < 0.9
    np.testing.assert_array_equal(bounded.states[..., ~held], free.states[..., ~held])
    # the density is that of the noise, wherever the mean is
    np.testing.assert_allclose(bounded.log_posterior, free.log_posterior, rtol=1e-12)
