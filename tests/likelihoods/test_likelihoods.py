"""Likelihoods against numpy closed forms, normalisation, and the statistics of their draws."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from oracles import log_normal

from jdmm.likelihoods import (
    Bernoulli,
    Categorical,
    Normal,
    NormalMixture,
    constrain_sd,
    mixture_log_prob,
    unconstrain_sd,
)

pytestmark = pytest.mark.usefixtures("x64")

RNG = np.random.default_rng(0)
GRID = np.linspace(-40.0, 40.0, 20_001)
STEP = GRID[1] - GRID[0]
MEAN, RAW_SD = RNG.normal(size=(4, 3)), RNG.normal(size=(4, 3))
SD = np.log1p(np.exp(RAW_SD)) + 1e-3
LOGIT = RNG.normal(0, 2, (4, 3))
LOGITS = RNG.normal(0, 2, (4, 3, 5))
MEANS, RAW_SDS = RNG.normal(size=(4, 3, 5)), RNG.normal(size=(4, 3, 5))
PROBABILITIES = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)

MIXED_MEAN = (PROBABILITIES * MEANS).sum(-1)
MIXED_VARIANCE = (PROBABILITIES * (MEANS**2 + (np.log1p(np.exp(RAW_SDS)) + 1e-3) ** 2)).sum(
    -1
) - MIXED_MEAN**2


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def raws(*arrays: np.ndarray) -> tuple[jax.Array, ...]:
    return tuple(jnp.array(array) for array in arrays)


def test_positive():
    """log(1 + exp(raw)) + 0.001, at least the floor and linear far up."""
    np.testing.assert_allclose(constrain_sd(jnp.array(RAW_SD)), SD, rtol=1e-12)
    np.testing.assert_allclose(constrain_sd(jnp.array([-1e3, 1e3])), [1e-3, 1e3 + 1e-3])


def test_normal_log_prob():
    value = RNG.normal(size=(4, 3))
    found = Normal().log_prob(raws(MEAN, RAW_SD), jnp.array(value))
    np.testing.assert_allclose(found, log_normal(value, MEAN, SD**2), rtol=1e-10)


def test_normal_mixture_log_prob():
    value, sd = RNG.normal(size=(4, 3)), np.log1p(np.exp(RAW_SDS)) + 1e-3
    found = NormalMixture(5).log_prob(raws(LOGITS, MEANS, RAW_SDS), jnp.array(value))
    density = np.exp(log_normal(value[..., None], MEANS, sd**2))
    np.testing.assert_allclose(found, np.log((PROBABILITIES * density).sum(-1)), rtol=1e-10)


def test_bernoulli_log_prob():
    """v log p + (1 - v) log(1 - p), for fractional values too."""
    value, p = RNG.uniform(size=(4, 3)), sigmoid(LOGIT)
    found = Bernoulli().log_prob(raws(LOGIT), jnp.array(value))
    np.testing.assert_allclose(found, value * np.log(p) + (1 - value) * np.log1p(-p), rtol=1e-10)


def test_bernoulli_log_prob_of_extreme_logits():
    """log sigmoid(-x) -> -x: where 1 - p rounds to 0, neither the value nor the slope is lost."""
    logit, value = jnp.array([-200.0, 200.0, 200.0, -200.0]), jnp.array([1.0, 0.0, 1.0, 0.0])
    found = Bernoulli().log_prob((logit,), value)
    np.testing.assert_allclose(found, [-200, -200, 0, 0], atol=1e-12)
    slope = jax.grad(lambda x: Bernoulli().log_prob((x,), value).sum())(logit)
    np.testing.assert_allclose(slope, [1, -1, 0, 0], atol=1e-12)


def test_categorical_log_prob():
    label = RNG.integers(0, 5, (4, 3))
    found = Categorical(5).log_prob(raws(LOGITS), jnp.array(label, float))
    expected = np.log(np.take_along_axis(PROBABILITIES, label[..., None], -1)[..., 0])
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize(
    "likelihood, raw, values, weight",
    [
        (Normal(), (MEAN, RAW_SD), GRID, STEP),
        (NormalMixture(5), (LOGITS, MEANS, RAW_SDS), GRID, STEP),
        (Bernoulli(), (LOGIT,), np.arange(2.0), 1.0),
        (Categorical(5), (LOGITS,), np.arange(5.0), 1.0),
    ],
    ids=["normal", "normal mixture", "bernoulli", "categorical"],
)
@pytest.mark.parametrize("mixture", [False, True])
def test_normalisation(likelihood, raw, values, weight, mixture):
    """Quadrature or the sum over all values is 1, also for the average over draws of the state."""
    value = jnp.array(values)[:, None, None]
    if mixture:  # four draws of a state with three features
        raw = tuple(jnp.array(r)[:, None, None] for r in raw)
        density = mixture_log_prob(likelihood, raw, jnp.tile(value, (1, 1, 3)))
    else:
        raw = tuple(jnp.array(r)[None] for r in raw)
        density = likelihood.log_prob(raw, jnp.tile(value, (1, 4, 3)))
    np.testing.assert_allclose(jnp.exp(density).sum(0) * weight, 1.0, rtol=1e-6)


@pytest.mark.parametrize(
    "likelihood, raw, mean, variance",
    [
        (Normal(), (MEAN, RAW_SD), MEAN, SD**2),
        (NormalMixture(5), (LOGITS, MEANS, RAW_SDS), MIXED_MEAN, MIXED_VARIANCE),
        (Bernoulli(), (LOGIT,), sigmoid(LOGIT), sigmoid(LOGIT) * sigmoid(-LOGIT)),
        (
            Categorical(5),
            (LOGITS,),
            PROBABILITIES @ np.arange(5),
            PROBABILITIES @ np.arange(5) ** 2 - (PROBABILITIES @ np.arange(5)) ** 2,
        ),
    ],
    ids=["normal", "normal mixture", "bernoulli", "categorical"],
)
def test_draws(likelihood, raw, mean, variance):
    """Mean and variance of 20000 draws within 5 standard errors of the closed form."""
    count = 20_000
    many = tuple(jnp.broadcast_to(jnp.array(r), (count, *r.shape)) for r in raw)
    draws = np.array(likelihood.sample(many, jax.random.key(1)))
    assert draws.shape == (count, 4, 3)
    assert (np.abs(draws.mean(0) - mean) < 5 * np.sqrt(variance / count)).all()
    fourth = ((draws - mean) ** 4).mean(0)
    error = np.sqrt((fourth - variance**2).clip(0) / count)
    assert (np.abs(((draws - mean) ** 2).mean(0) - variance) < 5 * error + 1e-9).all()


def test_categorical_draws_have_the_probabilities():
    count = 20_000
    many = jnp.broadcast_to(jnp.array(LOGITS), (count, *LOGITS.shape))
    draws = np.array(Categorical(5).sample((many,), jax.random.key(2)))
    frequency = (draws[..., None] == np.arange(5)).mean(0)
    error = np.sqrt(PROBABILITIES * (1 - PROBABILITIES) / count)
    assert (np.abs(frequency - PROBABILITIES) < 5 * error + 1e-9).all()


@pytest.mark.parametrize(
    "likelihood, raw, expected",
    [
        (Normal(), (MEAN, RAW_SD), MEAN),
        (NormalMixture(5), (LOGITS, MEANS, RAW_SDS), MIXED_MEAN),
        (Bernoulli(), (LOGIT,), sigmoid(LOGIT)),
        (Categorical(5), (LOGITS,), PROBABILITIES.argmax(-1)),
    ],
    ids=["normal", "normal mixture", "bernoulli", "categorical"],
)
def test_mean(likelihood, raw, expected):
    """The mean, or the most probable class."""
    np.testing.assert_allclose(likelihood.mean(raws(*raw)), expected, rtol=1e-12)


def test_mixture_log_prob():
    """log of the directly averaged densities."""
    value = RNG.normal(size=3)
    found = mixture_log_prob(Normal(), raws(MEAN, RAW_SD), jnp.array(value))
    expected = np.log(np.exp(log_normal(value[None], MEAN, SD**2)).mean(0))
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_mixture_log_prob_far_in_the_tail():
    """Equal components far below the smallest float: their average is any one of them."""
    raw = raws(np.zeros((4, 1)), np.zeros((4, 1)))
    found = mixture_log_prob(Normal(), raw, jnp.array([1000.0]))
    expected = log_normal(np.array([1000.0]), 0.0, (np.log(2) + 1e-3) ** 2)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_spread(scale):
    """Normals have `scale` times their sd, odds are taken to the power 1 / scale."""
    mean, raw_sd = Normal().rescale(raws(MEAN, RAW_SD), scale)
    np.testing.assert_array_equal(mean, MEAN)
    np.testing.assert_allclose(constrain_sd(raw_sd), scale * SD, rtol=1e-9)
    logits, means, raw_sds = NormalMixture(5).rescale(raws(LOGITS, MEANS, RAW_SDS), scale)
    np.testing.assert_array_equal(means, MEANS)
    np.testing.assert_array_equal(logits, LOGITS)
    expected = scale * (np.log1p(np.exp(RAW_SDS)) + 1e-3)
    np.testing.assert_allclose(constrain_sd(raw_sds), expected, rtol=1e-9)
    (logit,) = Bernoulli().rescale(raws(LOGIT), scale)
    odds = sigmoid(np.array(logit)) / sigmoid(-np.array(logit))
    np.testing.assert_allclose(odds, np.exp(LOGIT) ** (1 / scale), rtol=1e-9)
    (spread,) = Categorical(5).rescale(raws(LOGITS), scale)
    np.testing.assert_allclose(spread, LOGITS / scale, rtol=1e-12)


def test_unpositive():
    """The inverse of `constrain_sd`; finite below what it can give."""
    sd = np.array([0.0011, 0.002, 0.5, 3.0, 200.0])
    np.testing.assert_allclose(constrain_sd(unconstrain_sd(jnp.array(sd))), sd, rtol=1e-9)
    assert np.isfinite(unconstrain_sd(jnp.array([0.0, 1e-3]))).all()


@pytest.mark.parametrize(
    ("likelihood", "raw"),
    [
        (Normal(), ([0.3, -1.0], [0.2, -0.5])),
        (Bernoulli(), ([0.3, -1.0],)),
        (Categorical(3), ([[0.3, -1.0, 0.5], [1.0, 0.0, 0.0]],)),
        (NormalMixture(2), ([[0.3, -1.0]], [[2.0, -1.0]], [[0.1, -0.5]])),
    ],
)
def test_moments_are_those_of_samples(likelihood, raw):
    """Mean and variance of the statistics."""
    raw = tuple(np.array(leaf, np.float32) for leaf in raw)
    mean, variance = likelihood.moments(raw)
    keys = jax.random.split(jax.random.key(0), 40_000)
    samples = jax.vmap(lambda key: likelihood.statistics(likelihood.sample(raw, key)))(keys)
    assert likelihood.has_moments and mean.shape == samples.shape[1:]
    np.testing.assert_allclose(mean, samples.mean(0), atol=0.03)
    np.testing.assert_allclose(variance, samples.var(0), rtol=0.05)


def test_sd_has_a_gradient_at_zero():
    np.testing.assert_allclose(jax.grad(constrain_sd)(0.0), 0.5)
