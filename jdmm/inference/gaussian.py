"""Diagonal Gaussians, in natural parameters and in moments.

Natural parameters combine Gaussians; moments sample and score them. All functions are elementwise
over arrays that broadcast with equal rank; the caller reduces. A missing expert is
``(precision, weighted_mean) = (0, 0)``, the neutral element of the product.
"""

from typing import NamedTuple

from jax import numpy as jnp
from jaxtyping import Bool, Float

from jdmm.series import Array

FLOOR = 1e-8
"""Smallest precision that becomes a variance, and smallest variance that becomes a precision.

Standard deviations of networks are at least 1e-3, so the floor guards degenerate input only.
"""


class Gaussian(NamedTuple):
    """Natural parameters.

    precision: 1 / variance.
    weighted_mean: the precision-weighted mean, precision * mean.
    """

    precision: Float[Array, "..."]
    weighted_mean: Float[Array, "..."]


class Moments(NamedTuple):
    """Mean and variance of a proper Gaussian."""

    mean: Float[Array, "..."]
    variance: Float[Array, "..."]

    @property
    def sd(self) -> Float[Array, "..."]:
        """Standard deviation."""
        return jnp.sqrt(self.variance)


def natural(moments: Moments) -> Gaussian:
    """Natural parameters of a Gaussian given by its moments."""
    precision = 1.0 / jnp.maximum(moments.variance, FLOOR)
    return Gaussian(precision, precision * moments.mean)


def moments(gaussian: Gaussian) -> Moments:
    """Mean and variance of a Gaussian given by its natural parameters."""
    variance = 1.0 / jnp.maximum(gaussian.precision, FLOOR)
    return Moments(variance * gaussian.weighted_mean, variance)


def product(*experts: Gaussian) -> Gaussian:
    """Product of experts: the natural parameters add up (Cao & Fleet 2014)."""
    precision, weighted_mean = (sum(leaves) for leaves in zip(*experts, strict=True))
    return Gaussian(precision, weighted_mean)  # type: ignore[arg-type]


def quotient(numerator: Gaussian, denominator: Gaussian) -> Gaussian:
    """Quotient of two densities; proper only where the numerator has the larger precision."""
    return Gaussian(*(a - b for a, b in zip(numerator, denominator, strict=True)))


def mask(gaussian: Gaussian, keep: Bool[Array, "..."]) -> Gaussian:
    """`gaussian` where `keep` holds, the neutral expert (0, 0) elsewhere."""
    return Gaussian(*(jnp.where(keep, leaf, 0.0) for leaf in gaussian))


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

    The variance is computed in its centred form: E[m^2] - E[m]^2 can turn negative in float32.
    """
    mean = jnp.mean(components.mean, axis, keepdims=True)
    variance = jnp.mean(components.variance + (components.mean - mean) ** 2, axis)
    return Moments(jnp.squeeze(mean, axis), variance)


def kl(q: Moments, p: Moments) -> Float[Array, "..."]:
    """Elementwise Kullback-Leibler divergence KL(q || p) in nats."""
    ratio = q.variance / p.variance
    return 0.5 * (ratio - 1.0 - jnp.log(ratio) + (q.mean - p.mean) ** 2 / p.variance)


def sample(gaussian: Moments, noise: Float[Array, "..."]) -> Float[Array, "..."]:
    """A sample, reparameterised from standard normal `noise`."""
    return gaussian.mean + gaussian.sd * noise


def sigma_points(latent: int) -> Float[Array, "latent point"]:
    """Offsets ``(latent, 2 * latent)`` in units of sd: +-sqrt(latent) along one dimension each.

    Their mean is 0 and their second moment the identity, so they are exact in mean and variance
    for linear maps (Julier & Uhlmann 1997, without the central point).
    """
    axes = jnp.sqrt(float(latent)) * jnp.eye(latent)
    return jnp.concatenate([axes, -axes], axis=1)
