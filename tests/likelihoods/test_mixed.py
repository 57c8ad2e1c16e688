"""`Mixed` equals its parts, and the modality, scaling and networks know of it."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from jdmm import (
    Bernoulli,
    Categorical,
    InputError,
    LogNormal,
    Mixed,
    Modality,
    Normal,
    NormalMixture,
    Poisson,
    StudentT,
    series_from_arrays,
)
from jdmm.data.modality import check_series
from jdmm.likelihoods import Likelihood

PARTS = (Poisson(), Normal(), Bernoulli(), Poisson(), StudentT(), Normal(sd=0.2), LogNormal())
MIXED = Mixed(PARTS)
RNG = np.random.default_rng(0)
RAW = tuple(jnp.array(leaf) for leaf in RNG.normal(size=(3, 4, 7)).astype(np.float32))
VALUES = jnp.array(
    [[2.0, -0.3, 1.0, 0.0, 4.0, 0.1, 3.0], [1.0, 0.3, 0.0, 7.0, -4.0, 0.5, 0.2]] * 2, np.float32
)


def each(function):
    """`function` of every part, its raw outputs and its feature, joined."""
    columns = [
        function(part, tuple(leaf[:, i : i + 1] for leaf in RAW[: part.outputs]), i)
        for i, part in enumerate(PARTS)
    ]
    return np.concatenate(columns, -1)


def own(i):
    return VALUES[:, i : i + 1]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (MIXED.log_prob(RAW, VALUES), each(lambda p, raw, i: p.log_prob(raw, own(i)))),
        (MIXED.mean(RAW), each(lambda p, raw, i: p.mean(raw))),
        (MIXED.cdf(RAW, VALUES), each(lambda p, raw, i: p.cdf(raw, own(i)))),
        (MIXED.quantile(RAW, 0.9), each(lambda p, raw, i: p.quantile(raw, 0.9))),
        (MIXED.statistics(VALUES), each(lambda p, raw, i: p.statistics(own(i)))),
        (MIXED.inputs(VALUES), each(lambda p, raw, i: p.inputs(own(i)))),
        (MIXED.moments(RAW)[0], each(lambda p, raw, i: p.moments(raw)[0])),
        (MIXED.moments(RAW)[1], each(lambda p, raw, i: p.moments(raw)[1])),
        (MIXED.in_support(np.array(-VALUES)), each(lambda p, raw, i: p.in_support(-own(i)))),
    ],
    ids=[
        *("log_prob", "mean", "cdf", "quantile", "statistics", "inputs"),
        *("first moment", "second moment", "support"),
    ],
)
def test_equals_its_parts(found, expected):
    assert found.shape == (4, 7)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_rescaled_it_equals_its_rescaled_parts(scale):
    """And may be rescaled again."""
    raw = MIXED.rescale(RAW, scale)
    expected = each(lambda p, raw, i: p.log_prob(p.rescale(raw, scale), own(i)))
    np.testing.assert_allclose(MIXED.log_prob(raw, VALUES), expected, rtol=1e-5)
    twice = MIXED.rescale(MIXED.rescale(RAW, 2.0), scale)
    expected = each(lambda p, raw, i: p.log_prob(p.rescale(raw, 2 * scale), own(i)))
    np.testing.assert_allclose(MIXED.log_prob(twice, VALUES), expected, rtol=1e-5)


def test_samples_are_those_of_the_parts_and_independent():
    many = tuple(jnp.broadcast_to(leaf[0], (20_000, 7)) for leaf in RAW)
    samples = np.array(MIXED.sample(many, jax.random.key(1)))
    assert MIXED.in_support(samples).all()
    for level in (0.1, 0.5, 0.9):
        one = tuple(leaf[:1] for leaf in RAW)
        quantile = np.array(MIXED.quantile(one, level))
        reached = np.array(MIXED.cdf(one, quantile))[0]
        assert np.abs((samples <= quantile).mean(0) - reached).max() < 0.02
    ranks = samples.argsort(0).argsort(0)
    assert np.abs(np.corrcoef(ranks.T) - np.eye(7)).max() < 0.05


def test_raw_outputs_and_spreads_are_those_of_the_parts():
    assert (MIXED.outputs, MIXED.spreads) == (3, (1, 2))
    assert Mixed((Normal(sd=1), Poisson())).outputs == 1
    assert MIXED.has_moments and not Mixed((Flat(), Normal())).has_moments


class Flat(Likelihood):
    outputs = 2

    def __eq__(self, other):
        return isinstance(other, Flat)

    def __hash__(self):
        return 0

    def log_prob(self, raw, value):
        return 0 * value

    def mean(self, raw):
        return raw[0]

    def sample(self, raw, key):
        return raw[0]

    def rescale(self, raw, scale):
        return raw


def test_likelihoods_without_moments_have_no_quantiles():
    with pytest.raises(InputError, match="with moments for quantiles, got <.*Flat"):
        Mixed((Normal(), Flat())).quantile(RAW, 0.5)


def test_outputs_that_are_no_spread_of_some_part_depend_on_the_state():
    assert Mixed((Flat(), Normal())).spreads == ()


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ((), "a tuple of likelihoods"),
        (Normal(), "a tuple of likelihoods"),
        ((Normal(), "poisson"), "each part of Mixed, got 'poisson'"),
        ((Normal(), Categorical(3)), "got Categorical"),
        ((NormalMixture(2),), "got NormalMixture"),
        ((Mixed((Normal(),)),), "got Mixed"),
    ],
)
def test_other_parts_are_refused(parts, words):
    with pytest.raises(InputError, match=words):
        Mixed(parts)


def test_the_features_of_a_modality_are_its_parts():
    assert Modality("x", likelihood=MIXED).features == Modality("x", 7, MIXED).features == 7
    with pytest.raises(InputError, match="features=7, the parts of its Mixed likelihood, got 2"):
        Modality("x", 2, MIXED)


def test_the_feature_outside_its_support_is_named():
    modality = Modality("x", likelihood=Mixed((Normal(), Poisson())))
    series = series_from_arrays({"x": np.array([[[0.5, 1.0], [-1.0, 0.5]]])})
    with pytest.raises(InputError, match=r"got 0.5 at \(series, step, feature\) \(0, 1, 1\)"):
        check_series([modality], series)
