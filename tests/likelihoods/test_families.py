"""Every family against scipy: density, distribution function, quantiles, moments, samples."""

import itertools
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from scipy import stats

from jdmm import (
    Bernoulli,
    Categorical,
    InputError,
    Likelihood,
    LogNormal,
    Mixed,
    NegativeBinomial,
    Normal,
    NormalMixture,
    Poisson,
    StudentT,
)
from jdmm.likelihoods import mixture_log_prob

RNG = np.random.default_rng(0)
FIRST, SECOND, THIRD = RNG.normal(0, 1.5, (3, 4, 3))
LEVELS = (1e-4, 0.025, 0.3, 0.5, 0.9, 0.975, 0.9999)
COUNT = 20_000
DISTANCE = np.sqrt(np.log(2 / 1e-7) / (2 * COUNT))
"""Bound of Dvoretzky, Kiefer and Wolfowitz on |F_n - F|, broken with probability 1e-7."""


def positive(raw):
    return np.log1p(np.exp(raw)) + 1e-3


def negative_binomial(mean, dispersion):
    return stats.nbinom(dispersion, dispersion / (dispersion + mean))


class Case(NamedTuple):
    """A likelihood, its raw outputs ``(4, 3)``, scipy's distribution and values of it."""

    likelihood: Likelihood
    raw: tuple[np.ndarray, ...]
    expected: Any
    values: Any = None


def drawn(likelihood, raw, expected):
    values = expected.rvs((200, 4, 3), random_state=np.random.default_rng(1))
    return Case(likelihood, raw, expected, values.astype(float))


CASES = {
    "normal": drawn(Normal(), (FIRST, SECOND), stats.norm(FIRST, positive(SECOND))),
    "fixed sd": drawn(Normal(sd=0.3), (FIRST,), stats.norm(FIRST, 0.3)),
    "student": drawn(
        StudentT(),
        (FIRST, SECOND, 3 * THIRD),
        stats.t(2 + positive(3 * THIRD), FIRST, positive(SECOND)),
    ),
    "log-normal": drawn(
        LogNormal(), (FIRST, SECOND), stats.lognorm(positive(SECOND), scale=np.exp(FIRST))
    ),
    "poisson": drawn(Poisson(), (2 * FIRST,), stats.poisson(np.exp(2 * FIRST))),
    "negative binomial": drawn(
        NegativeBinomial(), (FIRST, SECOND), negative_binomial(np.exp(FIRST), positive(SECOND))
    ),
    "large counts": drawn(
        NegativeBinomial(),
        (6 + FIRST, 20 + SECOND),
        negative_binomial(np.exp(6 + FIRST), positive(20 + SECOND)),
    ),
    "log-normal, size": drawn(
        LogNormal(size=40.0),
        (FIRST, SECOND),
        stats.lognorm(positive(SECOND), scale=40 * np.exp(FIRST)),
    ),
    "poisson, size": drawn(Poisson(size=20.0), (FIRST,), stats.poisson(20 * np.exp(FIRST))),
    "negative binomial, size": drawn(
        NegativeBinomial(size=20.0),
        (FIRST, SECOND),
        negative_binomial(20 * np.exp(FIRST), positive(SECOND)),
    ),
    "bernoulli": drawn(Bernoulli(), (FIRST,), stats.bernoulli(1 / (1 + np.exp(-FIRST)))),
}
EACH = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
DISCRETE = (
    "poisson",
    "poisson, size",
    "negative binomial",
    "negative binomial, size",
    "large counts",
    "bernoulli",
)


def raws(case):
    return tuple(jnp.array(leaf) for leaf in case.raw)


def log_prob(case, values):
    own = case.expected
    return own.logpmf(values) if hasattr(own.dist, "pmf") else own.logpdf(values)


def evaluate(case, values):
    raw = tuple(jnp.broadcast_to(leaf, values.shape) for leaf in raws(case))
    return case.likelihood.log_prob(raw, jnp.array(values))


@EACH
@pytest.mark.usefixtures("x64")
def test_log_prob(case):
    found = evaluate(case, case.values)
    # JAX's log of the beta function has six digits where an argument is near 8
    error = 2e-6 if isinstance(case.likelihood, NegativeBinomial) else 1e-9
    np.testing.assert_allclose(found, log_prob(case, case.values), rtol=1e-9, atol=error)


@EACH
def test_log_prob_in_single_precision(case):
    """Also of counts of hundreds, whose log-gammas are far larger than their differences."""
    found = evaluate(case, case.values.astype(np.float32))
    assert found.dtype == np.float32
    values = case.values.astype(np.float32).astype(float)
    np.testing.assert_allclose(found, log_prob(case, values), rtol=2e-4, atol=1e-3)


@EACH
@pytest.mark.usefixtures("x64")
def test_slope_of_log_prob(case):
    """Central differences of our own density, which is that of scipy, by each raw output."""
    values, step = case.values[:5], 1e-5
    for place in range(len(case.raw)):

        def moved(by, place=place):
            raw = tuple(leaf + by * (i == place) for i, leaf in enumerate(case.raw))
            raw = tuple(jnp.broadcast_to(jnp.array(leaf), values.shape) for leaf in raw)
            return case.likelihood.log_prob(raw, jnp.array(values))

        slope = jax.jvp(moved, (0.0,), (1.0,))[1]
        expected = (moved(step) - moved(-step)) / (2 * step)
        np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-5)


@EACH
@pytest.mark.usefixtures("x64")
def test_mean_and_moments(case):
    """The moments are those of the statistics: of a log-normal value the log."""
    mean, variance = case.likelihood.moments(raws(case))
    if isinstance(case.likelihood, LogNormal):
        size = case.likelihood.size
        expected = case.raw[0] + np.log(size), positive(case.raw[1]) ** 2
        np.testing.assert_allclose(
            case.likelihood.statistics(jnp.array(case.values)), np.log(case.values), rtol=1e-12
        )
    else:
        expected = case.expected.stats("mv")
        assert case.likelihood.statistics(case.values) is case.values
    np.testing.assert_allclose(mean, expected[0], rtol=1e-10)
    np.testing.assert_allclose(variance, expected[1], rtol=1e-10)
    np.testing.assert_allclose(case.likelihood.mean(raws(case)), case.expected.mean(), rtol=1e-10)


@EACH
@pytest.mark.usefixtures("x64")
def test_cdf(case):
    outside = np.full((1, 4, 3), -0.5)
    values = np.concatenate([case.values[:50], case.values[:10] + 0.5, outside])
    raw = tuple(jnp.broadcast_to(leaf, values.shape) for leaf in raws(case))
    found = case.likelihood.cdf(raw, jnp.array(values))
    np.testing.assert_allclose(found, case.expected.cdf(values), rtol=1e-7, atol=1e-12)


@EACH
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.usefixtures("x64")
def test_quantile(case, level):
    found = case.likelihood.quantile(raws(case), level)
    assert found.shape == (4, 3)
    np.testing.assert_allclose(found, case.expected.ppf(level), rtol=1e-7, atol=1e-9)


@EACH
def test_quantile_in_single_precision(case):
    """Where the next count would do as well, rounding may choose it."""
    found = jax.jit(case.likelihood.quantile)(raws(case), 0.9)
    assert found.dtype == np.float32
    level = case.expected.cdf(np.array(found, float))
    if case.likelihood.counts or isinstance(case.likelihood, Bernoulli):
        below = case.expected.cdf(np.array(found, float) - 1)
        assert (level > 0.9 - 1e-4).all() and (below < 0.9 + 1e-4).all()
        assert (found == np.floor(found)).all()
    else:
        np.testing.assert_allclose(level, 0.9, atol=1e-5)


@EACH
def test_samples_have_the_distribution(case):
    many = tuple(jnp.broadcast_to(leaf, (COUNT, 4, 3)) for leaf in raws(case))
    samples = np.sort(np.array(case.likelihood.sample(many, jax.random.key(3))), 0)
    assert samples.dtype == np.float32 and case.likelihood.in_support(samples).all()
    for place in np.ndindex(4, 3):
        values, first, counts = np.unique(samples[:, *place], return_index=True, return_counts=True)
        own = np.array([case.expected.cdf(v)[place] for v in values[:: max(len(values) // 50, 1)]])
        upto = (first + counts)[:: max(len(values) // 50, 1)] / COUNT
        assert np.abs(own - upto).max() < DISTANCE


@pytest.mark.parametrize("name", DISCRETE)
@pytest.mark.usefixtures("x64")
def test_masses_add_up_to_one(name):
    case = CASES[name]
    values = jnp.arange(2.0 if name == "bernoulli" else 30_000.0)[:, None, None]
    values = jnp.broadcast_to(values, (len(values), 4, 3))
    total = jnp.exp(evaluate(case, np.array(values))).sum(0)
    np.testing.assert_allclose(total, 1.0, rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_quantiles_of_a_mixture():
    """Levels of the quantiles by the average of scipy's distribution functions."""
    logits, means, raw_sds = RNG.normal(0, 2, (3, 2, 3, 4))
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    raw = tuple(jnp.array(leaf) for leaf in (logits, means, raw_sds))
    for level in LEVELS:
        found = np.array(NormalMixture(4).quantile(raw, level))[..., None]
        own = (weights * stats.norm.cdf(found, means, positive(raw_sds))).sum(-1)
        np.testing.assert_allclose(own, level, rtol=1e-8)


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1, 1.5, np.nan])
def test_levels_outside_0_to_1_are_refused(level):
    with pytest.raises(InputError, match="level between 0 and 1"):
        Poisson().quantile((jnp.zeros(2),), level)


def test_categories_have_no_quantile():
    with pytest.raises(InputError, match=r"distribution function, got Categorical\(classes=3\)"):
        Categorical(3).quantile((jnp.zeros((2, 3)),), 0.5)


# Wider and narrower


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.2, 3.0])
@pytest.mark.usefixtures("x64")
def test_rescaled(scale):
    """Scales multiply the scale, or the sd of the log, of families that have one."""
    sd, degrees = positive(SECOND), 2 + positive(THIRD)
    for likelihood, raw, expected in (
        (StudentT(), (FIRST, SECOND, THIRD), stats.t(degrees, FIRST, scale * sd)),
        (LogNormal(), (FIRST, SECOND), stats.lognorm(scale * sd, scale=np.exp(FIRST))),
        (LogNormal(size=9.0), (FIRST, SECOND), stats.lognorm(scale * sd, scale=9 * np.exp(FIRST))),
        (Normal(sd=1e-5), (FIRST,), stats.norm(FIRST, scale * 1e-5)),
    ):
        found = likelihood.rescale(tuple(map(jnp.array, raw)), scale)
        value = expected.rvs(random_state=np.random.default_rng(2))
        np.testing.assert_allclose(
            likelihood.log_prob(found, jnp.array(value)), expected.logpdf(value), rtol=1e-8
        )
        twice = likelihood.rescale(found, 2.0)
        direct = likelihood.rescale(tuple(map(jnp.array, raw)), 2 * scale)
        for first, second in zip(twice, direct, strict=True):
            np.testing.assert_allclose(first, second, rtol=1e-8)


@pytest.mark.parametrize("scale", [1.0, 1.2, 3.0])
@pytest.mark.parametrize("likelihood", [Poisson(), NegativeBinomial()], ids=str)
@pytest.mark.usefixtures("x64")
def test_rescaled_counts(likelihood, scale):
    """`scale` times the sd at the same mean: negative binomial, or Poisson at scale 1."""
    raw = tuple(map(jnp.array, (FIRST, SECOND)[: likelihood.outputs]))
    mean, variance = likelihood.moments(raw)
    wide = likelihood.rescale(raw, scale)
    found = likelihood.moments(wide)
    np.testing.assert_allclose(found[0], mean, rtol=1e-9)
    np.testing.assert_allclose(found[1], scale**2 * variance, rtol=1e-6)
    values = np.arange(12.0)[:, None, None] * np.ones((4, 3))
    wide = tuple(jnp.broadcast_to(leaf, values.shape) for leaf in wide)
    if isinstance(likelihood, Poisson) and scale == 1:
        expected = stats.poisson(np.exp(FIRST))
    else:
        excess = scale**2 * np.array(variance) - np.exp(FIRST)
        expected = negative_binomial(np.exp(FIRST), np.exp(2 * FIRST) / excess)
    np.testing.assert_allclose(
        likelihood.log_prob(wide, jnp.array(values)), expected.logpmf(values), rtol=1e-6
    )
    np.testing.assert_allclose(
        likelihood.cdf(wide, jnp.array(values)), expected.cdf(values), rtol=1e-6
    )
    many = tuple(jnp.broadcast_to(leaf[0], (COUNT, 4, 3)) for leaf in wide)
    samples = np.array(likelihood.sample(many, jax.random.key(0)))
    for value in (0, 1, 3, 9):
        assert np.abs((samples <= value).mean(0) - expected.cdf(value)).max() < DISTANCE


@pytest.mark.usefixtures("x64")
def test_counts_do_not_get_narrower_than_poisson():
    for likelihood in (Poisson(), NegativeBinomial()):
        raw = tuple(map(jnp.array, (FIRST, SECOND)[: likelihood.outputs]))
        mean, variance = likelihood.moments(likelihood.rescale(raw, 0.01))
        np.testing.assert_allclose(variance, mean, rtol=1e-2)


def test_a_rescaled_density_averages_over_states():
    """The rescaled raw outputs of a fixed sd have the samples in front, like all others."""
    raw = Normal(sd=0.5).rescale((jnp.zeros((3, 2)),), 2.0)
    found = mixture_log_prob(Normal(sd=0.5), raw, jnp.ones(2))
    np.testing.assert_allclose(found, stats.norm.logpdf(1.0), rtol=1e-5)


# Numerics

EXTREMES = (-3e38, -1e30, -1e6, -100.0, 0.0, 100.0, 1e6, 1e30, 3e38)


@pytest.mark.parametrize(
    ("likelihood", "values"),
    [
        (StudentT(), (0.0, -3.0, 1e10)),
        (Poisson(), (0.0, 1.0, 1e6)),
        (NegativeBinomial(), (0.0, 1.0, 1e6)),
        (LogNormal(), (0.0, 1e-6, 1e6)),  # 0 stands for a missing value
        (Mixed((LogNormal(), Poisson(), NegativeBinomial())), (0.0, 1.0, 1e6)),
    ],
    ids=lambda each: type(each).__name__,
)
def test_finite_with_finite_gradients_for_any_raw_outputs(likelihood, values):
    count = len(likelihood.parts) if isinstance(likelihood, Mixed) else 1
    rows = np.array(list(itertools.product(EXTREMES, repeat=likelihood.outputs)), np.float32)
    raw = tuple(jnp.repeat(leaf[:, None], count, 1) for leaf in rows.T)

    def everything(raw):
        given = [likelihood.log_prob(raw, jnp.full(raw[0].shape, value)) for value in values]
        sample = likelihood.sample(raw, jax.random.key(0))
        return [*given, likelihood.mean(raw), *likelihood.moments(raw), sample]

    found, gradients = jax.jit(lambda raw: jax.vjp(everything, raw))(raw)
    assert all(np.isfinite(leaf).all() for leaf in found)
    for place in range(len(found)):
        ones = [jnp.full_like(leaf, float(i == place)) for i, leaf in enumerate(found)]
        assert all(np.isfinite(leaf).all() for leaf in gradients(ones)[0])
    for scale in (0.5, 1.0, 2.0):
        wide = likelihood.rescale(raw, scale)
        assert np.isfinite(likelihood.log_prob(wide, jnp.ones_like(raw[0]))).all()
    assert np.isfinite(likelihood.quantile(raw, 0.975)).all()


def test_draws_of_a_student_have_a_gradient_and_counts_have_none():
    """Models that feed samples back differentiate through them."""
    raw = (jnp.zeros(5), jnp.zeros(5), jnp.zeros(5))
    key = jax.random.key(0)
    location, scale, degrees = jax.grad(lambda raw: StudentT().sample(raw, key).sum())(raw)
    np.testing.assert_allclose(location, 1.0)
    assert (scale != 0).all() and (degrees != 0).all()
    (rate,) = jax.grad(lambda raw: Poisson().sample(raw, key).sum())(raw[:1])
    np.testing.assert_array_equal(rate, 0.0)


@pytest.mark.parametrize("sd", [0, -1.0, np.inf, np.nan, "1"])
def test_impossible_sds_are_refused(sd):
    with pytest.raises(InputError, match="positive sd"):
        Normal(sd=sd)


def test_a_normal_is_printed_as_it_is_written():
    assert (repr(Normal()), repr(Normal(sd=0.5))) == ("Normal()", "Normal(sd=0.5)")


@pytest.mark.parametrize("likelihood", [Poisson(), NegativeBinomial()], ids=str)
def test_networks_take_the_logs_of_counts(likelihood):
    np.testing.assert_allclose(likelihood.inputs(jnp.array([0.0, 9.0])), [0, np.log(10)], rtol=1e-6)
