"""Diagonal Gaussians: natural parameters to combine them, moments to sample and to score them.

All functions are elementwise: any shapes that broadcast with equal rank will do, and the caller
reduces. A missing expert is ``(precision, shift) = (0, 0)``, the neutral element of the product.
"""

from typing import NamedTuple

import jax
from jax import numpy as jnp

FLOOR = 1e-8
"""The one floor: of a precision turned into a variance, and of a variance turned into a precision.

Network standard deviations are at least 1e-3, so it only guards improper or degenerate input.
"""


class Gaussian(NamedTuple):
    """Natural parameters: ``precision`` = 1 / variance and ``shift`` = precision * mean."""

    precision: jax.Array
    shift: jax.Array


class Moments(NamedTuple):
    """Mean and variance of a proper Gaussian."""

    mean: jax.Array
    variance: jax.Array

    @property
    def sd(self) -> jax.Array:
        """Standard deviation."""
        return jnp.sqrt(self.variance)


def natural(moments: Moments) -> Gaussian:
    """Natural parameters of a Gaussian given by its moments."""
    precision = 1.0 / jnp.maximum(moments.variance, FLOOR)
    return Gaussian(precision, precision * moments.mean)


def moments(gaussian: Gaussian) -> Moments:
    """Mean and variance of a Gaussian given by its natural parameters."""
    variance = 1.0 / jnp.maximum(gaussian.precision, FLOOR)
    return Moments(variance * gaussian.shift, variance)


def product(*experts: Gaussian) -> Gaussian:
    """Product of experts: natural parameters add up (Cao & Fleet 2014)."""
    return Gaussian(sum(e.precision for e in experts), sum(e.shift for e in experts))  # type: ignore[arg-type]


def quotient(numerator: Gaussian, denominator: Gaussian) -> Gaussian:
    """Quotient of two densities; proper only where the numerator's precision is the larger."""
    return Gaussian(
        numerator.precision - denominator.precision, numerator.shift - denominator.shift
    )


def mask(gaussian: Gaussian, keep: jax.Array) -> Gaussian:
    """`gaussian` where `keep` holds and the neutral expert (0, 0) elsewhere."""
    return Gaussian(jnp.where(keep, gaussian.precision, 0.0), jnp.where(keep, gaussian.shift, 0.0))


def condition(prior: Moments, expert: Moments) -> Moments:
    """Moments of the product of a proper prior and an expert, with a single division.

    Equal to ``moments(product(natural(prior), natural(expert)))``.
    """
    weight = 1.0 / (prior.variance + expert.variance)
    return Moments(
        (expert.mean * prior.variance + prior.mean * expert.variance) * weight,
        prior.variance * expert.variance * weight,
    )


def moment_match(components: Moments, axis: int) -> Moments:
    """Mean and variance of an equally weighted Gaussian mixture along `axis` (Huber et al. 2011).

    In the centred form: E[m^2] - E[m]^2 can turn negative in float32.
    """
    mean = jnp.mean(components.mean, axis, keepdims=True)
    variance = jnp.mean(components.variance + (components.mean - mean) ** 2, axis)
    return Moments(jnp.squeeze(mean, axis), variance)


def kl(q: Moments, p: Moments) -> jax.Array:
    """Elementwise Kullback-Leibler divergence KL(q || p) in nats."""
    ratio = q.variance / p.variance
    return 0.5 * (ratio - 1.0 - jnp.log(ratio) + (q.mean - p.mean) ** 2 / p.variance)


def sample(gaussian: Moments, noise: jax.Array) -> jax.Array:
    """A draw, reparameterised from standard normal `noise`."""
    return gaussian.mean + gaussian.sd * noise


def sigma_points(latent: int) -> jax.Array:
    """``(latent, 2 * latent)`` offsets in units of sd: one dimension at a time, +-sqrt(latent).

    Their mean is 0 and their second moments are the identity, so a linear map of them has the
    exact mean and variance (Julier & Uhlmann 1997, without the central point).
    """
    axes = jnp.sqrt(float(latent)) * jnp.eye(latent)
    return jnp.concatenate([axes, -axes], axis=1)
