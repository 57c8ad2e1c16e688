"""Quantiles, probability integral transform and CRPS of draws against the closed forms."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from scipy import stats

from jdmm.evaluation import prediction


@pytest.mark.parametrize(("count", "levels"), [(9, (0.6, 0.8)), (100, (0.5, 0.8, 0.95))])
def test_intervals_cover_what_they_say(count, levels):
    """Of further draws from the same distribution; few have exact quantiles at tenths alone."""
    keys = jax.random.split(jax.random.key(0))
    draws = jnp.sort(jax.random.normal(keys[0], (count, 40_000)), 0)
    value = jax.random.normal(keys[1], (40_000,))
    pit = np.array(prediction.probability_integral_transform(draws, value))
    if count == 100:
        assert stats.kstest(pit, "uniform").pvalue > 0.001
    for level in levels:
        edges = jnp.array([0.5 - level / 2, 0.5 + level / 2])
        lower, upper = prediction.quantiles(draws, edges)
        inside = np.array((lower <= value) & (value <= upper))
        error = np.sqrt(level * (1 - level) / len(value))
        np.testing.assert_allclose(inside.mean(), level, atol=4 * error)
        clear = np.abs(np.abs(pit - 0.5) - level / 2) > 1e-5
        np.testing.assert_array_equal((np.abs(pit - 0.5) <= level / 2)[clear], inside[clear])


def test_transform_beyond_all_draws():
    draws = jnp.array([1.0, 2.0, 4.0])[:, None]
    found = [
        float(prediction.probability_integral_transform(draws, jnp.array([value]))[0])
        for value in (0.0, 1.5, 3.0, 9.0)
    ]
    np.testing.assert_allclose(found, [0.5 / 4, 1.5 / 4, 2.5 / 4, 3.5 / 4], rtol=1e-6)


def test_ranked_probability_score_of_a_normal():
    """sd (u (2 F(u) - 1) + 2 f(u) - 1 / sqrt(pi)), u = (x - mean) / sd (Gneiting et al. 2005)."""
    mean, sd = 0.4, 1.7
    value = jnp.array([-3.0, 0.0, 0.4, 2.5])
    draws = mean + sd * jax.random.normal(jax.random.key(0), (50, 20_000, 4))
    score = jax.vmap(prediction.ranked_probability_score, (1, None))(jnp.sort(draws, 0), value)
    u = (np.array(value) - mean) / sd
    expected = sd * (u * (2 * stats.norm.cdf(u) - 1) + 2 * stats.norm.pdf(u) - 1 / np.sqrt(np.pi))
    error = np.array(score.std(0)) / np.sqrt(20_000)
    assert (np.abs(np.array(score.mean(0)) - expected) < 5 * error).all()
