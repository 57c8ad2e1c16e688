"""Diagonal Gaussians against quadrature on a fine grid and closed forms."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from oracles import log_normal

from jdmm.inference import gaussian
from jdmm.inference.gaussian import Gaussian, Moments

pytestmark = pytest.mark.usefixtures("x64")

GRID = np.linspace(-60.0, 60.0, 240_001)
PAIRS = [(0.3, 1.2), (-1.0, 0.25), (2.5, 4.0)]
"""(mean, variance) of the Gaussians to combine."""


def integral(values: np.ndarray) -> float:
    """Trapezoid rule; the integrands vanish at both ends."""
    return float(values.sum() * (GRID[1] - GRID[0]))


def grid_moments(log_density: np.ndarray) -> tuple[float, float]:
    """Mean and variance of an unnormalised density on the grid."""
    density = np.exp(log_density - log_density.max())
    density /= integral(density)
    mean = integral(GRID * density)
    return mean, integral((GRID - mean) ** 2 * density)


def gaussians(*pairs: tuple[float, float]) -> list[Moments]:
    return [Moments(jnp.array([mean]), jnp.array([variance])) for mean, variance in pairs]


def check(found: Moments, mean: float, variance: float) -> None:
    np.testing.assert_allclose(found.mean, [mean], rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(found.variance, [variance], rtol=1e-8)


@pytest.mark.parametrize("mean, variance", PAIRS)
def test_natural_is_the_exponent_of_the_density(mean, variance):
    """The log density's derivatives: weighted_mean = slope at 0, precision = -curvature."""
    found = gaussian.natural(Moments(jnp.array(mean), jnp.array(variance)))
    low, middle, high = (log_normal(np.array(z), mean, variance) for z in (-0.01, 0.0, 0.01))
    np.testing.assert_allclose(found.weighted_mean, (high - low) / 0.02, rtol=1e-7)
    np.testing.assert_allclose(found.precision, -(high - 2 * middle + low) / 1e-4, rtol=1e-6)
    check(Moments(*(leaf[None] for leaf in gaussian.moments(found))), mean, variance)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_product(count):
    """Quadrature of the multiplied densities."""
    expected = grid_moments(sum(log_normal(GRID, *pair) for pair in PAIRS[:count]))
    experts = [gaussian.natural(g) for g in gaussians(*PAIRS[:count])]
    check(gaussian.moments(gaussian.product(*experts)), *expected)


def test_quotient():
    """Quadrature of the divided densities, and the inverse of the product."""
    narrow, wide = gaussians(PAIRS[1], PAIRS[0])
    expected = grid_moments(log_normal(GRID, *PAIRS[1]) - log_normal(GRID, *PAIRS[0]))
    ratio = gaussian.quotient(gaussian.natural(narrow), gaussian.natural(wide))
    check(gaussian.moments(ratio), *expected)
    check(gaussian.moments(gaussian.product(ratio, gaussian.natural(wide))), *PAIRS[1])


def test_quotient_by_a_narrower_density_is_improper():
    """1 / 1.2 - 1 / 0.25 < 0: told by the sign, never clipped."""
    narrow, wide = gaussians(PAIRS[1], PAIRS[0])
    ratio = gaussian.quotient(gaussian.natural(wide), gaussian.natural(narrow))
    np.testing.assert_allclose(ratio.precision, [1 / 1.2 - 4.0])
    np.testing.assert_allclose(ratio.weighted_mean, [0.3 / 1.2 + 4.0])


@pytest.mark.parametrize("expert", [*PAIRS[1:], (50.0, 1e6), (0.2, 1e-6)])
def test_condition(expert):
    """The textbook product of a prior and an expert, in moments."""
    weight = 1.2 / (1.2 + expert[1])
    expected = 0.3 + weight * (expert[0] - 0.3), 1.2 - weight * 1.2
    check(gaussian.condition(*gaussians(PAIRS[0], expert)), *expected)


def test_condition_against_quadrature():
    expected = grid_moments(log_normal(GRID, *PAIRS[0]) + log_normal(GRID, *PAIRS[2]))
    check(gaussian.condition(*gaussians(PAIRS[0], PAIRS[2])), *expected)


def test_mask_leaves_the_neutral_expert():
    """A masked expert multiplies any density by 1, exactly, whatever it holds."""
    kept, masked = jnp.array([True, False, False]), jnp.array([2.0, jnp.nan, jnp.inf])
    expert = gaussian.mask(Gaussian(masked, -masked), kept)
    np.testing.assert_array_equal(expert.precision, [2, 0, 0])
    np.testing.assert_array_equal(expert.weighted_mean, [-2, 0, 0])
    prior = Gaussian(jnp.array([1.0, 0.7, 3.0]), jnp.array([1.0, 0.1, -3.0]))
    np.testing.assert_array_equal(gaussian.product(prior, expert).precision, [3.0, 0.7, 3.0])
    np.testing.assert_array_equal(gaussian.product(prior, expert).weighted_mean, [-1.0, 0.1, -3.0])


def test_mask_broadcasts_over_the_latent_axis():
    keep = jnp.array([[True], [False]])
    expert = gaussian.mask(Gaussian(jnp.ones((2, 3)), jnp.full((2, 3), 5.0)), keep)
    np.testing.assert_array_equal(expert.precision, [[1, 1, 1], [0, 0, 0]])
    np.testing.assert_array_equal(expert.weighted_mean, [[5, 5, 5], [0, 0, 0]])


@pytest.mark.parametrize("q", PAIRS)
@pytest.mark.parametrize("p", PAIRS)
def test_kl(q, p):
    """Quadrature of q log(q / p)."""
    log_q, log_p = log_normal(GRID, *q), log_normal(GRID, *p)
    expected = integral(np.exp(log_q) * (log_q - log_p))
    found = gaussian.kl(*gaussians(q, p))
    np.testing.assert_allclose(found, [expected], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("axis", [0, 1])
def test_moment_match(axis):
    """Quadrature of the mixture density, for each of two rows of components."""
    rng = np.random.default_rng(0)
    mean, variance = rng.normal(0, 2, (2, 5)), rng.uniform(0.1, 2.0, (2, 5))
    expected = []
    for m, v in zip(mean, variance, strict=True):
        components = np.exp(log_normal(GRID, m[:, None], v[:, None]))
        expected.append(grid_moments(np.log(components.mean(0) + 1e-300)))
    if axis == 0:
        mean, variance = mean.T, variance.T
    found = gaussian.moment_match(Moments(jnp.array(mean), jnp.array(variance)), axis)
    np.testing.assert_allclose(found.mean, [e[0] for e in expected], rtol=1e-8)
    np.testing.assert_allclose(found.variance, [e[1] for e in expected], rtol=1e-8)


def test_moment_match_far_from_zero_in_float32():
    """Means 4096 +- 0.5, known variance 0.25: E[m^2] - E[m]^2 would lose it to rounding."""
    mean = jnp.array([4095.5, 4096.5], jnp.float32)
    found = gaussian.moment_match(Moments(mean, jnp.full(2, 1e-3, jnp.float32)), 0)
    assert found.variance.dtype == jnp.float32
    np.testing.assert_allclose(found.variance, 0.251, rtol=1e-5)


def test_sample():
    """Zero noise gives the mean, unit noise one standard deviation more, draws the moments."""
    target = Moments(jnp.array([0.3]), jnp.array([4.0]))
    np.testing.assert_array_equal(gaussian.sample(target, jnp.zeros(1)), [0.3])
    np.testing.assert_allclose(gaussian.sample(target, jnp.ones(1)), [2.3])
    count = 100_000
    draws = gaussian.sample(target, jax.random.normal(jax.random.key(0), (count,)))
    assert abs(draws.mean() - 0.3) < 5 * 2 / np.sqrt(count)
    assert abs(draws.var() - 4.0) < 5 * 4 * np.sqrt(2 / count)


@pytest.mark.parametrize("latent", [1, 3, 5])
def test_sigma_points_carry_a_linear_map_exactly(latent):
    """A z + b of N(m, diag v) has mean A m + b and covariance A diag(v) A'."""
    rng = np.random.default_rng(latent)
    matrix, bias = rng.normal(size=(2, latent)), rng.normal(size=(2, 1))
    mean, variance = rng.normal(size=(latent, 1)), rng.uniform(0.1, 2, (latent, 1))
    offsets = gaussian.sigma_points(latent)
    assert offsets.shape == (latent, 2 * latent)
    mapped = matrix @ np.array(gaussian.sample(Moments(mean, variance), offsets)) + bias
    np.testing.assert_allclose(mapped.mean(1), (matrix @ mean + bias)[:, 0], rtol=1e-12)
    np.testing.assert_allclose(
        np.cov(mapped, bias=True), (matrix * variance[:, 0]) @ matrix.T, rtol=1e-12
    )


def test_degenerate_input_stays_finite_in_value_and_gradient():
    """A precision or variance of 0 meets the floor: nothing divides by zero."""

    def through(precision, weighted_mean, variance):
        there = gaussian.moments(Gaussian(precision, weighted_mean))
        back = gaussian.natural(Moments(weighted_mean, variance))
        return there.mean + there.variance + there.sd + back.precision + back.weighted_mean

    inputs = (jnp.array(0.0), jnp.array(0.5), jnp.array(0.0))
    values = [through(*inputs), *jax.grad(through, (0, 1, 2))(*inputs)]
    assert np.isfinite(values).all()
