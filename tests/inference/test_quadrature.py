"""Quadrature rules against the moments of a standard normal."""

import itertools
import math

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from jdmm import InputError, Quadrature
from jdmm.inference import quadrature
from jdmm.inference.quadrature import RULES
from jdmm.series import Series

pytestmark = pytest.mark.usefixtures("x64")

STEPS, BATCH = 2, 3
SERIES = Series(
    {"x": np.zeros((BATCH, STEPS, 1))},
    {"x": np.ones((BATCH, STEPS, 1), bool)},
    np.full(BATCH, STEPS),
    np.arange(BATCH),
)


def rule_points(rule: str, latent: int, **fields: int) -> tuple[np.ndarray, np.ndarray]:
    """Offsets ``(case, latent, point)`` of every step and series, and weights."""
    points = Quadrature(rule, **fields).points(jax.random.key(0), SERIES, latent)
    moved = np.moveaxis(np.array(points.offsets), 3, 1)
    return moved.reshape(-1, *moved.shape[2:]), np.array(points.weights)


def normal_moment(powers: tuple[int, ...]) -> float:
    """E prod_d u_d^powers_d: (p - 1)!! for even p, else 0."""
    each = (0 if p % 2 else math.prod(range(p - 1, 0, -2)) for p in powers)
    return float(math.prod(each))


@pytest.mark.parametrize("latent", [1, 3])
@pytest.mark.parametrize(
    "rule, degree, fields",
    [
        ("sigma_points", 3, {}),
        ("rotated_sigma_points", 3, {}),
        ("particles", 3, {"particles": 8}),
        ("gauss_hermite", 3, {"order": 2}),
        ("gauss_hermite", 5, {"order": 3}),
    ],
)
def test_rules_are_exact_up_to_their_degree(
    latent: int, rule: str, degree: int, fields: dict[str, int]
) -> None:
    """Every monomial of at most that degree, and not all of the next even one."""
    offsets, weights = rule_points(rule, latent, **fields)

    def errors(total: int) -> list[float]:
        found = []
        for powers in itertools.product(range(total + 1), repeat=latent):
            if sum(powers) == total:
                each = np.prod(offsets ** np.array(powers)[:, None], 1) @ weights
                found.append(np.abs(each - normal_moment(powers)).max())
        return found

    for total in range(degree + 1):
        assert max(errors(total)) < 1e-9
    if (rule, latent) != ("sigma_points", 3):  # where E u^4 = 3 holds by chance
        assert max(errors(degree + 1)) > 1e-3


def test_rotations_average_to_higher_degrees() -> None:
    """The mean of E u_1^2 u_2^2 over rotations; fixed axes give 0."""
    points = quadrature.rotated_sigma_points(jax.random.key(1), 4000, 2)[..., 0]
    each = np.mean(np.prod(np.array(points) ** 2, 1), 1)
    # the radius is fixed: E over the sphere of radius sqrt(2) in 2 dimensions is 4 / 8
    np.testing.assert_allclose(each.mean(), 0.5, atol=0.02)
    assert np.mean(np.prod(np.array(quadrature.filtering.sigma_points(2)) ** 2, 1)) == 0


def test_random_points_differ_between_steps_and_series() -> None:
    """Particles depend on both, rotations on the step only."""
    particles = Quadrature("particles", 8).points(jax.random.key(0), SERIES, 2).offsets
    rotated = Quadrature("rotated_sigma_points").points(jax.random.key(0), SERIES, 2).offsets
    assert particles.shape == (STEPS, 2, 8, BATCH) and rotated.shape == (STEPS, 2, 4, 1)
    assert not np.allclose(particles[0], particles[1])
    assert not np.allclose(particles[..., 0], particles[..., 1])
    assert not np.allclose(rotated[0], rotated[1])


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "gauss_hermite"])
def test_diagonal_filters_take_rules_of_equal_weights(rule: str) -> None:
    """Offsets of mean 0 where the rule is deterministic."""
    offsets = Quadrature(rule, 4).offsets(jax.random.key(0), SERIES, 2)
    if rule != "particles":
        np.testing.assert_allclose(jnp.mean(offsets, 2), 0, atol=1e-12)


def test_impossible_rules_are_refused() -> None:
    """Before anything is computed."""
    with pytest.raises(InputError, match="among 'sigma_points'"):
        Quadrature("simpson")
    with pytest.raises(InputError, match="order of at least 2"):
        Quadrature("gauss_hermite", order=1)
    with pytest.raises(InputError, match="equal weights"):
        Quadrature("gauss_hermite").offsets(jax.random.key(0), SERIES, 2)
    with pytest.raises(InputError, match="even number of particles, at least 6"):
        Quadrature("particles", 5).check_full(3)
    with pytest.raises(InputError, match="at most 2000 points of gauss_hermite"):
        Quadrature("gauss_hermite").check_full(8)
