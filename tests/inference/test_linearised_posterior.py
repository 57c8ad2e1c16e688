"""Posterior linearisation from two starts, one of them with wide process noise."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from inference.test_full_filtering import (
    LATENT,
    check_smoothed,
    data,
    evidence,
    full_model,
    points,
)
from jax import numpy as jnp
from oracles import linear_model

from jdmm.inference import full_smoothing
from jdmm.inference.full_filtering import FullModel
from jdmm.inference.gaussian import Moments
from jdmm.inference.square_root import FullMoments

pytestmark = pytest.mark.usefixtures("x64")


@pytest.mark.parametrize("iterations", [1, 4])
def test_the_wide_start_leaves_no_trace_in_linear_models(iterations):
    linear = linear_model(LATENT, 2)
    values, observed = data("stretch missing", 2)
    batch, time, _ = values.shape
    at, lengths = points("sigma_points", time, batch), np.full(batch, time)

    @jax.jit
    def smooth(given):
        return full_smoothing.linearised_posterior(
            full_model(linear), given, lengths, at, iterations
        )

    check_smoothed(smooth(evidence(values, observed)), linear, values, observed)


def pendulum(noise: float) -> FullModel:
    """Phase and speed of a rotation, seen as sine and cosine; nearly without process noise."""

    def transition(z: jax.Array) -> Moments:
        mean = jnp.stack([z[0] + z[1], z[1]])
        return Moments(mean, jnp.full(mean.shape, noise))

    def emission(z: jax.Array) -> Moments:
        mean = jnp.stack([jnp.sin(z[0]), jnp.cos(z[0])])
        return Moments(mean, jnp.full(mean.shape, 0.01))

    start = FullMoments(jnp.array([[0.0], [0.3]]), jnp.diag(jnp.array([1.0, 0.2]))[:, :, None])
    return FullModel(start, transition, emission)


def test_no_path_is_less_probable_than_that_of_one_start():
    """Rotations whose first half is missing, almost without process noise."""
    rng, time, count = np.random.default_rng(0), 40, 50
    phase, speed = rng.normal(size=count), 0.3 + 0.2 * rng.normal(size=count)
    truth = phase + np.arange(time)[:, None] * speed
    values = np.stack([np.sin(truth), np.cos(truth)], -1) + 0.1 * rng.normal(size=(time, count, 2))
    observed = np.zeros(values.shape, bool)
    observed[20:] = True
    given = evidence(
        np.moveaxis(np.where(observed, values, 0.0), 1, 0), np.moveaxis(observed, 1, 0)
    )
    at, lengths = points("sigma_points", time, count, 2), np.full(count, time)
    model = pendulum(1e-6)

    @jax.jit
    def both():
        plain = full_smoothing.smooth_path(model, given, lengths, at)
        plain = full_smoothing.iterate_linearisation(model, given, lengths, at, plain, 8)
        best = full_smoothing.linearised_posterior(model, given, lengths, at, 8)
        return [
            full_smoothing.path_cost(model, path.smoothed.mean, given, lengths)
            for path in (plain, best)
        ]

    plain, best = map(np.asarray, both())
    assert (best <= plain).all() and best[0] < plain[0] - 1000  # whose first smoother is poor


def test_widened_noise_takes_inputs_too():
    model = replace(pendulum(1.0), transition=lambda z, u: Moments(z + u, jnp.ones(z.shape)))
    mean, variance = full_smoothing.widened(model, 9.0).transition(np.ones((2, 1)), np.ones((2, 1)))
    np.testing.assert_allclose(mean, 2.0)
    np.testing.assert_allclose(variance, 9.0)
