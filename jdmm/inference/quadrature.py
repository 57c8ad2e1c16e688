"""Quadrature rules: expectations over a Gaussian state as weighted sums over points.

A rule approximates E f(u), u ~ N(0, I), by sum_k w_k f(u_k). All rules satisfy sum_k w_k = 1,
sum_k w_k u_k = 0 and sum_k w_k u_k u_k' = I.

    rule                   points        exact for polynomials of degree
    sigma_points           2 D           3
    rotated_sigma_points   2 D           3, along axes that differ from step to step
    particles              any number    3 (the points come in pairs u, -u)
    gauss_hermite          order^D       2 order - 1

Arasaratnam & Haykin 2009 (sigma points), Genz & Monahan 1998 (random rotations).
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np
from jax import numpy as jnp
from jaxtyping import Float

from jdmm.errors import InputError
from jdmm.inference import filtering, linalg
from jdmm.inference.filtering import Offsets
from jdmm.series import Array, Series

PARTICLES, SIGMA_POINTS = "particles", "sigma_points"
ROTATED_SIGMA_POINTS, GAUSS_HERMITE = "rotated_sigma_points", "gauss_hermite"

RULES = (SIGMA_POINTS, ROTATED_SIGMA_POINTS, PARTICLES, GAUSS_HERMITE)

MAX_GRID = 2000
"""Most points of a Gauss-Hermite rule."""


class Points(NamedTuple):
    """Points u_k in units of the standard normal, and their weights w_k.

    offsets: ``(time, latent, point, series)``; `time` and `series` are 1 where all share them.
    weights: ``(point,)``.
    """

    offsets: Float[Array, "time latent point series"]
    weights: Float[Array, " point"]


@dataclass(frozen=True)
class Quadrature:
    """How an expectation over a Gaussian state is computed.

    Attributes:
        rule: "sigma_points" (2 * latent fixed points), "rotated_sigma_points" (the same along
            random axes, drawn anew for every step), "particles" (random points) or
            "gauss_hermite" (a grid of order^latent points, for few dimensions).
        particles: the number of particles; the other rules do not use it.
        order: points of the Gauss-Hermite rule along each dimension; the other rules do not use
            it.
    """

    rule: str = SIGMA_POINTS
    particles: int = 25
    order: int = 3

    def __post_init__(self) -> None:
        """Checks the values."""
        if self.rule not in RULES:
            known = ", ".join(map(repr, RULES))
            raise InputError(f"expected quadrature rule among {known}, got {self.rule!r}")
        if self.particles < 1:
            raise InputError(f"expected particles of at least 1, got {self.particles}")
        if self.order < 2:
            raise InputError(f"expected an order of at least 2, got {self.order}")

    def check_diagonal(self) -> None:
        """Checks that the rule suits diagonal covariance.

        Raises:
            InputError: for "gauss_hermite", whose weights differ.
        """
        if self.rule == GAUSS_HERMITE:
            raise InputError(
                "expected a rule of equal weights for diagonal covariance, got 'gauss_hermite': "
                "use sigma_points, or covariance='full'"
            )

    def check_full(self, latent: int) -> None:
        """Checks that the rule gives the covariance of all dimensions.

        Raises:
            InputError: for too few particles, or too many points of a grid.
        """
        if self.rule == PARTICLES and (self.particles % 2 or self.particles < 2 * latent):
            raise InputError(
                f"expected an even number of particles, at least {2 * latent} for {latent} "
                f"dimensions with full covariance, got {self.particles}"
            )
        if self.rule == GAUSS_HERMITE and self.order**latent > MAX_GRID:
            raise InputError(
                f"expected at most {MAX_GRID} points of gauss_hermite, got {self.order}^{latent}: "
                "use sigma_points, or a smaller order or latent"
            )

    def offsets(self, key: jax.Array, series: Series, latent: int) -> Offsets:
        """The points for the diagonal filters, in units of sd, with equal weights.

        Raises:
            InputError: as `check_diagonal` does.
        """
        self.check_diagonal()
        if self.rule == SIGMA_POINTS:
            return filtering.sigma_points(latent)
        if self.rule == ROTATED_SIGMA_POINTS:
            return rotated_sigma_points(key, series.num_steps, latent)
        return filtering.particles(key, self.particles, series.index, series.num_steps, latent)

    def points(self, key: jax.Array, series: Series, latent: int) -> Points:
        """The points for the filters of full covariance."""
        if self.rule == GAUSS_HERMITE:
            offsets, weights = gauss_hermite(latent, self.order)
            return Points(offsets[None, :, :, None], weights)
        if self.rule == PARTICLES:
            half = self.particles // 2
            drawn = filtering.particles(key, half, series.index, series.num_steps, latent)
            offsets = whiten(drawn)
        else:
            offsets = self.offsets(key, series, latent)
        count = offsets.shape[2]
        return Points(offsets, jnp.full(count, 1.0 / count))


def rotated_sigma_points(
    key: jax.Array, num_steps: int, latent: int
) -> Float[Array, "time latent point series"]:
    """Sigma points along random orthogonal axes, drawn for every step and shared by the batch.

    Fixed axes have fixed errors, and a model can learn to use them.
    """
    normal = jax.random.normal(key, (num_steps, latent, latent))
    axes, upper = linalg.qr(normal)
    # uniform over the orthogonal matrices only with the signs of R (Mezzadri 2007)
    axes = axes * jnp.sign(jnp.diagonal(upper, axis1=1, axis2=2))[:, None]
    axes = jnp.sqrt(float(latent)) * axes
    return jnp.concatenate([axes, -axes], 2)[..., None]


def whiten(
    offsets: Float[Array, "time latent half series"],
) -> Float[Array, "time latent point series"]:
    """Random points and their mirror images, with the identity as second moment.

    Args:
        offsets: at least `latent` independent points.
    """
    time, latent, half, series = offsets.shape
    flat = jnp.moveaxis(offsets, 0, 2).reshape(latent, half, time * series)
    root = linalg.triangularise(flat / jnp.sqrt(float(half)))
    flat = linalg.solve_lower(root, flat)
    both = jnp.concatenate([flat, -flat], 1)
    return jnp.moveaxis(both.reshape(latent, 2 * half, time, series), 2, 0)


def gauss_hermite(
    latent: int, order: int
) -> tuple[Float[Array, "latent point"], Float[Array, " point"]]:
    """The grid of ``order^latent`` points of the Gauss-Hermite rule, and its weights."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(order)
    weights = weights / weights.sum()
    grid = np.stack([axis.ravel() for axis in np.meshgrid(*[nodes] * latent, indexing="ij")])
    each = np.stack([axis.ravel() for axis in np.meshgrid(*[weights] * latent, indexing="ij")])
    return jnp.asarray(grid), jnp.asarray(each.prod(0))
