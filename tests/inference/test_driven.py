"""Inputs of the transition: a linear model driven by them is the same model, shifted by a response.

With d_1 = B u_1 and d_t = A d_{t-1} + B u_t, the states of the driven model are those of the model
without inputs plus d, and its values those plus C d.
"""

from dataclasses import replace

import jax
import numpy as np
import pytest
from inference.test_full_filtering import (
    FEATURES,
    LATENT,
    covariances,
    data,
    evidence,
    full_model,
    points,
)
from jax import numpy as jnp
from oracles import LinearModel, linear_model

from jdmm.inference import full_filtering, full_smoothing, path_sampling
from jdmm.inference.full_filtering import FullModel
from jdmm.inference.gaussian import Moments
from jdmm.inference.square_root import FullMoments, StepPoints

pytestmark = pytest.mark.usefixtures("x64")

INPUTS = 2
DRIVE = np.random.default_rng(7).normal(size=(LATENT, INPUTS))
"""B."""


def draw_inputs(time: int, batch: int = 2) -> np.ndarray:
    """``(time, input, n)``."""
    return np.random.default_rng(1).normal(0, 2, (time, INPUTS, batch))


def driven(linear: LinearModel, inputs: np.ndarray) -> FullModel:
    plain = full_model(linear)

    def transition(z: jax.Array, u: jax.Array) -> Moments:
        mean, variance = plain.transition(z)
        return Moments(mean + DRIVE @ u, variance)

    initial = FullMoments(plain.initial.mean + DRIVE @ inputs[0], plain.initial.root)
    return replace(plain, initial=initial, transition=transition, inputs=jnp.asarray(inputs))


def response(linear: LinearModel, inputs: np.ndarray) -> np.ndarray:
    """d, ``(time, latent, n)``."""
    found = [DRIVE @ inputs[0]]
    for own in inputs[1:]:
        found.append(np.array(linear.dynamics) @ found[-1] + DRIVE @ own)
    return np.array(found)


@FEATURES
@pytest.mark.parametrize(
    ("case", "iterations"), [("one step missing", 0), ("tail missing", 2), ("T = 1", 0)]
)
def test_smoother_of_a_driven_model(case: str, features: int, iterations: int) -> None:
    linear = linear_model(LATENT, features)
    values, observed = data(case, features)
    batch, time, _ = values.shape
    inputs = draw_inputs(time)
    model, shift = driven(linear, inputs), response(linear, inputs)
    seen = np.einsum("fd,tdn->ntf", linear.emission, shift)
    values = np.where(observed, values + seen, 0.0)
    at, lengths = points("sigma_points", time, batch), np.full(batch, time)

    @jax.jit
    def smooth():
        given = evidence(values, observed)
        path = full_smoothing.smooth_path(model, given, lengths, at)
        if not iterations:
            return path
        return full_smoothing.iterate_linearisation(model, given, lengths, at, path, iterations)

    found = smooth()
    covariance = covariances(found.smoothed.root)
    for n in range(batch):
        mean, full, likelihood = linear.posterior(
            np.where(observed[n], values[n] - seen[n], 0.0), observed[n]
        )
        expected = np.reshape(mean, (time, LATENT)) + shift[..., n]
        np.testing.assert_allclose(found.smoothed.mean[..., n], expected, atol=1e-8)
        np.testing.assert_allclose(found.log_likelihood[n], likelihood, atol=1e-8)
        blocks = np.reshape(full, (time, LATENT, time, LATENT))
        for t in range(time):
            np.testing.assert_allclose(covariance[n, t], blocks[t, :, t], atol=1e-8)


@FEATURES
def test_paths_of_a_driven_model(features: int) -> None:
    """The mean path of each series is its smoothed one; noise moves it as without inputs."""
    linear = linear_model(LATENT, features)
    values, observed = data("stretch missing", features)
    batch, time, _ = values.shape
    inputs = draw_inputs(time)
    model, shift = driven(linear, inputs), response(linear, inputs)
    seen = np.einsum("fd,tdn->ntf", linear.emission, shift)
    noise = np.random.default_rng(2).normal(size=(time, LATENT, 2 * batch))
    at, lengths = points("sigma_points", time, batch), np.full(batch, time)

    def sample(model: FullModel, values: np.ndarray) -> path_sampling.SampledPaths:
        given = evidence(np.where(observed, values, 0.0), observed)
        smoothed = full_smoothing.smooth_path(model, given, lengths, at).smoothed
        sampler = path_sampling.path_sampler(model, smoothed, given, at)
        return path_sampling.sample_paths(model, sampler, jnp.asarray(noise))

    without = sample(full_model(linear), values)
    found = sample(model, values + seen)
    np.testing.assert_allclose(found.states, without.states + np.tile(shift, 2), atol=1e-8)
    np.testing.assert_allclose(found.log_posterior, without.log_posterior, atol=1e-8)


def test_prior_of_a_driven_model() -> None:
    linear, time, count = linear_model(LATENT, 2), 5, 3
    inputs = draw_inputs(time, count)
    noise = jnp.asarray(np.random.default_rng(3).normal(size=(time, LATENT, count)))
    without = full_smoothing.sample_prior(full_model(linear), noise)
    found = full_smoothing.sample_prior(driven(linear, inputs), noise)
    np.testing.assert_allclose(found, without + response(linear, inputs), atol=1e-10)


def test_cost_of_a_driven_path() -> None:
    """-log p(x, z) does not change when path, values and inputs are shifted together."""
    linear = linear_model(LATENT, 2)
    values, observed = data("one step missing", 2)
    batch, time, _ = values.shape
    inputs, lengths = draw_inputs(time), np.array([time, time - 2])
    shift = response(linear, inputs)
    seen = np.einsum("fd,tdn->ntf", linear.emission, shift)
    path = np.random.default_rng(4).normal(size=(time, LATENT, batch))
    without = full_smoothing.path_cost(
        full_model(linear), path, evidence(values, observed), lengths
    )
    found = full_smoothing.path_cost(
        driven(linear, inputs),
        path + shift,
        evidence(np.where(observed, values + seen, 0.0), observed),
        lengths,
    )
    np.testing.assert_allclose(found, without, rtol=1e-10)


def test_streaming_takes_the_next_inputs() -> None:
    """Step by step, the filter is that of whole series."""
    linear = linear_model(LATENT, 2)
    values, observed = data("nothing missing", 2)
    batch, time, _ = values.shape
    inputs = draw_inputs(time)
    model, given = driven(linear, inputs), evidence(values, observed)
    at = points("sigma_points", time, batch)
    step = StepPoints(at.offsets[0], at.weights)
    whole = full_filtering.full_filter(model, given, at)
    states = full_filtering.initial_states(model, given)
    for t in range(time):
        own = jax.tree.map(lambda leaf, t=t: leaf[t], given)
        filtered, _ = full_filtering.update_step(model, states, own, step)
        np.testing.assert_allclose(filtered.states.mean, whole.filtered.mean[t], atol=1e-10)
        states = full_filtering.predict_step(model, filtered, step, inputs[min(t + 1, time - 1)])
