"""Bounds by importance sampling against the exact evidence of a linear Gaussian model."""

from dataclasses import dataclass

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from jdmm import DynamicalVAE, InputError, Modality
from jdmm.compiling import Compilations
from jdmm.evaluation import importance
from jdmm.inference import gaussian
from jdmm.inference.gaussian import Moments
from jdmm.inference.smoothing import PosteriorPath
from jdmm.models import MODELS
from jdmm.models.base import ExactLikelihood
from jdmm.series import series_from_arrays

STAY, NOISE = 0.8, 0.5  # z' ~ N(STAY z, 1 - STAY^2), stationary at N(0, 1); x ~ N(z, NOISE^2)
VALUES = np.array([0.3, -1.2, np.nan, 2.0, 1.1])


@dataclass(frozen=True)
class LinearGaussianSSM(DynamicalVAE):
    """Its posterior knows the present but not the future: a proposal, not the exact smoother."""

    modalities: tuple[Modality, ...] = (Modality("x"),)
    latent: int = 1

    def init(self, key, series):
        return {}

    def emissions(self, variables, states):
        return {"x": (states, jnp.full_like(states, jnp.log(jnp.expm1(NOISE - 1e-3))))}

    def posterior_path(self, variables, series, key, scale=1.0):
        noise = jnp.swapaxes(self.noise(series, key, scale), 1, 2)

        def step(state, inputs):
            value, seen, own, first = inputs
            spread = jnp.where(first, 1.0, 1 - STAY**2)
            prior = Moments(STAY * state * ~first, jnp.broadcast_to(spread, state.shape))
            evidence = gaussian.natural(Moments(value, jnp.full_like(value, NOISE**2)))
            both = gaussian.product(gaussian.natural(prior), gaussian.mask(evidence, seen))
            posterior = gaussian.moments(both)
            state = gaussian.sample(posterior, own)
            return state, PosteriorPath(prior, posterior, state)

        values, observed = (
            jnp.swapaxes(leaf["x"], 0, 1) for leaf in (series.values, series.observed)
        )
        first = jnp.arange(series.num_steps) == 0
        _, chain = jax.lax.scan(
            step, jnp.zeros((series.batch, 1)), (values, observed, noise, first)
        )
        return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), chain)


def exact() -> float:
    seen = ~np.isnan(VALUES)
    time = np.arange(len(VALUES))
    covariance = STAY ** np.abs(time[:, None] - time) + NOISE**2 * np.eye(len(VALUES))
    covariance, x = covariance[np.ix_(seen, seen)], VALUES[seen]
    return -0.5 * (
        x @ np.linalg.solve(covariance, x)
        + np.linalg.slogdet(covariance)[1]
        + len(x) * np.log(2 * np.pi)
    )


def test_bounds_rise_to_the_exact_evidence():
    """K = 1, 10, 100, 1,000: in expectation, over 400 copies, each tighter and none above."""
    series = series_from_arrays({"x": np.tile(VALUES, (400, 1))})
    counts = (1, 10, 100, 1000)
    found = importance.log_likelihood_bounds(
        LinearGaussianSSM(), {}, series, jax.random.key(0), counts, batch_size=150
    )
    means = np.array([found.bounds[count].mean() for count in counts])
    errors = np.array([found.bounds[count].std() for count in counts]) / np.sqrt(400)
    assert (np.diff(means)[:2] > 3 * errors[1:3]).all() and means[3] > means[2] - 3 * errors[3]
    assert (means < exact() + 4 * errors).all()
    assert means[0] < exact() - 0.2
    np.testing.assert_allclose(means[3], exact(), atol=4 * errors[3] + 2e-3)
    assert (found.effective > 20).all() and (found.effective < 1000).all()


def test_weights_of_the_exact_posterior_are_all_the_evidence():
    """At T = 1 the proposal is exact: every weight is log p(x), and all samples count."""
    series = series_from_arrays({"x": np.array([[0.7]])})
    weights = importance.log_weights(LinearGaussianSSM(), {}, series, jax.random.key(0), 50)
    variance = 1 + NOISE**2
    expected = -0.5 * (0.7**2 / variance + np.log(2 * np.pi * variance))
    np.testing.assert_allclose(weights, expected, rtol=1e-5)
    np.testing.assert_allclose(importance.effective_sample_size(weights), 50, rtol=1e-4)


def test_groups():
    """Log of the mean weight of each group, averaged over groups; what is left over is not used."""
    weights = np.log(np.array([[1.0], [3.0], [5.0], [7.0], [100.0]]))
    np.testing.assert_allclose(
        importance.importance_bound(weights, 1)[0], weights.mean(), rtol=1e-6
    )
    np.testing.assert_allclose(
        importance.importance_bound(weights, 2)[0], np.log([2, 6]).mean(), rtol=1e-6
    )
    squared = 116**2 / (1 + 9 + 25 + 49 + 100**2)
    np.testing.assert_allclose(importance.effective_sample_size(weights)[0], squared, rtol=1e-5)


def test_models_that_know_their_likelihood_are_refused():
    """Their posterior paths hold no proposal: weights would be nonsense."""
    series = series_from_arrays({"x": np.array([[0.7, 0.1]])})
    exact = [kind for kind in MODELS.values() if issubclass(kind, ExactLikelihood)]
    assert len(exact) >= 2
    for kind in exact:
        model = kind((Modality("x"),))
        for function, number in (
            (importance.log_likelihood_bounds, (1,)),
            (importance.log_weights, 1),
        ):
            with pytest.raises(InputError, match=r"call model\.log_likelihood"):
                function(model, {}, series, jax.random.key(0), number)


def test_bad_input_is_refused_before_anything_is_compiled():
    given = LinearGaussianSSM(), {}
    series = series_from_arrays({"x": np.array([[0.7]])})
    other = series_from_arrays({"y": np.array([[0.7]])})
    count = Compilations()
    for counts in ((), (0,), (10, -1)):
        with pytest.raises(InputError, match="at least 1"):
            importance.log_likelihood_bounds(*given, series, jax.random.key(0), counts)
    with pytest.raises(InputError, match="modality 'x'"):
        importance.log_likelihood_bounds(*given, other, jax.random.key(0))
    with pytest.raises(InputError, match="batch size of at least 1"):
        importance.log_likelihood_bounds(*given, series, jax.random.key(0), (1,), batch_size=0)
    assert count.of("bounds_of_batch") == {"bounds_of_batch": 0}


def test_compiled_once_for_a_model_and_a_shape():
    """For all batches, the last one filled up, and for other series."""
    count = Compilations()
    for factor in (1.0, 2.0):
        series = series_from_arrays({"x": factor * np.tile(VALUES, (3, 1))})
        found = importance.log_likelihood_bounds(
            LinearGaussianSSM(), {}, series, jax.random.key(0), (1, 2), batch_size=2
        )
        assert found.bounds[2].shape == found.effective.shape == (3,)
    assert count.of("bounds_of_batch") == {"bounds_of_batch": 1}
